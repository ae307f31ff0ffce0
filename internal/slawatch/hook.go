package slawatch

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// Hook is told what happens to breaches, one thing at a time and in order. A call
// that panics, fails or takes longer than HookTimeout is counted and logged, and
// harms no other hook. What happens while the node is down, or while a hook is
// more than HookQueue events behind, it does not hear of.
type Hook interface {
	OnSLAEvent(ctx context.Context, e Event) error
}

const (
	// HookTimeout is how long a hook may take for one event.
	HookTimeout = 5 * time.Second
	// HookQueue is how many events may wait for a hook.
	HookQueue = 1024
)

// LogHook logs one warning for each event.
type LogHook struct{ Log *slog.Logger }

// OnSLAEvent implements Hook.
func (h LogHook) OnSLAEvent(ctx context.Context, e Event) error {
	b := &e.Breach
	args := []any{"event", string(e.Kind), "breach", b.ID, "agent", b.AgentID, "objective", string(b.Objective), "window", b.Window,
		"severity", string(b.Severity), "threshold", b.Threshold, "actual", b.Actual, "started_at", b.StartedAt.String()}
	if e.Kind == sla.Resolved {
		args = append(args, "resolved_at", b.ResolvedAt.String(), "duration", time.Duration(b.Duration)*time.Millisecond, "reason", *b.CloseReason)
	}
	h.Log.WarnContext(ctx, "service level", args...)
	return nil
}

// HookStats counts what hooks did not take well.
type HookStats struct {
	Failed  int64 // errors and panics
	Late    int64 // timeouts
	Dropped int64 // the queue was full
}

type hookQueue struct {
	hook  Hook
	log   *slog.Logger
	queue chan Event

	failed, late, dropped atomic.Int64
}

// AddHook makes a hook be told from now on, while Run runs. The stats may be asked for at any time.
func (w *Watch) AddHook(hook Hook) (stats func() HookStats) {
	h := &hookQueue{hook: hook, log: w.opts.Log, queue: make(chan Event, HookQueue)}
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.hooks = append(w.feed.hooks, h)
	if w.feed.running && w.feed.ctx.Err() == nil {
		w.feed.parts.Go(func() { h.run(w.feed.ctx.Done()) })
	}
	return func() HookStats { return HookStats{h.failed.Load(), h.late.Load(), h.dropped.Load()} }
}

func (h *hookQueue) offer(e Event) {
	select {
	case h.queue <- e:
	default:
		h.dropped.Add(1)
		h.log.Error("a hook is too far behind and does not hear of this", "breach", e.Breach.ID, "event", string(e.Kind))
	}
}

// run calls the hook until the feed ends. What waits then is still told.
func (h *hookQueue) run(ended <-chan struct{}) {
	for {
		select {
		case e := <-h.queue:
			h.call(e, ended)
			continue
		default:
		}
		select {
		case e := <-h.queue:
			h.call(e, ended)
		case <-ended:
			for len(h.queue) > 0 {
				h.call(<-h.queue, nil)
			}
			return
		}
	}
}

// call tells the hook one thing. One that does not come back is not told anything
// else until it does; at the end of the node it is left behind.
func (h *hookQueue) call(e Event, ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), HookTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				done <- fmt.Errorf("panic: %v", v)
			}
		}()
		done <- h.hook.OnSLAEvent(ctx, e)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		h.late.Add(1)
		h.log.Error("a hook takes too long", "breach", e.Breach.ID, "event", string(e.Kind))
		if ended == nil {
			return
		}
		select {
		case err = <-done:
		case <-ended:
			return
		}
	}
	if err != nil {
		h.failed.Add(1)
		h.log.Error("a hook failed", "breach", e.Breach.ID, "event", string(e.Kind), "error", err)
	}
}
