package node

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/coder/websocket"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// holdings are what a refusal must leave as it was.
type holdings struct{ Entries, Records, Held int64 }

func (n *Node) holdings(t testing.TB) (h holdings) {
	t.Helper()
	_, entries, err := n.store.ListAudit(t.Context(), audit.Filter{}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := n.store.UsageStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, _, err := n.store.Holds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return holdings{entries, stats.Records, held}
}

// understandable checks what a refusal says: one sentence, with nothing of how
// the node is made.
func understandable(t *testing.T, name, sentence string) {
	t.Helper()
	if len(sentence) < 10 || strings.Count(sentence, " ") < 1 || len(sentence) > 300 {
		t.Errorf("%s: nobody understands %q", name, sentence)
	}
	for _, inside := range []string{".go", "goroutine", "sqlite", "json:", "jsontext", "panic", "0x"} {
		if strings.Contains(sentence, inside) {
			t.Errorf("%s: %q tells how the node is made", name, sentence)
		}
	}
}

// badRequests are the bodies of requests that are refused, each with the number
// and the code of the refusal. A silent one gets no answer on a WebSocket, as in
// v1.3.0.
func badRequests(now time.Time) []struct {
	name, body string
	number     int
	code       asap.Code
	silent     bool
} {
	envelope := func(changes string) string {
		members := map[string]any{
			"asap_version": "0.1", "sender": callerURN, "recipient": counterURN, "payload_type": "task.request",
			"payload": map[string]any{"conversation_id": "c", "skill_id": "count", "input": map[string]any{"n": 1}},
		}
		var changed map[string]any
		if err := json.Unmarshal([]byte(changes), &changed); err != nil {
			panic(err)
		}
		maps.Copy(members, changed)
		text, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "asap.send", "params": map[string]any{"envelope": members}}, json.Deterministic(true))
		if err != nil {
			panic(err)
		}
		return string(text)
	}
	at := func(d time.Duration) string { return `{"timestamp":"` + now.Add(d).UTC().Format(time.RFC3339) + `"}` }
	good := envelope(`{}`)
	return []struct {
		name, body string
		number     int
		code       asap.Code
		silent     bool
	}{
		{"malformed", good[:len(good)-2], asap.RPCParseError, asap.CodeParseError, true},
		{"no JSON at all", "hello", asap.RPCParseError, asap.CodeParseError, true},
		{"two values", good + good, asap.RPCParseError, asap.CodeParseError, true},
		{"duplicate key", strings.Replace(good, `"skill_id"`, `"skill_id":"x","skill_id"`, 1), asap.RPCParseError, asap.CodeParseError, false},
		{"broken text", strings.Replace(good, `"c"`, `"\ud800"`, 1), asap.RPCParseError, asap.CodeParseError, false},
		{"too deep", strings.Replace(good, `"n":1`, `"n":`+strings.Repeat("[", 600)+strings.Repeat("]", 600), 1), asap.RPCParseError, asap.CodeParseError, false},
		{"no JSON-RPC", `{"hello":1}`, asap.RPCInvalidRequest, asap.CodeInvalidRequest, false},
		{"unknown method", strings.Replace(good, "asap.send", "asap.obey", 1), asap.RPCMethodNotFound, asap.CodeMethodNotFound, false},
		{"no envelope", `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{}}`, asap.RPCInvalidParams, asap.CodeInvalidEnvelope, false},
		{"a number for a name", envelope(`{"sender":7}`), asap.RPCInvalidParams, asap.CodeInvalidEnvelope, false},
		{"no URN", envelope(`{"sender":"me"}`), asap.RPCInvalidParams, asap.CodeInvalidEnvelope, false},
		{"unknown payload type", envelope(`{"payload_type":"task.obey"}`), asap.RPCMethodNotFound, asap.CodeHandlerNotFound, false},
		{"payload of another form", envelope(`{"payload":{"conversation_id":"c"}}`), asap.RPCInvalidParams, asap.CodePayloadInvalid, false},
		{"stale", envelope(at(-10 * time.Minute)), asap.RPCInvalidParams, asap.CodeInvalidTimestamp, false},
		{"from the future", envelope(at(10 * time.Minute)), asap.RPCInvalidParams, asap.CodeInvalidTimestamp, false},
		{"unknown skill", envelope(`{"payload":{"conversation_id":"c","skill_id":"fly","input":{}}}`), asap.RPCMethodNotFound, asap.CodeSkillUnknown, false},
		{"wrong sender", envelope(`{"sender":"urn:asap:agent:somebody-else"}`), asap.RPCInvalidParams, asap.CodeSenderMismatch, false},
		{"unknown task", envelope(`{"payload_type":"task.cancel","payload":{"task_id":"task_x"}}`), asap.RPCInvalidParams, asap.CodeTaskNotFound, false},
		{"replayed with other content", envelope(`{"id":"seen","payload":{"conversation_id":"c","skill_id":"count","input":{"n":2}}}`), asap.RPCInvalidParams, asap.CodeIdempotencyConflict, false},
	}
}

