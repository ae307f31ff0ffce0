package agent

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// taskOf runs one task with the given handler and returns the answer's text.
func taskOf(t *testing.T, long bool, h Handler, more ...SkillOption) string {
	t.Helper()
	a := New("urn:asap:agent:stage", "Stage")
	if long {
		a.HandleLong("do", h, more...)
	} else {
		a.Handle("do", h, more...)
	}
	s := newTestServer(t, Config{Agents: []*Agent{a}, Ledger: newLedger(), AllowUnverified: anybody, Authenticate: byHeader, Limits: Limits{SnapshotsPerTask: 2, SnapshotBytes: 100}})
	body := strings.Replace(request("e1", "do", `,"trace_id":"t-9"`), `"input":{"a":1}`, `"input":{"a":1,"b":"x"},"parent_task_id":"task_0","config":{"timeout_seconds":90,"model":"m"}`, 1)
	return post(s, body, "Authorization", "caller").Body.String()
}

func TestTaskTellsItsRequest(t *testing.T) {
	var at time.Time
	got := taskOf(t, false, func(ctx context.Context, task *Task) (any, error) {
		at, _ = ctx.Deadline()
		if !at.Equal(task.Deadline()) || time.Until(at) > 90*time.Second || time.Until(at) < 60*time.Second {
			t.Error("deadline", at)
		}
		if task.Caller() != (Caller{"urn:asap:agent:caller", true}) || task.Agent() != "urn:asap:agent:stage" || task.Skill() != "do" || task.Conversation() != "c" ||
			task.Parent() != "task_0" || task.TraceID() != "t-9" || !strings.HasPrefix(string(task.ID()), "task_") || string(task.Config()) != `{"timeout_seconds":90,"model":"m"}` {
			t.Errorf("%+v", task)
		}
		var in struct {
			A int    `json:"a"`
			B string `json:"b"`
		}
		if err := task.Decode(&in); err != nil || in.A != 1 || in.B != "x" {
			t.Error(err, in)
		}
		var wrong struct {
			A string `json:"a"`
		}
		if task.HTTPClient().Transport == nil {
			t.Error("no transport")
		}
		return nil, task.Decode(&wrong)
	})
	if !strings.Contains(got, `"code":"invalid_input"`) || !strings.Contains(got, `"status":"failed"`) {
		t.Error(got)
	}
}

func TestTaskSnapshots(t *testing.T) {
	taskOf(t, false, func(_ context.Context, task *Task) (any, error) {
		if _, ok := task.State(); ok {
			t.Error("a state out of nothing")
		}
		for i := range 3 {
			if s, err := task.Snapshot(map[string]int{"i": i}); err != nil || s.Version != int64(i+1) || s.TaskID != task.ID() {
				t.Error(s, err)
			}
		}
		if s, ok := task.State(); !ok || string(s.Data) != `{"i":2}` {
			t.Error(s)
		}
		if s, err := task.Snapshot(nil); err != nil || string(s.Data) != "{}" {
			t.Error(s, err)
		}
		if len(task.run.states) != 2 {
			t.Error("snapshots are not bounded", len(task.run.states))
		}
		if _, err := task.Snapshot(strings.Repeat("x", 200)); err == nil {
			t.Error("a snapshot beyond the limit")
		}
		if _, err := task.Snapshot(func() {}); err == nil {
			t.Error("a snapshot of a function")
		}
		if _, err := task.InputRequired(t.Context(), func() {}); err == nil {
			t.Error("a request of a function")
		}
		task.Progress(math.NaN(), "")
		task.Progress(1000, "")
		if string(task.run.progress) != `{"percent":100,"message":""}` {
			t.Errorf("%s", task.run.progress)
		}
		return nil, nil
	})
}

func TestTaskResponseAsResult(t *testing.T) {
	response := asap.TaskResponse{Result: jsontext.Value(`{"x":1}`), Metrics: jsontext.Value(`{"tokens_in":5,"tokens_used":7}`)}
	for _, result := range []any{response, &response} {
		got := taskOf(t, false, func(context.Context, *Task) (any, error) { return result, nil })
		if !strings.Contains(got, `"result":{"x":1}`) || !strings.Contains(got, `"metrics":{"tokens_in":5,"duration_ms":`) {
			t.Error(got)
		}
	}
	for raw, want := range map[string]string{`null`: `"result":null`, `[1]`: `"result":{"value":[1]}`, `{`: `"failed"`} {
		got := taskOf(t, false, func(context.Context, *Task) (any, error) { return jsontext.Value(raw), nil })
		if !strings.Contains(got, want) {
			t.Error(raw, got)
		}
	}
	got := taskOf(t, false, func(context.Context, *Task) (any, error) { return nil, &Failure{Message: "no code"} })
	if !strings.Contains(got, `{"code":"task_failed","message":"no code"}`) {
		t.Error(got)
	}
}

