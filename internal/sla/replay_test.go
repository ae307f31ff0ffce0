package sla

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What each replay gives, a line for each line of output: the members that
// matter. A number may differ by 1e-6; "in a b" is a range.
var replays = map[string][]string{
	"U1": {
		`{"kind":"breach","event":"firing","objective":"availability","severity":"warning","started_at":"2026-02-18T12:10:18Z","resolved_at":null}`,
		`{"kind":"status","metrics":{"uptime_percent":98.333333},"down_seconds":60,"unknown_seconds":0,"coverage_percent":100,"data_status":"ok"}`,
	},
	"U3":         {`{"metrics":{"uptime_percent":100},"unknown_seconds":1110,"coverage_percent":69.166667,"data_status":"ok"}`},
	"U5":         {`{"metrics":{"uptime_percent":100},"unknown_seconds":60,"coverage_percent":98.333333}`},
	"U6":         {`{"metrics":{"uptime_percent":80},"down_seconds":600,"excluded_seconds":600,"coverage_percent":100}`},
	"U6-without": {`{"metrics":{"uptime_percent":66.666667},"excluded_seconds":0}`},
	"U8": {`{"metrics":{"uptime_percent":null,"error_rate_percent":null},"data_status":"excluded","coverage_percent":null,"tasks_excluded":30,"open_breaches":[],` +
		`"objectives":[{"data_status":"excluded","met":null},{"data_status":"excluded"},{"data_status":"excluded"}]}`},
	"U10": {`{"metrics":{"uptime_percent":90},"coverage_percent":100,"effective_period_start":"2026-02-18T12:50:00Z"}`},

	"D1": {`{"metrics":{"uptime_percent":null,"latency_p95_ms":null,"error_rate_percent":null},"data_status":"no_data","compliance_percent":null,"sla_score":null}`},
	"D2": {`{"metrics":{"uptime_percent":100,"latency_p95_ms":null,"error_rate_percent":null},"compliance_percent":100}`},
	"D4": {`{"metrics":{"uptime_percent":0},"data_status":"insufficient_data","open_breaches":[]}`},

	"E1": {`{"metrics":{"error_rate_percent":0.990099,"tasks_completed":200,"tasks_failed":2},"open_breaches":[]}`},
	"E2": {`{"metrics":{"error_rate_percent":1},"open_breaches":[],"objectives":[{},{},{"met":true,"budget_remaining":0,"promised":"1%"}]}`},
	"E4": {
		`{"event":"firing","objective":"error_rate","threshold":"1.0%","started_at":"2026-02-18T12:40:00Z"}`,
		`{"metrics":{"error_rate_percent":1.020408,"tasks_failed":1},"tasks_excluded":8}`,
	},
	"E6":  {`{"metrics":{"tasks_failed":1,"tasks_completed":99},"open_breaches":[]}`},
	"E10": {`{"event":"firing","actual":"3.225806%"}`, `{"metrics":{"tasks_failed":1,"latency_p95_ms":100}}`},
	"E12": {`{"metrics":{"tasks_failed":0,"tasks_completed":100,"latency_p95_ms":100},"tasks_excluded":2,"open_breaches":[]}`},
	"E13": {
		`{"event":"firing","severity":"critical","started_at":"2026-02-18T12:50:01Z"}`,
		`{"metrics":{"tasks_completed":19,"tasks_failed":3},"tasks_cancelled":1,"tasks_rejected":1,"tasks_excluded":0}`,
	},

	"L1":     {`{"metrics":{"latency_p95_ms":94}}`},
	"L3-one": {`{"metrics":{"latency_p95_ms":100}}`},
	"L3-two": {`{"metrics":{"latency_p95_ms":"in 9945 10055"}}`},
	"L4":     {`{"metrics":{"latency_p95_ms":"in 995 1005"}}`},
	"L9-19":  {`{"event":"firing","objective":"latency","severity":"critical","threshold":"500ms"}`, `{"open_breaches":[{"objective":"latency"}]}`},
	"L9-20":  {`{"metrics":{"latency_p95_ms":100},"open_breaches":[]}`},
	"L9-40":  {`{"metrics":{"latency_p95_ms":100},"open_breaches":[]}`},
	"L9-41": {
		`{"event":"firing","objective":"latency","severity":"warning","threshold":"500ms","actual":"501ms"}`,
		`{"metrics":{"latency_p95_ms":501},"objectives":[{},{"met":false},{}],"compliance_percent":97.560976}`,
	},
	"L14": {`{"metrics":{"tasks_completed":1,"latency_p95_ms":86400000},"latency_clamped":1}`},

	"W3": {
		`{"metrics":{"tasks_failed":1},"effective_period_start":"2026-02-18T12:00:00Z"}`,
		`{"metrics":{"tasks_failed":2},"period_start":"2026-02-18T12:00:00.001Z","effective_period_start":"2026-02-18T12:00:00Z"}`,
	},
	"W4": {`{"metrics":{"tasks_failed":0,"error_rate_percent":null},"objectives":[]}`},
	"W9": {`{"metrics":{"tasks_failed":0},"late_dropped":1}`},

	"B2": {},
	"B3": {
		`{"at":"2026-02-18T12:00:18Z","event":"firing","severity":"warning","threshold":"99.5%","started_at":"2026-02-18T12:00:18Z","duration_seconds":0,"close_reason":null,"flaps":0}`,
		`{"at":"2026-02-18T12:03:00Z","event":"escalated","severity":"critical","actual":"95.0%"}`,
		`{"at":"2026-02-18T13:09:42Z","event":"resolved","severity":"critical","started_at":"2026-02-18T12:00:18Z","resolved_at":"2026-02-18T13:09:42Z","duration_seconds":4164,"close_reason":"recovered"}`,
	},
	"B9": {
		`{"event":"firing","severity":"warning","started_at":"2026-02-18T12:06:00Z"}`,
		`{"metrics":{"uptime_percent":89},"open_breaches":[{"severity":"warning","duration_seconds":3240}]}`,
	},
	"B11-warning": {`{"event":"firing"}`, `{"metrics":{"uptime_percent":98},"open_breaches":[{"severity":"warning"}]}`},
	"B11-critical": {
		`{"event":"firing","severity":"warning","started_at":"2026-02-18T12:00:36Z"}`,
		`{"at":"2026-02-18T12:03:00Z","event":"escalated","severity":"critical"}`,
		`{"metrics":{"uptime_percent":90},"open_breaches":[{"severity":"critical"}]}`,
	},
	"B11-limit3":  {`{"event":"firing"}`, `{"event":"escalated"}`, `{"metrics":{"error_rate_percent":6},"open_breaches":[{"severity":"critical"}]}`},
	"B11-limit10": {`{"event":"firing"}`, `{"metrics":{"error_rate_percent":10.5},"open_breaches":[{"severity":"warning"}]}`},
	"B16": {
		`{"event":"firing","threshold":"99.5%"}`,
		`{"event":"resolved","threshold":"99.5%","close_reason":"sla_changed","resolved_at":"2026-02-18T12:20:00Z"}`,
		`{"metrics":{"uptime_percent":99.2},"open_breaches":[],"objectives":[{"promised":"99.0%","met":true}]}`,
	},
	"B17": {
		`{"event":"firing"}`, `{"event":"escalated"}`,
		`{"event":"resolved","close_reason":"agent_removed","resolved_at":"2026-02-18T12:05:00Z"}`,
		`{"down_seconds":300,"open_breaches":[]}`,
	},

	"S1": {`{"uptime_percent_support_hours":93.75,"support_hours":"business"}`},
	"S3": {`{"uptime_percent_support_hours":null,"support_hours":"follow-the-sun","compliance_percent":100}`},
	"V1": {
		`{"objectives":[{"promised":"99.5%"}]}`, `{"objectives":[{"promised":"99.5"}]}`, `{"objectives":[{"promised":"2.5 %"}]}`,
	},
	"V5": {`{"event":"firing","severity":"critical","threshold":"0ms"}`, `{"open_breaches":[{"objective":"latency"}]}`},
	"V6": {
		`{"metrics":{"tasks_failed":29},"objectives":[],"compliance_percent":null,"time_in_compliance_percent":null}`,
		`{"metrics":{"error_rate_percent":100},"objectives":[],"compliance_percent":null,"open_breaches":[]}`,
	},
	"A2": {
		`{"agent":"urn:asap:agent:x","event":"firing"}`,
		`{"agent_id":"urn:asap:agent:x","metrics":{"uptime_percent":96.666667},"open_breaches":[{"agent":"urn:asap:agent:x"}]}`,
		`{"agent_id":"urn:asap:agent:b","metrics":{"uptime_percent":96.666667},"open_breaches":[],"objectives":[{"met":true}]}`,
	},
	"A8": {
		`{"event":"firing"}`, `{"event":"escalated"}`,
		`{"open_breaches":[{"duration_seconds":582,"resolved_at":null}]}`,
		`{"open_breaches":[{"duration_seconds":1182,"resolved_at":null}]}`,
	},

	// A second outage within five minutes of the first one's leaving the window
	// would continue the breach; here the window is kept, so it does not.
	"flap": {
		`{"event":"firing"}`,
		`{"at":"2026-02-18T13:05:12Z","event":"resolved","resolved_at":"2026-02-18T13:00:12Z","duration_seconds":3594}`,
	},
	"for": {
		`{"at":"2026-02-18T12:01:00Z","event":"firing","started_at":"2026-02-18T12:00:00Z","duration_seconds":60}`,
		`{"event":"resolved","resolved_at":"2026-02-18T12:01:09Z","duration_seconds":69}`,
		`{"at":"2026-02-18T12:06:00Z","event":"firing","started_at":"2026-02-18T12:05:00Z","severity":"critical"}`,
	},
	// The last result, of 12:09, held until 12:10:30.
	"expired": {
		`{"event":"firing"}`, `{"event":"escalated"}`,
		`{"at":"2026-02-18T14:10:30Z","event":"resolved","close_reason":"expired","resolved_at":"2026-02-18T14:10:30Z"}`,
	},
	// Five minutes after 13:05 there is enough data again: 13:05 to 13:06:30 is up,
	// then nothing is known; the breach waits and expires two hours later.
	"unknown": {
		`{"event":"firing","started_at":"2026-02-18T12:00:18Z"}`,
		`{"open_breaches":[{"stale":true,"severity":"warning"}],"unknown_seconds":450}`,
	},
	"maintenance": {
		`{"event":"firing"}`, `{"event":"escalated"}`,
		`{"open_breaches":[{"status":"firing","stale":false}],"excluded_seconds":1200}`,
		`{"event":"resolved","resolved_at":"2026-02-18T13:20:00Z"}`,
	},
	"late-probe": {
		`{"at":"2026-02-18T12:15:00Z","event":"firing","started_at":"2026-02-18T12:15:00Z"}`,
		`{"down_seconds":80,"coverage_percent":100}`,
	},
	"late-task": {
		`{"at":"2026-02-18T12:50:00Z","event":"firing","started_at":"2026-02-18T12:50:00Z"}`,
		`{"metrics":{"tasks_failed":2}}`,
	},
	"probers": {
		`{"metrics":{"uptime_percent":100},"coverage_percent":100}`,
		`{"event":"firing","started_at":"2026-02-18T12:00:23Z"}`, `{"event":"escalated"}`,
		`{"down_seconds":295}`,
	},
	"threshold": {
		`{"event":"firing","started_at":"2026-02-18T12:30:00Z","actual":"200ms"}`,
		`{"threshold_approximate":true,"metrics":{"latency_p95_ms":"in 199 201"}}`,
		`{"threshold_approximate":false,"metrics":{"latency_p95_ms":null}}`,
	},
	"few": {
		`{"event":"firing","started_at":"2026-02-18T12:30:03Z"}`,
		`{"open_breaches":[{"objective":"latency"}]}`,
		`{"event":"resolved","close_reason":"expired","resolved_at":"2026-02-18T14:30:03Z"}`,
	},
	"projected": {`{"objectives":[{"projected_breach_at":"2026-02-18T12:00:18Z","met":true}]}`},
}

