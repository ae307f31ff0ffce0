package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
)

// What an answer may hold before reading its usage is given up: the answer
// itself always passes through whole and at once.
const (
	maxCapturedBytes = 4 << 20
	maxInflatedBytes = 16 << 20
	maxEventBytes    = 1 << 20
)

// meter is the transport of a task's HTTP client. It counts every round trip
// as one API call, whatever becomes of it, and reads what a model provider
// says about tokens out of the answers that pass through.
type meter struct {
	base  http.RoundTripper
	usage *Usage
	task  context.Context // calls end with the task
}

// RoundTrip implements http.RoundTripper.
func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	one := int64(1)
	m.usage.add(Quantities{APICalls: &one, Evidence: Observed})
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(m.task, func() { cancel(context.Cause(m.task)) })
	release := func() { stop(); cancel(nil) }
	resp, err := m.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		release()
		return nil, err
	}
	tap := &tappedBody{body: resp.Body, release: release, usage: m.usage}
	switch kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.ToLower(strings.TrimSpace(kind)) {
	case "application/json":
		tap.capture = new(bytes.Buffer)
	case "text/event-stream":
		tap.events = true
	}
	switch strings.ToLower(resp.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip":
		if tap.events {
			tap.capture = new(bytes.Buffer)
		}
		tap.gzipped = true
	default: // not readable here: the call counts, the tokens stay unknown
		tap.capture, tap.events = nil, false
	}
	resp.Body = tap
	if w, ok := tap.body.(io.Writer); ok { // an upgraded connection stays writable
		resp.Body = struct {
			io.Reader
			io.Writer
			io.Closer
		}{tap, w, tap}
	}
	return resp, nil
}

// tappedBody passes an answer through and keeps what its usage is read from:
// the text of a JSON answer, or the running counts of an event stream.
type tappedBody struct {
	body    io.ReadCloser
	release func()
	usage   *Usage
	done    sync.Once

	capture *bytes.Buffer // the bytes as they came; nil if not wanted
	events  bool
	gzipped bool
	line    []byte // the unfinished last line of an event stream
	skip    bool   // that line is too long to keep
	counts  providerAnswer
}

func (t *tappedBody) Read(p []byte) (int, error) {
	n, err := t.body.Read(p)
	t.take(p[:n])
	if err == io.EOF {
		t.finish()
	}
	return n, err
}

func (t *tappedBody) Close() error {
	err := t.body.Close()
	t.finish()
	t.release()
	return err
}

func (t *tappedBody) take(p []byte) {
	switch {
	case t.capture != nil:
		if t.capture.Len()+len(p) > maxCapturedBytes {
			t.capture, t.events = nil, false
			return
		}
		t.capture.Write(p)
	case t.events:
		t.scan(p)
	}
}

// scan feeds a piece of an event stream to the line reader.
func (t *tappedBody) scan(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		if t.skip = t.skip || len(t.line)+len(piece) > maxEventBytes; t.skip {
			t.line = t.line[:0]
		} else {
			t.line = append(t.line, piece...)
		}
		if i < 0 {
			return
		}
		t.event()
		p = p[i+1:]
	}
}

// event ends the current line.
func (t *tappedBody) event() {
	data, ok := bytes.CutPrefix(t.line, []byte("data:"))
	if ok && !t.skip && bytes.Contains(data, []byte(`"usage"`)) {
		t.counts.merge(bytes.TrimSpace(data))
	}
	t.line, t.skip = t.line[:0], false
}

func (t *tappedBody) finish() {
	t.done.Do(func() {
		text := []byte(nil)
		if t.capture != nil {
			text = t.capture.Bytes()
			if t.gzipped {
				text = inflate(text)
			}
		}
		switch {
		case t.events && t.capture != nil:
			t.scan(text)
			t.event()
		case t.events:
			t.event()
		case len(text) > 0:
			t.counts.merge(text)
		}
		if q, ok := t.counts.quantities(); ok {
			t.usage.add(q)
		}
	})
}

// inflate returns what can be read of a gzipped text, within bounds.
func inflate(b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(z, maxInflatedBytes)) // a cut stream still has its first events
	return text
}
