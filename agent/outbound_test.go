package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func n64(n int64) *int64 { return &n }

const (
	openAIChat = `{"id":"x","model":"gpt-x","choices":[{"message":{"content":"\"usage\""}}],"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":20}}}`
	anthropic  = `{"type":"message","model":"claude-x","content":[],"usage":{"input_tokens":10,"cache_creation_input_tokens":7,"cache_read_input_tokens":5,"output_tokens":3}}`
	responses  = `{"object":"response","model":"gpt-y","usage":{"input_tokens":30,"input_tokens_details":{"cached_tokens":10},"output_tokens":8,"output_tokens_details":{"reasoning_tokens":2}}}`

	openAIStream = "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n" +
		"data: {\"model\":\"gpt-x\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\r\n\r\ndata: [DONE]\n\n"
	anthropicStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":7}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	responsesStream = "data: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-y\",\"usage\":null}}\n\n" +
		"data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-y\",\"usage\":{\"input_tokens\":30,\"output_tokens\":8,\"output_tokens_details\":{\"reasoning_tokens\":2}}}}" // no line end
)

func gz(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text)) //nolint:errcheck // a buffer takes everything
	z.Close()
	return b.String()
}

func TestHTTPClientReadsUsage(t *testing.T) {
	one := n64(1)
	chat := Quantities{TokensIn: n64(100), TokensOut: n64(50), APICalls: one, Model: "gpt-x", Evidence: ProviderReported,
		Tokens: Tokens{InputUncached: n64(60), InputCacheRead: n64(40), OutputText: n64(30), OutputReasoning: n64(20)}}
	claude := Quantities{TokensIn: n64(22), TokensOut: n64(3), APICalls: one, Model: "claude-x", Evidence: ProviderReported,
		Tokens: Tokens{InputUncached: n64(10), InputCacheRead: n64(5), InputCacheWrite: n64(7), OutputText: n64(3)}}
	claudeStream := Quantities{TokensIn: n64(30), TokensOut: n64(15), APICalls: one, Model: "claude-x", Evidence: ProviderReported,
		Tokens: Tokens{InputUncached: n64(25), InputCacheRead: n64(5), OutputText: n64(15)}}
	nothing := Quantities{APICalls: one, Evidence: Observed}
	for _, c := range []struct {
		name, kind, encoding, body string
		want                       Quantities
	}{
		{"openai chat", "application/json; charset=utf-8", "", openAIChat, chat},
		{"openai chat, gzip", "application/json", "gzip", gz(openAIChat), chat},
		{"anthropic", "application/json", "", anthropic, claude},
		{"openai responses", "application/json", "", responses, Quantities{TokensIn: n64(30), TokensOut: n64(8), APICalls: one, Model: "gpt-y", Evidence: ProviderReported,
			Tokens: Tokens{InputUncached: n64(20), InputCacheRead: n64(10), OutputText: n64(6), OutputReasoning: n64(2)}}},
		{"openai stream", "text/event-stream", "", openAIStream, Quantities{TokensIn: n64(9), TokensOut: n64(4), APICalls: one, Model: "gpt-x", Evidence: ProviderReported,
			Tokens: Tokens{InputUncached: n64(9), OutputText: n64(4)}}},
		{"anthropic stream", "text/event-stream", "", anthropicStream, claudeStream},
		{"anthropic stream, gzip", "text/event-stream", "gzip", gz(anthropicStream), claudeStream},
		{"responses stream", "text/event-stream; charset=utf-8", "", responsesStream, Quantities{TokensIn: n64(30), TokensOut: n64(8), APICalls: one, Model: "gpt-y", Evidence: ProviderReported,
			Tokens: Tokens{InputUncached: n64(30), OutputText: n64(6), OutputReasoning: n64(2)}}},
		{"embeddings", "application/json", "", `{"model":"e","usage":{"prompt_tokens":0,"total_tokens":0}}`, Quantities{TokensIn: n64(0), APICalls: one, Model: "e", Evidence: ProviderReported,
			Tokens: Tokens{InputUncached: n64(0)}}},
		{"more cached than read", "application/json", "", `{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":9}}}`, Quantities{TokensIn: n64(9), APICalls: one, Evidence: ProviderReported,
			Tokens: Tokens{InputUncached: n64(0), InputCacheRead: n64(9)}}},
		{"negative", "application/json", "", `{"usage":{"prompt_tokens":-5}}`, nothing},
		{"no usage", "application/json", "", `{"ok":true}`, nothing},
		{"not an object", "application/json", "", `[1,2]`, nothing},
		{"not JSON", "application/json", "", `{"usage":{"prompt_tokens":5`, nothing},
		{"usage of another form", "application/json", "", `{"usage":{"prompt_tokens":"many"}}`, nothing},
		{"usage that is text", "application/json", "", `{"usage":"5","model":7}`, nothing},
		{"not gzip", "application/json", "gzip", openAIChat, nothing},
		{"an encoding we cannot read", "application/json", "br", openAIChat, nothing},
		{"plain text", "text/plain", "", openAIChat, nothing},
		{"too long an event", "text/event-stream", "", "data: {\"usage\":{\"prompt_tokens\":1},\"x\":\"" + strings.Repeat("x", maxEventBytes) + "\"}\n\n", nothing},
		{"too long an answer", "application/json", "", `{"usage":{"prompt_tokens":1},"x":"` + strings.Repeat("x", maxCapturedBytes) + `"}`, nothing},
		{"nested without end", "application/json", "", strings.Repeat(`{"message":`, 500) + `{"usage":{"prompt_tokens":1}}` + strings.Repeat("}", 500), nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstream := roundTripper(func(*http.Request) (*http.Response, error) {
				h := http.Header{"Content-Type": {c.kind}}
				if c.encoding != "" {
					h.Set("Content-Encoding", c.encoding)
				}
				return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(iotest.HalfReader(strings.NewReader(c.body)))}, nil
			})
			var u Usage
			client := &http.Client{Transport: &meter{base: upstream, usage: &u, task: t.Context()}}
			if _, _, got := fetch(t, client, http.MethodGet, "http://provider.example.com", "", nil); got != c.body {
				t.Fatal("the answer did not pass through")
			}
			if diff := cmp.Diff(c.want, u.snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHTTPClientCountsFailures(t *testing.T) {
	var u Usage
	down := errors.New("connection refused")
	client := &http.Client{Transport: &meter{base: roundTripper(func(*http.Request) (*http.Response, error) { return nil, down }), usage: &u, task: t.Context()}}
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://provider.example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(r); !errors.Is(err, down) { //nolint:bodyclose // there is none
			t.Fatal(err)
		}
	}
	if got := u.snapshot(); got.APICalls == nil || *got.APICalls != 3 || got.TokensIn != nil || got.Evidence != Observed {
		t.Errorf("%+v", got)
	}
}

// TestHTTPClientDoesNotBuffer reads the first event of a stream before the
// second one is written, and ends the call with the task.
func TestHTTPClientDoesNotBuffer(t *testing.T) {
	next := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"usage\":{\"prompt_tokens\":1}}\n\n")
		w.(http.Flusher).Flush()
		<-next
		<-r.Context().Done()
	}))
	defer upstream.Close()
	task, cancel := context.WithCancelCause(t.Context())
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var u Usage
	client := &http.Client{Transport: &meter{base: base, usage: &u, task: task}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, upstream.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 64)
	if n, err := resp.Body.Read(first); err != nil || !strings.Contains(string(first[:n]), "usage") {
		t.Fatal(err)
	}
	close(next)
	cancel(errCancelled)
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the call outlived its task")
	}
	resp.Body.Close()
	if got := u.snapshot(); got.TokensIn == nil || *got.TokensIn != 1 {
		t.Errorf("the usage of a stream that was cut is lost: %+v", got)
	}
}

