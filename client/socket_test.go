package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// events notes what the handlers were told, in order.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

func (e *events) want(t *testing.T, want ...string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !reflect.DeepEqual(e.list, want) {
		t.Errorf("events\n  %s\nwant\n  %s", strings.Join(e.list, "\n  "), strings.Join(want, "\n  "))
	}
}

func (e *events) handlers() Option {
	return WithHandlers(Handlers{
		Push:         func(_ context.Context, env *asap.Envelope) { e.add("push %s", env.ID) },
		Notification: func(_ context.Context, method string, params jsontext.Value) { e.add("%s %s", method, params) },
		RemoteError:  func(_ context.Context, err *RemoteError) { e.add("error %d", err.Code) },
		Invalid:      func(_ context.Context, err error) { e.add("invalid") },
		Connected:    func(context.Context) { e.add("connected") },
		Disconnected: func(_ context.Context, err error) {
			var c *CloseError
			if errors.As(err, &c) {
				e.add("closed %d %s", c.Code, c.Reason)
			} else {
				e.add("lost")
			}
		},
	})
}

func connect(t *testing.T, s *Socket) {
	t.Helper()
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// drain reads until the connection ends.
func (p *peer) drain() {
	for p.read() != nil {
	}
}

func TestSocketMatchesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			first, second := p.read(), p.read()
			if !first.envelope.RequiresAck || first.Params.Key != string(first.envelope.ID) {
				t.Errorf("sent %+v", first)
			}
			p.ack(second, "received")
			p.ack(second, "received") // once too often
			p.write(answerTo(second, asap.Completed, ""))
			p.write(answerTo(second, asap.Completed, ""))
			p.write(answerTo(first, asap.Completed, ""))
			p.drain()
		}), WithTokenSource(StaticToken("t")))
		connect(t, s)
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b"} {
			wg.Go(func() {
				answer, err := s.Send(t.Context(), newTestEnvelope(id))
				if err != nil || *answer.CorrelationID != id {
					t.Errorf("%s: %+v, %v", id, answer, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}

func TestSocketPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			r := p.read()
			p.ack(r, "received")
			p.write(answerTo(r, asap.Working, ""))
			p.update(r, "working")
			p.write(answerTo(r, asap.Working, "")) // delivered already
			p.write(strings.Replace(answerTo(r, asap.Completed, ""), "ws-req-1", "stranger", 1))
			p.write(strings.Replace(answerTo(r, asap.Completed, ""), `"ws-req-1"`, "null", 1))
			p.write(`{"jsonrpc":"2.0","method":"sla.breach","params":{"breach":{}}}`)
			p.write(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"m"},"id":null}`)
			p.write(`{"jsonrpc":"2.0","error":"no object","id":null}`)
			p.write(`not json`)
			p.write(`[1]`)
			p.write(`{"jsonrpc":"2.0","method":"asap.ack","params":{}}`)
			p.write(`{"jsonrpc":"2.0","method":"asap.send","params":{}}`)
			p.write(`{"jsonrpc":"2.0","result":{"subscribed":true},"id":7}`)
			p.write(`{"detail":"leaked"}`)
			env := string(r.envelope.Answer("note", time.Unix(1, 0), recipient, "MessageAck", jsontext.Value(`{}`)).AppendJSON(nil))
			p.write(`{"jsonrpc":"2.0","method":"asap.ack","params":{"envelope":` + env + `}}`)
			p.write(`{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":` + env + `}}`)
			p.write(`{"type":"ping"}`)
			if pong := p.read(); pong == nil || pong.Type != "pong" {
				t.Errorf("got %+v, want a pong", pong)
			}
			p.drain()
		}), got.handlers())
		connect(t, s)
		if _, err := s.Send(t.Context(), newTestEnvelope("a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got.want(t, "connected", "push update", "push answer-to-a", "push answer-to-a", `sla.breach {"breach":{}}`, "error -32603",
			"invalid", "invalid", "invalid", "invalid", "invalid", "invalid", "push note")
	})
}

