package ledger

import (
	"testing"
	"testing/synctest"
	"time"
)

// A group waits for the callers that were there lately, until the last of them
// has come or it is no longer worth it; where nobody else was, it does not wait.
func TestGroupWaitsForCallers(t *testing.T) {
	const millisecond = time.Millisecond
	for _, c := range []struct {
		name   string
		expect int
		took   time.Duration
		come   []time.Duration // one after the other
		stale  bool            // the wait before had ended when its last caller came
		group  int
		waited time.Duration
	}{
		{"alone", 1, 80 * millisecond, nil, false, 1, 0},
		{"all come", 3, 4 * millisecond, []time.Duration{millisecond / 5, millisecond / 5}, false, 3, 2 * millisecond / 5},
		{"nobody comes", 3, 4 * millisecond, nil, false, 1, millisecond / 2},
		{"some come", 4, 4 * millisecond, []time.Duration{millisecond / 5, millisecond / 5}, false, 3, millisecond / 2},
		{"after a slow commit", 2, time.Second, nil, false, 1, maxPatience},
		{"with a token left over", 2, 4 * millisecond, nil, true, 1, millisecond / 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &Ledger{queue: make(chan *pending, 8), reached: make(chan struct{}, 1), expect: c.expect, took: c.took}
			if c.stale {
				l.reached <- struct{}{}
			}
			one := func() *pending { return &pending{op: &admit{}, done: make(chan struct{})} }
			go func() {
				for _, after := range c.come {
					time.Sleep(after)
					if err := l.enqueue(one()); err != nil {
						t.Error(err)
					}
				}
			}()
			began := time.Now()
			group := l.gather(one())
			if waited := time.Since(began); len(group) != c.group || waited != c.waited {
				t.Errorf("%s: a group of %d after %v, want %d after %v", c.name, len(group), waited, c.group, c.waited)
			}
			if l.awaited.Load() != 0 {
				t.Errorf("%s: still waiting", c.name)
			}
		})
	}
}
