package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Every task is begun once, whatever the number of connections, and none beyond
// the bound.
func TestEveryTaskOnce(t *testing.T) {
	for _, connections := range []int{1, 3, 64} {
		const tasks = 500
		var mu sync.Mutex
		seen := map[int]int{}
		r, err := Run(t.Context(), Plan{Tasks: tasks, Connections: connections, Do: func(_ context.Context, connection, i int) error {
			mu.Lock()
			defer mu.Unlock()
			seen[i]++
			if connection < 0 || connection >= connections {
				t.Error("connection", connection)
			}
			if i%5 == 0 {
				return errors.New("every fifth")
			}
			return nil
		}})
		if err != nil || r.Sent != tasks || r.Done != tasks*4/5 || r.Failures["every fifth"] != tasks/5 || len(r.Latencies) != r.Done || len(seen) != tasks {
			t.Errorf("%d connections: %+v, %v, %d seen", connections, r, err, len(seen))
		}
		if f := r.Failed(); len(f) != 1 || f[0] != (Failure{"every fifth", tasks / 5}) {
			t.Errorf("%+v", f)
		}
	}
}

// With a rate, tasks arrive by the clock, and one that had to wait for a
// connection is charged its wait.
func TestOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var at []time.Duration
		slow := Plan{Tasks: 10, PerSecond: 100, Connections: 1, Do: func(_ context.Context, _, i int) error {
			at = append(at, time.Since(begun))
			if i == 0 {
				time.Sleep(45 * time.Millisecond) // a stall: four more arrive in the meantime
			}
			return nil
		}}
		r, err := Run(t.Context(), slow)
		if err != nil || r.Done != 10 || r.Elapsed != 90*time.Millisecond {
			t.Fatalf("%+v, %v", r, err)
		}
		if at[4] != 45*time.Millisecond || at[5] != 50*time.Millisecond || at[9] != 90*time.Millisecond {
			t.Error(at)
		}
		// 45, then those of 10, 20, 30, 40 at 45, and nobody else had to wait.
		if r.Quantile(1) != 45*time.Millisecond || r.Quantile(0.9) != 35*time.Millisecond || r.Quantile(0.5) != 0 {
			t.Error(r.Latencies)
		}
		if got := r.DonePerSecond(); math.Abs(got-111.1) > 0.1 {
			t.Error(got)
		}
	})
}

// Time bounds a run, whether or not there is a rate.
func TestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0, 100} {
			r, err := Run(t.Context(), Plan{Tasks: 1 << 20, Duration: time.Second, PerSecond: rate, Connections: 2, Do: func(context.Context, int, int) error {
				time.Sleep(20 * time.Millisecond)
				return nil
			}})
			if err != nil || r.Done < 100 || r.Done > 103 {
				t.Errorf("rate %v: %d done, %v", rate, r.Done, err)
			}
		}
	})
}

// What was done until a run is interrupted is told.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	var n atomic.Int64
	r, err := Run(ctx, Plan{Tasks: 1 << 20, Connections: 4, Do: func(context.Context, int, int) error {
		if n.Add(1) == 100 {
			cancel(why)
		}
		return nil
	}})
	if !errors.Is(err, why) || r.Done < 100 || r.Done > 104 {
		t.Error(r.Done, err)
	}
}

func TestPlansThatCannotBe(t *testing.T) {
	do := func(context.Context, int, int) error { return nil }
	for _, p := range []Plan{{}, {Tasks: 1, Do: do}, {Connections: 1, Do: do}, {Tasks: 1, Connections: 1}, {Tasks: 1, Connections: 1, Do: do, PerSecond: -1},
		{Tasks: 1, Connections: 1, Do: do, PerSecond: math.NaN()}, {Tasks: 1, Connections: 1, Do: do, Duration: -1}} {
		if _, err := Run(t.Context(), p); !errors.Is(err, errPlan) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	var none Result
	if none.Quantile(0.5) != 0 || none.DonePerSecond() != 0 {
		t.Error("nothing was done")
	}
}

// However many reasons there are, few are told apart, and none is lost.
func TestReasonsAreBounded(t *testing.T) {
	r, err := Run(t.Context(), Plan{Tasks: 1000, Connections: 3, Do: func(_ context.Context, _, i int) error { return fmt.Errorf("reason %d", i) }})
	total := 0
	for _, n := range r.Failures {
		total += n
	}
	if err != nil || total != 1000 || r.Sent != 1000 || len(r.Failures) > maxReasons+1 {
		t.Errorf("%d reasons for %d of %d, %v", len(r.Failures), total, r.Sent, err)
	}
}

// A target's answers are told apart: done, refused, and no answer at all.
func TestTarget(t *testing.T) {
	answers := []string{
		`{"result":{"envelope":{"payload":{"status":"completed"}}}}`, `{"error":{"code":-32041,"data":{"code":"delegation_limit_tasks"}}}`,
		`{"result":{"envelope":{"payload":{"status":"failed"}}}}`, `<html>`, "",
	}
	var next atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /asap", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer me" {
			t.Error(r.Header)
		}
		answer := answers[next.Add(1)-1]
		if answer == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, answer)
	})
	mux.HandleFunc("GET /usage/summary", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"total_tasks":%d}`, len(r.URL.Query().Get("consumer_id")))
	})
	mux.HandleFunc("GET /audit/verify", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"valid":true,"entries_checked":7}`) })
	server := httptest.NewServer(mux)
	target := Target{URL: server.URL + "/", Recipient: "urn:asap:agent:echo", Skill: "echo", Sender: "urn:asap:agent:x",
		Header: http.Header{"Authorization": {"Bearer me"}}, OperatorToken: "operator"}
	do, end := target.Tasks(1)
	r, err := Run(t.Context(), Plan{Tasks: len(answers), Connections: 1, Do: do})
	if err != nil || r.Done != 1 {
		t.Error(r, err)
	}
	for _, reason := range []string{"refused: delegation_limit_tasks (-32041)", "the task is not completed", "an answer that is not JSON", "HTTP 503"} {
		if r.Failures[reason] != 1 {
			t.Errorf("%q is not in %v", reason, r.Failures)
		}
	}
	if got, err := target.Accounts(t.Context()); err != nil || got != (Accounts{int64(len(target.Sender)), 7, true}) {
		t.Error(got, err)
	}
	end()
	server.Close()
	r, err = Run(t.Context(), Plan{Tasks: 2, Connections: 1, Do: do})
	if err != nil || len(r.Failures) != 1 || !strings.HasPrefix(r.Failed()[0].Reason, "no answer: ") {
		t.Error(r, err)
	}
	if _, err := target.Accounts(t.Context()); !errors.Is(err, ErrAccounts) {
		t.Error(err)
	}
}

// Two senders are never the same.
func TestNewSender(t *testing.T) {
	if a, b := NewSender(), NewSender(); a == b || !strings.HasPrefix(string(a), "urn:asap:agent:bench-") {
		t.Error(a, b)
	}
}