func TestSocketAcknowledgements(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opts  []Option
		env   func() *asap.Envelope
		serve func(p *peer, n int, r *sentRequest) // for the nth request
		sent  int
		took  time.Duration
		check func(t *testing.T, err error)
	}{
		{"no acknowledgement at all", nil, nil, func(*peer, int, *sentRequest) {}, 4, 120 * time.Second,
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrNoAck) }},
		{"none wanted, no answer", []Option{WithAnswerTimeout(time.Minute)}, func() *asap.Envelope {
			e := newTestEnvelope("a")
			e.PayloadType = "state.query"
			return e
		}, func(*peer, int, *sentRequest) {}, 1, time.Minute,
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrNoAnswer) }},
		{"acknowledged, no answer", nil, nil, func(p *peer, _ int, r *sentRequest) { p.ack(r, "received") }, 1, 10 * time.Minute,
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrNoAnswer) }},
		{"re-sent, then answered twice", nil, nil, func(p *peer, n int, r *sentRequest) {
			if n == 3 {
				p.write(answerTo(r, asap.Completed, ""))
				p.write(answerTo(r, asap.Completed, ""))
			}
		}, 3, time.Minute, nil},
		{"rejected", nil, nil, func(p *peer, _ int, r *sentRequest) { p.ack(r, "rejected") }, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: -32603, Message: "message rejected", DataCode: "message_rejected"})
		}},
		{"an error", nil, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found","data":{"code":"skill_unknown"}},"id":` + string(r.ID) + `}`)
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: -32601, Message: "Method not found", DataCode: "skill_unknown"})
		}},
		{"too many messages, for once", nil, nil, func(p *peer, n int, r *sentRequest) {
			if n < 3 {
				p.write(`{"jsonrpc":"2.0","error":{"code":-32001,"message":"Rate limit exceeded"},"id":` + string(r.ID) + `}`)
				return
			}
			p.write(answerTo(r, asap.Completed, ""))
		}, 3, 125 * time.Millisecond, nil},
		{"too many messages, always", []Option{WithAckTimeout(time.Minute, 1)}, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","error":{"code":-32001,"message":"Rate limit exceeded"},"id":` + string(r.ID) + `}`)
		}, 3, 125 * time.Millisecond, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: -32001, Message: "Rate limit exceeded"})
		}},
		{"too many messages, no second try", []Option{WithReconnect(false)}, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","error":{"code":-32001,"message":"Rate limit exceeded"},"id":` + string(r.ID) + `}`)
		}, 1, 0, func(t *testing.T, err error) {
			wantRemote(t, err, RemoteError{Code: -32001, Message: "Rate limit exceeded"})
		}},
		{"an error that is no object", nil, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","error":7,"id":` + string(r.ID) + `}`)
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
		{"a result without envelope", nil, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","result":{},"id":` + string(r.ID) + `}`)
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
		{"neither result nor error", nil, nil, func(p *peer, _ int, r *sentRequest) {
			p.write(`{"jsonrpc":"2.0","id":` + string(r.ID) + `}`)
		}, 1, 0, func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got events
				var mu sync.Mutex
				var envelopes []string
				s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
					for n := 1; ; n++ {
						r := p.read()
						if r == nil {
							return
						}
						mu.Lock()
						envelopes = append(envelopes, string(r.Params.Envelope))
						mu.Unlock()
						tc.serve(p, n, r)
					}
				}), append([]Option{got.handlers()}, tc.opts...)...)
				connect(t, s)
				env := newTestEnvelope("a")
				if tc.env != nil {
					env = tc.env()
				}
				start := time.Now()
				_, err := s.Send(t.Context(), env)
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.check != nil {
					tc.check(t, err)
				} else if err != nil {
					t.Error(err)
				}
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(envelopes) != tc.sent {
					t.Errorf("sent %d times, want %d", len(envelopes), tc.sent)
				}
				for _, e := range envelopes {
					if e != envelopes[0] {
						t.Errorf("sent again with other content: %s", e)
					}
				}
				got.want(t, "connected")
			})
		})
	}
}

