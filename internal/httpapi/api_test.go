package httpapi

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

var noon = time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)

// node is an API over a memory store, with a clock that is set by hand. Who
// calls is said by the header Authorization: operator, an agent URN, nobody or
// anything else, which is refused.
type node struct {
	*memory
	t   *testing.T
	mux *http.ServeMux
	log bytes.Buffer
	us  atomic.Int64 // the time
}

func (n *node) now() time.Time       { return time.UnixMicro(n.us.Load()).UTC() }
func (n *node) setClock(t time.Time) { n.us.Store(t.UnixMicro()) }

func newNode(t *testing.T, change func(*Config)) *node {
	t.Helper()
	n := &node{t: t, mux: http.NewServeMux()}
	n.setClock(noon)
	n.memory = newMemory(n.now)
	cfg := Config{
		Usage: n, Ledger: n, Audit: n, DelegationReader: n, Now: n.now, Logger: slog.New(slog.NewTextHandler(&n.log, nil)),
		Authenticate: func(r *http.Request) (Caller, error) {
			switch who := r.Header.Get("Authorization"); {
			case who == "":
				return Caller{}, nil
			case who == "operator":
				return Caller{Role: Operator}, nil
			case strings.HasPrefix(who, "urn:asap:agent:"):
				return Caller{Role: AgentRole, Agent: asap.AgentURN(who)}, nil
			}
			return Caller{}, errors.New("bad credentials")
		},
		AgentKeys: func(agent asap.AgentURN) []ed25519.PublicKey {
			if agent != "urn:asap:agent:signer" {
				return nil
			}
			return []ed25519.PublicKey{testKey.Public().(ed25519.PublicKey)}
		},
	}
	if change != nil {
		change(&cfg)
	}
	New(cfg).Routes(n.mux)
	return n
}

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

// answer is what came back.
type answer struct {
	*httptest.ResponseRecorder
	t *testing.T
}

func (n *node) do(who, method, target, body string, header ...string) answer {
	n.t.Helper()
	r := httptest.NewRequestWithContext(n.t.Context(), method, target, strings.NewReader(body))
	if who != "" {
		r.Header.Set("Authorization", who)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	n.mux.ServeHTTP(w, r)
	return answer{w, n.t}
}

func (n *node) get(target string) answer { n.t.Helper(); return n.do("operator", "GET", target, "") }

func (n *node) post(target, body string) answer {
	n.t.Helper()
	return n.do("operator", "POST", target, body)
}

// is checks the status and returns the body as JSON.
func (a answer) is(status int) map[string]any {
	a.t.Helper()
	if a.Code != status {
		a.t.Fatalf("status %d, want %d: %s", a.Code, status, a.Body)
	}
	var v map[string]any
	if err := json.Unmarshal(a.Body.Bytes(), &v); err != nil {
		a.t.Fatalf("%v: %s", err, a.Body)
	}
	return v
}

// refuses checks that the answer is a problem of that code.
func (a answer) refuses(status int, code asap.Code) map[string]any {
	a.t.Helper()
	v := a.is(status)
	if v["code"] != string(code) || v["status"] != float64(status) || a.Header().Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("not a problem %d %s: %s", status, code, a.Body)
	}
	if detail, _ := v["detail"].(string); detail == "" {
		a.t.Fatalf("no detail: %s", a.Body)
	}
	return v
}

// event is a report; members are appended.
func event(task, agent, consumer, at, more string) string {
	return `{"task_id":"` + task + `","agent":"urn:asap:agent:` + agent + `","consumer":"urn:asap:agent:` + consumer + `","timestamp":"` + at + `"` + more + `}`
}

func (n *node) seed(events ...string) {
	n.t.Helper()
	n.post("/usage/batch", `{"events":[`+strings.Join(events, ",")+`]}`).is(201)
}

