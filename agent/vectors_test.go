package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// differences are the recorded HTTP exchanges this server answers otherwise on
// purpose, each with the name of the row in docs/compatibility.md that says why.
var differences = map[string]string{
	"rpc_id_float":                          "rpc-id-kind",
	"rpc_id_object":                         "rpc-id-kind",
	"envelope_bad_urn_gives_internal_error": "custom-rules-invalid-params",
	"envelope_TaskResponse_without_correlation_gives_internal_error": "custom-rules-invalid-params",
	"payload_type_class_name_not_routed":                             "payload-names",
	"payload_invalid_for_handler_gives_internal_error":               "payload-invalid",
	"payload_extra_member_gives_internal_error":                      "payload-invalid",
	"unknown_skill_accepted_by_echo":                                 "skill-unknown",
	"handler_raises":                                                 "skills-only",
	"json_nan_in_input_becomes_null":                                 "json-nan",
	"json_infinity_as_id":                                            "json-nan",
	"json_1e400_in_input":                                            "json-large-exponent",
	"json_duplicate_members_last_wins":                               "json-duplicate-members",
	"json_lone_surrogate_escape":                                     "json-lone-surrogate",
	"json_nested_50000":                                              "json-depth",
	"nonce_duplicate_other_sender":                                   "nonce-per-sender",
	"nonce_duplicate":                                                "nonce-message",
	"nonce_burned_even_if_handler_missing_2":                         "nonce-message",
	"nonce_number":                                                   "nonce-message",
	"nonce_null":                                                     "nonce-message",
	"too_large_chunked":                                              "size-at-the-limit",
	"too_large_after_gzip":                                           "size-at-the-limit",
	"content_length_not_a_number":                                    "http-server-words",
	"thread_pool_exhausted":                                          "concurrent", // recorded beside another request; see TestOverload
	"manifest_head_405":                                              "http-head",
	"manifest_post_405":                                              "http-head",
	"health_head_405":                                                "http-head",
	"health_post_405":                                                "http-head",
	"double_slash":                                                   "http-clean-path",
	"metrics":                                                        "metrics-format",
}

// TestDifferencesAreListed keeps the lists of this package and the page for
// users together.
func TestDifferencesAreListed(t *testing.T) {
	page, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []map[string]string{differences, socketDifferences} {
		for name, row := range list {
			if row != "concurrent" && !bytes.Contains(page, []byte("| `"+row+"` |")) {
				t.Errorf("%s: docs/compatibility.md has no row %q", name, row)
			}
		}
	}
}

type exchangeFile struct {
	Groups []struct {
		ServerConfig map[string]jsontext.Value `json:"server_config"`
		Exchanges    []exchange                `json:"exchanges"`
	} `json:"groups"`
}

type exchange struct {
	Name    string `json:"name"`
	Clock   string `json:"clock"`
	Request struct {
		Method      string      `json:"method"`
		Target      string      `json:"target"`
		Headers     [][2]string `json:"headers"`
		Body        string      `json:"body"`
		BodyBase64  string      `json:"body_base64"`
		Description string      `json:"body_description"`
	} `json:"request"`
	Response struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
	} `json:"response"`
}

