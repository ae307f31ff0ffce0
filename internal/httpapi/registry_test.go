package httpapi

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// stores are the two kinds of store that everything here must work over.
var stores = map[string]func(t *testing.T) *sqlite.Store{
	"memory": func(t *testing.T) *sqlite.Store {
		s, err := sqlite.OpenMemory(t.Context(), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
	"file": func(t *testing.T) *sqlite.Store {
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "asap.db"), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
}

const me = "urn:asap:agent:me"

func agentKeyOf(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{n})
	return ed25519.NewKeyFromSeed(seed[:])
}

// newRegistryNode is a node whose registry is the real one. Key 66 is
// compromised, and two agents have prices.
func newRegistryNode(t *testing.T, store *sqlite.Store) (*node, *registry.Index) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	index := registry.NewIndex(registry.Promised)
	n := newNode(t, func(c *Config) {
		book, err := ledger.Open(ctx, store, ledger.Options{Origin: "test.example.com", Operator: "urn:asap:agent:operator", Now: c.Now,
			AgentsChanged: func(agents []registry.Agent) {
				for _, a := range agents {
					if err := a.Parse(); err != nil {
						t.Error(err)
					}
					index.Put(a)
				}
			}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- book.Run(ctx) }()
		c.Usage, c.Ledger, c.Audit = store, book, store
		c.Registry = RegistryConfig{Writer: book,
			Index: func(context.Context) (*registry.Index, error) { return index, nil },
			Price: func(id asap.AgentURN, skill string) (metering.NanoUSD, bool) {
				return map[bool]metering.NanoUSD{false: 50_000_000, true: 10_000_000}[skill == "echo"], id == me
			},
			Compromised: func(k ed25519.PublicKey) bool { return k.Equal(asap.PublicKeyOf(agentKeyOf(66))) }}
	})
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return n, index
}

// signedBody is a signed manifest; change may amend it first.
func signedBody(t testing.TB, id, version string, n byte, change func(*asap.Manifest)) string {
	t.Helper()
	m := &asap.Manifest{ID: asap.AgentURN(id), Name: "Me", Version: version, Description: "does things", TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: "0.1", Skills: []asap.Skill{{ID: "echo"}}}, Endpoints: asap.Endpoint{ASAP: "https://me.example/asap"}}
	if change != nil {
		change(m)
	}
	s, err := asap.SignManifest(m, agentKeyOf(n))
	if err != nil {
		t.Fatal(err)
	}
	return string(s.AppendJSON(nil))
}

func promise(t testing.TB, availability, errors string, ms int64) func(*asap.Manifest) {
	t.Helper()
	return func(m *asap.Manifest) {
		a, err := asap.ParsePercentage(availability)
		if err != nil {
			t.Fatal(err)
		}
		e, err := asap.ParsePercentage(errors)
		if err != nil {
			t.Fatal(err)
		}
		hours := "24/7"
		m.SLA = &asap.SLADefinition{Availability: &a, MaxErrorRate: &e, MaxLatencyP95MS: &ms, SupportHours: &hours}
	}
}

func TestRegistryLife(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { testRegistryLife(t, open(t)) })
	}
}