func TestReplays(t *testing.T) {
	files, err := filepath.Glob("testdata/replay/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no replays: %v", err)
	}
	special := map[string]bool{"B6": true, "L10": true}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		want, known := replays[name]
		if special[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if !known {
				t.Fatal("nobody says what it gives")
			}
			compareLines(t, replayFile(t, name), want)
		})
	}
	if len(files) != len(replays)+len(special) {
		t.Errorf("%d replays, but %d with an expectation", len(files), len(replays)+len(special))
	}
}

func compareLines(t *testing.T, got, want []string) {
	t.Helper()
	for i, line := range got {
		if i >= len(want) {
			t.Errorf("one line more than expected: %s", line)
			continue
		}
		if fault := differs(decode(t, want[i]), decode(t, line), ""); fault != "" {
			t.Errorf("line %d: %s\n%s", i+1, fault, line)
		}
	}
	if len(got) < len(want) {
		t.Errorf("%d lines, want %d: missing %s", len(got), len(want), want[len(got)])
	}
}

func replayFile(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/replay", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return replayText(t, string(data))
}

func replayText(t *testing.T, text string) []string {
	t.Helper()
	var out bytes.Buffer
	if err := Replay(strings.NewReader(text), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	return lines[:len(lines)-1]
}

func decode(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// differs says where got is not what is wanted; objects may have more members.
func differs(want, got any, where string) string {
	switch want := want.(type) {
	case map[string]any:
		members, ok := got.(map[string]any)
		if !ok {
			return where + " is not an object"
		}
		for name, value := range want {
			if _, there := members[name]; !there {
				return where + "." + name + " is missing"
			}
			if fault := differs(value, members[name], where+"."+name); fault != "" {
				return fault
			}
		}
	case []any:
		items, ok := got.([]any)
		if !ok || len(items) != len(want) {
			return fmt.Sprintf("%s is %v, want %v", where, got, want)
		}
		for i := range want {
			if fault := differs(want[i], items[i], fmt.Sprintf("%s[%d]", where, i)); fault != "" {
				return fault
			}
		}
	case float64:
		if v, ok := got.(float64); !ok || math.Abs(v-want) > 1e-6 {
			return fmt.Sprintf("%s is %v, want %v", where, got, want)
		}
	case string:
		var low, high float64
		if n, err := fmt.Sscanf(want, "in %g %g", &low, &high); n == 2 && err == nil {
			if v, ok := got.(float64); !ok || v < low || v > high {
				return fmt.Sprintf("%s is %v, want %s", where, got, want)
			}
			return ""
		}
		if got != any(want) {
			return fmt.Sprintf("%s is %v, want %v", where, got, want)
		}
	default:
		if got != want {
			return fmt.Sprintf("%s is %v, want %v", where, got, want)
		}
	}
	return ""
}

// B6: asked a hundred times, a breach is one record and fired once.
func TestReplayAsksAHundredTimes(t *testing.T) {
	lines := replayFile(t, "B6")
	fired, asked := 0, 0
	var id any
	for _, line := range lines {
		v := decode(t, line).(map[string]any)
		switch v["kind"] {
		case "breach":
			if v["event"] == "firing" {
				fired++
				id = v["id"]
			}
		case "status":
			asked++
			open := v["open_breaches"].([]any)
			if len(open) != 1 || open[0].(map[string]any)["id"] != id {
				t.Fatalf("open breaches: %v", open)
			}
		}
	}
	if fired != 1 || asked != 100 {
		t.Errorf("fired %d times, asked %d times", fired, asked)
	}
}

// L10: short latencies are told exactly.
func TestReplayTellsShortLatenciesExactly(t *testing.T) {
	for i, line := range replayFile(t, "L10") {
		if fault := differs(decode(t, fmt.Sprintf(`{"metrics":{"latency_p95_ms":%d,"tasks_completed":1}}`, i+1)), decode(t, line), ""); fault != "" {
			t.Error(fault)
		}
	}
}

const (
	registerX = `{"at":"2026-02-18T11:00:00Z","kind":"register","agent":"urn:asap:agent:x"}` + "\n"
	queryX    = `{"at":"2026-02-18T13:00:00Z","kind":"query","agent":"urn:asap:agent:x","window":"1h"}` + "\n"
)

// L6: 1 to 10000 ms, once each.
func TestReplayManyLatencies(t *testing.T) {
	var in strings.Builder
	in.WriteString(registerX)
	for ms := 1; ms <= 10_000; ms++ {
		fmt.Fprintf(&in, `{"at":"2026-02-18T12:30:00Z","kind":"task","agent":"urn:asap:agent:x","task_id":"%d","outcome":"completed","latency_ms":%d}`+"\n", ms, ms)
	}
	compareLines(t, replayText(t, in.String()+queryX), []string{`{"metrics":{"latency_p95_ms":"in 9448 9552","tasks_completed":10000}}`})
}

// A7: the same instant in another zone.
func TestReplayTakesAnyOffset(t *testing.T) {
	lines := replayText(t, registerX+strings.Replace(queryX, "13:00:00Z", "14:00:00.5+01:00", 1))
	compareLines(t, lines, []string{`{"at":"2026-02-18T13:00:00.500Z","period_start":"2026-02-18T12:00:00.500Z"}`})
}

// A line that is no event ends the replay, after what came before it was told.
func TestReplayNamesBadLines(t *testing.T) {
	const at = `{"at":"2026-02-18T12:00:00Z",`
	for _, c := range []struct{ line, want string }{
		{`nonsense`, "line 3: "},
		{`{"at":"yesterday"}`, "line 3: "},
		{`{"kind":"clock"}`, `"at" is missing`},
		{at + `"kind":"dance"}`, `unknown kind "dance"`},
		{at + `"kind":"clock","kind":"clock"}`, "duplicate"},
		{at + `"kind":"register","agent":"x"}`, "line 3: "},
		{at + `"kind":"register","agent":"urn:asap:agent:y","probe_interval_s":0}`, "probe_interval_s"},
		{at + `"kind":"register","agent":"urn:asap:agent:y","probe_interval_s":1e300}`, "probe_interval_s"},
		{at + `"kind":"register","agent":"urn:asap:agent:y","tz":"Mars/Olympus"}`, "tz: "},
		{at + `"kind":"sla","agent":"urn:asap:agent:x","sla":{"availability":"1.2.3%"}}`, "availability"},
		{at + `"kind":"sla","agent":"urn:asap:agent:x","sla":{"availability":"150%"}}`, "availability"},
		{at + `"kind":"sla","agent":"urn:asap:agent:x","sla":{"max_latency_p95_ms":-1}}`, "max_latency_p95_ms"},
		{at + `"kind":"sla","agent":"urn:asap:agent:x","sla":{"max_latency_p95_ms":1.5}}`, "max_latency_p95_ms"},
		{at + `"kind":"policy","windows":["1h"]}`, "a policy comes before all other lines"},
		{at + `"kind":"probe","agent":"urn:asap:agent:x"}`, `"state"`},
		{at + `"kind":"probe","agent":"urn:asap:agent:x","state":"sideways"}`, "up, down, unknown"},
		{at + `"kind":"probe","agent":"urn:asap:agent:nobody","state":"up"}`, "is not registered"},
		{at + `"kind":"task","agent":"urn:asap:agent:x","outcome":"cancelled","cancelled_by":"nobody"}`, "cancelled_by"},
		{at + `"kind":"maintenance","agent":"urn:asap:agent:x"}`, `"start" and "end"`},
		{at + `"kind":"query","agent":"urn:asap:agent:x"}`, `"window"`},
		{at + `"kind":"query","agent":"urn:asap:agent:x","window":"2d"}`, "window must be one of: 1h, 24h, 7d, 30d"},
		{at + `"kind":"query","agent":"urn:asap:agent:nobody","window":"1h"}`, "is not registered"},
		{`{"at":"2026-02-18T10:59:59Z","kind":"clock"}`, "time goes backwards"},
		{`{"at":"` + strings.Repeat("1", maxReplayLine) + `"}`, "line 3: "},
	} {
		var out bytes.Buffer
		err := Replay(strings.NewReader(registerX+"\n"+c.line+"\n"), &out)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100s: error %v, want %q", c.line, err, c.want)
		}
	}
	for _, line := range []string{`"windows":[]`, `"windows":["1h","1h"]`, `"windows":["2h"]`, `"min_tasks":0`, `"for_s":-1`, `"resolve_after_s":1e20`} {
		if err := Replay(strings.NewReader(at+`"kind":"policy",`+line+`}`), &bytes.Buffer{}); err == nil {
			t.Errorf("policy %s was taken", line)
		}
	}
}

// What the rules refuse is told, and the replay goes on without it.
func TestReplayLeavesOutWhatIsRefused(t *testing.T) {
	const head = `{"at":"2026-02-18T12:00:00Z","agent":"urn:asap:agent:x",`
	for _, c := range []struct{ line, want string }{
		{`"kind":"task","outcome":"completed","latency_ms":-5}`, "latency_ms"},
		{`"kind":"task","outcome":"cancelled","elapsed_ms":-5}`, "elapsed_ms"},
		{`"kind":"task","outcome":"won"}`, "outcome must be one of"},
		{`"kind":"task","outcome":"failed","cause":"weather"}`, `unknown cause "weather"`},
		{`"kind":"task","outcome":"failed","received_at":"2026-02-18T11:50:00Z"}`, "10m0s in the future"},
		{`"kind":"probe","state":"up","received_at":"2026-02-18T11:50:00Z"}`, "10m0s in the future"},
		{`"kind":"maintenance","start":"2026-02-18T12:59:00Z","end":"2026-02-18T14:00:00Z"}`, "must be announced 1h0m0s before"},
		{`"kind":"maintenance","start":"2026-02-18T14:00:00Z","end":"2026-02-18T14:00:00Z"}`, "must end after it starts"},
	} {
		var told string
		replayer := Replayer{Refused: func(line int, err error) { told = fmt.Sprintf("%d: %v", line, err) }}
		var out bytes.Buffer
		if err := replayer.Run(strings.NewReader(registerX+head+c.line+"\n"+queryX), &out); err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
		if !strings.HasPrefix(told, "2: refused: ") || !strings.Contains(told, c.want) {
			t.Errorf("%s: told %q, want %q", c.line, told, c.want)
		}
		if !jsontext.Value(strings.TrimSpace(out.String())).IsValid() || !strings.Contains(out.String(), `"tasks_completed":0,"tasks_failed":0}`) {
			t.Errorf("%s: %s", c.line, out.String())
		}
	}
}

// Whatever is replayed, every line of output is JSON and times do not go back.
func FuzzReplay(f *testing.F) {
	// Short seeds: every kind of line once.
	f.Add([]byte(registerX + strings.Join([]string{
		`{"at":"2026-02-18T11:00:00Z","kind":"sla","agent":"urn:asap:agent:x","sla":{"availability":"99%","max_error_rate":"1%"}}`,
		`{"at":"2026-02-18T11:00:00Z","kind":"probe","agent":"urn:asap:agent:x","state":"down"}`,
		`{"at":"2026-02-18T11:05:00Z","kind":"task","agent":"urn:asap:agent:x","outcome":"timeout"}`,
		`{"at":"2026-02-18T11:05:00Z","kind":"maintenance","agent":"urn:asap:agent:x","start":"2026-02-18T12:10:00Z","end":"2026-02-18T12:20:00Z"}`,
		`{"at":"2026-02-18T11:01:00Z","received_at":"2026-02-18T11:06:00Z","kind":"probe","agent":"urn:asap:agent:x","state":"up","observer":"p2"}`,
		`{"at":"2026-02-18T12:30:00Z","kind":"clock"}`,
		`{"at":"2026-02-18T12:40:00Z","kind":"remove","agent":"urn:asap:agent:x"}`,
	}, "\n") + "\n" + queryX))
	f.Add([]byte(`{"at":"2026-02-18T11:00:00Z","kind":"policy","windows":["24h"],"min_tasks":1,"for_s":1,"resolve_after_s":1}` + "\n" + registerX + queryX))
	f.Add([]byte(registerX + queryX))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		_ = Replay(bytes.NewReader(data), &out) // any answer will do, but for a panic
		last := Instant(math.MinInt64)
		for line := range strings.Lines(out.String()) {
			var l struct {
				At Instant `json:"at"`
			}
			if err := json.Unmarshal([]byte(line), &l, json.RejectUnknownMembers(false)); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if l.At < last {
				t.Fatalf("%s comes after %s", l.At, last)
			}
			last = l.At
		}
	})
}