// TestTaskAfterItsEnd: a handler that goes on after it was given up changes
// nothing any more.
func TestTaskAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late *Task
		done := make(chan struct{})
		got := taskOf(t, false, func(ctx context.Context, task *Task) (any, error) {
			defer close(done)
			late = task
			time.Sleep(time.Hour)
			task.Progress(5, "still here")
			task.Usage().AddAPICalls(7)
			if _, err := task.InputRequired(context.WithoutCancel(ctx), nil); !errors.Is(err, errTimeout) {
				t.Error(err)
			}
			return "late", nil
		})
		if !strings.Contains(got, "task_timeout") {
			t.Error(got)
		}
		<-done
		if late.run.progress != nil || late.usage.snapshot().APICalls != nil {
			t.Error("a task changed after its end")
		}
		synctest.Wait()
	})
}

// TestInputOfItsOwnContext: a handler may wait for less time than it has.
func TestInputOfItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New("urn:asap:agent:stage", "Stage")
		a.Handle("do", func(ctx context.Context, task *Task) (any, error) {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := task.InputRequired(short, map[string]any{"q": 1}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			return "made do", nil
		})
		n := newNetwork(t, Config{Agents: []*Agent{a}, Ledger: newLedger(), AllowUnverified: anybody})
		if got := post(n.server, request("e1", "do", "")).Body.String(); !strings.Contains(got, `"input_required"`) {
			t.Error(got)
		}
		time.Sleep(2 * time.Second)
		if got := post(n.server, request("e1", "do", "")).Body.String(); !strings.Contains(got, `{"value":"made do"}`) {
			t.Error(got)
		}
	})
}

func TestManifestOptions(t *testing.T) {
	percent, err := asap.ParsePercentage("99.5%")
	if err != nil {
		t.Fatal(err)
	}
	a := New("urn:asap:agent:full", "Full", Version("2.0.0"), Description("does it all"), Endpoints("https://x.example/asap", "wss://x.example/asap/ws"), SLA(asap.SLADefinition{Availability: &percent}))
	a.Handle("s", func(context.Context, *Task) (any, error) { return nil, nil }, Describe("a skill"), InputSchema(`{"type":"object"}`), OutputSchema(`{"type":"object"}`), Timeout(time.Second))
	s := newTestServer(t, Config{Agents: []*Agent{a}, Ledger: Unmetered()})
	m, err := asap.ParseManifest(s.manifest.body)
	if err != nil {
		t.Fatal(err)
	}
	if m.Version != "2.0.0" || m.Description != "does it all" || *m.Endpoints.Events != "wss://x.example/asap/ws" || m.SLA.Availability.String() != "99.5%" ||
		m.Capabilities.Skills[0].Description != "a skill" || string(m.Capabilities.Skills[0].OutputSchema) != `{"type":"object"}` {
		t.Errorf("%s", s.manifest.body)
	}
}

// TestComplianceHarness asks what the harness of v1.3.0 asks (compliance.md,
// sections 2, 4 and 5), in its words.
func TestComplianceHarness(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{Echo("urn:asap:agent:echo", "The Echo")}, Ledger: newLedger(), AllowUnverified: anybody})
	page := func(path string) (int, string, []byte) {
		w := newRecorder(s, path)
		return w.Code, w.Header().Get("Content-Type"), w.Body.Bytes()
	}
	status, kind, body := page("/.well-known/asap/health")
	var health struct {
		Status  string         `json:"status"`
		Agent   string         `json:"agent_id"`
		Version string         `json:"version"`
		Uptime  float64        `json:"uptime_seconds"`
		Load    jsontext.Value `json:"load"`
	}
	if err := json.Unmarshal(body, &health); err != nil || status != http.StatusOK || kind != "application/json" || health.Status != "healthy" || health.Agent != "urn:asap:agent:echo" ||
		health.Version == "" || health.Uptime < 0 || string(health.Load) != "null" {
		t.Errorf("health: %d %s %s %v", status, kind, body, err)
	}
	status, kind, body = page("/.well-known/asap/manifest.json")
	if m, err := asap.ParseManifest(body); err != nil || status != http.StatusOK || kind != "application/json" || m.Capabilities.ASAPVersion != "0.1" || !asap.ValidVersion(m.Version) || m.Name != "The Echo" {
		t.Errorf("manifest: %d %s %s %v", status, kind, body, err)
	}
	for _, check := range []string{"state", "sla"} {
		w := post(s, `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":{"asap_version":"0.1","sender":"urn:asap:agent:compliance-harness","recipient":"urn:asap:agent:under-test","payload_type":"task.request","payload":{"conversation_id":"conv_compliance_`+check+`_01","parent_task_id":null,"skill_id":"echo","input":{"compliance":"`+check+`_test"},"config":null}},"idempotency_key":"01KHXZ0000000000000000000`+check[:2]+`"},"id":"req-01KHXZ00000000000000000000"}`)
		f, err := asap.ParseRPCMessage(w.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.Envelope()
		if err != nil {
			t.Fatal(err, w.Body)
		}
		response, err := asap.ParseTaskResponse(e.Payload)
		if err != nil || w.Code != 200 || e.PayloadType != "task.response" || response.Status != asap.Completed || string(response.Result) != `{"echoed":{"compliance":"`+check+`_test"}}` {
			t.Errorf("%s: %s %v", check, w.Body, err)
		}
	}
}