// TestSocketResumes loses the connection in several ways with calls under way.
func TestSocketResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		var mu sync.Mutex
		var seen []string
		note := func(n int, r *sentRequest) {
			mu.Lock()
			defer mu.Unlock()
			what := r.Method
			if r.envelope != nil {
				what = string(r.envelope.ID)
			}
			seen = append(seen, fmt.Sprintf("%d %s %s %v", n, what, r.ID, time.Since(epoch())))
		}
		s := newTestSocket(t, wsServer(t, func(n int, p *peer) {
			for {
				r := p.read()
				if r == nil {
					return
				}
				note(n, r)
				switch {
				case r.Method == "sla.subscribe":
					p.write(`{"jsonrpc":"2.0","result":{"subscribed":true},"id":` + string(r.ID) + `}`)
				case n == 1 && r.envelope.ID == "b":
					_ = p.conn.Close(websocket.StatusGoingAway, "Server shutting down")
					return
				case n == 2 && r.envelope.ID == "b":
					p.write(`{"jsonrpc":"2.0","error":{"code":-32001,"message":"Rate limit exceeded"},"id":null}`)
					_ = p.conn.Close(websocket.StatusPolicyViolation, "")
					return
				case n == 3:
					return // cut without a word
				case n == 4:
					p.ack(r, "received")
					p.write(answerTo(r, asap.Completed, ""))
				}
			}
		}), got.handlers())
		connect(t, s)
		if _, err := s.SubscribeSLA(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b"} {
			wg.Go(func() {
				if _, err := s.Send(t.Context(), newTestEnvelope(id)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		synctest.Wait()
		got.want(t, "connected", "closed 1001 Server shutting down", "connected", "error -32001", "closed 1008 ", "connected", "lost", "connected")
		want := []string{
			`1 sla.subscribe "ws-req-1" 0s`, `1 a "ws-req-2" 0s`, `1 b "ws-req-3" 0s`,
			`2 sla.subscribe "ws-renew" 1s`, `2 a "ws-req-2" 1s`, `2 b "ws-req-3" 1s`,
			`3 sla.subscribe "ws-renew" 3s`, `3 a "ws-req-2" 3.125s`, // after -32001, at a distance
			`4 sla.subscribe "ws-renew" 7.125s`, `4 a "ws-req-2" 7.25s`, `4 b "ws-req-3" 7.375s`,
		}
		mu.Lock()
		defer mu.Unlock()
		if !reflect.DeepEqual(seen, want) {
			t.Errorf("the server saw\n  %s", strings.Join(seen, "\n  "))
		}
	})
}

// epoch is when every synctest bubble begins.
func epoch() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestSocketReconnectDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var at []time.Duration
		upgrade := wsServer(t, func(n int, p *peer) {
			if n == 1 {
				return
			}
			p.drain()
		})
		s := newTestSocket(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			at = append(at, time.Since(epoch()))
			n := len(at)
			mu.Unlock()
			if n > 1 && n < 9 {
				status(503, "")(w, r)
				return
			}
			upgrade(w, r)
		})
		connect(t, s)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		var want []time.Duration
		for _, seconds := range []int{0, 1, 3, 7, 15, 31, 61, 91, 121} {
			want = append(want, time.Duration(seconds)*time.Second)
		}
		if !reflect.DeepEqual(at, want) {
			t.Errorf("connected at %v, want %v", at, want)
		}
	})
}

