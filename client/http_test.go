package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/asap-protocol/asap-go"
)

func TestSend(t *testing.T) {
	var got *http.Request
	var raw []byte
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		got, raw = r, body(t, r)
		_, _ = io.WriteString(w, answerTo(parseSent(t, raw), asap.Completed, ""))
	}, WithTokenSource(StaticToken("tok")), WithDelegation("a.b.c~d.e.f"), WithUserAgent("test/1"))
	defer c.Close()

	e := newTestEnvelope("env-1")
	answer, err := c.Send(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if answer.ID != "answer-to-env-1" || *answer.CorrelationID != "env-1" {
		t.Errorf("answer %+v", answer)
	}
	if e.TimestampSet || e.ASAPVersion != "" {
		t.Error("Send changed the caller's envelope")
	}
	sent := parseSent(t, raw)
	if !sent.envelope.TimestampSet || sent.envelope.ASAPVersion != "0.1" || string(sent.ID) != `"req-1"` || sent.Params.Key != "env-1" {
		t.Errorf("sent %s", raw)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Idempotency-Key": "env-1", "Authorization": "Bearer tok",
		"X-Asap-Delegation-Token": "a.b.c~d.e.f", "User-Agent": "test/1", "Content-Encoding": "",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.URL.Path != "/asap" || got.Method != http.MethodPost {
		t.Errorf("%s %s", got.Method, got.URL)
	}
}

func TestSendMakesIDs(t *testing.T) {
	var keys []string
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		sent := parseSent(t, body(t, r))
		if sent.Params.Key != r.Header.Get("X-Idempotency-Key") || len(sent.Params.Key) != 26 {
			t.Errorf("keys %q and %q", sent.Params.Key, r.Header.Get("X-Idempotency-Key"))
		}
		keys = append(keys, string(sent.envelope.ID))
		_, _ = io.WriteString(w, answerTo(sent, asap.Completed, ""))
	})
	for _, id := range []string{"", "", "näive\x01", strings.Repeat("x", 200)} {
		if _, err := c.Send(t.Context(), newTestEnvelope(id)); err != nil {
			t.Fatal(err)
		}
	}
	if len(keys[0]) != 26 || keys[0] == keys[1] || keys[2] != "näive\x01" {
		t.Errorf("ids %q", keys)
	}
}

