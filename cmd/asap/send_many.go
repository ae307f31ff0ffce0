package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
)

// sendSummary is how many sendings of a task went. Sent = Answered + Failed.
type sendSummary struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"` // the task completed, or goes on (--no-wait, input required)
	Failed   int `json:"failed"`   // refused, failed, cancelled or unreached
	// Latencies of the answered ones, from sending to the end of the task, in
	// milliseconds; null without any.
	P50MS     *float64      `json:"p50_ms"`
	P95MS     *float64      `json:"p95_ms"`
	MaxMS     *float64      `json:"max_ms"`
	ElapsedMS int64         `json:"elapsed_ms"`
	PerSecond float64       `json:"per_second"` // answered
	Failures  []sendFailing `json:"failures"`
}

// sendFailing is a reason of failure and how often it was one.
type sendFailing struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// sending is how one of many went.
type sending struct {
	took     time.Duration
	failure  string // empty if it was answered
	answered bool   // by the agent, if only with a refusal
}

func (a *app) sendMany(ctx context.Context, f *sendFlags, target taskSender, call client.TaskCall) error {
	results := make(chan sending)
	var next atomic.Int64
	var callers sync.WaitGroup
	for range min(f.parallel, f.repeat) {
		callers.Go(func() {
			for next.Add(1) <= int64(f.repeat) && ctx.Err() == nil {
				start := time.Now()
				r, err := oneTask(ctx, f, target, call)
				s := judge(r, err)
				s.took = time.Since(start)
				results <- s
			}
		})
	}
	go func() { callers.Wait(); close(results) }()
	summary, reached := a.collect(f.repeat, results)
	if err := a.answer(summary, summary.text); err != nil {
		return err
	}
	switch {
	case summary.Failed == 0 && summary.Sent == f.repeat:
		return nil
	case !reached:
		return quietFailure(exitState)
	}
	return quietFailure(exitRefused)
}

// judge reduces what came back to a reason of failure.
func judge(r *client.TaskResult, err error) sending {
	var refused *client.RemoteError
	var unreached *client.TransportError
	switch {
	case err == nil && (r.Status == asap.Failed || r.Status == asap.Cancelled):
		return sending{failure: "task " + string(r.Status), answered: true}
	case err == nil:
		return sending{answered: true}
	case errors.As(err, &refused):
		reason := string(refused.DataCode)
		if reason == "" {
			reason = plain(refused.Message)
		}
		if refused.Code != 0 {
			reason += " (" + strconv.Itoa(refused.Code) + ")"
		} else {
			reason += " (HTTP " + strconv.Itoa(refused.HTTPStatus) + ")"
		}
		return sending{failure: reason, answered: true}
	case errors.As(err, &unreached):
		return sending{failure: plain(unreached.Op + ": " + unreached.Err.Error())}
	}
	return sending{failure: plain(err.Error())}
}

// maxReasons bounds how many reasons of failure are told apart.
const maxReasons = 20

// collect counts results until the channel is closed. reached reports whether
// the agent answered any.
func (a *app) collect(total int, results <-chan sending) (summary sendSummary, reached bool) {
	var latencies []time.Duration
	reasons := map[string]int{}
	start, shown := time.Now(), time.Time{}
	progress := terminal(a.errOut)
	for s := range results {
		summary.Sent++
		reached = reached || s.answered
		if s.failure == "" {
			summary.Answered++
			latencies = append(latencies, s.took)
		} else {
			summary.Failed++
			if _, known := reasons[s.failure]; !known && len(reasons) >= maxReasons {
				s.failure = "other reasons"
			}
			reasons[s.failure]++
		}
		if progress && time.Since(shown) > 200*time.Millisecond {
			shown = time.Now()
			fmt.Fprintf(a.errOut, "\r%d of %d", summary.Sent, total)
		}
	}
	if progress {
		fmt.Fprint(a.errOut, "\r\x1b[K")
	}
	elapsed := time.Since(start)
	summary.ElapsedMS = elapsed.Milliseconds()
	summary.PerSecond = float64(int64(float64(summary.Answered)/elapsed.Seconds()*10)) / 10
	slices.Sort(latencies)
	summary.P50MS, summary.P95MS, summary.MaxMS = rank(latencies, 50), rank(latencies, 95), rank(latencies, 100)
	summary.Failures = []sendFailing{}
	for reason, count := range reasons {
		summary.Failures = append(summary.Failures, sendFailing{reason, count})
	}
	slices.SortFunc(summary.Failures, func(x, y sendFailing) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Reason, y.Reason))
	})
	return summary, reached
}

// rank returns the latency that percent of the sorted latencies do not exceed
// (nearest rank), in milliseconds to the microsecond; nil without any.
func rank(sorted []time.Duration, percent int) *float64 {
	if len(sorted) == 0 {
		return nil
	}
	i := (len(sorted)*percent + 99) / 100
	ms := float64(sorted[max(i, 1)-1].Microseconds()) / 1000
	return &ms
}

// text writes the summary for people.
func (s sendSummary) text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "sent      %d\nanswered  %d\nfailed    %d\n", s.Sent, s.Answered, s.Failed)
	if err != nil {
		return err
	}
	if s.P50MS != nil {
		_, err = fmt.Fprintf(w, "p50       %.1f ms\np95       %.1f ms\nmax       %.1f ms\n", *s.P50MS, *s.P95MS, *s.MaxMS)
		if err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "elapsed   %.1f s, %.1f answers/s\n", float64(s.ElapsedMS)/1000, s.PerSecond)
	for _, f := range s.Failures {
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "  %d x %s\n", f.Count, f.Reason)
	}
	return err
}
