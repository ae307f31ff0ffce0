package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
)

// The causes a task's context can end with, besides its deadline.
var (
	errCancelled = errors.New("the task was cancelled")
	errTimeout   = errors.New("the task's time is up")
	errStopping  = errors.New("the server is stopping")
)

// errNotRecorded is what a caller is told whose task is done and not recorded.
var errNotRecorded = asap.CodeTaskIndeterminate.Err("the work was done but its record could not be confirmed; ask again with the same envelope id")

// phase is how far a run is with the ledger.
type phase uint8

const (
	admitting phase = iota
	started         // admitted: the handler runs
	elsewhere       // a replay of a run that is going on where we cannot see it
	settled         // the answer is durable
	refused         // not admitted, or the outcome is unknown: err says which
)

// run is one task from its request to its answer. Requests that repeat it wait
// for the same run.
type run struct {
	server     *Server
	agent      *Agent
	skill      *skill
	key        requestKey
	digest     [32]byte
	envelope   *asap.Envelope // the request
	request    *asap.TaskRequest
	consumer   asap.AgentURN
	verified   bool
	parent     asap.TaskID
	delegation string      // the token as it came
	use        *Delegation // nil if there is none, or if it is the ledger's to judge

	ctx      context.Context
	cancel   context.CancelCauseFunc
	unbound  context.CancelFunc // frees the timer of ctx
	began    time.Time          // by the server's clock
	clocked  time.Time          // the same moment, to measure from
	deadline time.Time          // of ctx
	expires  time.Time          // by the server's clock: surely settled by then
	task     Task

	mu       sync.Mutex
	ticket   asap.TaskID // the id it was given at the start
	id       asap.TaskID // the same, or that of the first run if this is a replay
	changed  chan struct{}
	phase    phase
	err      error
	late     error // what those are told who wait while the record cannot be written
	status   asap.TaskStatus
	stops    int  // how often it has waited for input
	parked   bool // the last request was answered with input_required
	ending   bool
	reaper   *time.Timer // gives the handler up
	progress jsontext.Value
	asking   jsontext.Value // what InputRequired said
	resume   chan Input
	messages map[string]int // the message ids taken, and which stop each ended
	states   []asap.StateSnapshot
	version  int64
	watchers []pusher
	answer   *asap.Envelope
	payload  *asap.TaskResponse
	receipt  Receipt
	size     int64
}

// pusher takes frames for one WebSocket connection. It does not block; false
// says the frame was dropped.
type pusher interface{ push(frame []byte) bool }

const (
	maxWatchers = 16
	maxMessages = 1024
)

// execute takes the run from admission to settlement. It is the goroutine of
// the run and ends when the handler has returned.
func (r *run) execute() {
	s := r.server
	defer s.handlerReturned()
	starting := func() {}
	if r.use != nil {
		s.starts.RLock()
		starting = sync.OnceFunc(s.starts.RUnlock)
		defer starting()
	}
	admitted, err := r.admit()
	switch {
	case err != nil:
		r.refuse(err)
		return
	case admitted.Replay:
		starting()
		r.replay(admitted)
		return
	}
	r.mu.Lock()
	r.phase = started
	r.setStatus(asap.Working)
	patience := s.limits.CancelGrace
	if r.ctx.Err() == nil { // else the server began to stop meanwhile
		patience += time.Until(r.deadline)
	}
	r.reaper = time.AfterFunc(patience, r.giveUp)
	r.wake()
	r.mu.Unlock()
	defer r.release()
	began := time.Now()
	starting()
	result, err := r.handle()
	s.metrics.executions.WithLabelValues(asap.TaskRequestType).Inc()
	s.metrics.handlerSeconds.WithLabelValues(asap.TaskRequestType).Observe(time.Since(began).Seconds())
	r.end(result, err)
}

func (r *run) admit() (Admitted, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.server.limits.LedgerTimeout)
	defer cancel()
	return r.server.ledger.Admit(ctx, Admission{
		TaskID: r.id, Agent: r.agent.URN(), Consumer: r.consumer, Verified: r.verified, EnvelopeID: r.key.envelope, Digest: r.digest,
		Skill: r.skill.name, ParentTask: r.parent, TraceID: r.traceID(), Delegation: r.delegation, Use: r.use,
		ExpiresAt: r.expires.UTC(),
	})
}

// handle calls the handler and contains its panic.
func (r *run) handle() (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.server.log.Error("handler panicked", "agent", r.agent.URN(), "skill", r.skill.name, "task", r.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			result, err = nil, &Failure{Code: string(asap.CodeTaskFailed), Message: "the agent failed on this task"}
		}
	}()
	return r.skill.handler(r.ctx, &r.task)
}

