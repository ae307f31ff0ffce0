package client

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go"
)

// FuzzAnswer feeds any bytes to everything that reads an answer: each gives an
// envelope or an error of the package, and never both or neither.
func FuzzAnswer(f *testing.F) {
	r := &sentRequest{ID: []byte(`"req-1"`), envelope: newTestEnvelope("e")}
	for _, seed := range []string{
		answerTo(r, asap.Completed, `{"asap-receipt":{"seq":1,"id":"x","hash":"`+hexHash+`"}}`),
		`{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"code":"x","retry_after":3}},"id":1}`,
		`{"jsonrpc":"2.0","error":null,"result":{"envelope":{}},"id":null}`,
		`{"error":"Service Temporarily Unavailable","code":"asap:transport/thread_pool_exhausted","message":"m","details":{}}`,
		`{"detail":[{"type":"missing","loc":["query","x"],"msg":"Field required"}]}`,
		`{"type":"ping"}`, `{"method":"asap.ack","params":{"envelope":null}}`, `{"error":{"code":1e999}}`, ` [1]`, ``, `{"a":1,"a":2}`, "\xff",
		plainManifest,
	} {
		f.Add([]byte(seed))
	}
	d := newDiscovery(&options{discovery: defaultDiscoveryOptions()}, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseAnswer(b)
		if (e == nil) == (err == nil) {
			t.Fatalf("envelope %v, error %v", e, err)
		}
		var remote *RemoteError
		if err != nil && !errors.As(err, &remote) && !errors.Is(err, ErrInvalidAnswer) {
			t.Fatalf("error %v (%T)", err, err)
		}
		if e != nil {
			if again, err := asap.ParseEnvelope(e.AppendJSON(nil)); err != nil || !bytes.Equal(again.AppendJSON(nil), e.AppendJSON(nil)) {
				t.Fatalf("the envelope does not survive: %v", err)
			}
			if result, err := ResultOf(e); (result == nil) == (err == nil) {
				t.Fatalf("result %v, error %v", result, err)
			}
		}
		refusal := statusError(&answer{status: http.StatusServiceUnavailable, header: http.Header{}, body: b}, time.Unix(0, 0))
		if refusal.HTTPStatus != 503 || refusal.Message == "" && refusal.Code == 0 {
			t.Fatalf("%+v", refusal)
		}
		if refusal.Data != nil && !refusal.Data.IsValid() {
			t.Fatalf("data %q", refusal.Data)
		}
		if found, err := d.read("u", b); (found == nil) == (err == nil) {
			t.Fatalf("manifest %v, error %v", found, err)
		}
		var h Health
		_ = json.Unmarshal(b, &h)
	})
}

// FuzzFrame feeds any frame to a socket with a call under way.
func FuzzFrame(f *testing.F) {
	for _, seed := range []string{
		`{"id":"ws-req-1","result":{}}`, `{"id":"ws-req-1","error":7}`, `{"type":"ping"}`, `{"method":"asap.ack","params":{}}`,
		`{"jsonrpc":"2.0","method":"asap.ack","params":{"envelope":{"asap_version":"0.1","sender":"urn:asap:agent:a","recipient":"urn:asap:agent:b","payload_type":"MessageAck","payload":{"original_envelope_id":"e","status":"rejected"}}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := NewSocket(fakeURL, WithPushQueue(1))
		if err != nil {
			t.Fatal(err)
		}
		s.state = socketRunning
		c := &call{envelope: "e", wantsAck: true, result: make(chan reply, 1)}
		if err := s.register(c, func(string) []byte { return []byte("{}") }); err != nil {
			t.Fatal(err)
		}
		s.receive(b)
		s.receive(b)
		if ended := len(c.result) == 1; ended == (s.calls[c.id] == c) {
			t.Fatalf("ended %v, yet calls has %v", ended, s.calls)
		}
		s.kill()
	})
}
