package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

const (
	// MaxGroup is the most operations (items of batches counted) in one commit.
	MaxGroup = 1024
	// DefaultQueue is how many operations may wait unless Options say otherwise.
	DefaultQueue = 8192
	// MaxBatch is the most items in one batch.
	MaxBatch = 10_000
)

// Options are what a Ledger needs besides its store. Origin is required.
type Options struct {
	// Origin names the log; it is bound into the first entry.
	Origin string
	// Operator is the actor of what the ledger does by itself (purge).
	Operator asap.AgentURN
	// Now is the clock of this machine; nil for the system's. On a shared store the
	// ledger goes by the store's, see [Ledger.Now].
	Now func() time.Time
	// Lead says that the ledger's instance may lead the nodes of a shared store.
	Lead bool
	// Recovered is told how many tasks of dead instances were settled while Run
	// runs. Nil for nobody.
	Recovered func(tasks int)
	// Prices are the price lists of the agents to begin with; nil prices nothing.
	Prices *metering.PriceBook
	// LostAnswer makes the answer that a retry gets for a task whose node died.
	// Nil stores no answer; the replay then carries only the failure code.
	LostAnswer func(*Task) []byte
	// Committed is told what has become durable, in sequence order, on the
	// committer's goroutine: it must not block. Nil for nobody.
	Committed func(Batch)
	// AgentsChanged is told what has become durable in the registry, in the order
	// of the log, before anybody who waits for it is answered: what was registered
	// is found at once. It runs on the committer's goroutine and must not block.
	// Nil for nobody.
	AgentsChanged func([]registry.Agent)
	// Observed is told of every group that was to be committed: how long that took,
	// what became durable, and the error that the whole group got, before anybody is
	// answered. It runs on the committer's goroutine and must not block. Nil for nobody.
	Observed func(took time.Duration, added Batch, err error)
	// Entropy feeds the ids of entries and records; nil for the system's.
	Entropy io.Reader
	// Queue is how many operations may wait; 0 for DefaultQueue.
	Queue int
}

// Batch is what one commit added.
type Batch struct {
	Entries []audit.Entry
	Records []metering.Record
	// Warnings tell which limits of delegations have come near their end.
	Warnings []Warning
}

// Ledger is the one writer of a store. Its methods are safe for concurrent use.
// Operations are answered only while Run is running; before that they wait.
type Ledger struct {
	store    Store
	opts     Options
	ids      *asap.IDSource
	instance string

	// ahead is how far the store's clock is ahead of Options.Now, in nanoseconds.
	ahead  atomic.Int64
	shared bool // by several nodes
	// leads is until when, by time.Now, the instance leads; nil: it does not.
	leads atomic.Pointer[time.Time]
	// ending is closed when Run is to end.
	ending <-chan struct{}

	queue chan *pending
	// urgent holds what goes into the next commit, however long the queue is: the
	// changes of breaches.
	urgent chan *pending
	// awaited is how many operations the committer waits for, 0 if it does not;
	// reached is told once that they are there.
	awaited atomic.Int64
	reached chan struct{}

	// closing guards the queue against senders that come after the drain.
	closing sync.RWMutex
	closed  bool // guarded by closing

	prices atomic.Pointer[metering.PriceBook]

	// fatal holds the sticky error once the outcome of a commit is unknown.
	fatal atomic.Pointer[error]

	// The rest belongs to the committer: whoever runs commit.
	priced map[string]bool // price lists that are stored for sure
	expect int             // callers that were waiting lately: how large a group may become
	took   time.Duration   // the last commit
	next   *pending        // taken from the queue, but to be a group of its own
}

// pending is an operation that waits for its group.
type pending struct {
	op   operation
	err  error
	done chan struct{}
	// state tells whether the caller still waits.
	state atomic.Int32
}

// The states of a pending operation.
const (
	waiting  int32 = iota
	answered       // done is closed, or about to be
	deserted       // the caller has gone: it believes that nothing is known
)

// answer wakes the caller, and tells whether there is one.
func (p *pending) answer() bool {
	defer close(p.done)
	return p.state.CompareAndSwap(waiting, answered)
}

// operation is one thing to do to the ledger. The closed set of them is in this
// package: admit, settle, release, expire, record, correct, append, purge, the
// changes of agents and of breaches, and the removal of what is due.
type operation interface {
	// needs names what apply has to know; more what it has to know after that.
	needs(n *Needs)
	more(b *book, n *Needs)
	// apply changes the book, or returns an error and leaves it as it was. Its
	// result goes into the operation itself.
	apply(b *book) error
	// weight is how many items the operation stands for.
	weight() int
}

