package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asap-protocol/asap-go"
)

// plainManifest was recorded from asap-protocol v1.3.0 (Apache-2.0).
const plainManifest = `{"id":"urn:asap:agent:reference","name":"Reference Agent","version":"1.3.0","description":"Reference server for transcripts","capabilities":{"asap_version":"0.1","skills":[{"id":"echo","description":"Echo back the input","input_schema":null,"output_schema":null}],"state_persistence":false,"streaming":false,"mcp_tools":[]},"endpoints":{"asap":"https://agent.example.com/asap","events":"wss://agent.example.com/asap/ws"},"auth":null,"signature":null,"sla":{"availability":"99.5%","max_latency_p95_ms":500,"max_error_rate":"1%","support_hours":"24/7"},"ttl_seconds":300}`

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(n), ed25519.SeedSize)))
}

func public(n byte) ed25519.PublicKey { return asap.PublicKeyOf(key(n)) }

func signedManifest(t *testing.T, n byte) string {
	t.Helper()
	m, err := asap.ParseManifest([]byte(plainManifest))
	if err != nil {
		t.Fatal(err)
	}
	s, err := asap.SignManifest(m, key(n))
	if err != nil {
		t.Fatal(err)
	}
	return string(s.AppendJSON(nil))
}

func newTestDiscovery(t *testing.T, handler http.HandlerFunc, opts ...Option) *Discovery {
	t.Helper()
	d, err := NewDiscovery(append([]Option{WithTransport(serve(t, handler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDiscover(t *testing.T) {
	wantError := func(cause error) func(*testing.T, *Discovered, error) {
		return func(t *testing.T, _ *Discovered, err error) { wantTransport(t, err, "receive", false, cause) }
	}
	found := func(signed, trusted bool) func(*testing.T, *Discovered, error) {
		return func(t *testing.T, d *Discovered, err error) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Manifest.ID != "urn:asap:agent:reference" || (d.Signed != nil) != signed || d.Trusted != trusted ||
				d.URL != fakeURL+"/.well-known/asap/manifest.json" {
				t.Errorf("%+v", d)
			}
		}
	}
	tampered := strings.Replace(signedManifest(t, 1), "Reference Agent", "Evil Agent", 1)
	for _, tc := range []struct {
		name, body string
		opts       []Option
		check      func(*testing.T, *Discovered, error)
	}{
		{"plain", plainManifest, nil, found(false, false)},
		{"plain, signature required", plainManifest, []Option{WithRequiredSignature()}, wantError(ErrUnsigned)},
		{"plain, with keys", plainManifest, []Option{WithTrustedKeys(public(1))}, found(false, false)},
		{"signed", signedManifest(t, 1), []Option{WithRequiredSignature()}, found(true, false)},
		{"signed and trusted", signedManifest(t, 1), []Option{WithTrustedKeys(public(2), public(1))}, found(true, true)},
		{"signed, trusted here", signedManifest(t, 1), []Option{WithManifestKeys(fakeURL+"/", public(1)), WithTrustedKeys(public(2))}, found(true, true)},
		{"signed, trusted elsewhere", signedManifest(t, 1), []Option{WithManifestKeys("http://127.0.0.1:99", public(1)), WithTrustedKeys(public(2))}, wantError(ErrUntrusted)},
		{"signed by another", signedManifest(t, 3), []Option{WithTrustedKeys(public(1))}, wantError(ErrUntrusted)},
		{"tampered", tampered, nil, wantError(ErrInvalidAnswer)},
		{"tampered, with keys", tampered, []Option{WithTrustedKeys(public(1))}, wantError(ErrUntrusted)},
		{"bad manifest", `{"id":"x"}`, nil, wantError(ErrInvalidAnswer)},
		{"bad signed manifest", `{"manifest":{},"signature":7}`, nil, wantError(ErrInvalidAnswer)},
		{"not JSON", `{"`, nil, wantError(ErrInvalidAnswer)},
		{"not an object", `[]`, nil, wantError(ErrInvalidAnswer)},
		{"too large", strings.Repeat(" ", maxManifestBytes+1), nil, func(t *testing.T, _ *Discovered, err error) {
			wantTransport(t, err, "receive", true, ErrAnswerTooLarge)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newTestDiscovery(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/.well-known/asap/manifest.json" || r.Header.Get("Authorization") != "" || r.Header.Get(DelegationHeader) != "" {
						t.Errorf("%s %v", r.URL, r.Header)
					}
					status(200, tc.body)(w, r)
				}, append(tc.opts, WithTokenSource(StaticToken("secret")), WithDelegation("secret"))...)
				defer d.Close()
				got, err := d.Discover(t.Context(), fakeURL)
				tc.check(t, got, err)
			})
		})
	}
}

func TestDiscoverStatuses(t *testing.T) {
	for code, want := range map[int]RemoteError{
		404: {Message: "Not Found", HTTPStatus: 404},
		302: {Message: "Found", HTTPStatus: 302},
		304: {Message: "Not Modified", HTTPStatus: 304}, // of what?
		503: {Message: "Service Unavailable", HTTPStatus: 503},
		429: {Message: "Too Many Requests", HTTPStatus: 429, RetryAfter: 9 * time.Second},
	} {
		handler, count := script(status(code, "", "Retry-After", "9"))
		d := newTestDiscovery(t, handler)
		_, err := d.Discover(t.Context(), fakeURL)
		if code != 429 {
			want.RetryAfter = 9 * time.Second
		}
		wantRemote(t, err, want)
		if count() != 1 {
			t.Errorf("%d: asked %d times", code, count())
		}
	}
	if _, err := newTestDiscovery(t, status(200, "")).Discover(t.Context(), "ftp://x"); err == nil {
		t.Error("ftp accepted")
	}
	boom := errors.New("no token")
	if _, err := newTestDiscovery(t, status(200, ""), WithTokenSource(tokenError{boom})).Discover(t.Context(), fakeURL); err == nil {
		t.Error("no error")
	}
}

// TestManifestCache asks again and again, at the times given, and looks at what
// reaches the server.
func TestManifestCache(t *testing.T) {
	for _, tc := range []struct {
		control string
		ask     []int  // at so many seconds since the start
		reached string // one letter per request: g for a plain one, c for a conditional one
	}{
		{"public, max-age=300", []int{0, 299, 300, 599, 600}, "gcc"},
		{"max-age=10", []int{0, 9, 10}, "gc"},
		{`MAX-AGE="10"`, []int{0, 9, 10}, "gc"},
		{"max-age=86400", []int{0, 86399, 86400}, "gc"},
		{"", []int{0, 299, 300}, "gc"},
		{"max-age=0", []int{0, 299, 300}, "gc"},
		{"max-age=86401", []int{0, 299, 300}, "gc"},
		{"max-age=soon", []int{0, 299, 300}, "gc"},
		{"no-cache", []int{0, 0}, "gc"},
		{"no-store, max-age=60", []int{0, 1}, "gc"},
	} {
		t.Run(tc.control, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reached strings.Builder
				d := newTestDiscovery(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", tc.control)
					w.Header().Set("ETag", `"tag"`)
					if r.Header.Get("If-None-Match") == `"tag"` {
						reached.WriteByte('c')
						w.WriteHeader(304)
						return
					}
					reached.WriteByte('g')
					_, _ = w.Write([]byte(plainManifest))
				})
				start := time.Now()
				for _, at := range tc.ask {
					time.Sleep(time.Until(start.Add(time.Duration(at) * time.Second)))
					if _, err := d.Discover(t.Context(), fakeURL); err != nil {
						t.Fatal(err)
					}
				}
				if reached.String() != tc.reached {
					t.Errorf("reached the server as %q, want %q", reached.String(), tc.reached)
				}
			})
		})
	}
}

