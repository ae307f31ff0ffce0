package slawatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// Options are what a Watch needs beside its store.
type Options struct {
	// Policy says how strictly promises are judged; the zero Policy is the default.
	Policy sla.Policy
	// ProbeInterval is how often agents are probed; 0 means every 30 s.
	ProbeInterval time.Duration
	// CheckpointEvery is how often the state is stored; 0 means every minute. It
	// takes at most a twentieth of the time.
	CheckpointEvery time.Duration
	// CheckpointAgents is how many agents are stored in one transaction; 0 means 64.
	CheckpointAgents int
	// Shared tells whether other nodes judge by the same store; nil: never. It says
	// the same from the first call on.
	Shared func() bool
	// Leads tells whether this node, of those that share the store, is the one that
	// journals what the ledger, the prober and time bring, and stores the state.
	Leads func() bool
	// Led is called when this node begins to lead: it is to be told again, by SetAgent
	// and KeepAgents, which agents there are. While it does not lead it ignores that.
	Led func()
	// Now is the clock. Required.
	Now func() time.Time
	Log *slog.Logger
}

// Recorder records what happened to breaches; *ledger.Ledger is one.
type Recorder interface {
	// RecordBreaches is durable when it returns, and returns those changes that
	// had not been recorded before.
	RecordBreaches(ctx context.Context, events []sla.Event) ([]ledger.BreachChange, error)
}

// Watch judges the agents of a node. Its methods are safe for concurrent use.
type Watch struct {
	opts  Options
	store Store
	log   Log
	feed  *feed
	wake  chan struct{} // one token: there is something to do
	// newest is the sequence of the newest record that Follow has told of.
	newest atomic.Int64
	// news tells that the log has changes of breaches which were not told yet.
	news atomic.Bool
	// leading tells that the watch of several that share a store leads.
	leading atomic.Bool

	mu      sync.Mutex // guards what follows
	engine  *sla.Engine
	buckets *buckets
	known   map[string]agentFacts // what the engine was, or is about to be, told
	queue   []Input               // not in the journal yet
	ceiling sla.Instant           // the engine must not pass it while inputs are written; 0: none
	present sla.Instant           // of the engine
	seq     int64                 // of the last input in the journal
	records int64                 // usage records taken
	pending []sla.Event           // to be recorded
	notices []sla.Event           // to be told, if they are new
	broken  error                 // the engine is of no use any more
	marks   map[string]int64      // while Open goes through inputs: which ones the agents know already

	// The rest belongs to the goroutine of Run.
	stored     Position
	hasState   bool                // the store holds a state
	seenStored map[sla.Instant]int // how many tasks of each hour are stored
	checkpoint time.Time           // when the next is due
	sweep      *sweep              // nil: none is under way
}

// agentFacts are what the engine is told about an agent.
type agentFacts struct {
	interval, ttl time.Duration
	sla           string      // canonical JSON; "" promises nothing
	registered    sla.Instant // 0: it will be with the next inputs
}

// maxQueue bounds what waits to be written to the journal. Beyond it probe
// results are dropped: the next ones say the same.
const maxQueue = 100_000

// lateProbes is how long results of probes are remembered in case that earlier
// ones come later.
const lateProbes = sla.Instant(3 * 60_000)

// Open restores what a store knows. Nothing is recorded or told before Run.
func Open(ctx context.Context, store Store, log Log, o Options) (*Watch, error) {
	if o.Policy.Windows == nil {
		o.Policy = sla.DefaultPolicy()
	}
	if o.ProbeInterval == 0 {
		o.ProbeInterval = 30 * time.Second
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = time.Minute
	}
	if o.CheckpointAgents == 0 {
		o.CheckpointAgents = 64
	}
	// Results come as soon as they are known.
	o.Policy.LateProbes = min(o.Policy.LateProbes, lateProbes)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watch{opts: o, store: store, log: log, feed: newFeed(log), wake: make(chan struct{}, 1)}
	if err := w.load(ctx); err != nil {
		return nil, err
	}
	if err := w.feed.load(ctx); err != nil {
		return nil, err
	}
	w.feed.hooked = w.decides
	w.engine.Notice = func(e sla.Event) { w.notices = append(w.notices, e) }
	return w, nil
}

