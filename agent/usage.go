package agent

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Evidence ranks where a quantity comes from.
type Evidence string

// Evidence, weakest first.
const (
	Estimated        Evidence = "estimated"         // the agent's guess
	SelfReported     Evidence = "self_reported"     // the agent's own count
	Observed         Evidence = "observed"          // counted from outside the handler
	ProviderReported Evidence = "provider_reported" // read from the provider's answer
)

func (e Evidence) rank() int {
	switch e {
	case Estimated:
		return 1
	case SelfReported:
		return 2
	case Observed:
		return 3
	case ProviderReported:
		return 4
	}
	return 0
}

// Tokens are the disjoint buckets of one or more model calls. Nil is "not
// reported", which is not 0.
type Tokens struct {
	InputUncached   *int64
	InputCacheRead  *int64
	InputCacheWrite *int64
	OutputText      *int64
	OutputReasoning *int64
}

// Quantities are what a task used. Nil is "not reported", which is not 0.
// TokensIn and TokensOut are the sums of the buckets where buckets are known.
type Quantities struct {
	TokensIn  *int64
	TokensOut *int64
	Tokens    Tokens
	APICalls  *int64
	// Model is empty when none was named, or more than one.
	Model string
	// Evidence is that of the weakest part of the tokens, or of the calls when
	// no tokens were reported; empty when nothing was.
	Evidence Evidence
}

// Usage collects what a task uses. Amounts add up. A task's own HTTP client
// ([Task.HTTPClient]) adds calls and provider-reported tokens by itself; report
// only what it cannot see. Negative amounts are ignored, sums stop at the
// largest int64. Safe for concurrent use; after the task has ended it is
// without effect.
type Usage struct {
	mu     sync.Mutex
	closed bool
	q      Quantities
	calls  Evidence // of q.APICalls; q.Evidence is kept for the tokens alone
	mixed  bool     // several models were named
}

// AddTokens reports tokens read and written. An explicit 0 counts as reported.
func (u *Usage) AddTokens(in, out int64) {
	u.add(Quantities{TokensIn: &in, TokensOut: &out, Evidence: SelfReported})
}

// AddTokenBuckets reports tokens in detail; the totals follow from the buckets.
func (u *Usage) AddTokenBuckets(t Tokens) {
	u.add(Quantities{Tokens: t, TokensIn: sum(t.InputUncached, t.InputCacheRead, t.InputCacheWrite),
		TokensOut: sum(t.OutputText, t.OutputReasoning), Evidence: SelfReported})
}

// AddAPICalls reports n calls to outside services that did not go through
// [Task.HTTPClient].
func (u *Usage) AddAPICalls(n int64) { u.add(Quantities{APICalls: &n, Evidence: SelfReported}) }

// SetModel names the model that did the work.
func (u *Usage) SetModel(name string) { u.add(Quantities{Model: name}) }

// MarkEstimated says that what was reported so far is a guess.
func (u *Usage) MarkEstimated() { u.add(Quantities{Evidence: Estimated}) }

func (u *Usage) add(q Quantities) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	u.q.TokensIn = sum(u.q.TokensIn, q.TokensIn)
	u.q.TokensOut = sum(u.q.TokensOut, q.TokensOut)
	u.q.APICalls = sum(u.q.APICalls, q.APICalls)
	t, d := &u.q.Tokens, q.Tokens
	t.InputUncached = sum(t.InputUncached, d.InputUncached)
	t.InputCacheRead = sum(t.InputCacheRead, d.InputCacheRead)
	t.InputCacheWrite = sum(t.InputCacheWrite, d.InputCacheWrite)
	t.OutputText = sum(t.OutputText, d.OutputText)
	t.OutputReasoning = sum(t.OutputReasoning, d.OutputReasoning)
	switch {
	case q.TokensIn != nil || q.TokensOut != nil || q.APICalls == nil:
		u.q.Evidence = weaker(u.q.Evidence, q.Evidence)
	default:
		u.calls = weaker(u.calls, q.Evidence)
	}
	switch {
	case q.Model == "" || u.mixed || q.Model == u.q.Model:
	case u.q.Model == "":
		u.q.Model = q.Model
	default:
		u.q.Model, u.mixed = "", true
	}
}

// snapshot returns what has been collected.
func (u *Usage) snapshot() Quantities {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.result()
}

func (u *Usage) result() Quantities {
	q := u.q
	if q.Evidence == "" {
		q.Evidence = u.calls
	}
	return q
}

// weaker returns the lower evidence; none is no evidence against the other.
func weaker(a, b Evidence) Evidence {
	if b != "" && (a == "" || b.rank() < a.rank()) {
		return b
	}
	return a
}

// close ends the collection and returns its result.
func (u *Usage) close() Quantities {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	return u.result()
}

// sum adds what is known; nil only if nothing is. It returns a fresh pointer
// and leaves its arguments alone.
func sum(parts ...*int64) *int64 {
	var total int64
	known := false
	for _, p := range parts {
		if p == nil || *p < 0 {
			continue
		}
		known = true
		if total += *p; total < 0 {
			total = 1<<63 - 1
		}
	}
	if !known {
		return nil
	}
	return &total
}

// metrics is what a task.response tells about its usage: known quantities only,
// and nothing at all if the handler said nothing.
func (q Quantities) metrics(took time.Duration) jsontext.Value {
	if q.TokensIn == nil && q.TokensOut == nil && q.APICalls == nil {
		return nil
	}
	pairs := make([]any, 0, 10)
	for _, known := range []struct {
		name  string
		value *int64
	}{{"tokens_in", q.TokensIn}, {"tokens_out", q.TokensOut}, {"api_calls", q.APICalls}} {
		if known.value != nil {
			pairs = append(pairs, known.name, *known.value)
		}
	}
	pairs = append(pairs, "duration_ms", took.Milliseconds())
	if q.Model != "" {
		pairs = append(pairs, "model", q.Model)
	}
	return object(pairs...)
}

// addMetrics takes the metrics an agent put into its own task.response, read
// as v1.3.0 reads them (economics.md, section 2.2) - except that tokens_used is
// the total, so it stands in only where neither side is reported.
func (u *Usage) addMetrics(metrics jsontext.Value) {
	var m map[string]jsontext.Value
	if metrics.Kind() != '{' || json.Unmarshal(metrics, &m) != nil {
		return
	}
	in, out := reportedCount(m["tokens_in"]), reportedCount(m["tokens_out"])
	if in == nil && out == nil {
		out = reportedCount(m["tokens_used"])
	}
	if in != nil || out != nil {
		u.add(Quantities{TokensIn: in, TokensOut: out, Evidence: SelfReported})
	}
	if calls := reportedCount(m["api_calls"]); calls != nil {
		u.add(Quantities{APICalls: calls, Evidence: SelfReported})
	}
}

// reportedCount reads a count leniently; nil if there is none that makes sense.
func reportedCount(v jsontext.Value) *int64 {
	text := string(v)
	switch v.Kind() {
	case 't':
		text = "1"
	case 'f':
		text = "0"
	case '"':
		if json.Unmarshal(v, &text) != nil {
			return nil
		}
		text = strings.ReplaceAll(strings.TrimSpace(text), "_", "")
	case '0':
		if f, err := strconv.ParseFloat(text, 64); err == nil && f < 1<<53 && f > -1 {
			text = strconv.FormatInt(int64(math.Trunc(f)), 10)
		}
	default:
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return nil
	}
	return &n
}