func TestWhoMayDoWhat(t *testing.T) {
	body := event("t", "a", "c", "2026-02-20T11:00:00Z", "")
	for _, r := range routes() {
		target := strings.NewReplacer("{task_id}", "t", "{id}", "x").Replace(r.path)
		if r.path == "/usage/aggregate" {
			target += "?group_by=agent"
		}
		text := ""
		switch r.path {
		case "/usage", "/usage/validate":
			text = body
		case "/usage/batch":
			text = `{"events":[` + body + `]}`
		}
		for who, allowed := range map[string]bool{
			"operator": r.access != itself, "urn:asap:agent:a": r.access != operators, "": r.access == anyone && r.method == "GET", "nonsense": false,
		} {
			n := newNode(t, nil)
			got := n.do(who, r.method, target, text)
			switch {
			case allowed:
				if got.Code == 401 || got.Code == 403 {
					t.Errorf("%s as %q: %d %s", r, who, got.Code, got.Body)
				}
			case who == "urn:asap:agent:a", who == "operator":
				if v := got.refuses(403, asap.CodeForbidden); v["detail"] != asap.CodeForbidden.Info().Sentence {
					t.Errorf("%s: the text varies: %s", r, v["detail"])
				}
			default:
				text := map[string]string{"": "Authentication required", "nonsense": "Invalid authentication token"}[who]
				if v := got.refuses(401, asap.CodeUnauthenticated); v["detail"] != text || got.Header().Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s: %s, %v", r, v["detail"], got.Header())
				}
			}
			if !allowed && len(n.records) > 0 {
				t.Errorf("%s as %q stored something", r, who)
			}
		}
	}
}

func TestAnAgentSeesItsOwnSide(t *testing.T) {
	n := newNode(t, nil)
	n.seed(
		event("1", "a", "c", "2026-02-20T11:00:00Z", `,"tokens_in":1,"tokens_out":0`),
		event("2", "b", "a", "2026-02-20T11:01:00Z", `,"tokens_in":10,"tokens_out":0`),
		event("3", "b", "c", "2026-02-20T11:02:00Z", `,"tokens_in":100,"tokens_out":0`),
	)
	me := "urn:asap:agent:a"
	if v := n.do(me, "GET", "/usage", "").is(200); v["count"] != 2.0 {
		t.Errorf("list: %v", v)
	}
	if v := n.do(me, "GET", "/usage/summary", "").is(200); v["total_tokens"] != 11.0 || v["total_tasks"] != 2.0 {
		t.Errorf("summary: %v", v)
	}
	if v := n.do(me, "GET", "/usage/aggregate?group_by=day", "").is(200)["data"].([]any); len(v) != 1 || v[0].(map[string]any)["total_tokens"] != 11.0 {
		t.Errorf("aggregate: %v", v)
	}
	if v := n.do(me, "GET", "/usage/export", "").is(200); v["count"] != 2.0 {
		t.Errorf("export: %v", v)
	}
	n.do(me, "GET", "/usage/2", "").is(200)
	n.do(me, "GET", "/usage/3", "").refuses(404, asap.CodeNotFound)
	if v := n.do(me, "GET", "/usage?agent=urn:asap:agent:b", "").is(200); v["count"] != 1.0 {
		t.Errorf("as consumer: %v", v)
	}

	n.do(me, "POST", "/usage", event("4", "b", "a", "2026-02-20T11:00:00Z", "")).refuses(403, asap.CodeForbidden)
	n.do(me, "POST", "/usage", event("4", "a", "b", "2026-02-20T11:00:00Z", "")).is(201)
	n.do(me, "POST", "/usage/batch", `{"events":[`+event("5", "a", "b", "2026-02-20T11:00:00Z", "")+","+event("6", "b", "a", "2026-02-20T11:00:00Z", "")+`]}`).
		refuses(403, asap.CodeForbidden)
	if len(n.records) != 4 {
		t.Errorf("%d records", len(n.records))
	}
}

func TestOtherMethodsAndPaths(t *testing.T) {
	n := newNode(t, nil)
	for _, c := range [][3]string{
		{"GET", "/usage/purge", "POST"}, {"GET", "/usage/batch", "POST"}, {"DELETE", "/usage", "GET, POST, HEAD"}, {"PUT", "/usage/summary", "GET, HEAD"},
		{"POST", "/audit/logs", "GET, HEAD"}, {"PATCH", "/usage/some-task", "GET, HEAD"}, {"OPTIONS", "/usage", "GET, POST, HEAD"},
		{"TRACE", "/usage/purge", "POST"}, {"OPTIONS", "/delegations/verify", "POST"}, {"QUERY", "/delegations/some-id", "DELETE, GET, HEAD"},
	} {
		got := n.do("operator", c[0], c[1], "")
		got.refuses(405, asap.CodeMethodNotAllowed)
		if got.Header().Get("Allow") != c[2] {
			t.Errorf("%s %s: Allow %q", c[0], c[1], got.Header().Get("Allow"))
		}
	}
	if got := n.get("/usage/"); got.Code != 307 || got.Header().Get("Location") != "/usage" {
		t.Errorf("%d %v", got.Code, got.Header())
	}
	n.get("/usage/nope").refuses(404, asap.CodeNotFound)
	if got := n.do("operator", "HEAD", "/usage", ""); got.Code != 200 {
		t.Errorf("HEAD: %d", got.Code)
	}
}

