package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

func TestNonces(t *testing.T) {
	var n nonces
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	take := func(sender, id, extensions string) error {
		return n.take(&asap.Envelope{ID: asap.EnvelopeID(id), IDSet: id != "", Sender: asap.AgentURN(sender), Extensions: jsontext.Value(extensions)}, now)
	}
	for _, c := range []struct {
		sender, id, extensions string
		ok                     bool
	}{
		{"a", "1", ``, true},
		{"a", "1", `{"other":1}`, true},
		{"a", "1", `{"nonce":"n"}`, true},
		{"a", "1", `{"nonce":"n"}`, true},
		{"a", "2", `{"nonce":"n"}`, false},
		{"a", "", `{"nonce":"n"}`, false},
		{"b", "1", `{"nonce":"n"}`, true},
		{"a", "3", `{"nonce":""}`, false},
		{"a", "3", `{"nonce":5}`, false},
		{"a", "", `{"nonce":"m"}`, true},
		{"a", "", `{"nonce":"m"}`, false},
	} {
		if err := take(c.sender, c.id, c.extensions); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	now = now.Add(asap.NonceLifetime)
	if err := take("a", "2", `{"nonce":"n"}`); err != nil {
		t.Error("a nonce outlives its time:", err)
	}
	for i := range maxNonces + 10 {
		if err := take("c", "x", fmt.Sprintf(`{"nonce":"%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.seen) > maxNonces || len(n.queue) > maxNonces {
		t.Error("the memory of nonces is not bounded:", len(n.seen))
	}
}

func TestPeerLimits(t *testing.T) {
	p := NewRateLimiter(2, 3)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 {
		if _, ok := p.take(&p.addresses, "a", now); !ok {
			t.Error("refused", i)
		}
	}
	if wait, ok := p.take(&p.addresses, "a", now); ok || wait != 1 {
		t.Error(wait, ok)
	}
	if _, ok := p.take(&p.addresses, "b", now); !ok {
		t.Error("b pays for a")
	}
	if _, ok := p.take(&p.addresses, "a", now.Add(time.Second)); !ok {
		t.Error("the bucket does not fill")
	}
	for i := range maxPeers {
		p.take(&p.addresses, fmt.Sprint(i), now)
	}
	if len(p.addresses.buckets) != maxPeers {
		t.Error(len(p.addresses.buckets))
	}
	for range 10 {
		p.take(&p.addresses, "late", now)
	}
	if _, ok := p.take(&p.addresses, "later still", now); ok {
		t.Error("peers beyond the bound have no limit")
	}
	p.take(&p.addresses, "new", now.Add(time.Hour))
	if len(p.addresses.buckets) > 1 {
		t.Error("idle peers are not forgotten:", len(p.addresses.buckets))
	}
}

func TestRateLimitOverHTTP(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), AllowUnverified: anybody, Limits: Limits{RequestsPerSecond: 0.1, RequestBurst: 1}})
	expect(t, post(s, request("e1", "echo", "")), 200, `{"result":"*"}`)
	w := post(s, request("e2", "echo", ""))
	expect(t, w, 429, `{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Rate limit exceeded","data":{"retry_after":10,"limit":"0.1 per 1 second"}}}`)
	if w.Header().Get("Retry-After") != "10" {
		t.Error(w.Header())
	}
}

func TestBodyThatBreaks(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), AllowUnverified: anybody})
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/asap", iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(request("e1", "echo", "")))))
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	expect(t, w, 400, `{"detail":"Request body ended early"}`)
}

func TestUnmetered(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), AllowUnverified: anybody})
	expect(t, post(s, request("e1", "echo", "")), 200, `{"result":{"envelope":{"extensions":null}}}`)
	expect(t, post(s, request("e2", "echo", ""), "X-ASAP-Delegation-Token", "x"), 200, `{"error":{"code":-32054,"data":{"code":"delegation_root_untrusted"}}}`)
	w := post(s, strings.Replace(request("", "echo", ""), `"id":"",`, "", 1), "X-Idempotency-Key", "k")
	again := post(s, strings.Replace(request("", "echo", ""), `"id":"",`, "", 1), "X-Idempotency-Key", "k")
	if w.Body.String() != again.Body.String() {
		t.Error("the header is not honoured")
	}
	// An empty id is legal, and names nothing.
	a, b := post(s, request("", "echo", "")).Body.String(), post(s, request("", "echo", "")).Body.String()
	if a == b || !strings.Contains(a, `"correlation_id":""`) {
		t.Error(a, b)
	}
}

func TestFromLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:80": true, "[::1]:80": true, "10.0.0.1:80": false, "@": false, "127.0.0.1": true} {
		if got := FromLoopback(&http.Request{RemoteAddr: addr}); got != want {
			t.Error(addr, got)
		}
	}
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), AllowUnverified: FromLoopback})
	expect(t, post(s, request("e1", "echo", "")), 200, `{"error":{"code":-32600,"data":{"error":"Authentication required","status_code":401}}}`) // httptest comes from 192.0.2.1
}