func (e *exchange) header(name string) string {
	for _, h := range e.Request.Headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

func load[T any](t *testing.T, path string) T {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// referenceConfig hosts the agent the transcripts were recorded with.
func referenceConfig(t *testing.T, clock *time.Time) Config {
	t.Helper()
	manifest, err := asap.ParseManifest([]byte(`{"id":"urn:asap:agent:reference","name":"Reference Agent","version":"1.3.0","description":"Reference server for transcripts","capabilities":{"asap_version":"0.1","skills":[{"id":"echo","description":"Echo back the input"}]},"endpoints":{"asap":"https://agent.example.com/asap","events":"wss://agent.example.com/asap/ws"},"sla":{"availability":"99.5%","max_latency_p95_ms":500,"max_error_rate":"1%","support_hours":"24/7"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return configFor(manifest, clock)
}

func configFor(manifest *asap.Manifest, clock *time.Time) Config {
	a := FromManifest(*manifest)
	for _, s := range manifest.Capabilities.Skills {
		a.Handle(s.ID, func(_ context.Context, t *Task) (any, error) { return object("echoed", t.Input()), nil })
	}
	return Config{Agents: []*Agent{a}, Ledger: newLedger(), Clock: func() time.Time { return *clock },
		AllowUnverified: func(*http.Request) bool { return true }}
}

func TestRecordedExchanges(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{"jsonrpc_http.json", "discovery_http.json"} {
		file := load[exchangeFile](t, "testdata/vectors/"+name)
		for _, group := range file.Groups {
			var clock time.Time
			cfg := referenceConfig(t, &clock)
			if raw, ok := group.ServerConfig["manifest"]; ok {
				manifest, err := asap.ParseManifest(raw)
				if err != nil {
					t.Fatal(err)
				}
				cfg = configFor(manifest, &clock)
			}
			if raw, ok := group.ServerConfig["manifest.auth"]; ok {
				auth := &asap.AuthScheme{}
				if err := json.Unmarshal(raw, &struct {
					Schemes *[]string `json:"schemes"`
				}{&auth.Schemes}); err != nil {
					t.Fatal(err)
				}
				cfg.Agents[0].manifest.Auth = auth
			}
			applyRecorded(&cfg, group.ServerConfig)
			clock, _ = time.Parse(time.RFC3339Nano, group.Exchanges[0].Clock)
			s := newTestServer(t, cfg)
			for _, e := range group.Exchanges {
				t.Run(e.Name, func(t *testing.T) {
					var err error
					if clock, err = time.Parse(time.RFC3339Nano, e.Clock); err != nil {
						t.Fatal(err)
					}
					diff := replay(t, s.Handler(), s.manifest.etag, &e)
					reason, expected := differences[e.Name]
					seen[e.Name] = true
					switch {
					case diff != "" && !expected:
						t.Errorf("differs from v1.3.0 (-recorded +ours):\n%s", diff)
					case diff == "" && expected:
						t.Errorf("listed as different (%s), but is not", reason)
					}
				})
			}
		}
	}
	for name := range differences {
		if !seen[name] {
			t.Errorf("the list of differences names %q, which was not recorded", name)
		}
	}
}

// applyRecorded turns the settings of the recorded server into ours.
func applyRecorded(cfg *Config, recorded map[string]jsontext.Value) {
	if v, ok := recorded["max_request_size"]; ok {
		cfg.Limits.BodyBytes, _ = strconv.ParseInt(string(v), 10, 64)
	}
	cfg.CheckNonces = string(recorded["require_nonce"]) == "true"
	switch string(recorded["rate_limit"]) {
	case `"2/minute"`:
		cfg.Limits.RequestsPerSecond, cfg.Limits.RequestBurst = 2.0/60, 2
	case `"2/second;3/minute"`:
		cfg.Limits.RequestsPerSecond, cfg.Limits.RequestBurst = 2.0/60, 2
	}
	if _, ok := recorded["token_validator"]; ok {
		cfg.AllowUnverified = nil
		cfg.Authenticate = func(r *http.Request) (Caller, error) {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			switch {
			case !strings.EqualFold(scheme, "bearer") || token == "":
				return Caller{}, ErrNoCredentials
			case token != "good-token":
				return Caller{}, errors.New("no such token")
			}
			return Caller{URN: "urn:asap:agent:client", Verified: true}, nil
		}
	}
}

// body makes the body of an exchange, also of one that is only described.
func (e *exchange) body(t *testing.T) []byte {
	t.Helper()
	if e.Request.BodyBase64 != "" {
		b, err := base64.StdEncoding.DecodeString(e.Request.BodyBase64)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if e.Request.Description == "" {
		return []byte(e.Request.Body)
	}
	good := func(message, id string) string {
		return `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":{"id":"described-` + e.Name + `","asap_version":"0.1","timestamp":"` + e.Clock +
			`","sender":"urn:asap:agent:client","recipient":"urn:asap:agent:reference","payload_type":"task.request","payload":{"conversation_id":"c","skill_id":"echo","input":{"message":` + message + `}}}},"id":` + id + `}`
	}
	length, _ := strconv.Atoi(e.header("Content-Length"))
	switch e.Name {
	case "json_nested_50000":
		return []byte(good(strings.Repeat("[", 50000)+strings.Repeat("]", 50000), `"req-1"`))
	case "huge_integer_5000_digits":
		return []byte(good(`"hi"`, strings.Repeat("7", 5000)))
	case "too_large_get_with_body":
		return bytes.Repeat([]byte("x"), 3000)
	case "exact_limit_ok":
		text := strings.Replace(good(`"hi"`, `"req-1"`), "described-exact_limit_ok", "01KHXZ01140000000000000000", 1)
		text = strings.Replace(text, `"payload_type"`, `"trace_id":"trace-114","payload_type"`, 1)
		return []byte(text + strings.Repeat(" ", length-len(text)))
	case "too_large_content_length", "too_large_chunked", "too_large_after_gzip":
		text := good(`"`+strings.Repeat("x", 3398-len(good(`""`, `"req-1"`)))+`"`, `"req-1"`)
		if e.Name != "too_large_after_gzip" {
			return []byte(text)
		}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte(text)) //nolint:errcheck // a buffer takes everything
		z.Close()
		return b.Bytes()
	}
	t.Fatalf("no body for %q", e.Request.Description)
	return nil
}

// replay sends the request and returns how the answers differ.
func replay(t *testing.T, h http.Handler, etag string, e *exchange) string {
	t.Helper()
	body := e.body(t)
	r := httptest.NewRequestWithContext(context.Background(), e.Request.Method, "http://agent.example.com"+e.Request.Target, bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	for _, head := range e.Request.Headers {
		switch strings.ToLower(head[0]) {
		case "host", "connection", "content-length":
		case "transfer-encoding":
			r.ContentLength = -1
		case "if-none-match": // tags are opaque: ours stands for the recorded one
			r.Header.Add(head[0], regexp.MustCompile("[0-9a-f]{64}").ReplaceAllString(head[1], strings.Trim(etag, `"`)))
		default:
			r.Header.Add(head[0], head[1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	theirs, ours := map[string]any{"status": e.Response.Status}, map[string]any{"status": w.Code}
	for _, head := range e.Response.Headers {
		switch name := strings.ToLower(head[0]); name {
		case "date", "server", "content-length", "connection":
		case "retry-after": // another way of counting
			theirs[name], ours[name] = true, w.Header().Get(name) != ""
		case "location":
			theirs[name], ours[name] = strings.TrimPrefix(head[1], "http://agent.example.com"), w.Header().Get(name)
		case "etag": // opaque
			theirs[name], ours[name] = true, regexp.MustCompile(`^"[0-9a-f]{64}"$`).MatchString(w.Header().Get(name))
		default:
			theirs[name], ours[name] = head[1], w.Header().Get(name)
		}
	}
	if e.Request.Method != http.MethodHead {
		theirs["body"], ours["body"] = scrub(e.Response.Body), scrub(w.Body.String())
	}
	align(theirs, ours)
	return textDiff(theirs, ours)
}

// scrub reads a body and takes out what differs from run to run.
func scrub(text string) any {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	top, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if _, ok := top["uptime_seconds"].(float64); ok {
		top["uptime_seconds"] = true
	}
	if detail, ok := top["detail"].(string); ok {
		top["detail"], _, _ = strings.Cut(detail, ": ")
	}
	if result, ok := top["result"].(map[string]any); ok {
		scrubEnvelope(result["envelope"])
	}
	if params, ok := top["params"].(map[string]any); ok {
		scrubEnvelope(params["envelope"])
	}
	if failure, ok := top["error"].(map[string]any); ok {
		if data, ok := failure["data"].(map[string]any); ok {
			scrubError(data)
		}
	}
	return v
}

func scrubEnvelope(v any) {
	envelope, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, name := range []string{"id", "timestamp", "extensions"} {
		delete(envelope, name)
	}
	if trace, _ := envelope["trace_id"].(string); regexp.MustCompile("^[0-9a-f]{32}$").MatchString(trace) {
		envelope["trace_id"] = nil // made up by the recorded server
	}
	if correlation, _ := envelope["correlation_id"].(string); len(correlation) == 26 && !strings.HasPrefix(correlation, "01KHXZ") {
		envelope["correlation_id"] = "generated"
	}
	if payload, ok := envelope["payload"].(map[string]any); ok {
		if id, _ := payload["task_id"].(string); strings.HasPrefix(id, "task_") {
			payload["task_id"] = "task_"
		}
		if id, _ := payload["original_envelope_id"].(string); len(id) == 26 && !strings.HasPrefix(id, "01KHXZ") {
			payload["original_envelope_id"] = "generated"
		}
	}
}

func scrubError(data map[string]any) {
	if text, _ := data["error"].(string); strings.HasPrefix(text, "Invalid ") || strings.HasPrefix(text, "Exceeds") {
		data["error"], _, _ = strings.Cut(text, ":")
		if strings.HasPrefix(text, "Invalid UTF-8") || strings.HasPrefix(text, "Exceeds") {
			data["error"] = "Invalid JSON" // the same to the sender
		}
	}
	if list, ok := data["validation_errors"].([]any); ok {
		for i := range list {
			item, _ := list[i].(map[string]any)
			loc, _ := item["loc"].([]any)
			list[i] = map[string]any{"loc": loc, "type": item["type"]}
		}
		slices.SortFunc(list, func(a, b any) int { return strings.Compare(cmpText(a), cmpText(b)) })
	}
	if details, ok := data["details"].(map[string]any); ok {
		for _, name := range []string{"age_seconds", "future_offset_seconds", "timestamp"} {
			if details[name] != nil {
				details[name] = true
			}
		}
	}
	for _, name := range []string{"retry_after", "limit"} { // another way of counting
		if data[name] != nil {
			data[name] = true
		}
	}
}

func cmpText(v any) string {
	b, _ := json.Marshal(v, json.Deterministic(true))
	return string(b)
}

// align takes out of our errors what the recorded ones do not have: more to
// read is no difference.
func align(theirs, ours map[string]any) {
	dig := func(m map[string]any) map[string]any {
		for _, name := range []string{"body", "error", "data"} {
			m, _ = m[name].(map[string]any)
		}
		return m
	}
	if body, ok := theirs["body"].(map[string]any); ok && body["detail"] != nil && body["code"] == nil {
		if body, ok := ours["body"].(map[string]any); ok {
			delete(body, "code")
		}
	}
	recorded, got := dig(theirs), dig(ours)
	if recorded == nil || got == nil {
		return
	}
	for name := range got {
		if _, ok := recorded[name]; !ok {
			delete(got, name)
		}
	}
}

func newTestServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// textDiff compares by text: cmp takes forever on deeply nested values of any.
func textDiff(theirs, ours any) string {
	pretty := func(v any) string {
		b, _ := json.Marshal(v, json.Deterministic(true), jsontext.Multiline(true))
		return string(b)
	}
	return cmp.Diff(pretty(theirs), pretty(ours))
}
