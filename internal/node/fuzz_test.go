package node

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzRequest asks a node for anything: any method, path, query, header and body,
// as the operator, as a forger and as nobody. Nothing panics, no answer blames the
// node, each names its media type, and what claims to be JSON is.
func FuzzRequest(f *testing.F) {
	c := testConfig(f.TempDir())
	c.Store = "memory:"
	n, _ := start(f, c, counter(new(atomic.Int64)))
	token, err := ReadOperatorToken(c.Data)
	if err != nil {
		f.Fatal(err)
	}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPatch, "BREW"}
	credentials := []string{"Bearer " + token, "", "Bearer " + token + "x", "Basic Og==", "Bearer a.b.c"}
	const agentPath = "/agents/urn%3Aasap%3Aagent%3Acounter"
	for _, seed := range []struct {
		method       uint8
		target, body string
	}{
		{0, "/usage?agent=urn:asap:agent:a&start=2026-02-20T12:00:00Z&end=2026-02-21T12:00:00%2B01:00&limit=1&cursor=dXNhZ2U6e30", ""},
		{0, "/usage/aggregate?group_by=day,agent&tz=Europe/Berlin&limit=2.0", ""},
		{0, "/usage/export?format=csv&limit=7", ""}, {0, "/usage/summary?outcome=failed", ""}, {0, "/usage/%00%2e%2e", ""},
		{1, "/usage", `{"task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:b","timestamp":"2026-02-20T11:00:00Z","tokens_in":1}`},
		{1, "/usage/batch?mode=per_item", `{"events":[{"task_id":"t"},7]}`}, {1, "/usage/validate", `{}`}, {1, "/usage/purge", ``},
		{0, agentPath + "/sla?window=24h", ""}, {0, "/agents/urn:asap:agent:counter/sla/history?window=1h&limit=3", ""}, {0, agentPath + "/sla/breaches?open=true", ""},
		{0, agentPath + "/sla/outages", ""}, {0, "/sla/history?agent_id=urn:asap:agent:counter", ""},
		{0, "/audit/logs?limit=2&cursor=x&event_type=usage.recorded", ""}, {0, "/audit/logs/01KGB7ZK00000000000000000B?proof=1", ""}, {0, "/audit/verify?from=0&to=9", ""},
		{0, "/audit/export?format=json", ""}, {0, "/audit/checkpoint", ""}, {0, "/audit/proof/inclusion?seq=1&size=9223372036854775807", ""}, {0, "/audit/proof/consistency?old=1&new=2", ""},
		{0, "/registry/agents?q=count&skill=count&sort=-price&max_price=0.1", ""}, {0, "/registry" + agentPath, ""}, {2, "/registry" + agentPath, `{"manifest":{},"signature":{}}`},
		{3, "/registry" + agentPath, ""}, {0, "/registry.json", ""}, {1, "/registry/import", `{"version":"1.0","agents":[{}]}`}, {0, "/openapi.json", ""},
		{1, "/delegations", `{"issuer":"urn:asap:agent:a","delegate":"urn:asap:agent:b","scopes":["x"]}`}, {1, "/delegations/verify", `{"token":"a.b.c~d.e.f"}`},
		{0, "/delegations?limit=1", ""}, {3, "/delegations/x", ""}, {0, "/delegations/x/usage", ""},
		{1, "/asap", `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{}}}`}, {0, "/.well-known/asap/manifest.json", ""}, {0, "/metrics", ""}, {0, "/readyz", ""},
	} {
		f.Add(seed.method, seed.target, uint8(0), "application/json", seed.body)
	}
	f.Fuzz(func(t *testing.T, method uint8, target string, who uint8, accept, body string) {
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		u, err := url.ParseRequestURI(target)
		if err != nil || strings.HasPrefix(u.Path, "/asap/ws") { // no request, or one that takes the connection over
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI, r.RemoteAddr = methods[int(method)%len(methods)], u, target, "127.0.0.1:1"
		r.Header.Set("Accept", accept)
		r.Header.Set("Content-Type", "application/json")
		if c := credentials[int(who)%len(credentials)]; c != "" {
			r.Header.Set("Authorization", c)
		}
		w := httptest.NewRecorder()
		n.server.Handler.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", r.Method, target, w.Code, w.Body)
		}
		kind := w.Header().Get("Content-Type")
		if kind == "" && w.Body.Len() > 0 {
			t.Fatalf("%s %s: %d and no media type for %.80q", r.Method, target, w.Code, w.Body)
		}
		if isJSON := strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json"); isJSON && r.Method != http.MethodHead && !jsontext.Value(w.Body.Bytes()).IsValid() {
			t.Fatalf("%s %s: %d %.300q is not JSON", r.Method, target, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Body.Len() > 64<<10 {
			t.Fatalf("%s %s: a refusal of %d bytes", r.Method, target, w.Body.Len())
		}
	})
}
