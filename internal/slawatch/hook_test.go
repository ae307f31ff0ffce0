package slawatch

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type hookOf func(context.Context, Event) error

func (h hookOf) OnSLAEvent(ctx context.Context, e Event) error { return h(ctx, e) }

// N7: a hook that takes longer than it may is counted, is told nothing more until
// it comes back, and what waits for it is bounded.
func TestHookThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{opts: Options{Log: slog.New(slog.DiscardHandler)}, feed: newFeed(&changeLog{})}
		var told atomic.Int64
		stats := w.AddHook(hookOf(func(ctx context.Context, _ Event) error {
			told.Add(1)
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("no deadline")
			}
			time.Sleep(time.Minute) // a clock of its own: nothing waits
			return nil
		}))
		w.feed.start()
		log := &changeLog{}
		w.feed.publish(log.add(1))
		synctest.Wait()
		w.feed.publish(log.add(HookQueue + 5))
		synctest.Wait()
		if got := stats(); got != (HookStats{Dropped: 5}) || told.Load() != 1 {
			t.Errorf("%+v after %d", got, told.Load())
		}
		time.Sleep(HookTimeout)
		synctest.Wait()
		if got := stats(); got.Late != 1 || told.Load() != 1 {
			t.Errorf("%+v after %d", got, told.Load())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if told.Load() != 2 {
			t.Errorf("it came back and was told %d times", told.Load())
		}
		w.feed.close()
		time.Sleep(2 * time.Minute)
	})
}