func TestCompression(t *testing.T) {
	var encoding string
	var raw []byte
	handler := func(w http.ResponseWriter, r *http.Request) {
		raw = body(t, r)
		encoding = r.Header.Get("Content-Encoding")
		plain := raw
		switch encoding {
		case "gzip":
			z, err := gzip.NewReader(bytes.NewReader(raw))
			if err != nil {
				t.Error(err)
				return
			}
			plain, _ = io.ReadAll(z)
		case "br":
			plain, _ = io.ReadAll(brotli.NewReader(bytes.NewReader(raw)))
		}
		_, _ = io.WriteString(w, answerTo(parseSent(t, plain), asap.Completed, ""))
	}
	big := newTestEnvelope("env-1")
	big.Payload = []byte(`{"conversation_id":"c","skill_id":"echo","input":{"text":"` + strings.Repeat("a", 2000) + `"}}`)
	for _, tc := range []struct {
		name string
		env  *asap.Envelope
		opts []Option
		want string
	}{
		{"small stays plain", newTestEnvelope("e"), nil, ""},
		{"gzip by default", big, nil, "gzip"},
		{"brotli", big, []Option{WithCompression(CompressBrotli)}, "br"},
		{"off", big, []Option{WithCompression(CompressNone)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestClient(t, handler, tc.opts...)
			if _, err := c.Send(t.Context(), tc.env); err != nil {
				t.Fatal(err)
			}
			if encoding != tc.want {
				t.Errorf("encoding %q, want %q", encoding, tc.want)
			}
		})
	}
	random := make([]byte, 4000) // does not shrink
	for i := range random {
		random[i] = byte(i*i*31>>3 ^ i*7919>>5)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(random)
	_ = w.Close()
	if out, enc := compress(z.Bytes(), CompressGzip); z.Len() > compressionThreshold && (enc != "" || !bytes.Equal(out, z.Bytes())) {
		t.Errorf("what does not shrink was encoded as %q", enc)
	}
}

// TestRetries tells the story of each call in virtual time: what the server
// does, what comes back, how long it took and how often it was asked.
func TestRetries(t *testing.T) {
	date := func(w http.ResponseWriter, r *http.Request) {
		status(503, "", "Retry-After", time.Now().Add(7*time.Second).UTC().Format(http.TimeFormat))(w, r)
	}
	slow := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	limited := `{"jsonrpc":"2.0","id":null,"error":{"code":429,"message":"Rate limit exceeded","data":{"retry_after":2,"limit":"10 per 1 second"}}}`
	for _, tc := range []struct {
		name     string
		opts     []Option
		handlers func(t *testing.T) []http.HandlerFunc
		asked    int
		took     time.Duration
		check    func(t *testing.T, err error)
	}{
		{"503, then an answer", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(503, `{"error":"Service Temporarily Unavailable","code":"asap:transport/thread_pool_exhausted","message":"m","details":{}}`), echo(t)}
		}, 2, time.Second, nil},
		{"reset mid-answer twice, then an answer", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{reset, reset, echo(t)}
		}, 3, 3 * time.Second, nil},
		{"429 with seconds", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(429, limited, "Retry-After", "5"), echo(t)}
		}, 2, 5 * time.Second, nil},
		{"429 with retry_after in the body only", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(429, limited), echo(t)}
		}, 2, 2 * time.Second, nil},
		{"503 with a date", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{date, echo(t)}
		}, 2, 7 * time.Second, nil},
		{"429 beyond patience", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(429, limited, "Retry-After", "3600")}
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: 429, Message: "Rate limit exceeded", HTTPStatus: 429, RetryAfter: time.Hour})
		}},
		{"503 to the end", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(503, `{"error":"x","code":"asap:transport/thread_pool_exhausted","message":"pool"}`)}
		}, 3, 3 * time.Second, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Message: "pool", DataCode: "asap:transport/thread_pool_exhausted", HTTPStatus: 503})
		}},
		{"reset, then 503 to the end", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{reset, status(502, "<html>")}
		}, 3, 3 * time.Second, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Message: "Bad Gateway", HTTPStatus: 502, EarlierUnanswered: true})
			if !MayHaveExecuted(err) {
				t.Error("the first attempt may have been carried out")
			}
		}},
		{"slow to the end", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{slow}
		}, 3, 183 * time.Second, func(t *testing.T, err error) {
			wantTransport(t, err, "receive", true, context.DeadlineExceeded)
		}},
		{"slow, one attempt", []Option{WithTimeout(time.Second), WithRetry(RetryPolicy{Attempts: 1})}, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{slow}
		}, 1, time.Second, func(t *testing.T, err error) {
			wantTransport(t, err, "receive", true, context.DeadlineExceeded)
		}},
		{"4xx is final", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(415, `{"detail":"Unsupported Content-Encoding: x"}`)}
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Message: "Unsupported Content-Encoding: x", HTTPStatus: 415})
		}},
		{"a redirect is not followed", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(307, "", "Location", "/elsewhere")}
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Message: "Temporary Redirect", HTTPStatus: 307})
		}},
		{"a JSON-RPC error is final", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(200, `{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"code":"asap:protocol/invalid_timestamp"}},"id":"req-1"}`)}
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: -32602, Message: "Invalid params", DataCode: "asap:protocol/invalid_timestamp", HTTPStatus: 200})
			if MayHaveExecuted(err) {
				t.Error("a refusal was not carried out")
			}
		}},
		{"garbage is final", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(200, `<html>hello</html>`)}
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
		{"error that is no object", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(200, `{"jsonrpc":"2.0","error":"boom","id":"req-1"}`)}
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
		{"an empty body", nil, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(204, ``)}
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
		{"oversized is final", []Option{WithMaxAnswerBytes(100)}, func(t *testing.T) []http.HandlerFunc {
			return []http.HandlerFunc{status(200, strings.Repeat(" ", 101))}
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrAnswerTooLarge) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var bodies sync.Map
				handler, count := script(tc.handlers(t)...)
				c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
					b := body(t, r)
					bodies.Store(string(b), true)
					r.Body = io.NopCloser(bytes.NewReader(b))
					handler(w, r)
				}, tc.opts...)
				start := time.Now()
				_, err := c.Send(t.Context(), newTestEnvelope("env-1"))
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if count() != tc.asked {
					t.Errorf("asked %d times, want %d", count(), tc.asked)
				}
				different := 0
				bodies.Range(func(any, any) bool { different++; return true })
				if different != 1 {
					t.Errorf("%d different bodies: retries must send identical bytes", different)
				}
				if tc.check == nil {
					tc.check = func(t *testing.T, err error) {
						if err != nil {
							t.Error(err)
						}
					}
				}
				tc.check(t, err)
			})
		})
	}
}

