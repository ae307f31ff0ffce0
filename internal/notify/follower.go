package notify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

const (
	// PollEvery is how often a log that others write to is read, wake-ups or not.
	PollEvery = 250 * time.Millisecond
	// StaleAfter is how old what is known of such a log may be.
	StaleAfter = 2 * time.Second
	// readTimeout bounds one reading.
	readTimeout = time.Second
	// againAfter is how long a reading that went wrong answers for the next ones.
	againAfter = 100 * time.Millisecond
)

// Log is what is followed.
type Log interface {
	// News returns what the log has gained behind a position; see [ledger.News].
	News(ctx context.Context, after int64) (ledger.News, error)
}

// Options are what a Follower needs besides its log. Apply is required.
type Options struct {
	// Shared tells whether others write to the log: it is read every PollEvery then.
	// It is asked when Run begins, and always says the same from then on.
	Shared func() bool
	// Apply is handed what is new, one reading after the other. What it is handed
	// once may come again. It must not block.
	Apply func(ledger.News)
	// Failed is told of readings that went wrong; nil for nobody.
	Failed func(error)
}

// Follower follows a log. Its methods are safe for concurrent use.
type Follower struct {
	log  Log
	opts Options
	wake chan struct{} // one token: there may be something new

	// fresh is when the last reading that went well began.
	fresh    atomic.Pointer[time.Time]
	position atomic.Int64

	reading sync.Mutex // one reading at a time; guards what follows
	failed  error      // of the last reading
	tried   time.Time  // when that ended

	mu    sync.Mutex    // guards moved
	moved chan struct{} // closed when the position moves
}

// Follow returns a follower of a log from its end on. What was read of the store
// before may be behind that: read it after Follow, what is new by then comes twice.
func Follow(ctx context.Context, log Log, o Options) (*Follower, error) {
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	f := &Follower{log: log, opts: o, wake: make(chan struct{}, 1), moved: make(chan struct{})}
	began := time.Now()
	news, err := log.News(ctx, math.MaxInt64)
	if err != nil {
		return nil, fmt.Errorf("find the end of the log: %w", err)
	}
	f.position.Store(news.Head)
	f.fresh.Store(&began)
	return f, nil
}

// Wake makes Run look. It does not block.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	var poll <-chan time.Time
	if f.opts.Shared() {
		ticker := time.NewTicker(PollEvery)
		defer ticker.Stop()
		poll = ticker.C
	}
	for {
		if err := f.Look(ctx); err != nil && ctx.Err() == nil {
			f.opts.Failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-poll:
		}
	}
}

// Look reads what is new now and hands it on before it returns.
func (f *Follower) Look(ctx context.Context) error {
	f.reading.Lock()
	defer f.reading.Unlock()
	return f.look(ctx)
}

func (f *Follower) look(ctx context.Context) error {
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	at := f.position.Load()
	news, err := f.log.News(bounded, at)
	if err != nil {
		f.failed, f.tried = fmt.Errorf("follow the log behind entry %d: %w", at, err), time.Now()
		return f.failed
	}
	f.failed = nil
	if news.Head != at {
		f.opts.Apply(news)
		f.position.Store(news.Head)
		f.mu.Lock()
		close(f.moved)
		f.moved = make(chan struct{})
		f.mu.Unlock()
	}
	f.fresh.Store(&began)
	return nil
}

// Position is the seq of the newest entry that is known.
func (f *Follower) Position() int64 { return f.position.Load() }

// Moved returns a channel that is closed when the position moves next.
func (f *Follower) Moved() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moved
}

// Age is how old what is known may be; 0 for a log that nobody else writes to.
func (f *Follower) Age() time.Duration {
	if !f.opts.Shared() {
		return 0
	}
	return time.Since(*f.fresh.Load())
}

// errStale reports that what is known is too old, and nothing newer to be had.
var errStale = errors.New("what is known of the log is too old")

// Fresh returns when what has been handed on is not older than StaleAfter: it is
// as a rule; else the log is read, and an error says that it cannot be. Many may
// ask at once; they share a reading.
func (f *Follower) Fresh(ctx context.Context) error {
	if f.Age() <= StaleAfter {
		return nil
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	switch {
	case f.Age() <= StaleAfter: // somebody else was first
		return nil
	case f.failed != nil && time.Since(f.tried) < againAfter:
		return fmt.Errorf("%w: %w", errStale, f.failed)
	}
	if err := f.look(ctx); err != nil {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	return nil
}