func TestManifestCacheBound(t *testing.T) {
	for bound, want := range map[int]int{0: 5, 1: 5, 2: 4, 3: 3} {
		t.Run(fmt.Sprint(bound), func(t *testing.T) {
			handler, count := script(status(200, plainManifest))
			d := newTestDiscovery(t, handler, WithManifestCache(bound))
			for _, path := range []string{"/a", "/b", "/a", "/c", "/b"} {
				if _, err := d.Discover(t.Context(), fakeURL+path); err != nil {
					t.Fatal(err)
				}
			}
			if count() != want {
				t.Errorf("%d requests, want %d", count(), want)
			}
			if len(d.entries) > bound {
				t.Errorf("%d entries", len(d.entries))
			}
		})
	}
}

func TestDiscoverTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, count := script(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			status(200, plainManifest)(w, r)
		})
		d := newTestDiscovery(t, handler)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := d.Discover(t.Context(), fakeURL); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := d.Discover(ctx, fakeURL)
		wantTransport(t, err, "wait", false, context.DeadlineExceeded)
		wg.Wait()
		if count() != 1 {
			t.Errorf("%d requests", count())
		}
	})
}

// A failure is not remembered, and neither hides nor spoils what is.
func TestDiscoverAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, _ := script(status(200, plainManifest, "Cache-Control", "max-age=1"), status(500, ""), status(200, "{"),
			status(200, strings.Replace(plainManifest, "Reference Agent", "Renamed", 1)))
		d := newTestDiscovery(t, handler)
		for i, want := range []string{"Reference Agent", "", "", "Renamed"} {
			got, err := d.Discover(t.Context(), fakeURL)
			if (err == nil) != (want != "") || err == nil && got.Manifest.Name != want {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
			time.Sleep(2 * time.Second)
		}
	})
}