// Every bad request, over both transports: the stable code, a sentence, and
// nothing that was done by halves.
func TestBadRequests(t *testing.T) {
	n := startSecured(t, false, func(c *Config) { c.Limits.RequestBytes = 64 << 10 })
	token := n.token(t, taskOwner)
	send := func(body string, header ...string) (*http.Response, string) {
		t.Helper()
		return n.request(t, "", http.MethodPost, "/asap", body, append([]string{"Authorization", token, "Content-Type", "application/json"}, header...)...)
	}
	as := func(body string) string { return strings.ReplaceAll(body, callerURN, taskOwner) }
	first := as(`{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{"id":"seen","asap_version":"0.1","sender":"` + callerURN + `","recipient":"` + counterURN +
		`","payload_type":"task.request","payload":{"conversation_id":"c","skill_id":"count","input":{"n":1}}}}}`)
	_, answer := send(first)
	if !strings.Contains(answer, `"completed"`) {
		t.Fatal(answer)
	}
	before := n.holdings(t)
	if before.Records != 1 || before.Entries != 3 || before.Held != 0 {
		t.Fatalf("%+v", before)
	}
	unchanged := func(name string) {
		t.Helper()
		if after := n.holdings(t); after != before {
			t.Errorf("%s changed the ledger: %+v, before %+v", name, after, before)
		}
	}
	if _, again := send(first); again != answer {
		t.Errorf("replayed alike: %s, first %s", again, answer)
	}
	unchanged("replayed alike")

	socket, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(n.URL(), "http")+"/asap/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.CloseNow() }() // nothing is under way
	hear := func(name string) string {
		t.Helper()
		_, text, err := socket.Read(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(text)
	}
	for _, c := range badRequests(time.Now()) {
		check := func(transport, text string) {
			t.Helper()
			got := loose[struct {
				Error struct {
					Code    int
					Message string
					Data    struct{ Code, Error, Message string }
				}
			}](t, []byte(text)).Error
			if got.Code != c.number || asap.Code(got.Data.Code) != c.code {
				t.Errorf("%s over %s: %s, want %d %s", c.name, transport, text, c.number, c.code)
			}
			sentence := got.Data.Message
			if sentence == "" {
				sentence = got.Data.Error
			}
			understandable(t, c.name+" over "+transport, sentence)
		}
		res, text := send(as(c.body))
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", c.name, res.Status)
		}
		check("HTTP", text)
		if err := socket.Write(t.Context(), websocket.MessageText, []byte(as(c.body))); err != nil {
			t.Fatal(err)
		}
		if !c.silent {
			check("a WebSocket", hear(c.name))
		}
		unchanged(c.name)
	}

	// What is too large is refused before it is taken apart, packed or not.
	large := as(strings.Replace(first, `{"n":1}`, `{"n":1,"pad":"`+strings.Repeat("x", 128<<10)+`"}`, 1))
	for name, c := range map[string]struct {
		body, encoding string
		status         int
		code           asap.Code
	}{
		"oversized":        {large, "", 413, asap.CodeRequestTooLarge},
		"gzip bomb":        {pack(t, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, 8<<20), "gzip", 413, asap.CodeRequestTooLarge},
		"brotli bomb":      {pack(t, func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }, 8<<20), "br", 413, asap.CodeRequestTooLarge},
		"damaged gzip":     {"no gzip", "gzip", 400, asap.CodeInvalidEncoding},
		"unknown encoding": {first, "zstd", 415, asap.CodeUnsupportedEncoding},
	} {
		header := []string{"Content-Encoding", c.encoding}
		if c.encoding == "" {
			header = nil
		}
		res, text := send(c.body, header...)
		got := loose[struct{ Detail, Code string }](t, []byte(text))
		if res.StatusCode != c.status || asap.Code(got.Code) != c.code {
			t.Errorf("%s: %s %s, want %d %s", name, res.Status, text, c.status, c.code)
		}
		understandable(t, name, got.Detail)
		unchanged(name)
	}
	if err := socket.Write(t.Context(), websocket.MessageText, []byte(large)); err != nil {
		t.Fatal(err)
	}
	if text := hear("oversized"); !strings.Contains(text, string(asap.CodeRequestTooLarge)) {
		t.Errorf("oversized over a WebSocket: %s", text)
	}
	unchanged("oversized over a WebSocket")

	// After all that the same connection still works.
	if err := socket.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
		t.Fatal(err)
	}
	result := func(text string) string {
		return string(loose[struct{ Result jsontext.Value }](t, []byte(text)).Result)
	}
	if got := hear("replayed alike"); result(got) != result(answer) {
		t.Errorf("replayed alike over a WebSocket: %s, first %s", got, answer)
	}
	unchanged("replayed alike over a WebSocket")
}