func testRegistryLife(t *testing.T, store *sqlite.Store) {
	n, _ := newRegistryNode(t, store)
	mine := "/registry/agents/" + me
	put := func(who, target, body string) answer { t.Helper(); return n.do(who, "PUT", target, body) }

	n.do("", "GET", mine, "").refuses(404, asap.CodeNotFound)
	v := put(me, mine, signedBody(t, me, "1.0", 1, promise(t, "99.50%", "1%", 500))).is(201)
	if v["status"] != "registered" || v["receipt"].(map[string]any)["seq"] != 0.0 || v["agent"].(map[string]any)["id"] != me {
		t.Errorf("%v", v)
	}
	// At once, by everybody, in every form of the address.
	for _, target := range []string{mine, "/registry/agents/" + url.PathEscape(me), strings.ReplaceAll(mine, ":", "%3A"), strings.ReplaceAll(mine, ":", "%3a")} {
		v = n.do("", "GET", target, "").is(200)
		if v["source"] != "signed" || v["version"] != "1.0" || v["signed_manifest"] == nil || v["manifest"].(map[string]any)["id"] != me || v["audit_seq"] != 0.0 {
			t.Errorf("%s: %v", target, v)
		}
	}
	sla := v["sla"].(map[string]any)
	if f := sla["availability_percent"].(map[string]any); f["value"] != 99.5 || f["text"] != "99.50%" || f["basis"] != "promised" || f["window"] != nil ||
		f["start"] != "2026-02-20T12:00:00Z" || f["end"] != nil {
		t.Errorf("%v", f)
	}
	if sla["latency_p95_ms"].(map[string]any)["value"] != 500.0 || sla["error_rate_percent"].(map[string]any)["value"] != 1.0 || sla["sla_score"] != nil || sla["support_hours"] != "24/7" {
		t.Errorf("%v", sla)
	}
	if p := v["price"].(map[string]any); p["max_usd_per_task"] != "0.05" || p["basis"] != "price_list" {
		t.Errorf("%v", p)
	}
	if sla := n.do("", "GET", mine+"?availability_basis=measured", "").is(200); sla["sla"].(map[string]any)["availability_percent"] != nil ||
		sla["promised_sla"].(map[string]any)["availability_percent"].(map[string]any)["basis"] != "promised" {
		t.Errorf("nothing was measured: %v", sla)
	}
	// What is served verifies.
	var served struct {
		Raw struct {
			Manifest  map[string]any `json:"manifest"`
			Signature map[string]any `json:"signature"`
			PublicKey string         `json:"public_key"`
		} `json:"signed_manifest"`
	}
	if err := json.Unmarshal(n.do("", "GET", mine, "").Body.Bytes(), &served); err != nil || served.Raw.PublicKey != asap.EncodePublicKey(asap.PublicKeyOf(agentKeyOf(1))) {
		t.Errorf("%+v, %v", served.Raw, err)
	}

	if v := put(me, mine, signedBody(t, me, "1.0", 1, promise(t, "99.50%", "1%", 500))).is(200); v["status"] != "unchanged" || v["receipt"] != nil {
		t.Errorf("%v", v)
	}
	// Bad manifests, each with its code, and nothing of them stays.
	refusals := []struct {
		who, target, body string
		status            int
		code              asap.Code
	}{
		{me, mine, signedBody(t, me, "1.0", 1, nil), 409, asap.CodeManifestConflict},
		{me, mine, signedBody(t, me, "0.9", 1, nil), 409, asap.CodeManifestOutdated},
		{"operator", mine, signedBody(t, me, "0.9", 1, nil), 409, asap.CodeManifestOutdated},
		{me, mine, signedBody(t, me, "2.0", 2, nil), 403, asap.CodeManifestKey},
		{"operator", mine, signedBody(t, me, "2.0", 66, nil), 403, asap.CodeManifestKey},
		{me, mine, strings.Replace(signedBody(t, me, "2.0", 1, nil), "does things", "does harm", 1), 422, asap.CodeSignature},
		{me, mine, signedBody(t, "urn:asap:agent:other", "2.0", 1, nil), 422, asap.CodeValidation},
		{me, mine, `{"manifest":{}}`, 422, asap.CodeValidation},
		{me, mine, `{"manifest":`, 400, asap.CodeParseError},
		{me, mine, `{"manifest":1,"manifest":2}`, 400, asap.CodeParseError},
		{me, mine, ``, 400, asap.CodeParseError},
		{me, mine, strings.Repeat(" ", registry.MaxManifestBytes) + "{}", 413, asap.CodeRequestTooLarge},
		{me, mine + "?force=true", signedBody(t, me, "0.9", 1, nil), 403, asap.CodeForbidden},
		{me, mine + "?replace_keys=true", signedBody(t, me, "2.0", 1, nil), 403, asap.CodeForbidden},
		{"operator", mine + "?force=maybe", signedBody(t, me, "0.9", 1, nil), 422, asap.CodeInvalidFilter},
		{me, mine + "%0A", signedBody(t, me, "2.0", 1, nil), 422, asap.CodeValidation},
		{me, "/registry/agents/..%2F..%2Fetc%2Fpasswd", "", 422, asap.CodeValidation},
		{"operator", "/registry/agents/%2e%2e", "", 422, asap.CodeValidation},
		{"", mine, signedBody(t, me, "2.0", 1, nil), 401, asap.CodeUnauthenticated},
	}
	for _, r := range refusals {
		put(r.who, r.target, r.body).refuses(r.status, r.code)
	}
	if v := n.get("/audit/logs").is(200); v["as_of_size"] != 2.0 { // registered, key added
		t.Errorf("%v entries", v["as_of_size"])
	}

	n.setClock(noon.Add(time.Hour))
	if v := put(me, mine, signedBody(t, me, "1.1", 1, nil)).is(200); v["status"] != "updated" {
		t.Errorf("%v", v)
	}
	if v := put("operator", mine, signedBody(t, me, "1.1", 2, nil)).is(200); len(v["agent"].(map[string]any)["keys"].([]any)) != 2 {
		t.Errorf("a second key: %v", v)
	}
	if v := put("operator", mine+"?force=true&replace_keys=true", signedBody(t, me, "0.5", 2, nil)).is(200); len(v["agent"].(map[string]any)["keys"].([]any)) != 1 {
		t.Errorf("one key, an older version: %v", v)
	}
	put("operator", "/registry/agents/urn:asap:agent:other", signedBody(t, "urn:asap:agent:other", "1.0", 9, nil)).is(201)

	// Forbidden and unknown look the same, whatever is sent.
	texts := map[string]bool{}
	for _, target := range []string{"urn:asap:agent:other", "urn:asap:agent:nobody"} {
		for _, method := range []string{"PUT", "DELETE"} {
			for _, body := range []string{"", "{", signedBody(t, target, "9.0", 9, nil)} {
				texts[n.do(me, method, "/registry/agents/"+target, body).refuses(403, asap.CodeForbidden)["detail"].(string)] = true
			}
		}
	}
	if len(texts) != 1 {
		t.Errorf("forbidden in several ways: %v", texts)
	}

	if v := n.do(me, "DELETE", mine, "").is(200); v["status"] != "removed" || v["receipt"] == nil {
		t.Errorf("%v", v)
	}
	n.do(me, "DELETE", mine, "").refuses(404, asap.CodeNotFound)
	n.do("", "GET", mine, "").refuses(404, asap.CodeNotFound)
	if v := n.get("/registry/agents").is(200); v["count"] != 1.0 {
		t.Errorf("after the removal: %v", v)
	}
	put(me, mine, signedBody(t, me, "3.0", 1, nil)).refuses(403, asap.CodeManifestKey)
	put(me, mine, signedBody(t, me, "0.4", 2, nil)).refuses(409, asap.CodeManifestOutdated)
	put(me, mine, signedBody(t, me, "0.5", 2, nil)).is(201)

	var log []string
	for _, e := range n.do(me, "GET", "/audit/logs", "").is(200)["data"].([]any) {
		log = append(log, strings.TrimPrefix(e.(map[string]any)["event_type"].(string), "agent."))
	}
	if got := strings.Join(log, " "); got != "registered key_added updated updated key_added updated key_removed removed registered" {
		t.Errorf("the agent's side of the log: %s", got)
	}
}

