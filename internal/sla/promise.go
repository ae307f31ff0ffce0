package sla

import (
	"math/bits"
	"strconv"
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
)

// Severity is how badly a promise is broken.
type Severity string

// The severities.
const (
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// A promise is what an agent promises, nil where it promises nothing. All its
// tests multiply crosswise in whole numbers.
type promise struct {
	availability *asap.Percentage
	latencyMS    *int64
	errorRate    *asap.Percentage
	supportHours *string
	version      int64 // grows with each change of the promised latency
}

func newPromise(sla *asap.SLADefinition) promise {
	if sla == nil {
		return promise{}
	}
	return promise{sla.Availability, sla.MaxLatencyP95MS, sla.MaxErrorRate, sla.SupportHours, 0}
}

func (p *promise) definition() *asap.SLADefinition {
	return &asap.SLADefinition{Availability: p.availability, MaxLatencyP95MS: p.latencyMS, MaxErrorRate: p.errorRate, SupportHours: p.supportHours}
}

func (p *promise) makes(o Objective) bool {
	switch o {
	case Availability:
		return p.availability != nil
	case Latency:
		return p.latencyMS != nil
	default:
		return p.errorRate != nil
	}
}

// same tells whether two promises agree about an objective.
func (p *promise) same(q *promise, o Objective) bool {
	if p.makes(o) != q.makes(o) {
		return false
	}
	if !p.makes(o) {
		return true
	}
	switch o {
	case Availability:
		return p.availability.Equal(*q.availability)
	case Latency:
		return *p.latencyMS == *q.latencyMS
	default:
		return p.errorRate.Equal(*q.errorRate)
	}
}

// promised is the promise as it was written, and threshold as v1.3.0 writes it in
// breaches: "1%" becomes "1.0%".
func (p *promise) promised(o Objective) string {
	switch o {
	case Availability:
		return strings.TrimSpace(p.availability.String())
	case Latency:
		return strconv.FormatInt(*p.latencyMS, 10) + "ms"
	default:
		return strings.TrimSpace(p.errorRate.String())
	}
}

func (p *promise) threshold(o Objective) string {
	switch o {
	case Availability:
		return percentText(p.availability.Float64())
	case Latency:
		return strconv.FormatInt(*p.latencyMS, 10) + "ms"
	default:
		return percentText(p.errorRate.Float64())
	}
}

// percentText writes a percentage as v1.3.0 does, always with a fraction.
func percentText(v float64) string {
	text := strconv.FormatFloat(round6(v), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text + "%"
}

// slow tells whether a latency is above the promise, and at or above twice it.
func (p *promise) slow(ms int64) (slow, slow2 int64) {
	if p.latencyMS == nil {
		return 0, 0
	}
	if ms > *p.latencyMS {
		slow = 1
	}
	if ms >= p.twice() {
		slow2 = 1
	}
	return slow, slow2
}

// twice is double the promised latency, which no latency reaches if it overflows.
func (p *promise) twice() int64 {
	if *p.latencyMS > int64(maxLatencyMS) {
		return 2 * int64(maxLatencyMS)
	}
	return 2 * *p.latencyMS
}

// recount derives Slow and Slow2 from a sketch: what is left to do about the past
// when the promise changes.
func (p *promise) recount(c *Counts, s *sketch.Sketch) {
	c.Slow, c.Slow2 = 0, 0
	if p.latencyMS == nil || c.Timed == 0 {
		return
	}
	if *p.latencyMS < int64(maxLatencyMS) {
		c.Slow = int64(s.CountAtLeast(*p.latencyMS + 1))
	}
	c.Slow2 = int64(s.CountAtLeast(p.twice()))
}

// verdict is what one look at an objective says.
type verdict struct {
	unknown  bool // frozen because nobody knows how the agent is
	frozen   bool // neither good nor bad may be concluded now
	enough   bool // there is enough data
	breached bool // strictly beyond the promise
	critical bool
	// exact tells that the critical threshold is met exactly, so that it was
	// crossed at this very millisecond and not before it.
	exact  bool
	n, bad int64 // tasks, and those that count against the agent
	actual string
}

// The tests on availability. Each holds on one side of a point, as time passes in
// which neither the state of the agent nor that at the window's other end changes.
type availabilityTests uint8

const (
	testCoverage  availabilityTests = 1 << iota // at least half of the window is known
	testMeasured                                // at least five minutes are
	testBreached                                // the share is below the promise
	testTenfold                                 // at least ten times the promised downtime
	testTwice                                   // at least twice
	testBelow95                                 // less than 95 % of the time
	testTenEqual                                // exactly ten times; not a threshold by itself
	testTwoEqual                                // exactly twice; likewise
	testsCrossing = testCoverage | testMeasured | testBreached | testTenfold | testTwice | testBelow95
)

func (p *promise) testAvailability(s spans) (t availabilityTests) {
	measured := s.measured()
	if 2*measured >= s.eligible() {
		t |= testCoverage
	}
	if measured >= minMeasured {
		t |= testMeasured
	}
	if p.availability.CompareRatio(int64(s.up), int64(measured)) < 0 {
		t |= testBreached
	}
	if 100*s.up < 95*measured {
		t |= testBelow95
	}
	units, scale := p.availability.Decimal()
	whole := uint64(100)
	for range scale {
		whole *= 10
	}
	// (100 - uptime) / (100 - target) against 10 and 2.
	if whole > units {
		downHi, downLo := bits.Mul64(uint64(s.down), whole)
		against := func(times uint64, least, equal availabilityTests) {
			hi, lo := bits.Mul64(uint64(measured)*times, whole-units)
			switch {
			case downHi == hi && downLo == lo:
				t |= least | equal
			case downHi > hi || (downHi == hi && downLo > lo):
				t |= least
			}
		}
		against(10, testTenfold, testTenEqual)
		against(2, testTwice, testTwoEqual)
	} else {
		t |= testTwice // a promise of 100 %: critical below 95 % alone
	}
	return t
}

func (t availabilityTests) has(all availabilityTests) bool { return t&all == all }

// The judgements. tell asks for the actual value; it is told in any case if the
// promise is broken.

func (p *promise) judgeAvailability(s spans, tell bool) verdict {
	t := p.testAvailability(s)
	v := verdict{
		enough:   t.has(testCoverage | testMeasured),
		breached: t.has(testBreached),
		critical: t.has(testTenfold) || t.has(testBelow95|testTwice),
	}
	v.exact = (t.has(testTenEqual) && !t.has(testBelow95|testTwice)) || (!t.has(testTenfold) && t.has(testTwoEqual|testBelow95))
	if (tell || v.breached) && s.measured() > 0 {
		v.actual = percentText(share(int64(s.up), int64(s.measured())) * 100)
	}
	return v
}

func (p *promise) judgeLatency(c *Counts, s *sketch.Sketch, minTasks int64, tell bool) verdict {
	v := verdict{
		enough:   c.Timed >= minTasks,
		breached: 20*c.Slow > c.Timed,
		critical: 20*c.Slow2 > c.Timed,
		n:        c.Timed,
		bad:      c.Slow,
	}
	if !tell && !v.breached {
		return v
	}
	if ms, ok := p.p95(c, s); ok {
		v.actual = strconv.FormatInt(ms, 10) + "ms"
	}
	return v
}

// p95 is the sketch's answer, moved where it would contradict the exact counts.
func (p *promise) p95(c *Counts, s *sketch.Sketch) (ms int64, ok bool) {
	ms, ok = s.P95()
	if !ok || p.latencyMS == nil {
		return ms, ok
	}
	limit, twice := *p.latencyMS, p.twice()
	switch {
	case 20*c.Slow <= c.Timed:
		ms = min(ms, limit)
	case 20*c.Slow2 > c.Timed:
		ms = max(ms, twice, limit+1)
	default:
		ms = min(max(ms, limit+1), twice-1)
	}
	return ms, ok
}

func (p *promise) judgeErrors(c *Counts, minTasks int64, tell bool) verdict {
	n := c.judged()
	v := verdict{enough: n >= minTasks, n: n, bad: c.Failed}
	if n == 0 {
		return v
	}
	units, scale := p.errorRate.Decimal()
	v.breached = p.errorRate.CompareRatio(c.Failed, n) > 0
	// rate >= 2 limit, or rate >= 5 % while the limit is below that
	whole := uint64(100)
	for range scale {
		whole *= 10
	}
	rateHi, rateLo := bits.Mul64(uint64(c.Failed), whole)
	twiceHi, twiceLo := bits.Mul64(2*uint64(n), units)
	v.critical = rateHi > twiceHi || (rateHi == twiceHi && rateLo >= twiceLo) ||
		(100*c.Failed >= 5*n && p.errorRate.CompareRatio(5, 100) > 0)
	if tell || v.breached {
		v.actual = percentText(share(c.Failed, n) * 100)
	}
	return v
}