// FuzzBody sends whatever it likes to a server that knows one skill. Nothing
// may panic, every answer is JSON, and only whole requests leave a record.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{request("e", "echo", ""), request("e", "long", `,"requires_ack":true`), `[]`, `{"type":"ping"}`, `{"method":"sla.subscribe"}`, "{\"a\":\xff}",
		strings.Replace(request("e", "echo", ""), "task.request", "state.query", 1)} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "gzip")
	}
	s, err := NewServer(Config{Agents: []*Agent{Echo("urn:asap:agent:e")}, Ledger: Unmetered(), AllowUnverified: anybody, CheckNonces: true, Limits: Limits{BodyBytes: 64 << 10, RetainedTasks: 4}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		w := post(s, string(body), "Content-Encoding", encoding)
		if !jsontext.Value(w.Body.Bytes()).IsValid() {
			t.Errorf("status %d, body %q", w.Code, w.Body)
		}
		// The same bytes as a frame: nothing but the framing differs.
		session := newSession(s, Caller{}, presented{})
		defer session.cancel()
		session.handle(frame{text: body, size: int64(len(body))})
		for len(session.out) > 0 {
			if out := <-session.out; out.close == 0 && !jsontext.Value(out.text).IsValid() {
				t.Errorf("frame %q", out.text)
			}
		}
	})
}

// BenchmarkEcho is one task over loopback HTTP, next to what net/http alone
// needs for reading and writing JSON of that size: the ratio is the figure.
func BenchmarkEcho(b *testing.B) {
	s, err := NewServer(Config{Agents: []*Agent{Echo("urn:asap:agent:stage")}, Ledger: Unmetered(), AllowUnverified: anybody})
	if err != nil {
		b.Fatal(err)
	}
	body := strings.Replace(request("", "echo", ""), `"id":"",`, "", 1)
	floor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Params jsontext.Value `json:"params"`
		}
		if err := json.UnmarshalRead(r.Body, &v); err != nil {
			b.Error(err)
		}
		writeJSON(w, http.StatusOK, v.Params)
	})
	for name, h := range map[string]http.Handler{"agent": s.Handler(), "floor": floor} {
		b.Run(name, func(b *testing.B) {
			front := httptest.NewServer(h)
			defer front.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			defer client.CloseIdleConnections()
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, front.URL+"/asap", strings.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					resp, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
						b.Error(resp.Status, err)
					}
					resp.Body.Close()
				}
			})
		})
	}
}

// An agent that proved its name has its own bucket, however many addresses
// crowd in; an address of IPv6 counts as its network.
func TestRateOfCallers(t *testing.T) {
	p := NewRateLimiter(1, 1)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	from := func(address string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/asap", nil)
		r.RemoteAddr = address
		return r
	}
	for i := range maxPeers + 100 {
		p.Allow(from(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)), Caller{}, now)
	}
	if _, ok := p.Allow(from("10.9.9.9:1"), Caller{}, now); ok {
		t.Error("addresses beyond the bound have no limit")
	}
	for _, urn := range []asap.AgentURN{"urn:asap:agent:a", "urn:asap:agent:b"} {
		if _, ok := p.Allow(from("10.9.9.9:1"), Caller{URN: urn, Verified: true}, now); !ok {
			t.Error("an agent pays for addresses:", urn)
		}
		if _, ok := p.Allow(from("10.8.8.8:1"), Caller{URN: urn, Verified: true}, now); ok {
			t.Error("an agent escapes by another address:", urn)
		}
	}
	p = NewRateLimiter(1, 1)
	for address, want := range map[string]string{"2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64", "192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "::ffff:192.0.2.1", "@": "@"} {
		if got := peerNetwork(address); got != want {
			t.Errorf("%s counts as %s", address, got)
		}
	}
	_, first := p.Allow(from("[2001:db8::1]:1"), Caller{}, now)
	_, second := p.Allow(from("[2001:db8::2]:1"), Caller{}, now)
	if !first || second {
		t.Error("one network:", first, second)
	}
}

// Credentials are answered as the configuration says, and a limiter may be
// shared with other routes.
func TestAuthStatus(t *testing.T) {
	for _, c := range []struct {
		err        error
		withStatus bool
		status     int
		body       string
	}{
		{ErrNoCredentials, true, 401, `{"detail":"Authentication required","code":"`},
		{ErrBadCredentials, true, 401, `{"detail":"Invalid authentication token","code":"`},
		{asap.CodeForbidden.Err("Insufficient scope"), true, 403, `{"detail":"Insufficient scope","code":"`},
		{asap.CodeAuthUnavailable.Err("Authentication service unavailable"), true, 503, `{"detail":"Authentication service unavailable","code":"`},
		{ErrNoCredentials, false, 200, `"error":"Authentication required","code":"unauthenticated","status_code":401`},
		{ErrBadCredentials, false, 200, `"error":"Invalid authentication token","code":"unauthenticated","status_code":401`},
		{asap.CodeForbidden.Err("Insufficient scope"), false, 200, `"error":"Insufficient scope","code":"forbidden","status_code":403`},
		{asap.CodeAuthUnavailable.Err(""), false, 503, `"code":"authentication_unavailable"`},
	} {
		s, err := NewServer(Config{Agents: []*Agent{Echo("urn:asap:agent:echo")}, Ledger: Unmetered(), AuthStatus: c.withStatus,
			Authenticate: func(*http.Request) (Caller, error) { return Caller{}, c.err }, Limiter: NewRateLimiter(0.001, 1)})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{c.status, http.StatusTooManyRequests} {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/asap", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{}}`)))
			if w.Code != want || (want == c.status && !strings.Contains(w.Body.String(), c.body)) {
				t.Errorf("%v: %d %s, want %d", c.err, w.Code, w.Body, want)
			}
			if w.Code >= 429 && w.Header().Get("Retry-After") == "" || (w.Code == 401 && w.Header().Get("WWW-Authenticate") != "Bearer") {
				t.Errorf("%v: %d with %v", c.err, w.Code, w.Header())
			}
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
