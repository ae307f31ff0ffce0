package client

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

//go:embed testdata/answers.jsonl
var recordedAnswers []byte

//go:embed testdata/frames.jsonl
var recordedFrames []byte

func lines[T any](t *testing.T, b []byte) []T {
	t.Helper()
	var list []T
	scan := bufio.NewScanner(bytes.NewReader(b))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var v T
		if err := json.Unmarshal(scan.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

// TestRecordedAnswers reads what the v1.3.0 server said: each is an envelope or
// a refusal, none is beyond understanding.
func TestRecordedAnswers(t *testing.T) {
	type recorded struct {
		Name       string `json:"name"`
		Status     int    `json:"status"`
		RetryAfter string `json:"retry_after"`
		Body       string `json:"body"`
	}
	envelopes, refusals := 0, 0
	for _, r := range lines[recorded](t, recordedAnswers) {
		if r.Status != http.StatusOK {
			h := http.Header{}
			if r.RetryAfter != "" {
				h.Set("Retry-After", r.RetryAfter)
			}
			remote := statusError(&answer{status: r.Status, header: h, body: []byte(r.Body)}, time.Now())
			if remote.Message == "" || r.Status == 429 && (remote.Code != 429 || remote.RetryAfter < time.Second) ||
				r.Status == 503 && remote.DataCode != "asap:transport/thread_pool_exhausted" {
				t.Errorf("%s: %+v", r.Name, remote)
			}
			continue
		}
		e, err := parseAnswer([]byte(r.Body))
		var remote *RemoteError
		switch {
		case err == nil:
			envelopes++
			if _, err := ResultOf(e); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		case errors.As(err, &remote) && remote.Code < 0 && remote.Message != "":
			refusals++
		default:
			t.Errorf("%s: %v", r.Name, err)
		}
	}
	if envelopes < 20 || refusals < 20 {
		t.Errorf("%d envelopes and %d refusals: is the recording complete?", envelopes, refusals)
	}
}

// TestRecordedFrames feeds a socket what the v1.3.0 server sent: nothing of it
// is invalid, and calls with the recorded ids end.
func TestRecordedFrames(t *testing.T) {
	type recorded struct {
		Name   string   `json:"name"`
		Frames []string `json:"frames"`
	}
	ended := 0
	for _, r := range lines[recorded](t, recordedFrames) {
		s, err := NewSocket(fakeURL)
		if err != nil {
			t.Fatal(err)
		}
		c := &call{id: "req-1", result: make(chan reply, 1)}
		s.calls[c.id] = c
		for _, frame := range r.Frames {
			f, err := parseFrame([]byte(frame))
			if err != nil {
				t.Errorf("%s: %s: %v", r.Name, frame, err)
				continue
			}
			if text(f.Method) == "asap.ack" {
				if _, err := envelope(f.Params); err != nil {
					t.Errorf("%s: %s: %v", r.Name, frame, err)
				}
			}
			s.receive([]byte(frame))
		}
		ended += len(c.result)
		s.kill()
	}
	if ended < 15 {
		t.Errorf("%d calls ended: is the recording complete?", ended)
	}
}
