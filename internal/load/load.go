package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Plan is one run. Tasks, Connections and Do are needed.
type Plan struct {
	// Tasks is how many are sent at most, Duration how long new ones are begun;
	// 0 bounds no time.
	Tasks    int
	Duration time.Duration
	// PerSecond is the rate at which tasks arrive, evenly spaced. 0: each
	// connection sends as soon as its last task was answered.
	PerSecond float64
	// Connections is how many tasks are under way at once at most.
	Connections int
	// Do does the i-th task on one of the connections and returns nil if it was
	// done, else the reason why not in few words: equal reasons are counted.
	Do func(ctx context.Context, connection, i int) error
}

// Result is how a run went. Sent = Done + the sum of Failures.
type Result struct {
	Sent, Done int
	Elapsed    time.Duration // from the first arrival to the last answer
	// Latencies are those of the tasks that were done, sorted: from the moment a
	// task arrived, or was sent if there is no rate, to its answer.
	Latencies []time.Duration
	Failures  map[string]int // by reason
}

// maxReasons bounds how many reasons of failure are told apart.
const maxReasons = 20

// errPlan marks a plan that cannot be carried out.
var errPlan = errors.New("load plan")

// Run carries out a plan. When ctx ends no further task is begun, and what was
// done so far is returned with the cause.
func Run(ctx context.Context, p Plan) (Result, error) {
	if p.Tasks < 1 || p.Connections < 1 || p.Do == nil || p.PerSecond < 0 || math.IsNaN(p.PerSecond) || math.IsInf(p.PerSecond, 0) || p.Duration < 0 {
		return Result{}, fmt.Errorf("%w: it needs tasks, connections, what to do, and bounds that are not negative", errPlan)
	}
	r := run{plan: &p, begun: time.Now(), result: Result{Failures: map[string]int{}}}
	var workers sync.WaitGroup
	for connection := range min(p.Connections, p.Tasks) {
		workers.Go(func() { r.work(ctx, connection) })
	}
	workers.Wait()
	r.result.Elapsed = time.Since(r.begun)
	slices.Sort(r.result.Latencies)
	return r.result, context.Cause(ctx)
}

// run is a plan being carried out.
type run struct {
	plan  *Plan
	begun time.Time
	next  atomic.Int64

	mu     sync.Mutex
	result Result // guarded by mu
}

func (r *run) work(ctx context.Context, connection int) {
	p := r.plan
	mine := make([]time.Duration, 0, min(1<<16, p.Tasks/p.Connections+1))
	failures := map[string]int{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		i := r.next.Add(1) - 1
		if i >= int64(p.Tasks) {
			break
		}
		arrived := time.Now()
		if p.PerSecond > 0 {
			arrived = r.begun.Add(time.Duration(float64(i) / p.PerSecond * float64(time.Second)))
		}
		if p.Duration > 0 && arrived.Sub(r.begun) > p.Duration {
			break
		}
		if wait := time.Until(arrived); wait > 0 && !sleep(ctx, timer, wait) {
			break
		}
		switch err := p.Do(ctx, connection, int(i)); {
		case err == nil:
			mine = append(mine, time.Since(arrived))
		case len(failures) < maxReasons || failures[err.Error()] > 0:
			failures[err.Error()]++
		default:
			failures["other reasons"]++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Done += len(mine)
	r.result.Sent += len(mine)
	r.result.Latencies = append(r.result.Latencies, mine...)
	for reason, n := range failures {
		r.result.Sent += n
		if r.result.Failures[reason] == 0 && len(r.result.Failures) >= maxReasons {
			reason = "other reasons"
		}
		r.result.Failures[reason] += n
	}
}

// sleep waits and reports whether ctx is still alive after that.
func sleep(ctx context.Context, timer *time.Timer, d time.Duration) bool {
	timer.Reset(d)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Quantile returns the latency that a share q of the tasks done did not exceed
// (nearest rank); 0 if none was done.
func (r *Result) Quantile(q float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(r.Latencies))))
	return r.Latencies[min(max(rank, 1), len(r.Latencies))-1]
}

// DonePerSecond is the rate that was reached.
func (r *Result) DonePerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Done) / r.Elapsed.Seconds()
}

// Failure is a reason and how often it was one.
type Failure struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Failed lists the reasons of failure, the most frequent first.
func (r *Result) Failed() []Failure {
	out := make([]Failure, 0, len(r.Failures))
	for reason, n := range r.Failures {
		out = append(out, Failure{reason, n})
	}
	slices.SortFunc(out, func(a, b Failure) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason)) })
	return out
}
