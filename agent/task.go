package agent

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Task is one task as its handler sees it. Its methods are safe for concurrent
// use; after the handler has returned they are without effect.
type Task struct {
	run   *run
	usage Usage
}

// ID returns the task id.
func (t *Task) ID() asap.TaskID { return t.run.id }

// Caller returns who asked for the task.
func (t *Task) Caller() Caller { return Caller{URN: t.run.consumer, Verified: t.run.verified} }

// Agent returns the URN of the agent that was asked.
func (t *Task) Agent() asap.AgentURN { return t.run.agent.URN() }

// Skill returns the name of the skill.
func (t *Task) Skill() string { return t.run.skill.name }

// Conversation returns the conversation the task belongs to.
func (t *Task) Conversation() asap.ConversationID {
	return t.run.request.ConversationID
}

// Parent returns the task this one is part of, or "".
func (t *Task) Parent() asap.TaskID { return t.run.parent }

// TraceID returns the trace the request belongs to, or "".
func (t *Task) TraceID() string { return t.run.traceID() }

// Input returns the input as it was sent: one JSON object. It must not be
// modified.
func (t *Task) Input() jsontext.Value { return t.run.request.Input }

// Config returns the free-form configuration of the request, or nil.
func (t *Task) Config() jsontext.Value { return t.run.request.Config }

// Decode reads the input into v: member names are case-sensitive, unknown
// members are ignored. Its error is a *[Failure] with the code invalid_input,
// so a handler can return it as it is.
func (t *Task) Decode(v any) error {
	if err := json.Unmarshal(t.run.request.Input, v); err != nil {
		return &Failure{Code: "invalid_input", Message: "the input does not have the form this skill needs: " + err.Error()}
	}
	return nil
}

// Deadline returns when the task's time is up.
func (t *Task) Deadline() time.Time { return t.run.deadline }

// Usage returns the collector of what the task uses.
func (t *Task) Usage() *Usage { return &t.usage }

// HTTPClient returns a client for this task's calls to outside services. Every
// call counts as one API call; token counts that OpenAI- or Anthropic-style
// answers carry are added to [Task.Usage]. Answers pass through unbuffered, and
// calls end with the task. It has no cookie jar.
func (t *Task) HTTPClient() *http.Client {
	return &http.Client{Transport: &meter{base: t.run.server.outbound, usage: &t.usage, task: t.run.ctx}}
}

// Progress tells how far the task is, in percent from 0 to 100; values outside
// are moved to the nearest end. The news goes to the WebSocket connections that
// wait for the task, which may miss some if they read slowly, and to whoever
// asks with state.query.
func (t *Task) Progress(percent float64, message string) {
	if math.IsNaN(percent) {
		return
	}
	percent = min(100, max(0, percent))
	t.run.setProgress(object("percent", percent, "message", message))
}

// Input is what ended a wait for input. Exactly one member is set.
type Input struct {
	Message  *asap.MessageSend   // the caller's message
	Restored *asap.StateSnapshot // the snapshot the caller went back to
}

// InputRequired tells the caller that the task cannot go on without it, and
// waits. request encodes to a JSON object that says what is needed. The caller
// is answered with the status input_required and goes on with message.send or
// state.restore. The task's time keeps running. The error is that of ctx, or
// says that request cannot be encoded.
func (t *Task) InputRequired(ctx context.Context, request any) (Input, error) {
	encoded, err := encodeObject(request)
	if err != nil {
		return Input{}, fmt.Errorf("encode the request for input: %w", err)
	}
	return t.run.waitForInput(ctx, encoded)
}

// Snapshot keeps data, which encodes to a JSON object, as the next version of
// the task's state. state.query shows the newest one, state.restore goes back
// to one by its id. Snapshots live as long as the server remembers the task;
// old ones make room for new ones.
func (t *Task) Snapshot(data any) (asap.StateSnapshot, error) {
	encoded, err := encodeObject(data)
	if err != nil {
		return asap.StateSnapshot{}, fmt.Errorf("encode the snapshot: %w", err)
	}
	return t.run.addSnapshot(encoded)
}

// State returns the newest snapshot, if there is one.
func (t *Task) State() (asap.StateSnapshot, bool) { return t.run.snapshot(0) }

// encodeObject encodes what a handler gave as a JSON object; nil stays nil, and
// what is no object becomes the member "value" of one.
func encodeObject(v any) (jsontext.Value, error) {
	if v == nil {
		return nil, nil
	}
	encoded, ok := v.(jsontext.Value)
	if !ok {
		var err error
		if encoded, err = json.Marshal(v, json.Deterministic(true)); err != nil {
			return nil, err
		}
	} else if !encoded.IsValid() {
		return nil, fmt.Errorf("not valid JSON")
	}
	switch encoded.Kind() {
	case '{':
		return encoded, nil
	case 'n':
		return nil, nil
	}
	return object("value", encoded), nil
}
