package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// TaskCall says what is asked of whom. Recipient, Skill and Input are needed.
type TaskCall struct {
	// Recipient is the URN of the agent that is to do the task.
	Recipient asap.AgentURN
	// Skill is the id of the skill, as the manifest lists it.
	Skill string
	// Input is a JSON object; empty means {}.
	Input jsontext.Value
	// Config is a free-form JSON object for the agent, or empty.
	Config jsontext.Value
	// ConversationID groups tasks; empty means a conversation of its own.
	ConversationID asap.ConversationID
	// ParentTaskID is the task this one is a part of, or empty.
	ParentTaskID asap.TaskID
	// EnvelopeID is what makes a repeated call the same call. Empty means a new
	// one: two calls, two tasks. Set it to repeat a call after a crash.
	EnvelopeID asap.EnvelopeID
	// Timestamp is when the call was made. Zero means now; a repeated call must
	// state that of the first, since the content is compared.
	Timestamp time.Time
	// TraceID connects the calls of a larger piece of work, or is empty.
	TraceID string
}

// TaskResult is where a task stands, as its agent says.
type TaskResult struct {
	// TaskID is the agent's id of the task.
	TaskID asap.TaskID
	// Status is where the task stands. Unless it is terminal or input_required,
	// the task is still being worked on; see Wait.
	Status asap.TaskStatus
	// Result is the JSON object that the task came to, or nil.
	Result jsontext.Value
	// Metrics is what the agent says it used, a free-form JSON object, or nil.
	Metrics jsontext.Value
	// Receipt says which audit entry records the outcome; nil if the agent gave
	// none, as agents of other makes do.
	Receipt *Receipt
	// Response is the whole payload.
	Response *asap.TaskResponse
	// Envelope is the answer it came in.
	Envelope *asap.Envelope
}

// Receipt names the audit entry that was written, durably, before the answer
// went out. Whoever keeps it can demand proof that the entry is still there.
type Receipt struct {
	// Seq is the entry's position in the audit log, from 0.
	Seq int64
	// EntryID is the entry's id.
	EntryID string
	// Hash is the entry's SHA-256 hash.
	Hash [32]byte
}

// ReceiptOf reads the extension "asap-receipt" of an answer. It is nil with no
// error if there is none.
func ReceiptOf(e *asap.Envelope) (*Receipt, error) {
	var outer struct {
		Receipt jsontext.Value `json:"asap-receipt"`
	}
	if !present(e.Extensions) {
		return nil, nil
	}
	if err := json.Unmarshal(e.Extensions, &outer); err != nil {
		return nil, fmt.Errorf("extensions: %w", err)
	}
	if !present(outer.Receipt) {
		return nil, nil
	}
	var r struct {
		Seq  *int64 `json:"seq"`
		ID   string `json:"id"`
		Hash string `json:"hash"`
	}
	if err := json.Unmarshal(outer.Receipt, &r); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	hash, err := hex.DecodeString(r.Hash)
	if err != nil || len(hash) != 32 || r.Seq == nil || *r.Seq < 0 || r.ID == "" {
		return nil, errors.New("receipt: needs a seq of at least 0, an id and a hash of 64 hex digits")
	}
	return &Receipt{Seq: *r.Seq, EntryID: r.ID, Hash: [32]byte(hash)}, nil
}

// caller is what a task method needs of a Client or a Socket.
type caller struct {
	send func(context.Context, *asap.Envelope) (*asap.Envelope, error)
	url  string
	opts *options
	ids  *asap.IDSource
}

func (c *Client) caller() caller { return caller{c.Send, c.URL(), c.opts, c.ids} }
func (s *Socket) caller() caller { return caller{s.Send, s.url, s.opts, s.ids} }

// Task asks an agent to do a task and returns its answer. An agent that works
// longer answers at once with the status working: then call Wait with the
// result's TaskID. [WithSender] is needed.
func (c *Client) Task(ctx context.Context, t TaskCall) (*TaskResult, error) {
	return c.caller().task(ctx, t)
}

// Task is [Client.Task] over the WebSocket.
func (s *Socket) Task(ctx context.Context, t TaskCall) (*TaskResult, error) {
	return s.caller().task(ctx, t)
}

// Query asks the agent where a task stands.
func (c *Client) Query(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error) {
	return c.caller().query(ctx, agent, id)
}

// Query is [Client.Query] over the WebSocket.
func (s *Socket) Query(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error) {
	return s.caller().query(ctx, agent, id)
}

// Cancel asks the agent to end a task, with a reason that may be empty, and
// returns where it stands then. A task that has ended stays as it is.
func (c *Client) Cancel(ctx context.Context, agent asap.AgentURN, id asap.TaskID, reason string) (*TaskResult, error) {
	return c.caller().cancel(ctx, agent, id, reason)
}

// Cancel is [Client.Cancel] over the WebSocket.
func (s *Socket) Cancel(ctx context.Context, agent asap.AgentURN, id asap.TaskID, reason string) (*TaskResult, error) {
	return s.caller().cancel(ctx, agent, id, reason)
}

// Wait asks the agent until the task has ended or needs input, and returns where
// it stands then. It waits 250 ms at first and up to 5 s between questions.
func (c *Client) Wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error) {
	return c.caller().wait(ctx, agent, id, nil)
}