// wantRemote compares all but Data.
func wantRemote(t *testing.T, err error, want RemoteError) {
	t.Helper()
	var got *RemoteError
	if !errors.As(err, &got) {
		t.Fatalf("error %v (%T), want a RemoteError", err, err)
	}
	c := *got
	c.Data = nil
	if fmt.Sprintf("%+v", c) != fmt.Sprintf("%+v", want) {
		t.Errorf("error %+v\nwant  %+v", c, want)
	}
}

func wantTransport(t *testing.T, err error, op string, executed bool, cause error) {
	t.Helper()
	var remote *RemoteError
	var got *TransportError
	if !errors.As(err, &got) || errors.As(err, &remote) {
		t.Fatalf("error %v (%T), want a TransportError", err, err)
	}
	if got.Op != op || got.MayHaveExecuted != executed || !errors.Is(err, cause) || MayHaveExecuted(err) != executed {
		t.Errorf("error %v: %+v, want op %s, executed %v, cause %v", err, got, op, executed, cause)
	}
}

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipeNet()
		_ = n.Close()
		c, err := New(fakeURL, WithTransport(&http.Transport{DialContext: n.dial}), WithRetry(RetryPolicy{Attempts: 3, Base: time.Second, Max: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Send(t.Context(), newTestEnvelope("e"))
		wantTransport(t, err, "connect", false, io.ErrClosedPipe)
		if !strings.Contains(err.Error(), "3 attempts") {
			t.Error(err)
		}
	})
}

func TestContextEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t, status(503, ""), WithRetry(RetryPolicy{Attempts: 9, Base: 10 * time.Second, Max: 20 * time.Second}))

		// The next wait would outlast the deadline: the refusal comes at once.
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Send(ctx, newTestEnvelope("e"))
		wantRemote(t, err, RemoteError{Message: "Service Unavailable", HTTPStatus: 503})
		if time.Since(start) > 12*time.Second {
			t.Errorf("took %v", time.Since(start))
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		_, err = c.Send(ctx, newTestEnvelope("e"))
		wantTransport(t, err, "wait", false, context.Canceled)

		// Cancelled under way.
		c = newTestClient(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		_, err = c.Send(ctx, newTestEnvelope("e"))
		wantTransport(t, err, "receive", true, context.Canceled)
	})
}

func TestCircuitBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, count := script(status(503, ""), status(503, ""), status(503, ""), status(404, ""), echo(t))
		c := newTestClient(t, handler, WithRetry(RetryPolicy{Attempts: 1}), WithCircuitBreaker(2, time.Minute))
		send := func() error { _, err := c.Send(t.Context(), newTestEnvelope("e")); return err }
		steps := []struct {
			pause time.Duration
			open  bool
			asked int
		}{
			{0, false, 1}, {0, false, 2}, {0, true, 2}, {59 * time.Second, true, 2},
			{time.Second, false, 3},                                   // the trial fails: open again
			{30 * time.Second, true, 3}, {30 * time.Second, false, 4}, // a 404 is an answer: closed
			{0, false, 5},
		}
		for i, step := range steps {
			time.Sleep(step.pause)
			err := send()
			if errors.Is(err, ErrCircuitOpen) != step.open || count() != step.asked {
				t.Errorf("step %d: %v, asked %d", i, err, count())
			}
			if step.open && MayHaveExecuted(err) {
				t.Errorf("step %d: nothing was sent", i)
			}
		}
	})
}

func TestBreakerTrialReleased(t *testing.T) {
	now := time.Unix(0, 0)
	b := &breaker{threshold: 1, cooldown: time.Second}
	b.failure(now)
	now = now.Add(time.Second)
	if !b.allow(now) || b.allow(now) {
		t.Fatal("one trial, not none or two")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.conclude(ctx, context.Canceled, now)
	if !b.allow(now) {
		t.Error("the trial of a caller who gave up blocks others")
	}
	b.conclude(t.Context(), nil, now)
	for range 2 {
		if !b.allow(now) {
			t.Error("not closed after success")
		}
	}
	var none *breaker
	none.success()
	none.failure(now)
	none.release()
	if !none.allow(now) {
		t.Error("no breaker must allow all")
	}
}

func TestTokenSource(t *testing.T) {
	handler, count := script(echo(t))
	boom := errors.New("no token today")
	for _, source := range []TokenSource{tokenError{boom}, StaticToken(""), StaticToken("a\nb")} {
		c := newTestClient(t, handler, WithTokenSource(source))
		if _, err := c.Send(t.Context(), newTestEnvelope("e")); err == nil || MayHaveExecuted(err) {
			t.Errorf("%v: error %v", source, err)
		}
	}
	if count() != 0 {
		t.Error("a request went out without its token")
	}
}

type tokenError struct{ err error }

func (e tokenError) Token(context.Context) (string, error) { return "", e.err }

func TestOptionsRefused(t *testing.T) {
	for name, opt := range map[string]Option{
		"sender": WithSender("nobody"), "delegation": WithDelegation("a\r\nb"), "transport": WithTransport(nil),
		"user agent": WithUserAgent(" "), "timeout": WithTimeout(0), "retry": WithRetry(RetryPolicy{}),
		"breaker": WithCircuitBreaker(0, time.Second), "compression": WithCompression("zip"), "limit": WithMaxAnswerBytes(0), "connections": WithMaxConnections(0),
		"queue": WithPushQueue(0), "outstanding": WithMaxOutstanding(0), "ack": WithAckTimeout(0, 1), "answer": WithAnswerTimeout(0),
		"key": WithTrustedKeys([]byte("short")), "key of": WithManifestKeys("https://x", []byte("short")), "key url": WithManifestKeys("::"),
		"cache": WithManifestCache(-1),
	} {
		if _, err := New("https://example.com", opt); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := NewSocket("https://example.com", opt); err == nil {
			t.Errorf("%s: accepted by the socket", name)
		}
		if _, err := NewDiscovery(opt); err == nil {
			t.Errorf("%s: accepted by discovery", name)
		}
	}
}

func TestURLs(t *testing.T) {
	for _, tc := range []struct{ in, base, ws, manifest string }{
		{"https://a.example", "https://a.example", "wss://a.example/asap/ws", "https://a.example/.well-known/asap/manifest.json"},
		{"https://a.example/", "https://a.example", "wss://a.example/asap/ws", "https://a.example/.well-known/asap/manifest.json"},
		{"https://a.example/asap", "https://a.example", "wss://a.example/asap/ws", ""},
		{"wss://a.example/asap/ws", "https://a.example", "wss://a.example/asap/ws", ""},
		{"wss://a.example/x/", "https://a.example/x", "wss://a.example/x/asap/ws", ""},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080", "ws://127.0.0.1:8080/asap/ws", ""},
		{"http://LOCALHOST", "http://LOCALHOST", "ws://LOCALHOST/asap/ws", ""},
		{"ws://[::1]:1/b", "http://[::1]:1/b", "ws://[::1]:1/b/asap/ws", ""},
		{"https://a.example/m.json", "https://a.example/m.json", "wss://a.example/m.json/asap/ws", "https://a.example/m.json"},
	} {
		c, err := New(tc.in)
		if err != nil {
			t.Errorf("%s: %v", tc.in, err)
			continue
		}
		s, err := NewSocket(tc.in)
		if err != nil {
			t.Errorf("%s: %v", tc.in, err)
			continue
		}
		if c.URL() != tc.base || s.URL() != tc.ws {
			t.Errorf("%s: %s, %s", tc.in, c.URL(), s.URL())
		}
		if m, err := manifestURL(tc.in, false); tc.manifest != "" && (m != tc.manifest || err != nil) {
			t.Errorf("%s: manifest %s, %v", tc.in, m, err)
		}
	}
	for _, in := range []string{
		"", "a.example", "ftp://a.example", "https://", "https://u:p@a.example", "https://a.example/?q=1", "https://a.example/#f", "https://a b/", "http://[::1", "%",
	} {
		if _, err := New(in); err == nil {
			t.Errorf("%q: accepted", in)
		}
		if _, err := NewSocket(in); err == nil {
			t.Errorf("%q: accepted by the socket", in)
		}
	}
	for _, in := range []string{"http://a.example", "ws://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"} {
		if _, err := New(in); !errors.Is(err, ErrInsecureURL) {
			t.Errorf("%s: %v", in, err)
		}
		if _, err := New(in, WithInsecure()); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// TestRealNetwork goes over TCP and TLS with the pool the package makes.
func TestRealNetwork(t *testing.T) {
	server := httptest.NewUnstartedServer(echo(t))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about the stranger below
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := New(server.URL, WithTLSConfig(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}), WithMaxConnections(5))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Send(t.Context(), newTestEnvelope("")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	stranger, err := New(server.URL, WithRetry(RetryPolicy{Attempts: 5, Base: time.Hour, Max: time.Hour}))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, err = stranger.Send(t.Context(), newTestEnvelope("e")) // an untrusted certificate is not tried again
	var certificate *tls.CertificateVerificationError
	if !errors.As(err, &certificate) || MayHaveExecuted(err) {
		t.Errorf("error %v", err)
	}
}

func TestErrorTexts(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&RemoteError{Code: -32602, Message: "Invalid params", DataCode: "x"}, "remote error -32602: Invalid params (x)"},
		{&RemoteError{HTTPStatus: 404, Message: "Not Found"}, "HTTP status 404: Not Found"},
		{&RemoteError{}, "remote error"},
		{&TransportError{Op: "connect", URL: "u", Attempts: 1, Err: io.EOF}, "connect u: EOF"},
		{&CloseError{Code: 1008}, "closed by the server with code 1008"},
		{&CloseError{Code: 1001, Reason: "bye"}, "closed by the server with code 1001: bye"},
	} {
		if tc.err.Error() != tc.want {
			t.Errorf("%q, want %q", tc.err, tc.want)
		}
	}
	if MayHaveExecuted(nil) || MayHaveExecuted(io.EOF) {
		t.Error("an error of others says nothing")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, " 3 ": 3 * time.Second, "-1": 0, "1.5": 0, "soon": 0, "99999999999999": 0,
		"Thu, 01 Jan 2026 00:00:09 GMT": 9 * time.Second, "Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {in}}, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	p := RetryPolicy{Attempts: 9, Base: time.Second, Max: 60 * time.Second}
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 99: time.Minute} {
		if got := p.wait(n, 0); got != want {
			t.Errorf("wait %d: %v, want %v", n, got, want)
		}
	}
	if got := p.wait(1, 0.5); got != 1050*time.Millisecond {
		t.Errorf("jitter: %v", got)
	}
}
