package postgres

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// wakeEvery is the least time between two wake-ups of a node: NOTIFY takes a
// lock of the whole database when it commits.
const wakeEvery = 200 * time.Millisecond

// wakeChannel is the channel of a schema's wake-ups.
const wakeChannel = `'asap_' || current_schema()`

// waker sends wake-ups, at most one at a time.
type waker struct {
	mu      sync.Mutex
	seq     int64       // the newest one to tell of
	timer   *time.Timer // of the wake-up that is due; nil if none is
	last    time.Time
	closed  bool
	sending sync.WaitGroup
}

// Wake tells all nodes that the log has reached a sequence. It does not wait:
// the message goes out on a connection of the pool, outside of any transaction
// of the ledger, at most a few times a second, and may be lost. It says "look",
// and is not what they read.
func (s *Store) Wake(seq int64) {
	w := &s.wake
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq = max(w.seq, seq)
	if w.timer != nil || w.closed {
		return
	}
	w.sending.Add(1)
	w.timer = time.AfterFunc(max(0, wakeEvery-time.Since(w.last)), func() {
		defer w.sending.Done()
		w.mu.Lock()
		seq := w.seq
		w.timer, w.last = nil, time.Now()
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
		defer cancel()
		_, _ = s.pool.Exec(ctx, `SELECT pg_notify(`+wakeChannel+`, $1)`, strconv.FormatInt(seq, 10)) // a lost one costs latency only
	})
}

func (w *waker) close() {
	w.mu.Lock()
	w.closed = true
	if w.timer != nil && w.timer.Stop() {
		w.timer = nil
		w.sending.Done()
	}
	w.mu.Unlock()
	w.sending.Wait()
}

// Listen yields wake-ups until ctx ends; then the channel is closed, and the
// caller has to wait for that. A value is the newest sequence that was told of,
// or -1 after the connection was made or made anew: there may be something to
// read. A reader that is slow gets the newest only.
func (s *Store) Listen(ctx context.Context) <-chan int64 {
	out := make(chan int64, 1)
	tell := func(seq int64) {
		for {
			select {
			case out <- seq:
				return
			default:
			}
			select {
			case old := <-out:
				seq = max(seq, old)
			default:
			}
		}
	}
	go func() {
		defer close(out)
		for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
			if s.listen(ctx, tell) {
				pause = 50 * time.Millisecond
			}
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
	}()
	return out
}

// listen passes on what one connection hears, until it breaks, and says whether
// it ever stood.
func (s *Store) listen(ctx context.Context, tell func(int64)) (stood bool) {
	c, err := s.connect(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return false
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx) // nothing to lose
	}()
	var channel string
	if err := c.QueryRow(ctx, `SELECT `+wakeChannel).Scan(&channel); err != nil {
		return false
	}
	if _, err := c.Exec(ctx, `LISTEN `+pgx.Identifier{channel}.Sanitize()); err != nil {
		return false
	}
	tell(-1)
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return true
		}
		if seq, err := strconv.ParseInt(n.Payload, 10, 64); err == nil {
			tell(seq)
		}
	}
}

var _ ledger.Tx = (*tx)(nil)