// Wait is [Client.Wait] over the WebSocket, where a pushed update of the task
// makes it ask at once.
func (s *Socket) Wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error) {
	w := &watch{changed: make(chan struct{}, 1)}
	s.watch(id, w)
	defer s.unwatch(id, w)
	return s.caller().wait(ctx, agent, id, w.changed)
}

func (c caller) task(ctx context.Context, t TaskCall) (*TaskResult, error) {
	conversation := t.ConversationID
	if conversation == "" {
		if t.EnvelopeID != "" { // a repeated call has the same content
			conversation = asap.ConversationID("conv_" + string(t.EnvelopeID))
		} else {
			conversation = asap.ConversationID("conv_" + c.ids.New(time.Now()))
		}
	}
	input := t.Input
	if len(input) == 0 {
		input = jsontext.Value("{}")
	}
	request := asap.TaskRequest{ConversationID: conversation, SkillID: t.Skill, Input: input, Config: t.Config}
	if t.ParentTaskID != "" {
		parent := string(t.ParentTaskID)
		request.ParentTaskID = &parent
	}
	for name, v := range map[string]jsontext.Value{"input": input, "config": t.Config} {
		if len(v) > 0 && (v.Kind() != '{' || !v.IsValid()) {
			return nil, fmt.Errorf("task %s: not a JSON object", name)
		}
	}
	e := c.envelope(t.Recipient, asap.TaskRequestType, request.AppendJSON(nil))
	e.ID = t.EnvelopeID
	if !t.Timestamp.IsZero() {
		e.Timestamp, e.TimestampSet = t.Timestamp, true
	}
	if t.TraceID != "" {
		e.TraceID = &t.TraceID
	}
	return c.ask(ctx, e)
}

func (c caller) query(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error) {
	return c.ask(ctx, c.envelope(agent, asap.StateQueryType, (&asap.StateQuery{TaskID: id}).AppendJSON(nil)))
}

func (c caller) cancel(ctx context.Context, agent asap.AgentURN, id asap.TaskID, reason string) (*TaskResult, error) {
	cancel := asap.TaskCancel{TaskID: id}
	if reason != "" {
		cancel.Reason = &reason
	}
	return c.ask(ctx, c.envelope(agent, asap.TaskCancelType, cancel.AppendJSON(nil)))
}

const (
	firstPoll = 250 * time.Millisecond
	lastPoll  = 5 * time.Second
)

func (c caller) wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID, changed <-chan struct{}) (*TaskResult, error) {
	for delay := firstPoll; ; delay = min(2*delay, lastPoll) {
		r, err := c.query(ctx, agent, id)
		if err != nil || r.Status.Terminal() || r.Status == asap.InputRequired {
			return r, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return r, failure("wait", c.url, 0, false, ctx.Err())
		}
	}
}

// envelope returns a new envelope; Send gives it its id.
func (c caller) envelope(to asap.AgentURN, payloadType string, payload []byte) *asap.Envelope {
	return &asap.Envelope{Sender: c.opts.sender, Recipient: to, PayloadType: payloadType, Payload: payload}
}

// ask sends e and reads the answer as a task response.
func (c caller) ask(ctx context.Context, e *asap.Envelope) (*TaskResult, error) {
	if c.opts.sender == "" {
		return nil, errors.New("task: no sender is configured")
	}
	answer, err := c.send(ctx, e)
	if err != nil {
		return nil, err
	}
	r, err := ResultOf(answer)
	if err != nil {
		return nil, failure("receive", c.url, 1, true, err)
	}
	return r, nil
}

// ResultOf reads an answer that holds a task response. The error wraps
// [ErrInvalidAnswer].
func ResultOf(e *asap.Envelope) (*TaskResult, error) {
	kind, known := asap.CanonicalPayloadType(e.PayloadType)
	if !known || kind != asap.KindTaskResponse {
		return nil, fmt.Errorf("%w: payload type %q instead of %s", ErrInvalidAnswer, e.PayloadType, asap.TaskResponseType)
	}
	response, err := asap.ParseTaskResponse(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: task response: %w", ErrInvalidAnswer, err)
	}
	receipt, err := ReceiptOf(e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
	}
	return &TaskResult{
		TaskID:   response.TaskID,
		Status:   response.Status,
		Result:   response.Result,
		Metrics:  response.Metrics,
		Receipt:  receipt,
		Response: response,
		Envelope: e,
	}, nil
}

// watch is somebody who waits for updates of a task.
type watch struct{ changed chan struct{} }

func (s *Socket) watch(id asap.TaskID, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[id] = append(s.watchers[id], w)
}

func (s *Socket) unwatch(id asap.TaskID, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.watchers[id]
	for i := range rest {
		if rest[i] == w {
			rest = append(rest[:i:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(s.watchers, id)
	} else {
		s.watchers[id] = rest
	}
}

// notifyWatchers wakes those who wait for the task that a pushed envelope is
// about.
func (s *Socket) notifyWatchers(e *asap.Envelope) {
	var about struct {
		TaskID asap.TaskID `json:"task_id"`
	}
	if json.Unmarshal(e.Payload, &about) != nil || about.TaskID == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers[about.TaskID] {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}