func TestUsage(t *testing.T) {
	var u Usage
	if diff := cmp.Diff(Quantities{}, u.snapshot()); diff != "" {
		t.Error("nothing was reported:", diff)
	}
	u.AddAPICalls(2)
	u.AddTokens(0, 5)
	u.AddTokens(-3, 1<<62)
	u.AddTokens(1, 1<<62)
	u.AddTokenBuckets(Tokens{InputCacheRead: n64(4), OutputReasoning: n64(0)})
	u.SetModel("a")
	u.SetModel("a")
	want := Quantities{TokensIn: n64(5), TokensOut: n64(1<<63 - 1), APICalls: n64(2), Model: "a", Evidence: SelfReported,
		Tokens: Tokens{InputCacheRead: n64(4), OutputReasoning: n64(0)}}
	if diff := cmp.Diff(want, u.snapshot()); diff != "" {
		t.Error(diff)
	}
	u.SetModel("b")
	u.MarkEstimated()
	if got := u.close(); got.Model != "" || got.Evidence != Estimated {
		t.Errorf("%+v", got)
	}
	u.AddAPICalls(1)
	if got := u.snapshot(); *got.APICalls != 2 {
		t.Error("usage changed after the end")
	}
	for e, rank := range map[Evidence]int{"": 0, Estimated: 1, SelfReported: 2, Observed: 3, ProviderReported: 4} {
		if e.rank() != rank {
			t.Error(e, e.rank())
		}
	}
}

func TestMetricsOfAnAnswer(t *testing.T) {
	for _, c := range []struct {
		metrics string
		want    string
	}{
		{`{"tokens_in":5,"tokens_out":7,"api_calls":1}`, `{"tokens_in":5,"tokens_out":7,"api_calls":1,"duration_ms":1000}`},
		{`{"tokens_used":12}`, `{"tokens_out":12,"duration_ms":1000}`},
		{`{"tokens_in":5,"tokens_used":12}`, `{"tokens_in":5,"duration_ms":1000}`},
		{`{"tokens_in":" 1_000 ","tokens_out":3.9,"api_calls":true}`, `{"tokens_in":1000,"tokens_out":3,"api_calls":1,"duration_ms":1000}`},
		{`{"tokens_in":-1,"tokens_out":"12.5","api_calls":[]}`, ``},
		{`{"tokens_in":false,"api_calls":1e300}`, `{"tokens_in":0,"duration_ms":1000}`},
		{`null`, ``},
	} {
		var u Usage
		u.addMetrics([]byte(c.metrics))
		if diff := cmp.Diff(c.want, string(u.close().metrics(time.Second))); diff != "" {
			t.Errorf("%s:\n%s", c.metrics, diff)
		}
	}
}
