package client

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

const hexHash = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func TestTask(t *testing.T) {
	var sent *asap.Envelope
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		request := parseSent(t, body(t, r))
		sent = request.envelope
		_, _ = io.WriteString(w, answerTo(request, asap.Completed, `{"asap-receipt":{"seq":7,"id":"evt_1","hash":"`+hexHash+`"},"trace_id":"x"}`))
	})
	r, err := c.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	if r.TaskID != "task_1" || r.Status != asap.Completed || string(r.Result) != `{"ok":true}` || r.Metrics != nil || r.Response == nil || r.Envelope == nil {
		t.Errorf("%+v", r)
	}
	if r.Receipt.Seq != 7 || r.Receipt.EntryID != "evt_1" || r.Receipt.Hash[1] != 1 {
		t.Errorf("receipt %+v", r.Receipt)
	}
	request, err := asap.ParseTaskRequest(sent.Payload)
	if err != nil || string(request.Input) != "{}" || request.ParentTaskID != nil || !strings.HasPrefix(string(request.ConversationID), "conv_") {
		t.Errorf("sent %s, %v", sent.Payload, err)
	}

	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	call := TaskCall{
		Recipient: recipient, Skill: "echo", Input: jsontext.Value(`{"a":1}`), Config: jsontext.Value(`{"b":2}`),
		ParentTaskID: "task_0", EnvelopeID: "e1", Timestamp: at, TraceID: "trace",
	}
	var contents []string
	for range 2 {
		if _, err := c.Task(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		contents = append(contents, string(sent.AppendJSON(nil)))
	}
	if contents[0] != contents[1] {
		t.Errorf("a repeated call differs:\n%s\n%s", contents[0], contents[1])
	}
	request, err = asap.ParseTaskRequest(sent.Payload)
	if err != nil || sent.ID != "e1" || !sent.Timestamp.Equal(at) || *sent.TraceID != "trace" || *request.ParentTaskID != "task_0" ||
		string(request.Input) != `{"a":1}` || string(request.Config) != `{"b":2}` {
		t.Errorf("sent %s, %v", contents[0], err)
	}

	for _, bad := range []TaskCall{{Input: jsontext.Value("[]")}, {Input: jsontext.Value(`{`)}, {Config: jsontext.Value("7")}} {
		if _, err := c.Task(t.Context(), bad); err == nil || MayHaveExecuted(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	nobody, err := New(fakeURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.Task(t.Context(), call); err == nil || MayHaveExecuted(err) {
		t.Errorf("without a sender: %v", err)
	}
}

func TestQueryAndCancel(t *testing.T) {
	var types []string
	var reasons []*string
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		request := parseSent(t, body(t, r))
		types = append(types, request.envelope.PayloadType)
		if request.envelope.PayloadType == "task.cancel" {
			cancel, err := asap.ParseTaskCancel(request.envelope.Payload)
			if err != nil {
				t.Error(err)
				return
			}
			reasons = append(reasons, cancel.Reason)
		}
		_, _ = io.WriteString(w, answerTo(request, asap.Cancelled, ""))
	})
	if r, err := c.Query(t.Context(), recipient, "task_1"); err != nil || r.Status != asap.Cancelled || r.Receipt != nil {
		t.Errorf("%+v, %v", r, err)
	}
	for _, reason := range []string{"", "enough"} {
		if _, err := c.Cancel(t.Context(), recipient, "task_1", reason); err != nil {
			t.Error(err)
		}
	}
	if !reflect.DeepEqual(types, []string{"state.query", "task.cancel", "task.cancel"}) || reasons[0] != nil || *reasons[1] != "enough" {
		t.Errorf("%v %v", types, reasons)
	}
}

func TestTaskRefusals(t *testing.T) {
	refuse := func(change func(string) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, change(answerTo(parseSent(t, body(t, r)), asap.Completed, `{"asap-receipt":{"seq":7,"id":"e","hash":"`+hexHash+`"}}`)))
		}
	}
	for name, change := range map[string]func(string) string{
		"another payload":  func(s string) string { return strings.Replace(s, "task.response", "artifact.notify", 1) },
		"unknown payload":  func(s string) string { return strings.Replace(s, "task.response", "x", 1) },
		"unknown status":   func(s string) string { return strings.Replace(s, "completed", "done", 1) },
		"short hash":       func(s string) string { return strings.Replace(s, hexHash, "00", 1) },
		"negative seq":     func(s string) string { return strings.Replace(s, `"seq":7`, `"seq":-1`, 1) },
		"no seq":           func(s string) string { return strings.Replace(s, `"seq":7,`, ``, 1) },
		"text seq":         func(s string) string { return strings.Replace(s, `"seq":7`, `"seq":"7"`, 1) },
		"no receipt entry": func(s string) string { return strings.Replace(s, `"id":"e"`, `"id":""`, 1) },
	} {
		_, err := newTestClient(t, refuse(change)).Task(t.Context(), TaskCall{Recipient: recipient, Skill: "echo"})
		t.Run(name, func(t *testing.T) { wantTransport(t, err, "receive", true, ErrInvalidAnswer) })
	}
	for _, extensions := range []string{"", "null", "{}", `{"asap-receipt":null}`} {
		if r, err := ReceiptOf(&asap.Envelope{Extensions: jsontext.Value(extensions)}); r != nil || err != nil {
			t.Errorf("%q: %v, %v", extensions, r, err)
		}
	}
	if _, err := ReceiptOf(&asap.Envelope{Extensions: jsontext.Value("[]")}); err == nil {
		t.Error("extensions []: no error")
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := func(s asap.TaskStatus) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, answerTo(parseSent(t, body(t, r)), s, ""))
			}
		}
		handler, count := script(answer(asap.Submitted), answer(asap.Working), answer(asap.Working), answer(asap.InputRequired))
		c := newTestClient(t, handler)
		start := time.Now()
		r, err := c.Wait(t.Context(), recipient, "task_1")
		if err != nil || r.Status != asap.InputRequired || count() != 4 || time.Since(start) != 1750*time.Millisecond {
			t.Errorf("%+v, %v, %d questions, %v", r, err, count(), time.Since(start))
		}

		c = newTestClient(t, answer(asap.Working))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err = c.Wait(ctx, recipient, "task_1")
		wantTransport(t, err, "wait", false, context.DeadlineExceeded)
		if r == nil || r.Status != asap.Working {
			t.Errorf("what is known must come along: %+v", r)
		}
		c = newTestClient(t, status(404, ""))
		if _, err = c.Wait(t.Context(), recipient, "task_1"); err == nil {
			t.Error("no error")
		}
	})
}

func TestSocketTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		state := asap.Working
		var questions []time.Duration
		s := newTestSocket(t, wsServer(t, func(_ int, p *peer) {
			for r := p.read(); r != nil; r = p.read() {
				if r.envelope.RequiresAck {
					p.ack(r, "received")
				}
				mu.Lock()
				if r.envelope.PayloadType == "task.cancel" {
					state = asap.Cancelled
				}
				if r.envelope.PayloadType == "state.query" {
					questions = append(questions, time.Since(epoch()))
				}
				p.write(answerTo(r, state, ""))
				mu.Unlock()
				if r.envelope.PayloadType == "task.request" {
					go func() {
						time.Sleep(100 * time.Millisecond)
						mu.Lock()
						state = asap.Completed
						mu.Unlock()
						p.update(r, "completed")
					}()
				}
			}
		}))
		connect(t, s)
		r, err := s.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "slow"})
		if err != nil || r.Status != asap.Working {
			t.Fatalf("%+v, %v", r, err)
		}
		r, err = s.Wait(t.Context(), recipient, r.TaskID)
		if err != nil || r.Status != asap.Completed {
			t.Fatalf("%+v, %v", r, err)
		}
		if want := []time.Duration{0, 100 * time.Millisecond}; !reflect.DeepEqual(questions, want) {
			t.Errorf("asked at %v, want %v", questions, want)
		}
		if len(s.watchers) != 0 {
			t.Error("a watcher is left over")
		}
		if r, err = s.Cancel(t.Context(), recipient, "task_1", ""); err != nil || r.Status != asap.Cancelled {
			t.Errorf("%+v, %v", r, err)
		}
		if r, err = s.Query(t.Context(), recipient, "task_1"); err != nil || r.Status != asap.Cancelled {
			t.Errorf("%+v, %v", r, err)
		}

		// Two may wait for one task, and one may leave.
		a, b := &watch{changed: make(chan struct{}, 1)}, &watch{changed: make(chan struct{}, 1)}
		s.watch("t", a)
		s.watch("t", b)
		s.unwatch("t", a)
		s.unwatch("t", a)
		for _, payload := range []string{`{"task_id":"t"}`, `{"task_id":"t"}`, `{}`, `[]`} {
			s.notifyWatchers(&asap.Envelope{Payload: jsontext.Value(payload)})
		}
		if len(b.changed) != 1 || len(a.changed) != 0 {
			t.Error("the wrong one was woken")
		}
		s.unwatch("t", b)
	})
}