// pack compresses so many zeros.
func pack(t *testing.T, open func(io.Writer) io.WriteCloser, size int) string {
	t.Helper()
	var b bytes.Buffer
	w := open(&b)
	block := make([]byte, 1<<20)
	for range size / len(block) {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Every bad usage record: the stable code, a sentence, and nothing stored.
func TestBadUsage(t *testing.T) {
	n := startSecured(t, false, func(c *Config) { c.Limits.RequestBytes = 64 << 10 })
	now := time.Now().UTC()
	record := func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"id":%q,"task_id":"t","agent":%q,"consumer":%q,"timestamp":%q%s}`, id, taskOwner, callerURN, at.Format(time.RFC3339), more)
	}
	good := record("seen", now, `,"tokens_in":5`)
	post := func(path, body string) (*http.Response, string) {
		t.Helper()
		return n.request(t, "", http.MethodPost, path, body, "Authorization", n.operator(t), "Content-Type", "application/json")
	}
	if res, text := post("/usage", good); res.StatusCode != http.StatusCreated {
		t.Fatal(res.Status, text)
	}
	before := n.holdings(t)
	if res, text := post("/usage", good); res.StatusCode != http.StatusOK || n.holdings(t) != before {
		t.Errorf("the same again: %s %s", res.Status, text)
	}
	batch := func(records ...string) string { return `{"events":[` + strings.Join(records, ",") + `]}` }
	for _, c := range []struct {
		name, path, body string
		status           int
		code             asap.Code
	}{
		{"in the future", "/usage", record("a", now.Add(time.Hour), ""), 422, asap.CodeRecordInFuture},
		{"too old", "/usage", record("a", now.Add(-50*24*time.Hour), ""), 422, asap.CodeRecordTooLate},
		{"negative", "/usage", record("a", now, `,"tokens_in":-1`), 400, asap.CodeRecordInvalid},
		{"wrong type", "/usage", record("a", now, `,"tokens_in":"many"`), 400, asap.CodeRecordInvalid},
		{"too much", "/usage", record("a", now, `,"tokens_in":1e30`), 400, asap.CodeRecordInvalid},
		{"no URN", "/usage", strings.Replace(record("a", now, ""), taskOwner, "me", 1), 400, asap.CodeRecordInvalid},
		{"unknown member", "/usage", record("a", now, `,"tokens_inn":1`), 400, asap.CodeRecordInvalid},
		{"duplicate key", "/usage", record("a", now, `,"tokens_in":1,"tokens_in":2`), 400, asap.CodeParseError},
		{"malformed", "/usage", good[:len(good)-1], 400, asap.CodeParseError},
		{"same id, other content", "/usage", record("seen", now, `,"tokens_in":6`), 409, asap.CodeRecordConflict},
		{"oversized", "/usage", record("a", now, `,"model":"`+strings.Repeat("x", 128<<10)+`"`), 413, asap.CodeRequestTooLarge},
		{"one bad of three", "/usage/batch", batch(record("a", now, ""), record("b", now, `,"tokens_in":-1`), record("c", now, "")), 400, asap.CodeRecordInvalid},
		{"one in the future", "/usage/batch", batch(record("a", now, ""), record("b", now.Add(time.Hour), "")), 422, asap.CodeRecordInFuture},
		{"one that conflicts", "/usage/batch", batch(record("a", now, ""), record("seen", now, `,"tokens_in":7`)), 409, asap.CodeRecordConflict},
		{"two that conflict", "/usage/batch", batch(record("a", now, ""), record("a", now, `,"tokens_in":7`)), 409, asap.CodeRecordConflict},
	} {
		res, text := post(c.path, c.body)
		got := loose[struct {
			Code, Detail, Title string
			Status              int
		}](t, []byte(text))
		if res.StatusCode != c.status || asap.Code(got.Code) != c.code || got.Status != c.status || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s, want %d %s", c.name, res.Status, text, c.status, c.code)
		}
		understandable(t, c.name, got.Detail)
		if after := n.holdings(t); after != before {
			t.Errorf("%s changed the ledger: %+v, before %+v", c.name, after, before)
		}
	}
	// Item by item the good ones count.
	res, text := post("/usage/batch?mode=per_item", batch(record("a", now, ""), record("b", now, `,"tokens_in":-1`), record("c", now, "")))
	if res.StatusCode/100 != 2 || n.holdings(t).Records != before.Records+2 {
		t.Errorf("item by item: %s %s", res.Status, text)
	}
}

// loose reads members by name in any case.
func loose[T any](t testing.TB, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatalf("%v in %.300s", err, b)
	}
	return v
}
