package delegation

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
)

// oracle judges a token by the rules of v1.3.0 in its order (economics.md 3.2),
// written from the description alone. It returns v1.3.0's text, or "".
type oracle struct {
	keys    map[string]ed25519.PublicKey
	allowed *[]string
	revoked []string
	usage   *int64
	now     int64
}

func lenientObject(part string) map[string]any {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(part, "="))
	if err != nil {
		return nil
	}
	var out map[string]any
	if json.Unmarshal(raw, &out, jsontext.AllowDuplicateNames(true)) != nil {
		return nil
	}
	return out
}

func (o oracle) judge(token, action string) string {
	const malformed, invalid = "Invalid or malformed token", "Invalid or expired token"
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return malformed
	}
	claims := lenientObject(parts[1])
	iss := claims["iss"]
	if claims == nil || iss == nil || iss == "" {
		return malformed
	}
	issuer := pythonText(iss)
	if o.allowed != nil && !slices.Contains(*o.allowed, issuer) {
		return "Delegator not allowed to issue delegations"
	}
	key, ok := o.keys[issuer]
	if !ok {
		return "Delegator key not found or invalid"
	}
	header := lenientObject(parts[0])
	for name := range header {
		if !slices.Contains([]string{"alg", "typ", "kid", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "cty"}, name) {
			return invalid
		}
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(parts[2], "="))
	if header["alg"] != "EdDSA" || err != nil || strings.ContainsAny(token, " \n") ||
		!ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), signature) {
		return invalid
	}
	if exp, ok := pythonNumber(claims["exp"]); ok && int64(exp) > 0 && float64(o.now) >= math.Trunc(exp) {
		return "Token expired"
	}
	scopes, _ := claims["scp"].([]any)
	if !slices.Contains(scopes, any(action)) && !slices.Contains(scopes, any("*")) {
		return "Action not allowed by token scopes"
	}
	jti := claims["jti"]
	if jti != nil && slices.Contains(o.revoked, pythonText(jti)) {
		return "Token revoked"
	}
	constraints, _ := claims["x-asap-constraints"].(map[string]any)
	if limit, ok := pythonInt(constraints["max_tasks"]); ok && o.usage != nil && jti != nil && *o.usage >= limit {
		return "Delegation task limit exceeded"
	}
	return ""
}

func pythonText(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func pythonNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case bool:
		return 1, v
	}
	return 0, false
}

func pythonInt(v any) (int64, bool) {
	if s, ok := v.(string); ok {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil
	}
	f, ok := pythonNumber(v)
	return int64(f), ok
}

// TestOracle holds the oracle against every recorded verdict.
func TestOracle(t *testing.T) {
	keys := map[string]ed25519.PublicKey{
		string(delegator): publicOf(agentA), string(delegate): publicOf(agentB), "urn:asap:agent:client": publicOf(agentC),
	}
	for _, c := range readRecorded(t).Validation {
		o := oracle{keys: keys, allowed: c.Allowed, revoked: c.RevokedJTIs, usage: c.UsageCount, now: c.ClockUnix}
		got := o.judge(c.Token, c.Action)
		want := "Invalid or malformed token" // where v1.3.0 crashes
		if c.Result.Success {
			want = ""
		} else if c.Result.Error != nil {
			want, _, _ = strings.Cut(*c.Result.Error, ":")
		}
		if got != want {
			t.Errorf("%s: the oracle says %q, v1.3.0 %q", c.Name, got, want)
		}
	}
}

// drawTerms draws terms that stand on their own, for a link a few hours around
// testNow.
func drawTerms(t *rapid.T, issuer, delegate asap.AgentURN, id string) Terms {
	out := Terms{Issuer: issuer, Delegate: delegate, TokenID: id}
	out.IssuedAt = at(testNow - rapid.Int64Range(0, 20).Draw(t, "age"))
	out.ExpiresAt = at(testNow + rapid.Int64Range(1, 20).Draw(t, "life"))
	out.Scopes = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
		ScopeAll, ScopeTaskExecute, ScopeTaskCancel, ScopeDataRead, ScopeDataWrite, "own.scope",
	}), 1, 4, rapid.ID).Draw(t, "scopes")
	limit := rapid.Ptr(rapid.Int64Range(1, 6), true)
	out.MaxTasks, out.MaxNanoUSD = limit.Draw(t, "tasks"), limit.Draw(t, "nanoUSD")
	out.MaxDepth = rapid.Ptr(rapid.Int64Range(0, 8), true).Draw(t, "depth")
	out.Resources = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"https://one.example", "https://two.example"}), 0, 2, rapid.ID).Draw(t, "res")
	return out
}

// TestIssuedTokensSatisfyTheReference: what Issue makes, v1.3.0 accepts, with
// the same answer about every action.
func TestIssuedTokensSatisfyTheReference(t *testing.T) {
	policy := testPolicy(t)
	rapid.Check(t, func(t *rapid.T) {
		own := drawTerms(t, agentA, agentB, "del_root")
		token, err := Issue(own, keyOf(agentA))
		if err != nil {
			t.Fatal(err)
		}
		o := oracle{keys: map[string]ed25519.PublicKey{string(agentA): publicOf(agentA)}, now: testNow + rapid.Int64Range(0, 25).Draw(t, "now")}
		action := rapid.SampledFrom([]string{ScopeTaskExecute, ScopeDataRead, "own.scope", "none"}).Draw(t, "action")
		query := Query{Caller: agentB, Action: action, Now: at(o.now)}
		theirs := o.judge(token, action)
		_, ours := Verify(token, policy, query)
		if (ours == nil) != (theirs == "") {
			t.Fatalf("%s: ours %v, v1.3.0 %q", token, ours, theirs)
		}
	})
}

// TestReferenceRefusesChains: an old verifier never takes a chain, or a link of
// one, for less than it is.
func TestReferenceRefusesChains(t *testing.T) {
	token := chainOf(t, 3)
	keys := map[string]ed25519.PublicKey{}
	for agent := range seeds {
		keys[string(agent)] = publicOf(agent)
	}
	o := oracle{keys: keys, now: testNow}
	for _, text := range append(strings.Split(token, "~")[1:], token) {
		if o.judge(text, ScopeDataRead) == "" {
			t.Errorf("accepted: %s", text)
		}
	}
}
