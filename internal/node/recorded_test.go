package node

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/go-json-experiment/json"
)

// recordedDelegations is testdata/delegation_http.json.
type recordedDelegations struct {
	Groups []struct {
		Config struct {
			Storage *string `json:"delegation_storage"`
		} `json:"server_config"`
		Exchanges []recordedExchange `json:"exchanges"`
	} `json:"groups"`
}

type recordedExchange struct {
	Name    string    `json:"name"`
	Clock   time.Time `json:"clock"`
	Request struct {
		Method, Target string
		Headers        [][2]string
		Body           string
	} `json:"request"`
	Response struct {
		Status int
		Body   string
	} `json:"response"`
}

type difference struct {
	status int
	name   string // in docs/compatibility.md
}

// delegationDifferences are the exchanges that a node answers otherwise.
var delegationDifferences = map[string]difference{
	"create_delegate_any_string":        {422, "delegation-delegate-urn"},
	"create_scope_any_string":           {422, "delegation-scope-syntax"},
	"bad_extra":                         {201, "delegation-cost-limit"},
	"bad_malformed_json":                {400, "delegation-problem-status"},
	"bad_empty_body":                    {400, "delegation-problem-status"},
	"content_type_text_plain":           {201, "delegation-content-type"},
	"list_after_revoke_active_only":     {200, "delegation-cascade"},
	"list_after_revoke_all":             {200, "delegation-cascade"},
	"delete_by_holder_403":              {204, "delegation-revoke-who"},
	"delete_unknown_404":                {204, "delegation-revoke-unseen"},
	"cascade_revoked_b_to_c":            {200, "delegation-cascade"},
	"cascade_revoked_c_to_x":            {200, "delegation-cascade"},
	"delegation_header_ignored_on_asap": {200, "delegation-enforced"},
}

// elsewhere tells the exchanges about OAuth2, which have a test of their own, the
// lists of what those have created, and those of a server without storage, which
// a node never is.
func elsewhere(name string) bool {
	for _, prefix := range []string{"auth_", "task_request_", "required_scope_", "list_no_scope", "delete_wrong_scope", "metrics_", "manifest_public", "prefix_match", "delegation_header_ignored"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.Contains(name, "without_storage") || name == "list_active" || name == "list_active_false_all"
}

// What clients of v1.3.0 ask of /asap/delegations is answered as it was, but for
// the differences that are listed.
func TestDelegationExchangesAsRecorded(t *testing.T) {
	text, err := os.ReadFile("testdata/delegation_http.json")
	if err != nil {
		t.Fatal(err)
	}
	var all recordedDelegations
	if err := json.Unmarshal(text, &all, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	met, replayed := map[string]bool{}, 0
	for _, g := range all.Groups {
		if g.Config.Storage == nil {
			continue
		}
		n, clock := recordedNode(t)
		ids := strings.NewReplacer()
		pairs := []string{}
		for _, x := range g.Exchanges {
			if elsewhere(x.Name) {
				continue
			}
			clock.Store(x.Clock.UnixMicro())
			who := ""
			for _, h := range x.Request.Headers {
				if h[0] == "Authorization" {
					who = subject(t, h[1])
				}
			}
			var head []string
			for _, h := range x.Request.Headers {
				if h[0] == "Content-Type" {
					head = append(head, h[0], h[1])
				}
			}
			status, _, body := recordedCall(t, n, who, x.Request.Method, ids.Replace(x.Request.Target), x.Request.Body, head)
			replayed++
			if old, got := issuedID(x.Response.Body), issuedID(string(body)); old != "" && got != "" {
				pairs = append(pairs, old, got)
				ids = strings.NewReplacer(pairs...)
			}
			if d, ok := delegationDifferences[x.Name]; ok {
				met[x.Name] = true
				if status != d.status {
					t.Errorf("%s: %d, want %d (%s): %s", x.Name, status, d.status, d.name, body)
				}
				continue
			}
			if status != x.Response.Status {
				t.Errorf("%s: %d, want %d: %s", x.Name, status, x.Response.Status, body)
				continue
			}
			compareRecorded(t, x.Name, ids.Replace(x.Response.Body), body)
		}
	}
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range delegationDifferences {
		if !bytes.Contains(page, []byte("`"+d.name+"`")) {
			t.Errorf("docs/compatibility.md does not list %s", d.name)
		}
		if !met[name] && !elsewhere(name) {
			t.Errorf("%s is no exchange of the recording", name)
		}
	}
	if replayed < 80 {
		t.Errorf("only %d exchanges were replayed", replayed)
	}
}

// recordedNode signs for the agents of the recording.
func recordedNode(t *testing.T) (*Node, *atomic.Int64) {
	t.Helper()
	c := testConfig(t.TempDir())
	dir := filepath.Join(c.Data, "delegation-keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for urn, b := range recordedAgents() {
		pem, err := asap.EncodePrivateKeyPEM(agentKey(b))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, strings.TrimPrefix(string(urn), "urn:asap:agent:")+".key"), pem, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	know(t, c.Data)
	clock := new(atomic.Int64)
	clock.Store(time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC).UnixMicro())
	n, _ := startWith(t, c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}, Now: func() time.Time { return time.UnixMicro(clock.Load()).UTC() }})
	return n, clock
}

