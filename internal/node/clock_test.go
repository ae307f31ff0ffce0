package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
)

// A clock that jumps hours forth and back, while the node runs and between two
// runs: every task is recorded once, a retry is still the same task, nothing is
// held, and the log stays in order and whole. While the clock is behind the log
// the doctor says so.
func TestClockJumps(t *testing.T) {
	dir := t.TempDir()
	var offset, runs atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	count := 0
	var first *client.TaskResult
	run := func(name string, jumps ...time.Duration) {
		n, err := Open(t.Context(), testConfig(dir), Options{Agents: []*agent.Agent{counter(&runs)}, Now: now})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		c := newClient(t, n)
		for _, jump := range append([]time.Duration{0}, jumps...) {
			offset.Add(int64(jump))
			for _, id := range []string{"same", "same", fmt.Sprintf("task-%d", count)} {
				call := client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`), EnvelopeID: asap.EnvelopeID(id), ConversationID: "c", Timestamp: now()}
				result, err := c.Task(t.Context(), call)
				if err != nil || result.Status != asap.Completed || result.Receipt == nil {
					t.Errorf("%s, after a jump of %s: %+v, %v", name, jump, result, err)
					continue
				}
				if first == nil {
					first = result
				}
				if id == "same" && result.TaskID != first.TaskID {
					t.Errorf("%s, after a jump of %s a retry is another task", name, jump)
				}
			}
			count++
		}
		if h := n.holdings(t); h.Held != 0 || h.Records != int64(count)+1 {
			t.Errorf("%s: %+v, want %d records", name, h, count+1)
		}
		c.Close()
		cancel()
		if err := errors.Join(<-done, n.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	clockFinding := func() Finding {
		for _, f := range Diagnose(t.Context(), testConfig(dir), now()) {
			if f.Check == "clock" {
				return f
			}
		}
		return Finding{}
	}
	run("at run time", 3*time.Hour, -5*time.Hour, time.Second, 20*time.Hour, -20*time.Hour)
	if f := clockFinding(); f.Severity != Fail {
		t.Errorf("a clock behind the log: %+v", f)
	}
	offset.Add(-int64(4 * time.Hour))
	run("started with a clock of before")
	offset.Add(int64(25 * time.Hour))
	run("started with a clock of a day later")
	if f := clockFinding(); f.Severity != OK {
		t.Errorf("a clock that is right again: %+v", f)
	}
	if runs.Load() != int64(count)+1 {
		t.Errorf("%d runs for %d tasks", runs.Load(), count+1)
	}
	if sum := auditedTotals(t, dir); sum.Tasks != int64(count)+1 {
		t.Errorf("the log has %+v", sum)
	}
	checkAuditLog(t, openLedger(t, dir), dir)
}
