package sla

import (
	"math"
	"os"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the zones below, on any machine

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
)

// What v1.3.0 judges, recorded. Whether a promise is broken, and the texts, are
// the same; severities differ where sla.md repairs them, and are listed.
func TestAgreesWithRecordedJudgements(t *testing.T) {
	data, err := os.ReadFile("testdata/math.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Cases []struct {
			Name    string         `json:"name"`
			SLA     map[string]any `json:"sla"`
			Metrics struct {
				Uptime  float64 `json:"uptime_percent"`
				Latency int64   `json:"latency_p95_ms"`
				Errors  float64 `json:"error_rate_percent"`
			} `json:"metrics"`
			Breaches []struct {
				Type      Objective `json:"breach_type"`
				Threshold string    `json:"threshold"`
				Severity  Severity  `json:"severity"`
			} `json:"breaches"`
		} `json:"breach_evaluation"`
	}
	if err := json.Unmarshal(data, &v); err != nil || len(v.Cases) == 0 {
		t.Fatalf("%d cases, %v", len(v.Cases), err)
	}
	refused := []string{"unparsable_threshold_skipped", "over_100_clamped", "negative_availability"}
	otherSeverity := map[string]Severity{
		"avail_95_is_warning": Critical, // ten times the promised downtime
	}
	for _, c := range v.Cases {
		text, err := json.Marshal(c.SLA)
		if err != nil {
			t.Fatal(err)
		}
		if c.SLA == nil {
			text = []byte("{}")
		}
		def, err := asap.ParseSLADefinition(text)
		if bad := slices.Contains(refused, c.Name); bad != (err != nil) {
			t.Errorf("%s: %v", c.Name, err)
		}
		if err != nil {
			continue
		}
		p := newPromise(def)
		const whole = 100_000_000
		counts := Counts{Timed: 100, Failed: int64(math.Round(c.Metrics.Errors / 100 * whole))}
		counts.Completed = whole - counts.Failed
		slow, slow2 := p.slow(c.Metrics.Latency)
		counts.Slow, counts.Slow2 = 100*slow, 100*slow2
		up := Instant(math.Round(c.Metrics.Uptime / 100 * whole))
		got := map[Objective]verdict{}
		for o, objective := range objectives {
			if !p.makes(objective) {
				continue
			}
			var verdict verdict
			switch o {
			case 0:
				verdict = p.judgeAvailability(spans{up: up, down: whole - up}, true)
			case 1:
				var a agent
				a.sums[0].sketch.Record(min(c.Metrics.Latency, int64(maxLatencyMS)))
				verdict = p.judgeLatency(&counts, &a.sums[0].sketch, 20, true)
			default:
				verdict = p.judgeErrors(&counts, 20, true)
			}
			if verdict.breached {
				got[objective] = verdict
			}
		}
		if len(got) != len(c.Breaches) {
			t.Errorf("%s: %v broken, want %v", c.Name, got, c.Breaches)
		}
		for _, b := range c.Breaches {
			verdict, ok := got[b.Type]
			want := b.Severity
			if other, ok := otherSeverity[c.Name]; ok {
				want = other
			}
			severity := Warning
			if verdict.critical {
				severity = Critical
			}
			if !ok || p.threshold(b.Type) != b.Threshold || severity != want {
				t.Errorf("%s: %s is %v, threshold %s, %s; want %s, %s", c.Name, b.Type, ok, p.threshold(b.Type), severity, b.Threshold, want)
			}
		}
	}
}

// E8: what an agent waits for does not count as its time.
func TestAgentTime(t *testing.T) {
	noon := InstantOf(time.Date(2026, 2, 18, 12, 0, 0, 0, time.UTC))
	if got := AgentTime(noon, noon+10*minute+3*second, 10*minute); got != 3000 {
		t.Errorf("%d ms, want 3000", got)
	}
}