func TestSocketEnds(t *testing.T) {
	hang := func(_ int, p *peer) { p.drain() }
	for _, tc := range []struct {
		name  string
		opts  []Option
		serve func(t *testing.T) http.HandlerFunc
		end   func(s *Socket, cancel func())
		run   func(t *testing.T, err error)
		send  func(t *testing.T, err error)
	}{
		{"closed", nil, func(t *testing.T) http.HandlerFunc { return wsServer(t, hang) },
			func(s *Socket, _ func()) { _ = s.Close() },
			func(t *testing.T, err error) {
				if err != nil {
					t.Error(err)
				}
			},
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrClosed) }},
		{"cancelled", nil, func(t *testing.T) http.HandlerFunc { return wsServer(t, hang) },
			func(_ *Socket, cancel func()) { cancel() },
			func(t *testing.T, err error) {
				if err != nil {
					t.Error(err)
				}
			},
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrClosed) }},
		{"no reconnect", []Option{WithReconnect(false)}, func(t *testing.T) http.HandlerFunc {
			return wsServer(t, func(_ int, p *peer) {
				p.read()
				_ = p.conn.Close(websocket.StatusGoingAway, "bye")
			})
		}, func(*Socket, func()) {},
			func(t *testing.T, err error) { wantClose(t, err, 1001) },
			func(t *testing.T, err error) {
				wantClose(t, err, 1001)
				if !MayHaveExecuted(err) {
					t.Error("it was sent")
				}
			}},
		{"refused on the second connection", nil, func(t *testing.T) http.HandlerFunc {
			h, _ := script(wsServer(t, func(_ int, p *peer) { p.read() }), status(401, `{"detail":"Authentication required"}`))
			return h
		}, func(*Socket, func()) {},
			func(t *testing.T, err error) {
				wantRemote(t, err, RemoteError{Message: "Authentication required", HTTPStatus: 401})
			},
			func(t *testing.T, err error) {
				wantRemote(t, err, RemoteError{Message: "Authentication required", HTTPStatus: 401, EarlierUnanswered: true})
			}},
		{"oversized frame", []Option{WithMaxAnswerBytes(1000), WithReconnect(false)}, func(t *testing.T) http.HandlerFunc {
			return wsServer(t, func(_ int, p *peer) {
				p.read()
				p.write(`{"x":"` + strings.Repeat("x", 2000) + `"}`)
				p.drain()
			})
		}, func(*Socket, func()) {},
			func(t *testing.T, err error) { wantTransport(t, err, "receive", false, ErrAnswerTooLarge) },
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrAnswerTooLarge) }},
		{"binary frame", []Option{WithReconnect(false)}, func(t *testing.T) http.HandlerFunc {
			return wsServer(t, func(_ int, p *peer) {
				p.read()
				_ = p.conn.Write(p.ctx, websocket.MessageBinary, []byte{1})
				p.drain()
			})
		}, func(*Socket, func()) {},
			func(t *testing.T, err error) { wantTransport(t, err, "receive", false, ErrInvalidAnswer) },
			func(t *testing.T, err error) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestSocket(t, tc.serve(t), tc.opts...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ran, sent := make(chan error, 1), make(chan error, 1)
				go func() { ran <- s.Run(ctx) }()
				synctest.Wait()
				go func() {
					_, err := s.Send(t.Context(), newTestEnvelope("a"))
					sent <- err
				}()
				synctest.Wait()
				tc.end(s, cancel)
				tc.run(t, <-ran)
				tc.send(t, <-sent)
				if _, err := s.Send(t.Context(), newTestEnvelope("b")); err == nil || MayHaveExecuted(err) {
					t.Errorf("send after the end: %v", err)
				}
				if err := s.Run(t.Context()); err == nil {
					t.Error("ran again after the end")
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func wantClose(t *testing.T, err error, code int) {
	t.Helper()
	var c *CloseError
	if !errors.As(err, &c) || c.Code != code {
		t.Errorf("error %v, want close code %d", err, code)
	}
}

func TestSocketOversizedIsNotAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSocket(t, wsServer(t, func(n int, p *peer) {
			r := p.read()
			if r == nil {
				return
			}
			if n == 1 {
				p.write(strings.Repeat("x", 2000))
			} else {
				p.write(answerTo(r, asap.Completed, ""))
			}
			p.drain()
		}), WithMaxAnswerBytes(1000))
		connect(t, s)
		_, err := s.Send(t.Context(), newTestEnvelope("a"))
		wantTransport(t, err, "receive", true, ErrAnswerTooLarge)
		if _, err := s.Send(t.Context(), newTestEnvelope("b")); err != nil { // waits for the next connection
			t.Error(err)
		}
	})
}

func TestSocketFirstConnectionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upgrade := wsServer(t, func(_ int, p *peer) { p.drain() })
		handler, _ := script(status(403, ""), status(200, "hello"), upgrade)
		s := newTestSocket(t, handler)
		if _, err := s.Send(t.Context(), newTestEnvelope("a")); !errors.Is(err, ErrClosed) {
			t.Errorf("send before connecting: %v", err)
		}
		wantRemote(t, s.Connect(t.Context()), RemoteError{Message: "Forbidden", HTTPStatus: 403})
		wantRemote(t, s.Run(t.Context()), RemoteError{Message: "OK", HTTPStatus: 200})
		connect(t, s)
		if err := s.Connect(t.Context()); !errors.Is(err, errAlreadyRunning) {
			t.Errorf("connected twice: %v", err)
		}

		n := newPipeNet()
		_ = n.Close()
		lost, err := NewSocket(fakeURL, WithTransport(&http.Transport{DialContext: n.dial}))
		if err != nil {
			t.Fatal(err)
		}
		wantTransport(t, lost.Connect(t.Context()), "connect", false, io.ErrClosedPipe)
		_ = lost.Close()
		if err := lost.Connect(t.Context()); !errors.Is(err, errAlreadyRunning) {
			t.Errorf("connect after close: %v", err)
		}

		token, err := NewSocket(fakeURL, WithTokenSource(StaticToken("")))
		if err != nil {
			t.Fatal(err)
		}
		if err := token.Connect(t.Context()); err == nil || MayHaveExecuted(err) {
			t.Errorf("connected without its token: %v", err)
		}
	})
}

func TestSocketClosedWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSocket(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		connected := make(chan error, 1)
		go func() { connected <- s.Connect(t.Context()) }()
		sent := make(chan error, 1)
		synctest.Wait()
		go func() {
			_, err := s.Send(t.Context(), newTestEnvelope("a"))
			sent <- err
		}()
		synctest.Wait()
		_ = s.Close()
		wantTransport(t, <-connected, "connect", false, context.Canceled)
		if err := <-sent; err == nil || MayHaveExecuted(err) {
			t.Errorf("send: %v", err)
		}
	})
}

func TestSocketSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		s := newTestSocket(t, wsServer(t, func(n int, p *peer) {
			if n == 1 {
				time.Sleep(time.Hour) // reads nothing, so pings go unanswered
				return
			}
			p.drain()
		}), got.handlers())
		connect(t, s)
		time.Sleep(52 * time.Second)
		synctest.Wait()
		got.want(t, "connected", "lost", "connected")
		time.Sleep(10 * time.Minute) // pings are answered now
		synctest.Wait()
		got.want(t, "connected", "lost", "connected")
		_ = s.Close()
		time.Sleep(time.Hour)
	})
}

func TestSocketSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var got events
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			for i := range 10 {
				p.write(fmt.Sprintf(`{"method":"note","params":%d}`, i))
			}
			r := p.read()
			p.write(answerTo(r, asap.Completed, ""))
			p.drain()
		}), WithPushQueue(2), WithHandlers(Handlers{
			Notification: func(_ context.Context, _ string, params jsontext.Value) {
				<-release
				got.add("%s", params)
			},
		}))
		connect(t, s)
		synctest.Wait()
		if _, err := s.Send(t.Context(), newTestEnvelope("a")); err != nil {
			t.Errorf("a slow handler must not delay answers: %v", err)
		}
		if s.Dropped() != 7 {
			t.Errorf("dropped %d, want 7", s.Dropped())
		}
		close(release)
		synctest.Wait()
		got.want(t, "0", "1", "2")
	})
}

func TestSocketCallsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			for {
				r := p.read()
				if r == nil {
					return
				}
				p.ack(r, "received")
				time.Sleep(10 * time.Second)
				p.write(answerTo(r, asap.Completed, ""))
			}
		}), WithMaxOutstanding(1), got.handlers())
		connect(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		waiting := make(chan error, 1)
		go func() {
			time.Sleep(time.Second)
			early, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := s.Send(early, newTestEnvelope("b")) // no place before a ends
			waiting <- err
		}()
		_, err := s.Send(ctx, newTestEnvelope("a"))
		wantTransport(t, err, "receive", true, context.DeadlineExceeded)
		wantTransport(t, <-waiting, "wait", false, context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got.want(t, "connected", "push answer-to-a") // too late for its caller
		if _, err := s.Send(t.Context(), newTestEnvelope("c")); err != nil {
			t.Error(err)
		}
	})
}

func TestSocketBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) { p.drain() }), WithCircuitBreaker(1, time.Minute))
		connect(t, s)
		_, err := s.Send(t.Context(), newTestEnvelope("a"))
		wantTransport(t, err, "receive", true, ErrNoAck)
		_, err = s.Send(t.Context(), newTestEnvelope("b"))
		wantTransport(t, err, "connect", false, ErrCircuitOpen)
	})
}

func TestSocketRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			for r := p.read(); r != nil; r = p.read() {
				if r.Method == "bad" {
					p.write(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":` + string(r.ID) + `}`)
					continue
				}
				p.write(`{"jsonrpc":"2.0","result":{"unsubscribed":true},"id":` + string(r.ID) + `}`)
			}
		}))
		connect(t, s)
		result, err := s.Request(t.Context(), "sla.unsubscribe", jsontext.Value(`{"agents":["x"]}`))
		if err != nil || string(result) != `{"unsubscribed":true}` {
			t.Errorf("%s, %v", result, err)
		}
		if _, err := s.Request(t.Context(), "bad", nil); err == nil {
			t.Error("no error")
		}
		for _, params := range []string{"[]", "{", "7"} {
			if _, err := s.Request(t.Context(), "m", jsontext.Value(params)); err == nil {
				t.Errorf("params %s: accepted", params)
			}
		}
		if _, err := s.SubscribeSLA(t.Context(), jsontext.Value("7")); err == nil {
			t.Error("subscription params 7: accepted")
		}
		if _, err := s.SubscribeSLA(t.Context(), nil); err != nil || s.renew == nil {
			t.Errorf("subscribe: %v", err)
		}
		if err := s.UnsubscribeSLA(t.Context()); err != nil || s.renew != nil {
			t.Errorf("unsubscribe: %v", err)
		}
	})
}