// load makes what the watch knows of what its store holds.
func (w *Watch) load(ctx context.Context) error {
	saved, err := w.store.LoadSLA(ctx)
	if err != nil {
		return err
	}
	w.buckets, w.known, w.seenStored = newBuckets(w.store), map[string]agentFacts{}, map[sla.Instant]int{}
	w.stored, w.hasState, w.seq, w.records = saved.Position, saved.Known, saved.Position.Input, saved.Position.Records
	if saved.Known {
		w.present = saved.Position.At
		w.engine, err = sla.Restore(w.opts.Policy, w.buckets, sla.Snapshot{Now: saved.Position.At, Agents: saved.Agents, Seen: saved.Seen})
	} else {
		w.stored.At = sla.InstantOf(w.opts.Now())
		w.present = w.stored.At
		w.engine, err = sla.NewEngine(w.opts.Policy, w.buckets)
	}
	if err != nil {
		return fmt.Errorf("restore service levels: %w", err)
	}
	for i := range saved.Agents {
		a := &saved.Agents[i]
		if a.Removed == nil {
			w.known[a.Agent] = agentFacts{sla: promiseText(a.SLA), registered: a.Registered} // interval and ttl are told again
		}
	}
	for _, seen := range saved.Seen {
		w.seenStored[seen.Hour] = len(seen.Keys)
	}
	w.marks = map[string]int64{}
	for i := range saved.Agents {
		if a := &saved.Agents[i]; a.Mark > saved.Position.Input {
			w.marks[a.Agent] = a.Mark
		}
	}
	for i := range saved.Inputs {
		in := &saved.Inputs[i]
		if err := w.apply(ctx, in); err != nil {
			return fmt.Errorf("go through what became known after %s: %w", saved.Position.At, err)
		}
		if in.Seq > w.marks[in.Agent] {
			w.remember(in)
		}
	}
	w.marks = nil
	for i := range saved.Agents { // nobody is told anything that lies before what he knows
		if err := w.advance(saved.Agents[i].AsOf); err != nil {
			return err
		}
	}
	return nil
}

// promiseText is a promise in one spelling; nothing promised is "".
func promiseText(text jsontext.Value) string {
	if len(text) == 0 || string(text) == "null" {
		return ""
	}
	def, err := asap.ParseSLADefinition(text)
	if err != nil || def == nil {
		return ""
	}
	out := string(def.AppendJSON(nil))
	if out == string((&asap.SLADefinition{}).AppendJSON(nil)) {
		return ""
	}
	return out
}

// remember keeps what the engine was told about agents.
func (w *Watch) remember(in *Input) {
	switch in.Kind {
	case kindRegister:
		facts := w.known[in.Agent]
		facts.interval, facts.ttl = time.Duration(in.IntervalMS)*time.Millisecond, time.Duration(in.TTLMS)*time.Millisecond
		if facts.registered == 0 {
			facts.registered = in.At
		}
		w.known[in.Agent] = facts
	case kindPromise:
		facts := w.known[in.Agent]
		facts.sla = string(in.SLA)
		w.known[in.Agent] = facts
	case kindRemove:
		delete(w.known, in.Agent)
	}
}

// Agent is an agent as the watch is told about it.
type Agent struct {
	ID string
	// SLA is what it promises; nil is nothing.
	SLA *asap.SLADefinition
	// TTL is how long it says that its health holds; 0 if it does not.
	TTL time.Duration
}

// SetAgent makes an agent be watched, or changes what is known of it.
func (w *Watch) SetAgent(a Agent) {
	if !w.decides() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	facts, known := w.known[a.ID]
	promise := ""
	if a.SLA != nil {
		promise = promiseText(a.SLA.AppendJSON(nil))
	}
	if !known || facts.interval != w.opts.ProbeInterval || facts.ttl != a.TTL {
		w.tell(Input{Kind: kindRegister, Agent: a.ID, IntervalMS: w.opts.ProbeInterval.Milliseconds(), TTLMS: a.TTL.Milliseconds()})
	}
	if facts.sla != promise {
		w.tell(Input{Kind: kindPromise, Agent: a.ID, SLA: jsontext.Value(promise)})
	}
}

