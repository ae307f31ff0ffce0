package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asap-protocol/asap-go"
)

const reference = "urn:asap:agent:reference"

func newTestRegistry(t *testing.T, path string, handler http.HandlerFunc, opts ...Option) *Registry {
	t.Helper()
	r, err := NewRegistry(fakeURL+path, append([]Option{WithTransport(serve(t, handler)), WithTokenSource(StaticToken("secret")), WithDelegation("d")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func recordedRegistry(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Recorded documents, the later one with members v1.3.0 refuses.
func TestLiteRegistryDocuments(t *testing.T) {
	for name, want := range map[string]int{"registry_example.json": 2, "registry_v2_5.json": 40} {
		r := newTestRegistry(t, "/registry.json", func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") != "" || req.Header.Get(DelegationHeader) != "" {
				t.Error("a public file was asked for with credentials")
			}
			_, _ = w.Write([]byte(recordedRegistry(t, name)))
		})
		found, err := r.Find(t.Context(), AgentQuery{Skill: map[int]string{2: "code_review", 40: "summarize"}[want], Limit: 1000})
		if err != nil || len(found) == 0 || found[0].HTTP == "" || found[0].ManifestURL == "" {
			t.Fatalf("%s: %+v, %v", name, found, err)
		}
		if name == "registry_example.json" && len(found) != 2 {
			t.Errorf("%d agents", len(found))
		}
		a, err := r.Agent(t.Context(), found[0].ID)
		if err != nil || a.Name != found[0].Name {
			t.Errorf("%+v, %v", a, err)
		}
		if limited, err := r.Find(t.Context(), AgentQuery{Limit: 1}); err != nil || len(limited) != 1 {
			t.Errorf("limit: %d, %v", len(limited), err)
		}
		if _, err := r.Agent(t.Context(), "urn:asap:agent:nobody"); !errors.Is(err, ErrAgentNotFound) {
			t.Error(err)
		}
		if _, err := r.Find(t.Context(), AgentQuery{Text: "x"}); !errors.Is(err, ErrQuery) {
			t.Error(err)
		}
	}
}

func TestLiteRegistryCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fetched, conditional atomic.Int64
		fail := false
		r := newTestRegistry(t, "/registry.json", func(w http.ResponseWriter, req *http.Request) {
			fetched.Add(1)
			if fail {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			if req.Header.Get("If-None-Match") == `"1"` {
				conditional.Add(1)
				w.WriteHeader(http.StatusNotModified)
				return
			}
			w.Header().Set("ETag", `"1"`)
			time.Sleep(time.Second)
			_, _ = w.Write([]byte(`{"agents":[7,{"id":"` + reference + `","name":"R","endpoints":{},"skills":["s"]},{"id":"` + reference + `","name":"again","endpoints":{}}]}`))
		})
		find := func() error {
			found, err := r.Find(t.Context(), AgentQuery{Skill: "s"})
			if err == nil && (len(found) != 1 || found[0].Name != "R") {
				t.Errorf("%+v", found)
			}
			return err
		}
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if err := find(); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		time.Sleep(RegistryTTL - time.Second)
		if err := find(); err != nil || fetched.Load() != 1 {
			t.Errorf("fetched %d times within its time, %v", fetched.Load(), err)
		}
		time.Sleep(time.Second)
		if err := find(); err != nil || fetched.Load() != 2 || conditional.Load() != 1 {
			t.Errorf("fetched %d times, %d conditionally, %v", fetched.Load(), conditional.Load(), err)
		}
		time.Sleep(RegistryTTL)
		fail = true
		var remote *RemoteError
		if err := find(); !errors.As(err, &remote) || remote.HTTPStatus != http.StatusBadGateway {
			t.Errorf("a failure: %v", err)
		}
		fail = false
		if err := find(); err != nil {
			t.Errorf("a failure is remembered: %v", err)
		}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		r.busy <- struct{}{}
		if _, err := r.Find(done, AgentQuery{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-r.busy
		r.transport.closeIdle()
	})
}

func TestRegistryDocumentsThatAreNone(t *testing.T) {
	for _, body := range []string{``, `[]`, `{}`, `{"agents":null}`, `{"agents":{}}`} {
		r := newTestRegistry(t, "/registry.json", status(200, body))
		if _, err := r.Find(t.Context(), AgentQuery{}); !errors.Is(err, ErrInvalidAnswer) {
			t.Errorf("%s: %v", body, err)
		}
		if _, err := r.Agent(t.Context(), reference); !errors.Is(err, ErrInvalidAnswer) {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, at := range []string{"http://registry.example/registry.json", "ftp://x", "https://u:p@x/"} {
		if _, err := NewRegistry(at); err == nil {
			t.Errorf("%s was taken", at)
		}
	}
	if _, err := NewRegistry("https://x", WithTimeout(-1)); err == nil {
		t.Error("a bad option was taken")
	}
}

// nodeAgent is an agent as a node's registry shows it.
func nodeAgent(id, more string) string {
	return `{"id":"` + id + `","name":"A","description":"","version":"1.0","endpoints":{"http":"https://a.example/asap","ws":null,"manifest":null},"skills":["s"],` +
		`"asap_version":"0.1","sla":{"sla_score":null},"audit_seq":null` + more + `}`
}

func TestFindInNode(t *testing.T) {
	var asked []string
	r := newTestRegistry(t, "/asap", func(w http.ResponseWriter, req *http.Request) {
		asked = append(asked, req.URL.String())
		if req.Header.Get("Authorization") != "Bearer secret" || req.Header.Get(DelegationHeader) != "" {
			t.Errorf("%v", req.Header)
		}
		if req.URL.Query().Get("cursor") == "" {
			_, _ = fmt.Fprintf(w, `{"data":[%s,{"id":1},%s],"next_cursor":"c"}`, nodeAgent("urn:asap:agent:a", ""), nodeAgent("urn:asap:agent:b", `,"keys":[{"public_key":"`+asap.EncodePublicKey(public(1))+`"}]`))
			return
		}
		_, _ = fmt.Fprintf(w, `{"data":[%s],"next_cursor":null}`, nodeAgent("urn:asap:agent:c", `,"keys":[]`))
	})
	found, err := r.Find(t.Context(), AgentQuery{Text: "x y", Skill: "s", Capability: "streaming", MinAvailability: "99.5", MaxErrorRate: "1", MaxLatencyP95MS: 5,
		MaxPriceUSD: "0.05", Sort: "-price", Limit: 120})
	if err != nil || len(found) != 3 || found[1].ID != "urn:asap:agent:b" || len(found[1].Keys) != 1 || found[0].HTTP != "https://a.example/asap" || found[0].ManifestURL != "" {
		t.Fatalf("%+v, %v", found, err)
	}
	const want = "/registry/agents?capability=streaming&limit=100&max_error_rate=1&max_latency_p95_ms=5&max_price=0.05&min_availability=99.5&q=x+y&skill=s&sort=-price"
	if asked[0] != want || len(asked) != 2 || !strings.Contains(asked[1], "cursor=c") {
		t.Errorf("%v", asked)
	}
	if found, err := r.Find(t.Context(), AgentQuery{Limit: 1}); err != nil || len(found) != 1 {
		t.Errorf("%d, %v", len(found), err)
	}

	refusing := newTestRegistry(t, "", status(422, `{"code":"invalid_filter"}`))
	var remote *RemoteError
	if _, err := refusing.Find(t.Context(), AgentQuery{Sort: "x"}); !errors.As(err, &remote) || remote.HTTPStatus != 422 {
		t.Error(err)
	}
	broken := newTestRegistry(t, "", status(200, `[]`))
	if _, err := broken.Find(t.Context(), AgentQuery{}); !errors.Is(err, ErrInvalidAnswer) {
		t.Error(err)
	}
	empty := newTestRegistry(t, "", status(200, `{"data":[],"next_cursor":"for ever"}`))
	if found, err := empty.Find(t.Context(), AgentQuery{}); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	tokenless, err := NewRegistry(fakeURL, WithTokenSource(StaticToken("\n")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokenless.Find(t.Context(), AgentQuery{}); err == nil {
		t.Error("a token that no header can carry was sent")
	}
}

func TestAgentInNode(t *testing.T) {
	answer := nodeAgent(reference, "")
	code := 200
	r := newTestRegistry(t, "", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/registry/agents/"+reference {
			t.Error(req.URL)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(answer))
	})
	if a, err := r.Agent(t.Context(), reference); err != nil || a.ID != reference {
		t.Errorf("%+v, %v", a, err)
	}
	for _, id := range []asap.AgentURN{"", "x", reference + "\n", "urn:asap:agent:../x"} {
		if _, err := r.Agent(t.Context(), id); !errors.Is(err, asap.ErrURNSyntax) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, bad := range []string{nodeAgent("urn:asap:agent:other", ""), `{}`, nodeAgent(reference, `,"keys":[{"public_key":"AAAA"}]`), `{"id":"` + reference + `"}`} {
		answer = bad
		if _, err := r.Agent(t.Context(), reference); !errors.Is(err, ErrInvalidAnswer) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	code = 404
	if _, err := r.Agent(t.Context(), reference); !errors.Is(err, ErrAgentNotFound) {
		t.Error(err)
	}
	code = 500
	var remote *RemoteError
	if _, err := r.Agent(t.Context(), reference); !errors.As(err, &remote) {
		t.Error(err)
	}
}

// A registry is believed about where an agent is, not about what it says.
func TestDiscoverThroughRegistry(t *testing.T) {
	keys := func(n byte) string { return `,"keys":[{"public_key":"` + asap.EncodePublicKey(public(n)) + `"}]` }
	signed := func(n byte) string { return `,"signed_manifest":` + signedManifest(t, n) }
	other := strings.ReplaceAll(plainManifest, reference, "urn:asap:agent:other")
	at := func(endpoints string) string {
		return `{"id":"` + reference + `","name":"A","endpoints":` + endpoints + `}`
	}
	for name, c := range map[string]struct {
		agent, manifest string
		opts            []Option
		trusted         bool
		want            error
	}{
		"pinned key":              {nodeAgent(reference, keys(1)+signed(1)), "", nil, false, nil},
		"pinned and trusted key":  {nodeAgent(reference, keys(1)+signed(1)), "", []Option{WithTrustedKeys(public(1))}, true, nil},
		"another key is trusted":  {nodeAgent(reference, keys(1)+signed(1)), "", []Option{WithTrustedKeys(public(2))}, false, ErrUntrusted},
		"another key is pinned":   {nodeAgent(reference, keys(2)+signed(1)), "", nil, false, ErrUntrusted},
		"no key is pinned":        {nodeAgent(reference, signed(1)), "", nil, false, ErrUntrusted},
		"changed on the way":      {nodeAgent(reference, keys(1)+strings.Replace(signed(1), "Reference Agent", "Evil Agent", 1)), "", nil, false, ErrInvalidAnswer},
		"hosted, plain":           {nodeAgent(reference, `,"manifest":`+plainManifest), "", nil, false, nil},
		"hosted, must be signed":  {nodeAgent(reference, `,"manifest":`+plainManifest), "", []Option{WithRequiredSignature()}, false, ErrUnsigned},
		"hosted, somebody else's": {nodeAgent(reference, `,"manifest":`+other), "", nil, false, ErrInvalidAnswer},
		"read from the agent":     {at(`{"http":"` + fakeURL + `/asap"}`), plainManifest, nil, false, nil},
		"read where it says":      {at(`{"http":"https://elsewhere.example","manifest":"` + fakeURL + `/.well-known/asap/manifest.json"}`), signedManifest(t, 1), nil, false, nil},
		"somebody else is there":  {at(`{"http":"` + fakeURL + `"}`), other, nil, false, ErrInvalidAnswer},
		"insecure address":        {at(`{"http":"http://a.example/asap"}`), "", nil, false, ErrInsecureURL},
		"no address":              {at(`{}`), "", nil, false, ErrInvalidAnswer},
	} {
		r := newTestRegistry(t, "", func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, "/registry/") {
				_, _ = w.Write([]byte(c.agent))
				return
			}
			if req.Header.Get("Authorization") != "" {
				t.Errorf("%s: the token went to the agent", name)
			}
			_, _ = w.Write([]byte(c.manifest))
		}, c.opts...)
		d, err := r.Discover(t.Context(), reference)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
			continue
		}
		var transport *TransportError
		if err != nil && !errors.As(err, &transport) {
			t.Errorf("%s: %T", name, err)
		}
		if err == nil && (d.Manifest.ID != reference || d.Trusted != c.trusted) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	missing := newTestRegistry(t, "", status(404, `{}`))
	if _, err := missing.Discover(t.Context(), reference); !errors.Is(err, ErrAgentNotFound) {
		t.Error(err)
	}
	lite := newTestRegistry(t, "/registry.json", func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "registry.json") {
			_, _ = w.Write([]byte(`{"agents":[` + at(`{"http":"`+fakeURL+`"}`) + `]}`))
			return
		}
		_, _ = w.Write([]byte(plainManifest))
	})
	if d, err := lite.Discover(t.Context(), reference); err != nil || d.Manifest.ID != reference {
		t.Errorf("%+v, %v", d, err)
	}
}

func FuzzParseRegistry(f *testing.F) {
	f.Add([]byte(recordedRegistry(f, "registry_example.json")))
	f.Add([]byte(`{"agents":[` + nodeAgent(reference, `,"keys":[{"public_key":"AAAA"}],"manifest":null`) + `]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		agents, err := parseLite(body)
		if err != nil && !errors.Is(err, ErrInvalidAnswer) {
			t.Fatal(err)
		}
		for _, a := range agents {
			if _, err := asap.ParseAgentURN(string(a.ID)); err != nil {
				t.Fatalf("%q: %v", a.ID, err)
			}
		}
	})
}
