package delegation

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

// agentTokenOf signs any header and claims with a's key.
func agentTokenOf(header, claims string) string {
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	return signed + "." + b64.EncodeToString(ed25519.Sign(keyOf(agentA), []byte(signed)))
}

const goodAgentClaims = `{"iss":"urn:asap:agent:a","sub":"urn:asap:agent:a","aud":"urn:asap:agent:node","iat":1800000000,"exp":1800000300,"jti":"j"}`

func TestAgentToken(t *testing.T) {
	for _, c := range []struct{ header, claims string }{
		{rootHeader, goodAgentClaims},
		{`{"alg":"Ed25519","kid":"k1"}`, goodAgentClaims},
		{rootHeader, `{"iss":"urn:asap:agent:a","sub":"urn:asap:agent:a","aud":["x","urn:asap:agent:node"],"iat":1800000000,"exp":1800000300,"nbf":7,"other":{"a":[1]}}`},
	} {
		token, err := ParseAgentToken(agentTokenOf(c.header, c.claims))
		if err != nil {
			t.Errorf("%s %s: %v", c.header, c.claims, err)
			continue
		}
		if token.Issuer != agentA || token.Subject != agentA || token.IssuedAtUnix != testNow || token.ExpiresAtUnix != testNow+300 || len(token.Audience) == 0 {
			t.Errorf("%+v", token)
		}
		if !token.SignedBy(publicOf(agentA)) || token.SignedBy(publicOf(agentB)) || token.SignedBy(nil) || token.SignedBy(make(ed25519.PublicKey, 32)) {
			t.Errorf("%s: the signature is judged wrongly", c.header)
		}
	}
}

// Everything that is not exactly such a token is refused before its signature is
// looked at.
func TestAgentTokenRefused(t *testing.T) {
	good := agentTokenOf(rootHeader, goodAgentClaims)
	without := func(name string) string {
		var kept []string
		for _, m := range strings.Split(strings.Trim(goodAgentClaims, "{}"), ",") {
			if !strings.HasPrefix(m, `"`+name+`"`) {
				kept = append(kept, m)
			}
		}
		return agentTokenOf(rootHeader, "{"+strings.Join(kept, ",")+"}")
	}
	many := strings.TrimSuffix(strings.Repeat(`"x",`, MaxAudiences+1), ",")
	for name, token := range map[string]string{
		"empty":              "",
		"two parts":          strings.Join(strings.Split(good, ".")[:2], "."),
		"four parts":         good + ".x",
		"no signature":       good[:strings.LastIndexByte(good, '.')+1],
		"padding":            strings.Replace(good, ".", "=.", 1),
		"line feed":          good[:10] + "\n" + good[10:],
		"stray bits":         good[:len(good)-1] + "_",
		"too long":           agentTokenOf(rootHeader, `{"pad":"`+strings.Repeat("x", MaxLinkBytes)+`"}`),
		"alg none":           agentTokenOf(`{"alg":"none"}`, goodAgentClaims),
		"alg HS256":          agentTokenOf(`{"alg":"HS256","typ":"JWT"}`, goodAgentClaims),
		"alg RS256":          agentTokenOf(`{"alg":"RS256"}`, goodAgentClaims),
		"alg twice":          agentTokenOf(`{"alg":"EdDSA","alg":"EdDSA"}`, goodAgentClaims),
		"alg of other case":  agentTokenOf(`{"alg":"eddsa"}`, goodAgentClaims),
		"no alg":             agentTokenOf(`{"typ":"JWT"}`, goodAgentClaims),
		"typ":                agentTokenOf(`{"alg":"EdDSA","typ":"dpop+jwt"}`, goodAgentClaims),
		"crit":               agentTokenOf(`{"alg":"EdDSA","crit":["b64"],"b64":false}`, goodAgentClaims),
		"a delegation":       agentTokenOf(childHeader, goodAgentClaims),
		"unknown header":     agentTokenOf(`{"alg":"EdDSA","zip":"DEF"}`, goodAgentClaims),
		"payload no base64":  "eyJhbGciOiJFZERTQSJ9.*." + strings.Split(good, ".")[2],
		"header no base64":   "*" + good[1:],
		"sig no base64":      good[:len(good)-2] + "*A",
		"claims no JSON":     agentTokenOf(rootHeader, `{`),
		"claims twice":       agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, "{", `{"sub":"urn:asap:agent:b",`, 1)),
		"trailing data":      agentTokenOf(rootHeader, goodAgentClaims+"{}"),
		"no iss":             without("iss"),
		"no sub":             without("sub"),
		"no aud":             without("aud"),
		"no iat":             without("iat"),
		"no exp":             without("exp"),
		"iss line feed":      agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"iss":"urn:asap:agent:a"`, `"iss":"urn:asap:agent:a\n"`, 1)),
		"sub line feed":      agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"sub":"urn:asap:agent:a"`, `"sub":"urn:asap:agent:a\n"`, 1)),
		"sub path":           agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"sub":"urn:asap:agent:a"`, `"sub":"urn:asap:agent:../a"`, 1)),
		"sub number":         agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"sub":"urn:asap:agent:a"`, `"sub":5`, 1)),
		"exp text":           agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, "1800000300", `"1800000300"`, 1)),
		"exp fraction":       agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, "1800000300", "1800000300.5", 1)),
		"exp negative":       agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, "1800000300", "-1", 1)),
		"exp huge":           agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, "1800000300", "9223372036854775808", 1)),
		"aud empty":          agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"aud":"urn:asap:agent:node"`, `"aud":[]`, 1)),
		"aud of many":        agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"aud":"urn:asap:agent:node"`, `"aud":[`+many+`]`, 1)),
		"aud with a nothing": agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"aud":"urn:asap:agent:node"`, `"aud":[""]`, 1)),
		"aud number":         agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"aud":"urn:asap:agent:node"`, `"aud":1`, 1)),
		"jti with blanks":    agentTokenOf(rootHeader, strings.Replace(goodAgentClaims, `"jti":"j"`, `"jti":"a b\u0000"`, 1)),
	} {
		if parsed, err := ParseAgentToken(token); err == nil {
			t.Errorf("%s: accepted as %+v", name, parsed)
		}
	}
}

// A token with one byte changed is another token, or none.
func FuzzAgentToken(f *testing.F) {
	good := agentTokenOf(rootHeader, goodAgentClaims)
	f.Add(good)
	f.Add(agentTokenOf(`{"alg":"none"}`, goodAgentClaims))
	f.Add(strings.Repeat(".", 3))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseAgentToken(text)
		if err != nil {
			return
		}
		if token.SignedBy(publicOf(agentA)) && text != good {
			t.Errorf("%q counts as signed", text)
		}
		for _, urn := range []asap.AgentURN{token.Issuer, token.Subject} {
			if _, err := asap.ParseAgentURN(string(urn)); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
		if len(token.Audience) == 0 || token.IssuedAtUnix < 0 || token.ExpiresAtUnix < 0 {
			t.Errorf("%q: %s", text, fmt.Sprint(token))
		}
	})
}