func TestInnerErrorsStayInside(t *testing.T) {
	n := newNode(t, nil)
	n.seed(event("1", "a", "c", "2026-02-20T11:00:00Z", ""))
	n.fail = errors.New("secret path /var/x")
	for _, target := range []string{"/usage", "/usage/1", "/usage/summary", "/usage/stats", "/usage/agents", "/usage/export", "/audit/logs",
		"/usage/aggregate?group_by=day&tz=Asia/Kolkata", "/usage/aggregate?group_by=day&tz=Asia/Kolkata&start=2026-01-01T00:00:00Z"} {
		n.log.Reset()
		got := n.get(target)
		got.refuses(500, asap.CodeInternal)
		if strings.Contains(got.Body.String(), "secret") || !strings.Contains(n.log.String(), "secret") {
			t.Errorf("%s: told %s, logged %s", target, got.Body, n.log.String())
		}
	}
	n.post("/usage", event("2", "a", "c", "2026-02-20T11:00:00Z", "")).refuses(500, asap.CodeInternal)
	n.post("/usage/batch", `{"events":[`+event("2", "a", "c", "2026-02-20T11:00:00Z", "")+`]}`).refuses(500, asap.CodeInternal)
	n.post("/usage/batch?mode=per_item", `{"events":[`+event("2", "a", "c", "2026-02-20T11:00:00Z", "")+`]}`).refuses(500, asap.CodeInternal)
}

func TestOpenAPI(t *testing.T) {
	n := newNode(t, nil)
	got := n.do("", "GET", "/openapi.json", "")
	doc := got.is(200)
	if got.Header().Get("Content-Type") != "application/openapi+json" || doc["openapi"] != "3.1.0" {
		t.Errorf("%v %v", got.Header(), doc["openapi"])
	}
	paths := doc["paths"].(map[string]any)
	for _, r := range routes() {
		item, _ := paths[r.path].(map[string]any)
		op, ok := item[strings.ToLower(r.method)].(map[string]any)
		if !ok || op["operationId"] != r.id || op["responses"].(map[string]any)["429"] == nil {
			t.Errorf("%s is not described: %v", r, op)
		}
	}
	// The description of a record is that of what is written.
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	described := schemas["UsageRecord"].(map[string]any)["properties"].(map[string]any)
	n1 := int64(1)
	full := metering.Record{Signature: []byte{1}, PublicKey: []byte{1}, TokensIn: &n1}
	var written map[string]any
	if err := json.Unmarshal(full.AppendJSON(nil), &written); err != nil {
		t.Fatal(err)
	}
	for name := range written {
		if described[name] == nil {
			t.Errorf("member %s of a record is not described", name)
		}
	}
	for name := range described {
		if _, ok := written[name]; !ok {
			t.Errorf("member %s is described and never written", name)
		}
	}
	// Embedded answers are described in full.
	summary := schemas["SummaryAnswer"].(map[string]any)["properties"].(map[string]any)
	for name := range n.get("/usage/summary").is(200) {
		if summary[name] == nil {
			t.Errorf("member %s of the summary is not described", name)
		}
	}
}

// room is one of so many bytes.
type room struct{ left atomic.Int64 }

func (r *room) Take(n int64) bool {
	if r.left.Add(-n) < 0 {
		r.left.Add(n)
		return false
	}
	return true
}

func (r *room) Give(n int64) { r.left.Add(n) }

// A body that finds no room is refused for the moment; what one held is given
// back, however it ended.
func TestRoomForBodies(t *testing.T) {
	var r room
	r.left.Store(64 << 10)
	n := newNode(t, func(c *Config) { c.Room, c.MaxBodyBytes = &r, 1<<20 })
	small := event("t", "a", "c", "2026-02-20T11:00:00Z", "")
	for _, target := range []string{"/usage", "/registry/import"} {
		got := n.post(target, small+strings.Repeat(" ", 200<<10))
		if got.refuses(503, asap.CodeOverloaded); got.Header().Get("Retry-After") == "" {
			t.Error(got.Header())
		}
		if r.left.Load() != 64<<10 {
			t.Errorf("%s: %d left", target, r.left.Load())
		}
	}
	r.Take(64 << 10) // others have it all
	n.post("/usage", small+strings.Repeat(" ", 8<<10)).is(201)
	r.Give(64 << 10)
	n.post("/usage", small+strings.Repeat(" ", 40<<10)).is(200)
	n.post("/usage", strings.Repeat("[", 40<<10)).refuses(400, asap.CodeParseError)
	if r.left.Load() != 64<<10 {
		t.Errorf("%d left", r.left.Load())
	}
}