func TestHealthAndManifest(t *testing.T) {
	// The first was recorded from asap-protocol v1.3.0.
	const healthy = `{"status":"healthy","agent_id":"urn:asap:agent:reference","version":"1.3.0","asap_version":"0.1","uptime_seconds":0.08,"load":null}`
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/asap/health":
			status(200, healthy)(w, r)
		case "/.well-known/asap/manifest.json":
			status(200, plainManifest)(w, r)
		}
	})
	h, err := c.Health(t.Context())
	if err != nil || !h.Healthy() || h.AgentID != "urn:asap:agent:reference" || h.UptimeSeconds != 0.08 || h.Load != nil {
		t.Errorf("%+v, %v", h, err)
	}
	if m, err := c.Manifest(t.Context()); err != nil || m.Manifest.Name != "Reference Agent" {
		t.Errorf("%+v, %v", m, err)
	}

	unhealthy := `{"status":"unhealthy","agent_id":"urn:asap:agent:a","version":"1","uptime_seconds":1,"load":{"active_tasks":3,"queue_depth":4},"new":1}`
	h, err = newTestClient(t, status(503, unhealthy)).Health(t.Context())
	if err != nil || h.Healthy() || *h.Load != (Load{3, 4}) {
		t.Errorf("%+v, %v", h, err)
	}
	for _, tc := range []struct {
		code int
		body string
	}{{503, ""}, {503, `{"detail":"overloaded"}`}, {404, `{"status":"healthy"}`}, {500, healthy}} {
		_, err := newTestClient(t, status(tc.code, tc.body)).Health(t.Context())
		var remote *RemoteError
		if !errors.As(err, &remote) || remote.HTTPStatus != tc.code {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	for _, body := range []string{"", "[]", `{}`, `{"status":"fine"}`, `{"status":7}`} {
		_, err := newTestClient(t, status(200, body)).Health(t.Context())
		wantTransport(t, err, "receive", false, ErrInvalidAnswer)
	}
}
