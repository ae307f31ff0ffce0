package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"
	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

func anybody(*http.Request) bool { return true }

// request is the text of a task.request.
func request(id, skill, more string) string {
	return `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":{"id":"` + id + `","asap_version":"0.1","sender":"urn:asap:agent:caller","recipient":"urn:asap:agent:stage",` +
		`"payload_type":"task.request","payload":{"conversation_id":"c","skill_id":"` + skill + `","input":{"a":1}}` + more + `}},"id":1}`
}

// post sends a body to a server without a network.
func post(s *Server, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/asap", strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// expect checks an answer against a pattern as the dialogues have them.
// newRecorder gets a page without a network.
func newRecorder(s *Server, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
	return w
}

func expect(t *testing.T, w *httptest.ResponseRecorder, status int, pattern string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d; body %s", w.Code, status, w.Body)
	}
	if why := match([]byte(pattern), w.Body.Bytes(), map[string]string{}); why != "" {
		t.Errorf("%s\ngot  %s\nwant %s", why, w.Body, pattern)
	}
}

func TestBadInput(t *testing.T) {
	now := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	ledger := newLedger()
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody, CheckNonces: true, Limits: Limits{BodyBytes: 1 << 20},
		Clock: func() time.Time { return now }, Authenticate: byHeader})
	gzipped := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte(text)) //nolint:errcheck // a buffer takes everything
		z.Close()
		return b.String()
	}
	good := request("e1", "echo", "")
	invalid := func(rpc int, code string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"data":{"code":%q}}}`, rpc, code)
	}
	for _, c := range []struct {
		name, body string
		header     []string
		status     int
		pattern    string
	}{
		{"malformed", `{"jsonrpc":`, nil, 200, `{"error":{"code":-32700},"id":null}`},
		{"empty", ``, nil, 200, `{"error":{"code":-32700},"id":null}`},
		{"duplicate key", strings.Replace(good, `"id":1`, `"id":1,"id":2`, 1), nil, 200, `{"error":{"code":-32700},"id":null}`},
		{"duplicate key in the input", strings.Replace(good, `"a":1`, `"a":1,"a":2`, 1), nil, 200, `{"error":{"code":-32700},"id":null}`},
		{"trailing data", good + good, nil, 200, `{"error":{"code":-32700}}`},
		{"too deep", strings.Replace(good, `"a":1`, `"a":`+strings.Repeat("[", 600)+strings.Repeat("]", 600), 1), nil, 200, `{"error":{"code":-32700}}`},
		{"batch", "[" + good + "]", nil, 200, `{"error":{"code":-32600,"data":{"received_type":"list"}},"id":null}`},
		{"oversized", strings.Repeat(" ", 1<<20+1), nil, 413, `{"detail":"Request size (1048577 bytes) exceeds maximum (1048576 bytes)"}`},
		{"gzip bomb", gzipped(strings.Repeat(" ", 16<<20)), []string{"Content-Encoding", "gzip"}, 413, `{"detail":"Decompressed request size (1048577 bytes) exceeds maximum (1048576 bytes)"}`},
		{"gzip of nothing", "", []string{"Content-Encoding", "gzip"}, 200, `{"error":{"code":-32700}}`},
		{"gzip that is cut", gzipped(good)[:40], []string{"Content-Encoding", "gzip"}, 400, `{"detail":"*"}`},
		{"not gzip", good, []string{"Content-Encoding", "gzip"}, 400, `{"detail":"*"}`},
		{"not brotli", "\xff\xff\xff\xff", []string{"Content-Encoding", "br"}, 400, `{"detail":"*"}`},
		{"unknown encoding", good, []string{"Content-Encoding", "zstd"}, 415, `{"detail":"Unsupported Content-Encoding: zstd. Supported: br, gzip"}`},
		{"wrong type", strings.Replace(good, `"0.1"`, `1`, 1), nil, 200, `{"error":{"code":-32602,"data":{"error":"Invalid envelope structure","validation_errors":"*"}},"id":1}`},
		{"wrong URN", strings.Replace(good, "urn:asap:agent:caller", "caller", 1), nil, 200, `{"error":{"code":-32602}}`},
		{"unknown member", strings.Replace(good, `"asap_version"`, `"extra":1,"asap_version"`, 1), nil, 200, `{"error":{"code":-32602}}`},
		{"stale", request("e2", "echo", `,"timestamp":"2026-02-20T11:54:59Z"`), nil, 200, invalid(-32602, "asap:protocol/invalid_timestamp")},
		{"from the future", request("e3", "echo", `,"timestamp":"2026-02-20T12:00:31Z"`), nil, 200, invalid(-32602, "asap:protocol/invalid_timestamp")},
		{"first with a nonce", request("e4", "echo", `,"extensions":{"nonce":"n1"}`), nil, 200, `{"result":"*"}`},
		{"retry with a nonce", request("e4", "echo", `,"extensions":{"nonce":"n1"}`), nil, 200, `{"result":"*"}`},
		{"replayed nonce", request("e5", "echo", `,"extensions":{"nonce":"n1"}`), nil, 200, invalid(-32602, "asap:protocol/invalid_nonce")},
		{"long nonce", request("e6", "echo", `,"extensions":{"nonce":"`+strings.Repeat("n", 300)+`"}`), nil, 200, invalid(-32602, "asap:protocol/invalid_nonce")},
		{"unknown method", strings.Replace(good, "asap.send", "asap.receive", 1), nil, 200, `{"error":{"code":-32601,"data":{"method":"asap.receive"}}}`},
		{"unknown skill", request("e7", "fly", ""), nil, 200, invalid(-32601, "skill_unknown")},
		{"long skill in two bytes a letter", request("e7a", strings.Repeat("a", 127)+"é", ""), nil, 200, fmt.Sprintf(`{"error":{"code":-32601,"data":{"skill_id":%q}}}`, strings.Repeat("a", 127)+"...")},
		{"skill of the wrong case", request("e8", "Echo", ""), nil, 200, invalid(-32601, "skill_unknown")},
		{"wrong sender", request("e9", "echo", ""), []string{"Authorization", "other"}, 200, `{"error":{"code":-32602,"data":{"code":"sender_mismatch","status_code":403}}}`},
		{"bad credentials", request("e10", "echo", ""), []string{"Authorization", "forged"}, 200, `{"error":{"code":-32600,"data":{"error":"Invalid authentication token","code":"unauthenticated","status_code":401}}}`},
		{"good credentials", request("e11", "echo", ""), []string{"Authorization", "caller"}, 200, `{"result":"*"}`},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, post(s, c.body, c.header...), c.status, c.pattern) })
	}
	if got := ledger.settled(); len(got) != 2 || got[0].Verified || !got[1].Verified {
		t.Errorf("refused requests left records, or verification was not recorded: %+v", got)
	}
}

// byHeader authenticates by naming oneself, which is good enough for a test.
func byHeader(r *http.Request) (Caller, error) {
	switch name := r.Header.Get("Authorization"); name {
	case "":
		return Caller{}, ErrNoCredentials
	case "forged":
		return Caller{}, fmt.Errorf("%w: forged", ErrBadCredentials)
	default:
		return Caller{URN: asap.AgentURN("urn:asap:agent:" + name), Verified: true}, nil
	}
}

// TestBombs inflates bodies that would fill the memory if they were let.
func TestBombs(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Limits: Limits{BodyBytes: 1 << 20}})
	zeros := make([]byte, 1<<20)
	for encoding, open := range map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"br":   func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 5) },
	} {
		t.Run(encoding, func(t *testing.T) {
			var bomb bytes.Buffer
			z := open(&bomb)
			for range 64 {
				z.Write(zeros) //nolint:errcheck // a buffer takes everything
			}
			z.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 4 {
				expect(t, post(s, bomb.String(), "Content-Encoding", encoding), 413, `{"detail":"Decompressed request size (1048577 bytes) exceeds maximum (1048576 bytes)"}`)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 48<<20 {
				t.Errorf("four bombs of 64 MiB cost %d bytes", grown)
			}
			expect(t, post(s, compress(open, request("b-"+encoding, "echo", "")), "Content-Encoding", encoding), 200, `{"result":"*"}`)
		})
	}
}

func compress(open func(io.Writer) io.WriteCloser, text string) string {
	var b bytes.Buffer
	z := open(&b)
	z.Write([]byte(text)) //nolint:errcheck // a buffer takes everything
	z.Close()
	return b.String()
}

func TestDuplicatesRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		a := New("urn:asap:agent:stage", "Stage")
		a.Handle("slow", func(context.Context, *Task) (any, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return map[string]any{"run": runs.Load()}, nil
		})
		ledger := newLedger()
		cfg := Config{Agents: []*Agent{a}, Ledger: ledger, AllowUnverified: anybody}
		n := newNetwork(t, cfg)
		answers := make(chan string, 64)
		ask := func(s *Server) { answers <- post(s, request("same", "slow", "")).Body.String() }
		var all sync.WaitGroup
		for range 18 {
			all.Go(func() { ask(n.server) })
		}
		for range 2 { // and over the other transport
			c := n.mustDial()
			in := read(c)
			all.Go(func() {
				write(t, c, request("same", "slow", ""))
				text, _ := in.within(time.Minute)
				answers <- text
			})
		}
		all.Wait()
		ask(n.server) // a late one, from memory
		n.stop()
		again, err := NewServer(cfg) // and one after a restart, from the ledger
		if err != nil {
			t.Fatal(err)
		}
		ask(again)
		if err := again.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		close(answers)
		first := ""
		for answer := range answers {
			if first == "" {
				first = answer
			}
			if diff := cmp.Diff(first, answer); diff != "" {
				t.Errorf("two answers to one request:\n%s", diff)
			}
		}
		if runs.Load() != 1 || len(ledger.settled()) != 1 || !strings.Contains(first, `"asap-receipt"`) {
			t.Errorf("%d runs, %d records; %s", runs.Load(), len(ledger.settled()), first)
		}
	})
}

// What a ledger cannot write for a while is written when it can; what it can not
// write at all is told.
func TestSettledWhenTheLedgerIsBack(t *testing.T) {
	const (
		done    = `{"result":{"envelope":{"payload":{"status":"completed"},"extensions":{"asap-receipt":"*"}}}}`
		unknown = `{"error":{"data":{"code":"task_indeterminate"}}}`
	)
	for _, c := range []struct {
		name    string
		away    time.Duration
		pattern string // of the first answer
		retry   string // of that a minute later
		records int
	}{
		{"soon", 20 * time.Second, done, done, 1},
		{"late", 60 * time.Second, unknown, done, 1},
		{"never", time.Hour, unknown, unknown, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runs := 0
				a := New("urn:asap:agent:stage", "Stage")
				a.Handle("work", func(context.Context, *Task) (any, error) { runs++; return nil, nil })
				ledger, back := newLedger(), time.Now().Add(c.away)
				ledger.onSettle = func(Settlement) error {
					if time.Now().Before(back) {
						return fmt.Errorf("disk: %w", ErrUnavailable)
					}
					return nil
				}
				s := newTestServer(t, Config{Agents: []*Agent{a}, Ledger: ledger, AllowUnverified: anybody})
				expect(t, post(s, request("e1", "work", "")), 200, c.pattern)
				time.Sleep(time.Minute)
				expect(t, post(s, request("e1", "work", "")), 200, c.retry)
				if n := len(ledger.settled()); n != c.records || runs != 1 {
					t.Errorf("%d runs, %d records, want %d", runs, n, c.records)
				}
			})
		})
	}
}

func TestLedgerFailures(t *testing.T) {
	refusal := &Refusal{Code: "delegation_limit_tasks", Message: "the limit of 3 tasks is used up", Details: jsontext.Value(`{"used":3,"held":0,"remaining":0,"needed":1}`)}
	for _, c := range []struct {
		name    string
		admit   error
		settle  error
		status  int
		pattern string
		runs    int64
	}{
		{"unavailable", fmt.Errorf("disk: %w", ErrUnavailable), nil, 503, `{"error":"Service Temporarily Unavailable","code":"ledger_unavailable","message":"*","details":{}}`, 0},
		{"refused", refusal, nil, 200, `{"error":{"code":-32041,"data":{"code":"delegation_limit_tasks","message":"the limit of 3 tasks is used up","used":3,"needed":1}},"id":1}`, 0},
		{"conflict", ErrConflict, nil, 200, `{"error":{"code":-32602,"data":{"code":"idempotency_conflict"}}}`, 0},
		{"outcome unknown", fmt.Errorf("disk: %w", ErrOutcomeUnknown), nil, 503, `{"error":"Service Temporarily Unavailable","code":"task_indeterminate","message":"*","details":{}}`, 0},
		{"broken", errors.New("secret path"), nil, 200, `{"error":{"code":-32603,"data":{"code":"internal","error":"Internal server error"}}}`, 0},
		{"lost meanwhile", nil, &Superseded{Admitted{Ended: true, TaskID: "task_lost", FailureCode: "task_indeterminate", Receipt: Receipt{Seq: 7}}}, 200,
			`{"result":{"envelope":{"payload":{"task_id":"task_lost","status":"failed","result":{"error":{"code":"task_indeterminate"}}},"extensions":{"asap-receipt":{"seq":7}}}}}`, 1},
		{"not settled", nil, errors.New("secret path"), 200, `{"error":{"code":-32603,"data":{"code":"task_indeterminate"}}}`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var runs atomic.Int64
			a := New("urn:asap:agent:stage", "Stage")
			a.Handle("work", func(context.Context, *Task) (any, error) { runs.Add(1); return nil, nil })
			ledger := newLedger()
			ledger.onAdmit = func(Admission) error { return c.admit }
			ledger.onSettle = func(Settlement) error { return c.settle }
			s := newTestServer(t, Config{Agents: []*Agent{a}, Ledger: ledger, AllowUnverified: anybody})
			w := post(s, request("e1", "work", ""))
			expect(t, w, c.status, c.pattern)
			if (w.Header().Get("Retry-After") != "") != (c.status == 503) || strings.Contains(w.Body.String(), "secret") {
				t.Error(w.Header(), w.Body)
			}
			if runs.Load() != c.runs {
				t.Errorf("ran %d times, want %d", runs.Load(), c.runs)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.byKey[requestKey{"urn:asap:agent:caller", "e1"}] != nil || len(s.byID) != 0 {
				t.Error("the failed run is still remembered")
			}
		})
	}
}

// TestUnknownOutcome: the record was written, the confirmation was lost. The
// caller is not told that all is well, and its retry finds the record.
func TestUnknownOutcome(t *testing.T) {
	ledger := newLedger()
	fail := true
	ledger.afterAck = func(Settlement) error {
		if fail {
			return errors.New("connection lost")
		}
		return nil
	}
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
	expect(t, post(s, request("e1", "echo", "")), 200, `{"error":{"code":-32603,"data":{"code":"task_indeterminate"}}}`)
	fail = false
	expect(t, post(s, request("e1", "echo", "")), 200, `{"result":{"envelope":{"payload":{"status":"completed"},"extensions":{"asap-receipt":{"seq":1}}}}}`)
	if len(ledger.settled()) != 1 {
		t.Error("a second record")
	}
}

// TestRunningElsewhere: the ledger knows the request as started, by a node we
// cannot ask.
func TestRunningElsewhere(t *testing.T) {
	ledger := newLedger()
	key := requestKey{"urn:asap:agent:caller", "e1"}
	probe := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
	expect(t, post(probe, request("e1", "echo", "")), 200, `{"result":"*"}`)
	ledger.byKey[key].answer = nil
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
	expect(t, post(s, request("e1", "echo", "")), 200, `{"result":{"envelope":{"payload":{"status":"working","task_id":"`+string(ledger.byKey[key].admission.TaskID)+`"}}}}`)
	ledger.byKey[key].answer = []byte("not an envelope")
	expect(t, post(s, request("e1", "echo", "")), 200, `{"error":{"code":-32603}}`)
}

// awaiting is a ledger that knows when a task ends on another server.
type awaiting struct {
	*memoryLedger
	ended chan Admitted
}

func (l *awaiting) Await(ctx context.Context, id asap.TaskID) (Admitted, error) {
	select {
	case a := <-l.ended:
		a.TaskID = id
		return a, nil
	case <-ctx.Done():
		return Admitted{}, context.Cause(ctx)
	}
}

// TestAwaitsElsewhere: the same envelope sent to two servers at once is one run,
// and both answer with its end, or with how it stands when the time is up.
func TestAwaitsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &awaiting{newLedger(), make(chan Admitted)}
		one := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: l, AllowUnverified: anybody})
		first := post(one, request("e1", "echo", "")).Body.String()
		entry := l.byKey[requestKey{"urn:asap:agent:caller", "e1"}]
		answer, receipt := entry.answer, entry.receipt
		entry.answer = nil
		two := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: l, AllowUnverified: anybody})
		second := make(chan string)
		go func() { second <- post(two, request("e1", "echo", "")).Body.String() }()
		synctest.Wait()
		l.ended <- Admitted{Replay: true, Ended: true, Answer: answer, Receipt: receipt}
		if got := <-second; got != first {
			t.Errorf("the second got\n%s\nwant\n%s", got, first)
		}
		expect(t, post(two, request("e1", "echo", "")), 200, `{"result":{"envelope":{"payload":{"status":"working"}}}}`)
	})
}

// TestLostAnswer: the first run is over and has left no answer.
func TestLostAnswer(t *testing.T) {
	ledger := newLedger()
	probe := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
	expect(t, post(probe, request("e1", "echo", "")), 200, `{"result":"*"}`)
	first := ledger.byKey[requestKey{"urn:asap:agent:caller", "e1"}]
	first.answer, first.ended = nil, true
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
	for failure, want := range map[string]string{"": `"status":"completed","result":{"error":{"code":"answer_dropped"`, "task_indeterminate": `"status":"failed","result":{"error":{"code":"task_indeterminate"`} {
		first.failure = failure
		if got := post(s, request("e1", "echo", "")).Body.String(); !strings.Contains(got, want) || !strings.Contains(got, `"asap-receipt":{"seq":1`) || !strings.Contains(got, string(first.admission.TaskID)) {
			t.Error(got)
		}
	}
}

// TestBorrowedName: who uses the name of a verified caller gets nothing of it.
func TestBorrowedName(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Authenticate: byHeader})
	w := post(s, request("e1", "echo", ""), "Authorization", "caller")
	vars := map[string]string{}
	if why := match([]byte(`{"result":{"envelope":{"payload":{"task_id":"$task"}}}}`), w.Body.Bytes(), vars); why != "" {
		t.Fatal(why)
	}
	expect(t, post(s, request("e1", "echo", "")), 200, `{"error":{"data":{"code":"idempotency_conflict"}}}`)
	query := strings.Replace(request("q1", "x", ""), `"task.request","payload":{"conversation_id":"c","skill_id":"x","input":{"a":1}}`, `"state.query","payload":{"task_id":"`+vars["task"]+`"}`, 1)
	expect(t, post(s, query), 200, `{"error":{"data":{"code":"task_not_found"}}}`)
	expect(t, post(s, query, "Authorization", "caller"), 200, `{"result":"*"}`)
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Limits: Limits{RunningTasks: 1}})
		go post(n.server, request("e1", "sleep", ""))
		synctest.Wait()
		w := post(n.server, request("e2", "echo", ""))
		expect(t, w, 503, `{"error":"Service Temporarily Unavailable","code":"asap:transport/thread_pool_exhausted","message":"Thread pool exhausted: 1/1 threads in use. Service temporarily unavailable.","details":{"max_threads":1,"active_threads":1}}`)
		if w.Header().Get("Retry-After") != "1" {
			t.Error(w.Header())
		}
		time.Sleep(2 * time.Minute)
		expect(t, post(n.server, request("e2", "echo", "")), 200, `{"result":"*"}`)
	})
}

// TestHangUp: a client that goes away does not lose the record, and finds the
// answer when it comes back.
func TestHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newLedger()
		n := newNetwork(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
		for i, id := range []string{"http", "ws"} {
			if id == "http" {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent.example.com/asap", strings.NewReader(request(id, "sleep", "")))
				if _, err := n.client.Do(r); !errors.Is(err, context.DeadlineExceeded) { //nolint:bodyclose // there is none
					t.Fatal(err)
				}
				cancel()
			} else {
				c := n.mustDial()
				write(t, c, request(id, "sleep", ""))
				synctest.Wait()
				c.CloseNow()
			}
			time.Sleep(2 * time.Minute)
			if got := ledger.settled(); len(got) != i+1 || got[i].Outcome != TimedOut {
				t.Fatalf("after %s: %+v", id, got)
			}
			expect(t, post(n.server, request(id, "sleep", "")), 200, `{"result":{"envelope":{"payload":{"status":"failed"}}}}`)
		}
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newLedger()
		n := newNetwork(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
		c := n.mustDial()
		in := read(c)
		write(t, c, request("e1", "sleep", ""))
		synctest.Wait()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- n.server.Run(ctx) }()
		stop()
		synctest.Wait()
		expect(t, post(n.server, request("e2", "echo", "")), 503, `{"code":"shutting_down"}`)
		ready := httptest.NewRecorder()
		n.server.Handler().ServeHTTP(ready, httptest.NewRequestWithContext(context.Background(), "GET", "/readyz", nil))
		expect(t, ready, 503, `{"status":"unavailable"}`)
		if _, status, err := n.dial("/asap/ws", nil); err == nil || status != 503 {
			t.Error("a connection was taken while stopping", status)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		text, _ := in.within(time.Minute)
		if why := match([]byte(`{"result":{"envelope":{"payload":{"status":"failed","result":{"error":{"code":"shutting_down"}}}}}}`), []byte(text), map[string]string{}); why != "" {
			t.Error(why, text)
		}
		if _, open := in.within(time.Minute); open {
			t.Error("another frame")
		}
		if code := <-in.code; code.Code != 1001 || code.Reason != "Server shutting down" {
			t.Error(code)
		}
		if got := ledger.settled(); len(got) != 1 || got[0].FailureCode != "shutting_down" {
			t.Error(got)
		}
		n.stopped.Do(func() {})
	})
}

// TestShutdownReportsWhatIsLeft: a handler that never returns is reported, but
// its task is settled.
func TestShutdownReportsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newLedger()
		s, err := NewServer(Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody})
		if err != nil {
			t.Fatal(err)
		}
		go post(s, request("e1", "deaf", ""))
		synctest.Wait()
		if err := s.Shutdown(context.Background()); err == nil || !strings.Contains(err.Error(), "1 handlers still running") {
			t.Error(err)
		}
		if got := ledger.settled(); len(got) != 1 || got[0].Outcome != Failed {
			t.Error(got)
		}
		time.Sleep(10 * time.Minute)
	})
}

func TestRetention(t *testing.T) {
	ledger := newLedger()
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody, Limits: Limits{RetainedTasks: 3}})
	for i := range 10 {
		expect(t, post(s, request(fmt.Sprint("e", i), "echo", "")), 200, `{"result":"*"}`)
	}
	counts := func() [3]int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return [3]int{len(s.byKey), len(s.byID), len(s.retained.queue)}
	}
	if got := counts(); got != [3]int{3, 3, 3} {
		t.Error(got)
	}
	expect(t, post(s, request("e0", "echo", "")), 200, `{"result":{"envelope":{"extensions":{"asap-receipt":{"seq":1}}}}}`)
	if len(ledger.settled()) != 10 {
		t.Error("a forgotten task ran again")
	}
	if got := counts(); got != [3]int{3, 3, 3} {
		t.Error("the replay is retained", got)
	}
}

func TestServe(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: FromLoopback})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{}}
	if _, _, body := fetch(t, client, http.MethodPost, "http://"+listener.Addr().String()+"/asap", request("e1", "echo", ""), nil); !strings.Contains(body, `"completed"`) {
		t.Error(body)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := ListenAndServe(context.Background(), listener.Addr().String(), Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
	if err := ListenAndServe(context.Background(), "256.0.0.1:0", Config{Agents: []*Agent{stage()}, Ledger: Unmetered()}); err == nil {
		t.Error("a bad address was accepted")
	}
}

func TestConfigErrors(t *testing.T) {
	handler := func(context.Context, *Task) (any, error) { return nil, nil }
	twice := stage()
	twice.Handle("echo", handler)
	nameless := stage()
	nameless.Handle("", handler)
	unhandled := FromManifest(stage().manifest)
	badSchema := New("urn:asap:agent:x", "X")
	badSchema.Handle("s", handler, InputSchema("{"))
	badVersion := New("urn:asap:agent:x", "X", Version("1.0.0-SNAPSHOT"))
	for name, c := range map[string]Config{
		"Ledger is required":              {Agents: []*Agent{stage()}},
		"Agents is empty":                 {Ledger: Unmetered()},
		"AllowedOrigins":                  {Ledger: Unmetered(), Agents: []*Agent{stage()}, AllowedOrigins: []string{"["}},
		"hosted twice":                    {Ledger: Unmetered(), Agents: []*Agent{stage(), stage()}},
		"must look like":                  {Ledger: Unmetered(), Agents: []*Agent{New("bob", "Bob")}},
		"handled twice":                   {Ledger: Unmetered(), Agents: []*Agent{twice}},
		"needs a name":                    {Ledger: Unmetered(), Agents: []*Agent{nameless}},
		"announced but not handled":       {Ledger: Unmetered(), Agents: []*Agent{unhandled}},
		"manifest of urn:asap:agent:x is": {Ledger: Unmetered(), Agents: []*Agent{badVersion}},
	} {
		if _, err := NewServer(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewServer(Config{Ledger: Unmetered(), Agents: []*Agent{badSchema}}); err == nil {
		t.Error("a schema that is not JSON was accepted")
	}
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: Unmetered()})
	if _, err := NewServer(Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), Registry: s.registry}); err == nil {
		t.Error("metrics were registered twice")
	}
}