func TestRegistrySearch(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { testRegistrySearch(t, open(t)) })
	}
}

func testRegistrySearch(t *testing.T, store *sqlite.Store) {
	n, index := newRegistryNode(t, store)
	for id, change := range map[string]func(*asap.Manifest){
		me: promise(t, "99.5", "1", 500), "urn:asap:agent:best": promise(t, "99.99", "0", 20), "urn:asap:agent:mute": nil,
	} {
		n.do("operator", "PUT", "/registry/agents/"+id, signedBody(t, id, "1.0", 1, change)).is(201)
	}
	find := func(query string) string {
		t.Helper()
		v := n.do("", "GET", "/registry/agents?"+query, "").is(200)
		var found []string
		for _, a := range v["data"].([]any) {
			found = append(found, strings.TrimPrefix(a.(map[string]any)["id"].(string), "urn:asap:agent:"))
			if _, full := a.(map[string]any)["manifest"]; full {
				t.Error("a list carries manifests")
			}
		}
		if v["availability_basis"] == nil || v["total"] != float64(len(found)) {
			t.Errorf("%v", v)
		}
		return strings.Join(found, " ")
	}
	for query, want := range map[string]string{
		"":                            "best me mute",
		"q=THINGS+best":               "best",
		"skill=echo&sort=name":        "best me mute",
		"skill=none":                  "",
		"capability=streaming":        "",
		"min_availability=99.5":       "best me",
		"min_availability=99.6%25":    "best",
		"max_latency_p95_ms=20":       "best",
		"max_error_rate=0":            "best",
		"max_price=0.049":             "",
		"max_price=0.01&skill=echo":   "me",
		"sort=-latency":               "me best mute",
		"sort=-price":                 "me best mute",
		"availability_basis=measured": "best me mute",
		"availability_basis=measured&min_availability=1": "",
	} {
		if got := find(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{"min_availability=101", "min_availability=x", "min_availability=", "max_error_rate=-1", "max_latency_p95_ms=x", "max_latency_p95_ms=1.5",
		"max_price=-1", "max_price=1e3", "sort=size", "sort=relevance", "availability_basis=guessed", "limit=0", "limit=1001", "q=" + strings.Repeat("a", 2000)} {
		n.get("/registry/agents?"+query).refuses(422, asap.CodeInvalidFilter)
	}
	v := n.get("/registry/agents?limit=1&sort=name").is(200)
	next := v["next_cursor"].(string)
	if v := n.get("/registry/agents?limit=5&sort=name&cursor=" + next).is(200); v["count"] != 2.0 || v["total"] != 3.0 || v["next_cursor"] != nil {
		t.Errorf("second page: %v", v)
	}
	for _, query := range []string{"sort=-name&cursor=" + next, "cursor=" + next, "cursor=x", "sort=name&cursor=" + url.QueryEscape(next+"x")} {
		n.get("/registry/agents?"+query).refuses(422, asap.CodeInvalidCursor)
	}

	score := 97.5
	index.Measure(me, registry.Figures{Availability: registry.MeasuredShare(2, 3), Score: &score, Window: "30d", Start: noon.Add(-720 * time.Hour), End: noon})
	sla := n.get("/registry/agents?availability_basis=measured&min_availability=66").is(200)["data"].([]any)[0].(map[string]any)["sla"].(map[string]any)
	if f := sla["sla_score"].(map[string]any); f["value"] != 97.5 || f["basis"] != "measured" || f["window"] != "30d" || f["end"] != "2026-02-20T12:00:00Z" {
		t.Errorf("%v", f)
	}
}

func TestLiteRegistry(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { testLiteRegistry(t, open(t)) })
	}
}

