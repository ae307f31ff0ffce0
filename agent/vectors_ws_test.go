package agent

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"
)

// socketDifferences are the recorded connections this server answers otherwise
// on purpose, each with the name of the row in docs/compatibility.md.
var socketDifferences = map[string]string{
	"invalid_urn_internal_error":                               "custom-rules-invalid-params",
	"client_ping_object_is_invalid_request":                    "ws-client-ping",
	"handler_raises":                                           "skills-only",
	"wrong_path_403":                                           "ws-path",
	"server_shutdown":                                          "ws-shutdown-code",
	"heartbeat_unanswered_goes_stale":                          "ws-stale",
	"bearer_missing_handshake_accepted_then_error_per_message": "ws-authentication",
	"message_over_max_request_size":                            "ws-json-rpc-only",
}

type socketFile struct {
	Groups []struct {
		ServerConfig map[string]jsontext.Value `json:"server_config"`
		Connections  []recordedSocket          `json:"connections"`
	} `json:"groups"`
}

type recordedSocket struct {
	Name    string            `json:"name"`
	Clock   string            `json:"clock"`
	Path    string            `json:"url_path"`
	Headers map[string]string `json:"handshake_headers"`
	Failed  *struct {
		Status int `json:"status"`
	} `json:"handshake_failed"`
	Frames []struct {
		Dir    string  `json:"dir"`
		Text   string  `json:"text"`
		Binary string  `json:"binary_base64"`
		Code   int     `json:"code"`
		Reason string  `json:"reason"`
		Waited float64 `json:"waited_seconds"`
	} `json:"frames"`
}

func TestRecordedSockets(t *testing.T) {
	file := load[socketFile](t, "testdata/vectors/websocket.json")
	seen := map[string]bool{}
	for _, group := range file.Groups {
		for _, recorded := range group.Connections {
			t.Run(recorded.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					diff := replaySocket(t, group.ServerConfig, &recorded)
					reason, expected := socketDifferences[recorded.Name]
					seen[recorded.Name] = true
					switch {
					case diff != "" && !expected:
						t.Errorf("differs from v1.3.0 (-recorded +ours):\n%s", diff)
					case diff == "" && expected:
						t.Errorf("listed as different (%s), but is not", reason)
					}
				})
			})
		}
	}
	for name := range socketDifferences {
		if !seen[name] {
			t.Errorf("the list of differences names %q, which was not recorded", name)
		}
	}
}

func replaySocket(t *testing.T, recordedConfig map[string]jsontext.Value, rec *recordedSocket) string {
	t.Helper()
	base, err := time.Parse(time.RFC3339Nano, rec.Clock)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	cfg := referenceConfig(t, new(time.Time))
	cfg.Clock = func() time.Time { return base.Add(time.Since(begun)) }
	news := &newsDesk{}
	cfg.Notifications = news
	applyRecorded(&cfg, recordedConfig)
	cfg.Limits.RequestsPerSecond = 0 // it does not apply here
	if string(recordedConfig["websocket_message_rate_limit"]) == "null" {
		cfg.Limits.MessagesPerSecond = -1
	}
	if _, ok := recordedConfig["heartbeat_interval_seconds"]; ok {
		cfg.Limits.HeartbeatEvery, cfg.Limits.StaleAfter = 500*time.Millisecond, 1500*time.Millisecond
	}
	n := newNetwork(t, cfg)
	header := http.Header{}
	for name, value := range rec.Headers {
		header.Set(name, value)
	}
	c, status, err := n.dial(rec.Path, header)
	if rec.Failed != nil || err != nil {
		want := http.StatusSwitchingProtocols
		if rec.Failed != nil {
			want = rec.Failed.Status
		}
		return textDiff(want, status)
	}
	frames := read(c)
	var theirs, ours []any
	for i, f := range rec.Frames {
		switch f.Dir {
		case "client":
			kind, data := websocket.MessageText, []byte(f.Text)
			if f.Binary != "" {
				kind = websocket.MessageBinary
				data, _ = base64.StdEncoding.DecodeString(f.Binary)
			}
			c.Write(context.Background(), kind, data) //nolint:errcheck // the server may have closed: seen below
		case "server":
			if strings.Contains(f.Text, `"sla.breach"`) {
				news.publish(f.Text)
			}
			text, _ := frames.within(time.Second)
			a, b := map[string]any{"body": scrub(f.Text)}, map[string]any{"body": scrub(text)}
			align(a, b)
			theirs, ours = append(theirs, a), append(ours, b)
		case "none":
			text, _ := frames.within(time.Duration(f.Waited * float64(time.Second)))
			theirs, ours = append(theirs, "nothing"), append(ours, strings.TrimSpace("nothing "+text))
		case "server_close":
			if rec.Name == "server_shutdown" {
				n.stop()
			}
			if rec.Name == "heartbeat_unanswered_goes_stale" && i == len(rec.Frames)-1 {
				c.Close(websocket.StatusNormalClosure, "")
			}
			for {
				text, open := frames.within(time.Minute)
				if !open {
					break
				}
				ours = append(ours, text)
			}
			code := <-frames.code
			theirs, ours = append(theirs, []any{f.Code, f.Reason}), append(ours, []any{int(code.Code), code.Reason})
		}
	}
	return textDiff(theirs, ours)
}

// newsDesk is a source of notifications.
type newsDesk struct {
	mu   sync.Mutex
	push map[int]func(context.Context, []byte) bool
	next int
	fail error
}

func (d *newsDesk) Subscribe(_ context.Context, _ Caller, _ jsontext.Value, push func(context.Context, []byte) bool) (func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, d.fail
	}
	if d.push == nil {
		d.push = make(map[int]func(context.Context, []byte) bool)
	}
	id := d.next
	d.next++
	d.push[id] = push
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.push, id)
	}, nil
}

func (d *newsDesk) publish(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, push := range d.push {
		push(context.Background(), []byte(text))
	}
}