func recordedAgents() map[asap.AgentURN]byte {
	return map[asap.AgentURN]byte{"urn:asap:agent:delegator": 11, "urn:asap:agent:delegate": 12, "urn:asap:agent:client": 13}
}

// subject is the agent that a recorded bearer token names; "" if it names none.
func subject(t *testing.T, authorization string) string {
	t.Helper()
	_, token, _ := strings.Cut(authorization, " ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Sub
}

func recordedCall(t *testing.T, n *Node, who, method, target, body string, header []string) (int, http.Header, []byte) {
	t.Helper()
	if who != "" {
		b, known := recordedAgents()[asap.AgentURN(who)]
		if !known { // nobody's key is known here: c is as good as another agent
			who, b = agentC, 3
		}
		header = append(header, "Authorization", signedBearer(asap.AgentURN(who), b, n.config.URN, n.now()))
	}
	return call(t, n, "", method, target, body, header...)
}

func issuedID(body string) string {
	var out struct {
		Token string `json:"token"`
	}
	if json.Unmarshal([]byte(body), &out) != nil || out.Token == "" {
		return ""
	}
	parts := strings.Split(out.Token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.ID
}

// compareRecorded checks that what was answered is still answered: every claim
// of a token but the times of the day, every member of an object, every text of
// an error.
func compareRecorded(t *testing.T, name, want string, got []byte) {
	t.Helper()
	if want == "" {
		if len(got) > 0 && name != "trailing_slash_get" {
			t.Errorf("%s: a body: %s", name, got)
		}
		return
	}
	var w, g any
	if json.Unmarshal([]byte(want), &w) != nil || json.Unmarshal(got, &g) != nil {
		t.Errorf("%s: not JSON: %s", name, got)
		return
	}
	if lack := lacking(w, g, ""); lack != "" {
		t.Errorf("%s: %s\n got %s\nwant %s", name, lack, got, want)
	}
}

// ignored are members whose value differs from run to run, and the list of what
// is wrong with a body, which problems give in another form.
var ignored = map[string]bool{"created_at": true, "revoked_at": true}

func lacking(want, got any, path string) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return path + ": no object"
		}
		for name, value := range w {
			if _, list := value.([]any); name == "detail" && list || ignored[name] {
				if _, there := g[name]; !there {
					return path + "." + name + " is missing"
				}
				continue
			}
			if name == "token" {
				if lack := lacking(claimsOf(value), claimsOf(g[name]), path+".token"); lack != "" {
					return lack
				}
				continue
			}
			if lack := lacking(value, g[name], path+"."+name); lack != "" {
				return lack
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Sprintf("%s: %d elements are wanted", path, len(w))
		}
		for i := range w {
			if lack := lacking(w[i], g[i], fmt.Sprint(path, "[", i, "]")); lack != "" {
				return lack
			}
		}
	default:
		if want != got {
			return fmt.Sprintf("%s: %v, want %v", path, got, want)
		}
	}
	return ""
}

// claimsOf are the claims of a token but its id, times relative to iat.
func claimsOf(token any) any {
	text, _ := token.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	delete(claims, "jti")
	iat, _ := claims["iat"].(float64)
	exp, _ := claims["exp"].(float64)
	claims["iat"], claims["exp"] = 0.0, exp-iat
	return claims
}