// Open returns the ledger of a store after it has settled what dead runs left
// behind: every task that they started and never ended is recorded as failed and
// indeterminate, through the same code as Settle. On a shared store it is alive
// from now on, for [InstanceLease] unless Run runs. The store stays the caller's
// to close, after Run has returned.
func Open(ctx context.Context, store Store, o Options) (*Ledger, error) {
	if o.Origin == "" {
		return nil, fmt.Errorf("%w: a ledger needs an origin", ErrInvalid)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Entropy == nil {
		o.Entropy = rand.Reader
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	if o.Committed == nil {
		o.Committed = func(Batch) {}
	}
	if o.Recovered == nil {
		o.Recovered = func(int) {}
	}
	if o.Observed == nil {
		o.Observed = func(time.Duration, Batch, error) {}
	}
	if o.AgentsChanged == nil {
		o.AgentsChanged = func([]registry.Agent) {}
	}
	l := &Ledger{store: store, opts: o, ids: asap.NewIDSource(), queue: make(chan *pending, o.Queue), urgent: make(chan *pending, 4), reached: make(chan struct{}, 1), priced: map[string]bool{}}
	l.prices.Store(o.Prices)
	l.instance = l.ids.New(o.Now())
	if err := l.renew(ctx); err != nil {
		return nil, fmt.Errorf("join the nodes of the store: %w", err)
	}
	if err := l.recover(ctx); err != nil {
		l.leave(ctx)
		return nil, fmt.Errorf("settle what the last run left behind: %w", err)
	}
	return l, nil
}

// Run commits what is handed in until ctx ends, then what still waits, and
// returns nil; after that operations get ErrClosed. It returns ErrOutcomeUnknown
// if it had to stop. Run is called once.
func (l *Ledger) Run(ctx context.Context) error {
	// A commit that has begun is not interrupted.
	work := context.WithoutCancel(ctx)
	l.ending = ctx.Done()
	if l.shared {
		var beat sync.WaitGroup
		beat.Go(func() { l.keepAlive(ctx) })
		defer func() {
			beat.Wait()
			l.leave(work)
		}()
	}
	for {
		select {
		case first := <-l.queue:
			l.serve(work, first)
		case first := <-l.urgent:
			l.serve(work, first)
		case <-ctx.Done():
			l.close()
			for len(l.urgent) > 0 {
				l.serve(work, <-l.urgent)
			}
			for len(l.queue) > 0 {
				l.serve(work, <-l.queue)
			}
			return l.stopped()
		}
		if err := l.stopped(); err != nil {
			l.close()
			return err
		}
	}
}

// serve commits the group that begins with first, and an operation that was
// found to need a group of its own.
func (l *Ledger) serve(ctx context.Context, first *pending) {
	for ; first != nil; first, l.next = l.next, nil {
		if err := l.stopped(); err != nil {
			first.release(err)
			continue
		}
		l.commit(ctx, l.gather(first))
	}
}

// close lets nobody in any more. If the ledger has stopped, those who wait are
// told so.
func (l *Ledger) close() {
	l.closing.Lock()
	l.closed = true
	l.closing.Unlock()
	if err := l.stopped(); err != nil {
		for len(l.urgent) > 0 {
			(<-l.urgent).release(err)
		}
		for len(l.queue) > 0 {
			(<-l.queue).release(err)
		}
	}
}

// SetPrices replaces the price lists. Tasks that end from now on are priced by
// them; what is recorded keeps its price.
func (l *Ledger) SetPrices(book *metering.PriceBook) { l.prices.Store(book) }

// Healthy returns the error that ended the ledger, or nil while it can commit.
func (l *Ledger) Healthy() error { return l.stopped() }

// stopped returns the error that ended the ledger, or nil.
func (l *Ledger) stopped() error {
	if err := l.fatal.Load(); err != nil {
		return *err
	}
	return nil
}

// maxPatience bounds how long a group waits for callers that were there lately,
// as does patienceShare of the time that the commit before took: who comes back
// within it shares a commit instead of waiting for one.
const (
	maxPatience   = time.Millisecond
	patienceShare = 8
)

// gather takes what has come together behind first. A group forms by itself
// while the one before it is written; when the callers of that one have just
// been woken it pays to wait until they are back.
func (l *Ledger) gather(first *pending) []*pending {
	group := append(make([]*pending, 0, l.expect+1), first)
	weight := first.op.weight()
	select {
	case p := <-l.urgent:
		if weight += p.op.weight(); weight > MaxGroup {
			l.next = first
			return []*pending{p}
		}
		group = append(group, p)
	default:
	}
	if weight >= MaxGroup {
		return group
	}
	for waited := false; ; {
		select {
		case p := <-l.queue:
			if weight += p.op.weight(); p.op.weight() >= MaxGroup {
				l.next = p
				return group
			}
			if group = append(group, p); weight >= MaxGroup {
				return group
			}
		default:
			missing := l.expect - len(group)
			if missing <= 0 || waited {
				return group
			}
			waited = true
			l.await(missing)
		}
	}
}

// await waits until so many operations are in the queue, or for as long as it is
// worth it.
func (l *Ledger) await(missing int) {
	select {
	case <-l.reached: // of a wait that had ended
	default:
	}
	l.awaited.Store(int64(missing))
	defer l.awaited.Store(0)
	if len(l.queue) >= missing {
		return
	}
	timer := time.NewTimer(min(maxPatience, l.took/patienceShare))
	defer timer.Stop()
	select {
	case <-l.reached:
	case <-timer.C:
	}
}

// arrived tells a committer that waits for callers that the last of them is there.
func (l *Ledger) arrived() {
	if n := l.awaited.Load(); n > 0 && int64(len(l.queue)) >= n && l.awaited.CompareAndSwap(n, 0) {
		select {
		case l.reached <- struct{}{}:
		default:
		}
	}
}

// commit has the store apply a group, wakes its callers and tells the feed.
func (l *Ledger) commit(ctx context.Context, group []*pending) {
	var b *book
	began := time.Now()
	err := l.store.Update(ctx, func(tx Tx) error {
		b = newBook(l.Now(), l)
		return b.run(ctx, tx, group)
	})
	if l.shared && errors.Is(err, ErrOutcomeUnknown) {
		err = l.findOut(ctx, b, err)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrOutcomeUnknown):
		l.fatal.Store(&err)
	case !errors.Is(err, ErrUnavailable):
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var added Batch
	if err == nil {
		added = b.batch()
	}
	l.opts.Observed(time.Since(began), added, err)
	if err == nil && len(b.changes.Agents) > 0 {
		l.opts.AgentsChanged(b.changes.Agents)
	}
	l.expect, l.took = len(group)+len(l.queue), time.Since(began)
	var unwanted []*pending
	for _, p := range group {
		if err != nil {
			p.err = err
		}
		if p.answer() || p.err != nil {
			continue
		}
		if a, ok := p.op.(*admit); ok && a.out.Replay == nil {
			unwanted = append(unwanted, &pending{op: &release{task: a.in.TaskID, reason: "nobody waited for the admission"}, done: make(chan struct{})})
		}
	}
	if len(added.Entries) > 0 {
		l.opts.Committed(added)
	}
	if err == nil {
		for _, list := range b.changes.PriceLists {
			l.priced[list.Hash] = true
		}
	}
	if len(unwanted) > 0 { // their callers took them for not begun, and so they never begin
		l.commit(ctx, unwanted)
	}
}

func (p *pending) release(err error) {
	p.err = err
	p.answer()
}

// do hands an operation over and waits until its group is durable. When ctx
// ends first the operation may still happen: the caller may ask again under the
// same key. An admission that still happens is released again.
func (l *Ledger) do(ctx context.Context, op operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &pending{op: op, done: make(chan struct{})}
	if err := l.enqueue(p); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		if !p.state.CompareAndSwap(waiting, deserted) {
			<-p.done
			return p.err
		}
		return fmt.Errorf("waiting for the ledger: %w", context.Cause(ctx))
	}
}

func (l *Ledger) enqueue(p *pending) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if err := l.stopped(); err != nil {
		return err
	}
	if l.closed {
		return ErrClosed
	}
	if _, ok := p.op.(*recordBreaches); ok {
		select {
		case l.urgent <- p:
			return nil
		default:
		}
	}
	select {
	case l.queue <- p:
		l.arrived()
		return nil
	default:
		return ErrOverloaded
	}
}