// RemoveAgent ends the watch over an agent.
func (w *Watch) RemoveAgent(id string) {
	if !w.decides() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.known[id]; known {
		w.tell(Input{Kind: kindRemove, Agent: id})
	}
}

// KeepAgents removes every agent that is not among ids.
func (w *Watch) KeepAgents(ids []string) {
	if !w.decides() {
		return
	}
	keep := make(map[string]bool, len(ids))
	for _, id := range ids {
		keep[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.known {
		if !keep[id] {
			w.tell(Input{Kind: kindRemove, Agent: id})
		}
	}
}

// tell queues an input. The caller holds mu.
func (w *Watch) tell(in Input) {
	w.remember(&in)
	w.queue = append(w.queue, in)
	w.Wake()
}

// Probed takes the result of a probe that was made at an instant.
func (w *Watch) Probed(agentID, observer string, state sla.State, at time.Time) {
	if !w.decides() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.known[agentID]; !known || len(w.queue) >= maxQueue {
		return
	}
	w.tell(Input{Kind: kindProbe, Agent: agentID, Observer: observer, State: state, ProbedAt: sla.InstantOf(at)})
}

// Follow takes what the log has gained: there may be new records. It does not block.
func (w *Watch) Follow(news ledger.News) {
	if news.Breaches && w.shared() {
		w.news.Store(true)
		w.Wake()
	}
	if w.newest.Swap(news.Records) != news.Records {
		w.Wake()
	}
}

// Wake makes Run look for something to do. It does not block.
func (w *Watch) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

const (
	// gatherFor is how long inputs are gathered before they are written together.
	gatherFor = 20 * time.Millisecond
	// lookEvery is how often the time is looked at, whatever the engine expects:
	// clocks are set.
	lookEvery = time.Second
	// endsAtOnce is how many records are taken in one step.
	endsAtOnce = 5000
)

// Run watches until ctx ends, and then stores the state. An error means that the
// state cannot be trusted any more; a new Open goes back to the last good one.
func (w *Watch) Run(ctx context.Context, to Recorder) error {
	w.feed.start()
	defer w.feed.close()
	w.checkpoint = time.Now().Add(w.opts.CheckpointEvery)
	for {
		more, err := w.step(ctx, to)
		switch {
		case err == nil:
		case ctx.Err() != nil:
		case w.failed() != nil:
			return fmt.Errorf("service levels: %w", w.failed())
		default:
			w.opts.Log.Error("service levels are late", "error", err)
		}
		if ctx.Err() != nil {
			break
		}
		if !more || err != nil {
			w.wait(ctx, err != nil)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if !w.decides() {
		return nil
	}
	// What is left is taken up by the next Open in any case.
	if err := w.keepAll(context.WithoutCancel(ctx)); err != nil {
		w.opts.Log.Warn("service levels were not stored at the end, they are worked out again at the next start", "error", err)
	}
	return nil
}

func (w *Watch) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

// wait returns when there may be something to do.
func (w *Watch) wait(ctx context.Context, afterError bool) {
	pause := time.NewTimer(gatherFor)
	defer pause.Stop()
	if afterError {
		pause.Reset(lookEvery)
	}
	select {
	case <-ctx.Done():
		return
	case <-pause.C:
	}
	if w.sweep != nil {
		return
	}
	w.mu.Lock()
	rest := lookEvery
	if !w.decides() {
		rest = followEvery
	}
	if due, ok := w.engine.NextDue(); ok {
		rest = min(rest, max(due.Time().Sub(w.opts.Now()), 0))
	}
	w.mu.Unlock()
	pause.Reset(rest)
	select {
	case <-ctx.Done():
	case <-w.wake:
	case <-pause.C:
	}
}

// step takes what has become known, and brings about what time brings. more tells
// that there are records left.
func (w *Watch) step(ctx context.Context, to Recorder) (more bool, err error) {
	if err := w.failed(); err != nil {
		return false, err
	}
	if w.shared() {
		if err := w.follow(ctx); err != nil {
			return false, err
		}
	}
	decides := w.decides()
	if decides && !w.hasState { // from now on, nothing that the ledger commits is left out
		if err := w.store.CheckpointSLA(ctx, &Checkpoint{Position: w.stored, Journal: w.journaled()}); err != nil {
			return false, err
		}
		w.hasState = true
	}
	var ends []TaskEnd
	last := w.taken()
	if decides {
		if ends, last, err = w.store.TaskEnds(ctx, last, 0, endsAtOnce); err != nil {
			return false, err
		}
	}
	inputs := w.take(ends, last)
	if len(inputs) > 0 {
		if err := w.store.JournalSLA(ctx, inputs); err != nil {
			w.giveBack(inputs)
			if errors.Is(err, ErrFenced) && w.shared() { // another node was first: its inputs come first
				return true, nil
			}
			return false, err
		}
	}
	w.mu.Lock()
	w.ceiling = 0
	for i := range inputs {
		if inputs[i].Kind == kindTasks {
			err = w.applyEnds(&inputs[i], ends)
		} else {
			err = w.apply(ctx, &inputs[i])
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = w.advance(w.until(inputs))
	}
	w.mu.Unlock()
	if err != nil {
		return false, err
	}
	if !decides {
		return false, w.overhear(ctx)
	}
	if err := w.record(ctx, to); err != nil {
		return false, err
	}
	if w.sweep != nil || !time.Now().Before(w.checkpoint) {
		if _, err = w.keep(ctx); err != nil {
			w.opts.Log.Error("service levels are not stored, the journal grows", "error", err)
		}
	}
	return len(ends) == endsAtOnce, nil
}

func (w *Watch) taken() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records
}

// take makes inputs of what is queued and of the ends of tasks up to a record, all
// of one instant, which the engine does not pass before it has been told.
func (w *Watch) take(ends []TaskEnd, last int64) []Input {
	w.mu.Lock()
	defer w.mu.Unlock()
	inputs := w.queue
	w.queue = nil
	if last > w.records {
		if len(ends) > 0 {
			inputs = append(inputs, Input{Kind: kindTasks, From: w.records + 1, To: last})
		}
		w.records = last
	}
	if len(inputs) == 0 && w.ticks() {
		inputs = append(inputs, Input{Kind: kindTime})
	}
	if len(inputs) == 0 {
		return nil
	}
	at := max(w.present, sla.InstantOf(w.opts.Now()))
	for i := range inputs {
		w.seq++
		in := &inputs[i]
		in.Seq, in.At = w.seq, at
		switch facts, known := w.known[in.Agent]; {
		case !known:
		case in.Kind == kindRegister && facts.registered == 0:
			facts.registered = at
			w.known[in.Agent] = facts
		case in.Kind == kindProbe: // it may have begun while the agent was being registered
			in.ProbedAt = max(in.ProbedAt, facts.registered)
		}
	}
	w.ceiling = at
	return inputs
}

// giveBack undoes take.
func (w *Watch) giveBack(inputs []Input) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ceiling = 0
	w.seq = inputs[0].Seq - 1
	if last := inputs[len(inputs)-1]; last.Kind == kindTasks {
		w.records, inputs = last.From-1, inputs[:len(inputs)-1]
	}
	w.queue = append(inputs, w.queue...)
}

// apply tells the engine something. The caller holds mu, or is Open.
func (w *Watch) apply(ctx context.Context, in *Input) error {
	w.seq = max(w.seq, in.Seq)
	if in.Seq <= w.marks[in.Agent] {
		return nil
	}
	var events []sla.Event
	var err error
	switch in.Kind {
	case kindRegister:
		zone := time.UTC
		if in.Zone != "" {
			if zone, err = time.LoadLocation(in.Zone); err != nil {
				return err
			}
		}
		events, err = w.engine.Register(in.At, sla.Registration{Agent: in.Agent, Zone: zone,
			ProbeInterval: time.Duration(in.IntervalMS) * time.Millisecond, TTL: time.Duration(in.TTLMS) * time.Millisecond})
	case kindPromise:
		var def *asap.SLADefinition
		if len(in.SLA) > 0 {
			if def, err = asap.ParseSLADefinition(in.SLA); err != nil {
				return err
			}
		}
		events, err = w.engine.Promise(in.At, in.Agent, def)
	case kindRemove:
		events, err = w.engine.Remove(in.At, in.Agent)
	case kindProbe:
		events, err = w.engine.Observe(in.At, sla.Probe{Agent: in.Agent, At: in.ProbedAt, State: in.State, Observer: in.Observer})
	case kindExclude:
		events, err = w.engine.Exclude(in.At, in.Agent, *in.Exclusion)
	case kindInclude:
		events, err = w.engine.Unexclude(in.At, in.Agent, in.Exclusion.ID)
	case kindTime:
		events, err = w.engine.Advance(in.At)
	case kindTasks:
		for after := in.From - 1; after < in.To; {
			ends, last, err := w.store.TaskEnds(ctx, after, in.To, endsAtOnce)
			if err != nil {
				return err
			}
			if last == after {
				break // the rest was purged
			}
			if err := w.applyEnds(in, ends); err != nil {
				return err
			}
			after = last
		}
		w.records = max(w.records, in.To)
		return nil
	default:
		return fmt.Errorf("input %d is of the unknown kind %q", in.Seq, in.Kind)
	}
	return w.took(in, events, err)
}

// applyEnds tells the engine how tasks ended.
func (w *Watch) applyEnds(in *Input, ends []TaskEnd) error {
	for i := range ends {
		o := ends[i].outcome()
		if in.Seq <= w.marks[o.Agent] {
			w.engine.Saw(in.At, o)
			continue
		}
		events, err := w.engine.Ingest(in.At, o)
		if err := w.took(in, events, err); err != nil {
			return err
		}
	}
	return nil
}

// took keeps the events of a call to the engine, which has become known at in.At.
func (w *Watch) took(in *Input, events []sla.Event, err error) error {
	w.present = max(w.present, in.At)
	w.pending = append(w.pending, events...)
	if in.told != nil {
		in.told <- err // there is room
	}
	if errors.Is(err, sla.ErrRefused) {
		w.opts.Log.Debug("not counted", "kind", in.Kind, "agent", in.Agent, "error", err)
		return nil
	}
	if err != nil {
		w.broken = err
	}
	return err
}

// advance brings about what time brings. The caller holds mu.
func (w *Watch) advance(now sla.Instant) error {
	if w.ceiling > 0 {
		now = min(now, w.ceiling)
	}
	if now <= w.present || w.broken != nil {
		return w.broken
	}
	events, err := w.engine.Advance(now)
	return w.took(&Input{At: now, Kind: "time"}, events, err)
}

// record has what happened to breaches recorded, and tells it.
func (w *Watch) record(ctx context.Context, to Recorder) error {
	for {
		w.mu.Lock()
		events, notices := w.pending[:min(len(w.pending), ledger.MaxGroup)], w.notices
		if len(events) == 0 {
			w.notices = nil
		}
		w.mu.Unlock()
		if len(events) == 0 {
			w.feed.notify(notices)
			return w.tellNews(ctx)
		}
		changes, err := to.RecordBreaches(ctx, events)
		if err != nil {
			return fmt.Errorf("record %d changes of breaches: %w", len(events), err)
		}
		w.mu.Lock()
		w.pending = slices.Clone(w.pending[len(events):])
		w.mu.Unlock()
		if w.shared() { // what others have recorded comes before
			w.news.Store(true)
			continue
		}
		w.feed.publish(changes)
	}
}

// Idle tells that everything the watch was told has reached the engine, and what
// came of it is recorded.
func (w *Watch) Idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) == 0 && w.ceiling == 0 && len(w.pending) == 0
}
