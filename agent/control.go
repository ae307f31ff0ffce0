package agent

import (
	"context"
	"fmt"
	"strconv"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
)

// The messages about a task that exists. Each is answered with a task.response
// that tells how the task stands; only who asked for a task may send them.

// taskCancel ends a task and waits for its settlement. Cancelling a cancelled
// task says so again; a task that ended otherwise cannot be cancelled.
func (s *Server) taskCancel(ctx context.Context, c *call, _ *Agent) (*asap.Envelope, error) {
	m, err := asap.ParseTaskCancel(c.envelope.Payload)
	if err != nil {
		return nil, c.fail("payload_invalid", s.payloadError(err))
	}
	r, err := s.find(m.TaskID, c)
	if err != nil {
		return nil, s.notHere(ctx, c, m.TaskID)
	}
	r.mu.Lock()
	over := r.over()
	r.mu.Unlock()
	if !over {
		r.cancel(errCancelled)
		r.hurry(s.limits.CancelGrace)
		if err := r.wait(ctx, r.over); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == refused {
		return nil, r.err
	}
	if over && r.status != asap.Cancelled {
		return nil, c.fail("already_completed", asap.CodeAgentTaskCompleted.Err("the task has already "+ended(r.status)))
	}
	return s.standing(c, r), nil
}

func ended(status asap.TaskStatus) string {
	if status == asap.Failed {
		return "failed"
	}
	return "completed"
}

// stateQuery tells how a task stands and shows its newest snapshot, or the one
// of the version asked for.
func (s *Server) stateQuery(ctx context.Context, c *call, a *Agent) (*asap.Envelope, error) {
	m, err := asap.ParseStateQuery(c.envelope.Payload)
	if err != nil {
		return nil, c.fail("payload_invalid", s.payloadError(err))
	}
	r, err := s.find(m.TaskID, c)
	if err != nil {
		return s.recalled(ctx, c, a, m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Version == nil {
		return s.standing(c, r), nil
	}
	state, ok := r.snapshotLocked(*m.Version)
	if !ok || *m.Version == 0 {
		return nil, c.fail("snapshot_not_found", asap.CodeSnapshotNotFound.Err(""))
	}
	payload := &asap.TaskResponse{TaskID: r.id, Status: r.status, FinalState: stateJSON(&state)}
	if r.payload != nil {
		payload.Result, payload.Metrics = r.payload.Result, r.payload.Metrics
	}
	return s.answer(c, r.agent, payload), nil
}

// stateRestore makes an earlier snapshot the newest state of a task that has
// not ended, as a new version. A handler that waits for input gets it at once;
// one that works finds it in [Task.State].
func (s *Server) stateRestore(ctx context.Context, c *call, _ *Agent) (*asap.Envelope, error) {
	m, err := asap.ParseStateRestore(c.envelope.Payload)
	if err != nil {
		return nil, c.fail("payload_invalid", s.payloadError(err))
	}
	r, err := s.find(m.TaskID, c)
	if err != nil {
		return nil, s.notHere(ctx, c, m.TaskID)
	}
	r.mu.Lock()
	if r.ending || r.over() {
		defer r.mu.Unlock()
		return nil, c.fail("already_completed", asap.CodeAgentTaskCompleted.Err("the task has ended; its state cannot be restored"))
	}
	var data jsontext.Value
	for i := range r.states {
		if r.states[i].ID == m.SnapshotID {
			data = r.states[i].Data
		}
	}
	r.mu.Unlock()
	if data == nil {
		return nil, c.fail("snapshot_not_found", asap.CodeSnapshotNotFound.Err(""))
	}
	state, err := r.addSnapshot(data)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	stop := r.stops
	given := r.give(Input{Restored: &state})
	r.mu.Unlock()
	return s.afterInput(ctx, c, r, given, stop)
}

// messageSend hands a message to a task that waits for input. A message id
// counts once: its repetition waits for what the first one led to.
func (s *Server) messageSend(ctx context.Context, c *call, _ *Agent) (*asap.Envelope, error) {
	m, err := asap.ParseMessageSend(c.envelope.Payload)
	if err != nil {
		return nil, c.fail("payload_invalid", s.payloadError(err))
	}
	r, err := s.find(m.TaskID, c)
	if err != nil {
		return nil, s.notHere(ctx, c, m.TaskID)
	}
	r.mu.Lock()
	stop, repeated := r.messages[m.MessageID]
	if !repeated {
		if stop = r.stops; !r.give(Input{Message: m}) {
			status := r.status
			r.mu.Unlock()
			if status.Terminal() {
				return nil, c.fail("already_completed", asap.CodeAgentTaskCompleted.Err("the task has ended"))
			}
			return nil, c.fail("invalid_state", &asap.Error{Code: asap.CodeInvalidState, Message: "the task does not wait for input",
				Details: object("from_state", string(status), "to_state", string(asap.Working), "task_id", string(m.TaskID))})
		}
		if r.messages == nil {
			r.messages = make(map[string]int)
		}
		if len(r.messages) < maxMessages {
			r.messages[m.MessageID] = stop
		}
	}
	r.mu.Unlock()
	return s.afterInput(ctx, c, r, true, stop)
}

// afterInput waits for what the handler does with its input: it ends, or asks
// again. Long-running skills are not waited for.
func (s *Server) afterInput(ctx context.Context, c *call, r *run, given bool, stop int) (*asap.Envelope, error) {
	r.watch(c.watcher)
	if given && !r.skill.long {
		if err := r.wait(ctx, func() bool { return r.over() || r.stops > stop }); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == refused {
		return nil, r.err
	}
	return s.standing(c, r), nil
}

// recall asks the ledger for a task this server does not know, or not any more.
// What others asked for does not exist, as with find.
func (s *Server) recall(ctx context.Context, c *call, id asap.TaskID) (Recalled, error) {
	memory, ok := s.ledger.(Memory)
	if !ok {
		return Recalled{}, c.fail("task_not_found", asap.CodeTaskNotFound.Err(""))
	}
	known, ok, err := memory.Recall(ctx, id)
	switch {
	case err != nil:
		return Recalled{}, err
	case !ok:
		return Recalled{}, c.fail("task_not_found", asap.CodeTaskNotFound.Err(""))
	}
	if err := c.mayTouch(known.Consumer, known.Verified, known.Principal); err != nil {
		return Recalled{}, c.fail("task_not_found", err)
	}
	return known, nil
}

// notHere is the answer to who would change a task this server does not know.
func (s *Server) notHere(ctx context.Context, c *call, id asap.TaskID) error {
	known, err := s.recall(ctx, c, id)
	switch {
	case err != nil:
		return err
	case known.Ended:
		return c.fail("already_completed", asap.CodeAgentTaskCompleted.Err("the task has ended"))
	}
	return c.fail("task_not_found", asap.CodeTaskNotFound.Err(""))
}

// recalled answers state.query about a task this server does not know: with how
// it ended, or that it runs where we cannot see it. Its snapshots are gone, but
// for the last one, which is in the answer.
func (s *Server) recalled(ctx context.Context, c *call, a *Agent, m *asap.StateQuery) (*asap.Envelope, error) {
	known, err := s.recall(ctx, c, m.TaskID)
	if err != nil {
		return nil, err
	}
	payload := &asap.TaskResponse{TaskID: m.TaskID, Status: asap.Working}
	switch {
	case known.Answer != nil:
		first, err := asap.ParseEnvelope(known.Answer)
		if err == nil {
			payload, err = asap.ParseTaskResponse(first.Payload)
		}
		if err != nil {
			return nil, fmt.Errorf("read the stored answer: %w", err)
		}
	case known.Ended:
		payload = withoutAnswer(m.TaskID, known.FailureCode)
	}
	if m.Version != nil && !shows(payload.FinalState, *m.Version) {
		return nil, c.fail("snapshot_not_found", asap.CodeSnapshotNotFound.Err(""))
	}
	e := s.answer(c, a, payload)
	e.Extensions = known.Receipt.extensions()
	return e, nil
}

// shows tells whether state is the snapshot of a version.
func shows(state jsontext.Value, version int64) bool {
	v, ok := member(state, "version")
	return ok && string(v) == strconv.FormatInt(version, 10)
}

func stateJSON(state *asap.StateSnapshot) jsontext.Value { return state.AppendJSON(nil) }