func TestScore(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want float64
	}{{2, 0.342}, {20, 0.839}, {1000, 0.996}} {
		if got := wilsonLower(1, c.n, z95TwoSided); math.Abs(got-c.want) > 0.0005 {
			t.Errorf("%d of %d: %v, want %v", c.n, c.n, got, c.want)
		}
	}
	if score() != nil || score(component{exponent: 0.4}) != nil {
		t.Error("a score without data")
	}
	all := score(component{1, 1000, 0.4}, component{1, 1000, 0.4}, component{1, 1000, 0.2})
	two := score(component{1, 1000, 0.4}, component{exponent: 0.4}, component{1, 1000, 0.2})
	if math.Abs(*all-99.617) > 0.001 || *two != *all {
		t.Errorf("scores %v and %v", *all, *two)
	}
	if got := score(component{0, 50, 0.4}); *got != 0 {
		t.Errorf("never up: %v", *got)
	}
}

func TestBuckets(t *testing.T) {
	for _, c := range []struct{ at, start Instant }{{1, 0}, {minute, 0}, {minute + 1, minute}, {0, -minute}, {-1, -minute}, {-minute + 1, -minute}, {-minute, -2 * minute}} {
		if got := TierMinute.bucketStart(c.at); got != c.start {
			t.Errorf("%d is in the minute from %d, want %d", c.at, got, c.start)
		}
	}
}

func TestPlannedMaintenance(t *testing.T) {
	h := func(n float64) Instant { return Instant(n * float64(hour)) }
	x := func(from, to float64) Exclusion { return Exclusion{Start: h(from), End: h(to)} }
	for _, c := range []struct {
		name string
		all  []Exclusion
		want []interval
	}{
		{"none", nil, nil},
		{"overlaps merge", []Exclusion{x(2, 3), x(1, 2.5)}, []interval{{h(1), h(3)}}},
		{"the excess is normal time", []Exclusion{x(1, 9)}, []interval{{h(1), h(5)}}},
		{"also in pieces", []Exclusion{x(1, 4), x(10, 12), x(20, 21)}, []interval{{h(1), h(4)}, {h(10), h(11)}}},
		{"anew after 30 days", []Exclusion{x(1, 5), x(24*30+3, 24*30+9)}, []interval{{h(1), h(5)}, {h(24*30 + 3), h(24*30 + 5)}}},
	} {
		if got := granted(c.all, 4*hour); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBusinessHours(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) Instant {
		var i Instant
		if err := i.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return i
	}
	// Friday noon to Monday noon; on Sunday the clocks go forward.
	got := businessTime(at("2026-03-27T12:00:00+01:00"), at("2026-03-30T12:00:00+02:00"), zone)
	want := []interval{
		{at("2026-03-27T12:00:00+01:00"), at("2026-03-27T17:00:00+01:00")},
		{at("2026-03-30T09:00:00+02:00"), at("2026-03-30T12:00:00+02:00")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTexts(t *testing.T) {
	var s Seconds
	if err := json.Unmarshal([]byte("1.25"), &s); err != nil || s != 1250 {
		t.Errorf("%d, %v", s, err)
	}
	if out, err := json.Marshal([]any{Seconds(1500), Instant(1), Instant(1000), LastWeek, StateDown}); err != nil ||
		string(out) != `[1.5,"1970-01-01T00:00:00.001Z","1970-01-01T00:00:01Z","7d","down"]` {
		t.Errorf("%s, %v", out, err)
	}
	if !math.IsNaN(leadingNumber("")) || leadingNumber("500ms") != 500 {
		t.Error("numbers of actual values")
	}
}

// Escalation at a threshold that counts when it is met, and at one that does not.
func TestSeverity(t *testing.T) {
	for _, c := range []struct {
		target   string
		up, down Instant
		want     Severity
	}{
		{"99.5%", 9500, 500, Critical}, // ten times the promised downtime
		{"99.5%", 9501, 499, Warning},
		{"99%", 9500, 500, Warning},
		{"99%", 9499, 501, Critical}, // below 95 %, and more than twice
		{"99.95%", 9951, 49, Warning},
		{"99.95%", 9950, 50, Critical},
		{"100%", 9500, 500, Warning},
		{"100%", 9499, 501, Critical},
		{"90%", 8000, 2000, Critical},
		{"90%", 8001, 1999, Warning},
	} {
		p := promise{availability: mustPercent(c.target)}
		v := p.judgeAvailability(spans{up: c.up * minute, down: c.down * minute}, true)
		if v.critical != (c.want == Critical) {
			t.Errorf("%s promised, %d to %d: critical %t", c.target, c.up, c.down, v.critical)
		}
	}
}