// giveUp ends a run whose handler has not returned in time. The handler keeps
// its place among the running ones until it does.
func (r *run) giveUp() {
	err := context.Cause(r.ctx)
	if err == nil {
		err = errTimeout
	}
	r.end(nil, err)
}

// end settles the run with what the handler gave, once.
func (r *run) end(result any, err error) {
	r.mu.Lock()
	if r.ending {
		r.mu.Unlock()
		return
	}
	r.ending = true
	r.reaper.Stop()
	if r.status == asap.InputRequired {
		r.setStatus(asap.Working)
	}
	r.mu.Unlock()

	var body jsontext.Value
	if err == nil {
		if body, err = r.takeResult(result); err != nil {
			err = fmt.Errorf("encode the result: %w", err)
		}
	}
	outcome, code, message := r.judge(err)
	status := asap.Completed
	switch outcome {
	case Completed:
	case Cancelled:
		status = asap.Cancelled
		body = failureResult(code, message)
	default:
		status = asap.Failed
		body = failureResult(code, message)
		r.server.metrics.handlerErrors.WithLabelValues(asap.TaskRequestType).Inc()
		r.server.log.Warn("task failed", "agent", r.agent.URN(), "skill", r.skill.name, "task", r.id, "outcome", outcome, "code", code, "error", err)
	}
	used := r.task.usage.close()
	took := time.Since(r.clocked)
	payload := &asap.TaskResponse{TaskID: r.id, Status: status, Result: body, Metrics: used.metrics(took)}
	if state, ok := r.snapshot(0); ok {
		payload.FinalState = stateJSON(&state)
	}
	now := r.server.now()
	answer := r.envelope.Answer(r.server.ids.NewEnvelopeID(now), now, r.agent.URN(), asap.TaskResponseType, payload.AppendJSON(nil))
	encoded := answer.AppendJSON(nil)

	receipt, err := r.settle(Settlement{
		TaskID: r.id, Agent: r.agent.URN(), Consumer: r.consumer, Verified: r.verified, EnvelopeID: r.key.envelope, Skill: r.skill.name,
		ParentTask: r.parent, TraceID: r.traceID(), Delegation: r.delegation, Use: r.use, Outcome: outcome, FailureCode: code, Quantities: used,
		StartedAt: r.began.UTC(), EndedAt: now.UTC(), DurationMS: took.Milliseconds(), Answer: encoded,
	})
	var before *Superseded
	if errors.As(err, &before) {
		r.server.log.Warn("task was ended otherwise before", "agent", r.agent.URN(), "skill", r.skill.name, "task", r.id, "outcome", outcome, "failure", before.As.FailureCode)
		r.adopt(before.As)
		return
	}
	if err != nil {
		r.server.log.Error("task not settled", "agent", r.agent.URN(), "skill", r.skill.name, "task", r.id, "outcome", outcome, "error", err)
		r.refuse(errNotRecorded)
		return
	}
	answer.Extensions = receipt.extensions()
	r.mu.Lock()
	r.answer, r.payload, r.receipt = answer, payload, receipt
	r.size = int64(len(encoded) + len(r.envelope.Payload))
	for i := range r.states {
		r.size += int64(len(r.states[i].Data))
	}
	r.setStatus(status)
	if r.skill.long || r.parked { // no request is waiting for this answer
		frame := asap.AppendRPCResult(nil, "", answer)
		for _, w := range r.watchers {
			w.push(frame)
		}
	}
	r.watchers = nil
	r.mu.Unlock()
	// It is among the retained before anyone sees that it has ended.
	r.server.runEnded(r, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = settled
	r.wake()
}

// settleAgainAfter is the first pause before a settlement is tried again; each
// one is twice as long as the one before, up to settleAgainMost.
const (
	settleAgainAfter = 50 * time.Millisecond
	settleAgainMost  = 2 * time.Second
)

// settle records how a task ended. The work is done, so a ledger that cannot
// write is asked again until the task's hold may lapse or the server stops: a
// disk that is full for a while does not make the task one that nobody knows the
// end of. Who waits for the answer is told after LedgerTimeout, and may come back.
func (r *run) settle(settlement Settlement) (Receipt, error) {
	s := r.server
	began, last := time.Now(), r.deadline.Add(s.limits.CancelGrace+s.limits.LedgerTimeout) // r.expires, to wait for
	for pause := settleAgainAfter; ; pause = min(2*pause, settleAgainMost) {
		ctx, cancel := context.WithTimeout(context.Background(), s.limits.LedgerTimeout)
		receipt, err := s.ledger.Settle(ctx, settlement)
		cancel()
		if err == nil || !errors.Is(err, ErrUnavailable) || time.Until(last) < pause {
			return receipt, err
		}
		if time.Since(began) >= s.limits.LedgerTimeout {
			r.mu.Lock()
			if r.late == nil {
				s.log.Error("task not settled yet", "agent", r.agent.URN(), "skill", r.skill.name, "task", r.id, "error", err)
				r.late = errNotRecorded
				r.wake()
			}
			r.mu.Unlock()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.base.Done():
			timer.Stop()
			return Receipt{}, err
		}
	}
}

// judge says how a run ended: its outcome, the code for it, and what the caller
// is told.
func (r *run) judge(err error) (Outcome, string, string) {
	var failure *Failure
	cause := context.Cause(r.ctx)
	switch {
	case err == nil:
		return Completed, "", ""
	case errors.Is(cause, errCancelled):
		return Cancelled, "cancelled", "the task was cancelled"
	case errors.Is(cause, errTimeout), errors.Is(err, errTimeout):
		return TimedOut, string(asap.CodeTaskTimeout), "the task did not finish in time"
	case errors.Is(cause, errStopping):
		return Failed, string(asap.CodeShuttingDown), "the server stopped before the task was done"
	case errors.As(err, &failure):
		code := failure.Code
		if code == "" {
			code = string(asap.CodeTaskFailed)
		}
		return Failed, code, failure.Message
	}
	return Failed, string(asap.CodeTaskFailed), "the agent failed on this task"
}

func failureResult(code, message string) jsontext.Value {
	return object("error", object("code", code, "message", message))
}

// takeResult encodes what the handler returned. A whole TaskResponse may bring
// metrics of its own, which count as self-reported.
func (r *run) takeResult(result any) (jsontext.Value, error) {
	switch given := result.(type) {
	case *asap.TaskResponse:
		r.task.usage.addMetrics(given.Metrics)
		return given.Result, nil
	case asap.TaskResponse:
		r.task.usage.addMetrics(given.Metrics)
		return given.Result, nil
	}
	return encodeObject(result)
}

// refuse ends a run without an answer of its own.
func (r *run) refuse(err error) {
	r.conclude(func() {
		r.phase, r.err = refused, err
		r.watchers = nil
	})
}

// replay ends a run that turned out to be the repetition of an earlier one.
func (r *run) replay(a Admitted) {
	r.server.metrics.replays.Inc()
	if waiter, ok := r.server.ledger.(Waiter); ok && a.Answer == nil && !a.Ended && !r.skill.long {
		if ended, err := waiter.Await(r.ctx, a.TaskID); err == nil {
			a = ended
		}
	}
	if a.Answer == nil && !a.Ended {
		r.conclude(func() { r.phase, r.id, r.status = elsewhere, a.TaskID, asap.Working })
		return
	}
	r.adopt(a)
}

// adopt ends a run with how its task ended for the ledger.
func (r *run) adopt(a Admitted) {
	if a.Answer == nil {
		r.lost(a)
		return
	}
	answer, err := asap.ParseEnvelope(a.Answer)
	if err != nil {
		r.refuse(fmt.Errorf("read the stored answer: %w", err))
		return
	}
	answer.Extensions = a.Receipt.extensions()
	r.conclude(func() { r.phase, r.id, r.answer, r.receipt = settled, a.TaskID, answer, a.Receipt })
}

// lost is adopt for a task that has left no answer.
func (r *run) lost(a Admitted) {
	payload := withoutAnswer(a.TaskID, a.FailureCode)
	now := r.server.now()
	answer := r.envelope.Answer(r.server.ids.NewEnvelopeID(now), now, r.agent.URN(), asap.TaskResponseType, payload.AppendJSON(nil))
	answer.Extensions = a.Receipt.extensions()
	r.conclude(func() { r.phase, r.id, r.answer, r.receipt = settled, a.TaskID, answer, a.Receipt })
}

// withoutAnswer tells of a task that is over and has left no answer.
func withoutAnswer(id asap.TaskID, failure string) *asap.TaskResponse {
	if failure == "" {
		return &asap.TaskResponse{TaskID: id, Status: asap.Completed, Result: failureResult("answer_dropped", "the task was completed earlier; its answer is no longer kept")}
	}
	return &asap.TaskResponse{TaskID: id, Status: asap.Failed, Result: failureResult(failure, asap.Code(failure).Info().Sentence)}
}

// conclude ends a run that nobody will ask about. It is out of the tables before
// anyone is told how it ended: a repetition after that is a request of its own.
func (r *run) conclude(set func()) {
	r.release()
	r.server.runEnded(r, false)
	r.mu.Lock()
	defer r.mu.Unlock()
	set()
	r.wake()
}

// release frees what bounds the run's context.
func (r *run) release() {
	r.cancel(nil)
	r.unbound()
}

// setStatus moves the state machine. r.mu is held. A transition it does not
// have is a mistake of this package.
func (r *run) setStatus(next asap.TaskStatus) {
	if r.status == next {
		return
	}
	if err := r.status.Transition(r.id, next); err != nil {
		panic("agent: " + err.Error())
	}
	r.server.metrics.transition(r.status, next)
	r.status = next
}

// wake tells everyone who waits to look again. r.mu is held.
func (r *run) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns once done, which is called with r.mu held, says so, and with an
// error when that will take too long.
func (r *run) wait(ctx context.Context, done func() bool) error {
	for {
		r.mu.Lock()
		ok, changed, late := done(), r.changed, r.late
		r.mu.Unlock()
		switch {
		case ok:
			return nil
		case late != nil:
			return late
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// over says that nothing more will come of the run. r.mu is held.
func (r *run) over() bool { return r.phase == settled || r.phase == refused || r.phase == elsewhere }

func (r *run) traceID() string {
	if r.envelope.TraceID == nil {
		return ""
	}
	return *r.envelope.TraceID
}

// watch adds a connection that hears of the run's progress.
func (r *run) watch(w pusher) {
	if w == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over() || len(r.watchers) >= maxWatchers {
		return
	}
	for _, known := range r.watchers {
		if known == w {
			return
		}
	}
	r.watchers = append(r.watchers, w)
}

// update pushes a task.update to the watchers. r.mu is held.
func (r *run) update(u *asap.TaskUpdate) {
	if len(r.watchers) == 0 {
		return
	}
	now := r.server.now()
	e := r.envelope.Answer(r.server.ids.NewEnvelopeID(now), now, r.agent.URN(), asap.TaskUpdateType, u.AppendJSON(nil))
	frame := asap.AppendRPCResult(nil, "", e)
	for _, w := range r.watchers {
		if !w.push(frame) {
			r.server.metrics.droppedUpdates.Inc()
		}
	}
}

func (r *run) setProgress(progress jsontext.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return
	}
	r.progress = progress
	r.update(&asap.TaskUpdate{TaskID: r.id, UpdateType: asap.UpdateProgress, Status: r.status, Progress: progress})
}

func (r *run) waitForInput(ctx context.Context, asking jsontext.Value) (Input, error) {
	r.mu.Lock()
	if r.ending || r.ctx.Err() != nil || r.status != asap.Working {
		r.mu.Unlock()
		if err := context.Cause(r.ctx); err != nil {
			return Input{}, err
		}
		return Input{}, errors.New("the task has ended or already waits for input")
	}
	r.asking, r.resume = asking, make(chan Input, 1)
	resume := r.resume
	r.stops++
	r.parked = true
	r.setStatus(asap.InputRequired)
	r.update(&asap.TaskUpdate{TaskID: r.id, UpdateType: asap.UpdateInputRequired, Status: r.status, InputRequest: asking})
	r.wake()
	r.mu.Unlock()
	var err error
	select {
	case in := <-resume:
		return in, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-r.ctx.Done():
		err = context.Cause(r.ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case in := <-resume: // it came at the last moment, and its sender was told so
		return in, nil
	default:
	}
	r.resume, r.asking = nil, nil
	if !r.ending && r.status == asap.InputRequired {
		r.setStatus(asap.Working)
	}
	return Input{}, err
}

// give hands in to a run that waits for input. r.mu is held.
func (r *run) give(in Input) bool {
	if r.resume == nil || r.ending {
		return false
	}
	r.resume <- in
	r.resume, r.asking, r.parked = nil, nil, false
	r.setStatus(asap.Working)
	return true
}

func (r *run) addSnapshot(data jsontext.Value) (asap.StateSnapshot, error) {
	limits := r.server.limits
	if len(data) > limits.SnapshotBytes {
		return asap.StateSnapshot{}, fmt.Errorf("the snapshot has %d bytes, more than %d", len(data), limits.SnapshotBytes)
	}
	if data == nil {
		data = jsontext.Value("{}")
	}
	now := r.server.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	state := asap.StateSnapshot{ID: "snap_" + r.server.ids.New(now), TaskID: r.id, Version: r.version, Data: data,
		Checkpoint: true, CreatedAt: now.UTC().Truncate(time.Microsecond)}
	r.states = append(r.states, state)
	if extra := len(r.states) - limits.SnapshotsPerTask; extra > 0 {
		r.states = append(r.states[:0:0], r.states[extra:]...)
	}
	return state, nil
}

// snapshot returns the snapshot of a version, or the newest for 0.
func (r *run) snapshot(version int64) (asap.StateSnapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotLocked(version)
}

func (r *run) snapshotLocked(version int64) (asap.StateSnapshot, bool) {
	for i := len(r.states) - 1; i >= 0; i-- {
		if version == 0 || r.states[i].Version == version {
			return r.states[i], true
		}
	}
	return asap.StateSnapshot{}, false
}