func testLiteRegistry(t *testing.T, store *sqlite.Store) {
	n, index := newRegistryNode(t, store)
	if v := n.do("", "GET", "/registry.json", "").is(200); len(v["agents"].([]any)) != 0 {
		t.Errorf("%v", v)
	}
	document, err := os.ReadFile(filepath.Join("..", "registry", "testdata", "registry_example.json"))
	if err != nil {
		t.Fatal(err)
	}
	spoilt := strings.Replace(string(document), `"agents": [`, `"later": 1, "agents": [7, {"id":"urn:asap:agent:x\n"},`, 1)
	n.do(me, "POST", "/registry/import", spoilt).refuses(403, asap.CodeForbidden)
	n.do("", "POST", "/registry/import", spoilt).refuses(401, asap.CodeUnauthenticated)
	v := n.post("/registry/import", spoilt).is(200)
	if v["registered"] != 2.0 || v["skipped"] != 2.0 || len(v["skipped_entries"].([]any)) != 2 || v["receipt"] == nil {
		t.Errorf("%v", v)
	}
	if v := n.post("/registry/import", spoilt).is(200); v["unchanged"] != 2.0 || v["receipt"] != nil {
		t.Errorf("%v", v)
	}
	n.post("/registry/import", "[]").refuses(422, asap.CodeValidation)
	n.do("operator", "POST", "/registry/import", spoilt, "Content-Encoding", "gzip").refuses(415, asap.CodeUnsupportedEncoding)

	// The form of v1.3.0, which refuses what it does not know, at both levels.
	events := "wss://me.example/asap/ws"
	n.do("operator", "PUT", "/registry/agents/"+me, signedBody(t, me, "1.0", 1, func(m *asap.Manifest) { m.Endpoints.Events = &events })).is(201)
	got := n.do("", "GET", "/registry.json", "")
	var strict struct {
		Version   string    `json:"version"`
		UpdatedAt time.Time `json:"updated_at"`
		Agents    []struct {
			ID          string            `json:"id"`
			Name        string            `json:"name"`
			Description string            `json:"description"`
			Endpoints   map[string]string `json:"endpoints"`
			Skills      []string          `json:"skills"`
			ASAPVersion string            `json:"asap_version"`
		} `json:"agents"`
	}
	if err := json.Unmarshal(got.Body.Bytes(), &strict, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if strict.Version != "1.0" || !strict.UpdatedAt.Equal(noon) || len(strict.Agents) != 3 || strict.Agents[2].Endpoints["ws"] != events || strict.Agents[0].ASAPVersion != "1.1.0" {
		t.Errorf("%+v", strict)
	}
	etag := got.Header().Get("ETag")
	if again := n.do("", "GET", "/registry.json", "", "If-None-Match", etag); again.Code != 304 || again.Body.Len() != 0 {
		t.Errorf("not changed: %d", again.Code)
	}
	n.do("operator", "DELETE", "/registry/agents/"+me, "").is(200)
	if again := n.do("", "GET", "/registry.json", "", "If-None-Match", etag); again.Code != 200 || strings.Contains(again.Body.String(), me) {
		t.Errorf("after a removal: %d", again.Code)
	}
	v = n.get("/registry/agents/urn:asap:agent:alpha").is(200)
	if v["source"] != "imported" || v["version"] != nil || v["capabilities"] != nil || v["manifest"] != nil || v["signed_manifest"] != nil || v["price"] != nil ||
		v["endpoints"].(map[string]any)["manifest"] != "https://alpha.example.com/.well-known/asap/manifest.json" {
		t.Errorf("%v", v)
	}
	n.do("urn:asap:agent:alpha", "PUT", "/registry/agents/urn:asap:agent:alpha", signedBody(t, "urn:asap:agent:alpha", "0.1", 5, nil)).is(201)
	if v := n.post("/registry/import", string(document)).is(200); v["kept"] != 1.0 || v["unchanged"] != 1.0 {
		t.Errorf("over a signed manifest: %v", v)
	}

	index.Put(registry.HostedAgent(&asap.Manifest{ID: "urn:asap:agent:here", Name: "Here", Version: "1.0", Capabilities: asap.Capability{ASAPVersion: "0.1"}}, noon))
	if v := n.get("/registry/agents/urn:asap:agent:here").is(200); v["hosted"] != true || v["source"] != "hosted" || v["audit_seq"] != nil || v["manifest"] == nil {
		t.Errorf("%v", v)
	}
	n.do("operator", "DELETE", "/registry/agents/urn:asap:agent:here", "").refuses(404, asap.CodeNotFound)
}

// A node without a registry has an empty one.
func TestNoRegistry(t *testing.T) {
	n := newNode(t, nil)
	n.get("/registry/agents/"+me).refuses(404, asap.CodeNotFound)
	n.do("operator", "DELETE", "/registry/agents/"+me, "").refuses(503, asap.CodeLedgerUnavailable)
	n.do("operator", "PUT", "/registry/agents/"+me, signedBody(t, me, "1.0", 1, nil)).refuses(503, asap.CodeLedgerUnavailable)
	n.post("/registry/import", `{"agents":[]}`).refuses(503, asap.CodeLedgerUnavailable)
	broken := newNode(t, func(c *Config) {
		c.Registry.Index = func(context.Context) (*registry.Index, error) { return nil, errors.New("disk") }
	})
	for _, target := range []string{"/registry/agents", "/registry/agents/" + me, "/registry.json"} {
		broken.get(target).refuses(500, asap.CodeInternal)
	}
}

// BenchmarkRegistrySearch10k is a page of 100 of 10,000 registered agents, found
// by text and by figures, as it goes over HTTP; p95_ms is the 95th percentile and
// ratio that to the same with 100 agents.
func BenchmarkRegistrySearch10k(b *testing.B) {
	index := func(n int) *API {
		x := registry.NewIndex(registry.Promised)
		agents := make([]registry.Agent, n)
		for i := range agents {
			ms := int64(1 + i%997)
			availability, err := asap.ParsePercentage(fmt.Sprintf("99.%02d", i%100))
			if err != nil {
				b.Fatal(err)
			}
			m := &asap.Manifest{ID: asap.AgentURN(fmt.Sprintf("urn:asap:agent:team-%d:worker-%d", i%50, i)), Name: fmt.Sprintf("Worker %d", i), Version: "1.0",
				Description:  "Reads documents, finds mistakes in code and translates what it was given into many languages",
				Capabilities: asap.Capability{ASAPVersion: "0.1", Skills: []asap.Skill{{ID: fmt.Sprintf("skill-%d", i%20)}, {ID: "translate"}}},
				SLA:          &asap.SLADefinition{Availability: &availability, MaxLatencyP95MS: &ms}}
			agents[i] = registry.Agent{ID: m.ID, Source: registry.Signed, Version: "1.0", Document: []byte("{}"), Manifest: m, Seq: int64(i), RegisteredAt: noon, UpdatedAt: noon}
		}
		x.Put(agents...)
		return New(Config{Registry: RegistryConfig{Index: func(context.Context) (*registry.Index, error) { return x, nil }}, Now: time.Now})
	}
	queries := []string{"q=translate+mistakes", "skill=skill-7&sort=-availability", "min_availability=99.5&sort=latency", "sort=name", "q=worker+99&max_latency_p95_ms=500"}
	p95 := func(a *API, rounds int) float64 {
		times := make([]float64, 0, rounds)
		for i := range rounds {
			begin := time.Now()
			if err := a.searchDirectly(queries[i%len(queries)]); err != nil {
				b.Fatal(err)
			}
			times = append(times, float64(time.Since(begin).Microseconds())/1000)
		}
		slices.Sort(times)
		return times[len(times)*95/100]
	}
	small, large := index(100), index(10_000)
	p95(small, 100)
	p95(large, 100) // warm
	for b.Loop() {
		if err := large.searchDirectly(queries[0]); err != nil {
			b.Fatal(err)
		}
	}
	few, many := p95(small, 1000), p95(large, 1000)
	b.ReportMetric(many, "p95_ms")
	b.ReportMetric(many/few, "ratio")
}

// searchDirectly asks without a server in front.
func (a *API) searchDirectly(query string) error {
	w := httptest.NewRecorder()
	c := &call{w: w, r: httptest.NewRequest("GET", "/registry/agents?"+query, nil)}
	var err error
	if c.params, err = newQuery(query); err != nil {
		return err
	}
	if err := a.searchAgents(c); err != nil {
		return err
	}
	if !strings.HasPrefix(w.Body.String(), `{"data":[{`) {
		return fmt.Errorf("%s: nothing found", query)
	}
	return nil
}
