package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
)

// Handler does one task. What it returns becomes the result of the answer: a
// value that encodes to a JSON object as it is, anything else as {"value": …},
// nil as no result. A *[Failure] is shown to the caller; any other error ends
// the task as failed and only its existence is told, its text goes to the log.
//
// ctx ends when the task's time is up, when it is cancelled, and when the
// server has waited long enough for it while stopping. A caller that hangs up
// does not end it. A panic ends the task as failed and nothing else.
type Handler func(ctx context.Context, t *Task) (any, error)

// Failure is an error whose text is meant for the caller.
type Failure struct {
	Code    string // stable, snake_case; "failed" if empty
	Message string
}

// Error implements error.
func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Agent is a name and the skills behind it. Set it up before it is given to
// [NewServer] and leave it alone after.
type Agent struct {
	manifest asap.Manifest
	skills   map[string]*skill
	errs     []error
}

type skill struct {
	name    string
	handler Handler
	long    bool
	timeout time.Duration // 0: the server's
	scopes  []string      // that a delegation needs besides task.execute
}

// Option sets a member of an agent's manifest.
type Option func(*asap.Manifest)

// Version sets the version of the agent; "1.0.0" unless set. It must be one
// PEP 440 accepts, which X.Y.Z is.
func Version(v string) Option { return func(m *asap.Manifest) { m.Version = v } }

// Description sets the sentence that says what the agent is for.
func Description(text string) Option { return func(m *asap.Manifest) { m.Description = text } }

// Endpoints sets the addresses the manifest announces; events may be empty.
// Unless set, the manifest names port 8080 of the loopback address.
func Endpoints(asapURL, eventsURL string) Option {
	return func(m *asap.Manifest) {
		m.Endpoints = asap.Endpoint{ASAP: asapURL}
		if eventsURL != "" {
			m.Endpoints.Events = &eventsURL
		}
	}
}

// SLA sets what the agent promises.
func SLA(promise asap.SLADefinition) Option {
	return func(m *asap.Manifest) { m.SLA = &promise }
}

// New returns an agent without skills. A urn that is not one is reported by
// [NewServer].
func New(urn, name string, opts ...Option) *Agent {
	m := asap.Manifest{ID: asap.AgentURN(urn), Name: name, Version: "1.0.0", Description: name, TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: asap.DefaultASAPVersion},
		Endpoints:    asap.Endpoint{ASAP: defaultEndpoint}}
	for _, o := range opts {
		o(&m)
	}
	return FromManifest(m)
}

// FromManifest returns the agent m describes. Skills are announced as m says;
// each needs a [Agent.Handle].
func FromManifest(m asap.Manifest) *Agent {
	return &Agent{manifest: m, skills: make(map[string]*skill)}
}

// URN returns the agent's name.
func (a *Agent) URN() asap.AgentURN { return a.manifest.ID }

// SkillOption says more about a skill.
type SkillOption func(*skill, *asap.Skill)

// Describe sets the description of a skill in the manifest.
func Describe(text string) SkillOption {
	return func(_ *skill, s *asap.Skill) { s.Description = text }
}

// InputSchema announces the JSON Schema of a skill's input.
func InputSchema(schema string) SkillOption {
	return func(_ *skill, s *asap.Skill) { s.InputSchema = jsontext.Value(schema) }
}

// OutputSchema announces the JSON Schema of a skill's result.
func OutputSchema(schema string) SkillOption {
	return func(_ *skill, s *asap.Skill) { s.OutputSchema = jsontext.Value(schema) }
}

// Timeout bounds the tasks of a skill; a request may ask for less, not more.
func Timeout(d time.Duration) SkillOption { return func(s *skill, _ *asap.Skill) { s.timeout = d } }

// Handle adds a skill whose caller waits for the result. If the handler asks
// for input ([Task.InputRequired]) the caller is answered then, and the rest of
// the task goes on behind [asap.MessageSend] messages.
func (a *Agent) Handle(name string, h Handler, opts ...SkillOption) {
	a.add(&skill{name: name, handler: h}, opts)
}

// HandleLong adds a skill whose caller is answered at once with the status
// working and the task id. The result is there for state.query, goes out over
// the WebSocket connection that asked, and is the answer to a retry of the
// request.
func (a *Agent) HandleLong(name string, h Handler, opts ...SkillOption) {
	a.add(&skill{name: name, handler: h, long: true}, opts)
}

func (a *Agent) add(s *skill, opts []SkillOption) {
	if s.name == "" || s.handler == nil {
		a.errs = append(a.errs, fmt.Errorf("agent %s: a skill needs a name and a handler", a.URN()))
		return
	}
	if a.skills[s.name] != nil {
		a.errs = append(a.errs, fmt.Errorf("agent %s: skill %q is handled twice", a.URN(), s.name))
		return
	}
	a.skills[s.name] = s
	listed := &a.manifest.Capabilities.Skills
	i := 0
	for i < len(*listed) && (*listed)[i].ID != s.name {
		i++
	}
	if i == len(*listed) {
		*listed = append(*listed, asap.Skill{ID: s.name})
	}
	for _, o := range opts {
		o(s, &(*listed)[i])
	}
}

// check reports what is wrong with the agent.
func (a *Agent) check() error {
	errs := a.errs
	if _, err := asap.ParseAgentURN(string(a.URN())); err != nil {
		errs = append(errs, fmt.Errorf("agent %q: %w", a.URN(), err))
	}
	for _, s := range a.manifest.Capabilities.Skills {
		if a.skills[s.ID] == nil {
			errs = append(errs, fmt.Errorf("agent %s: skill %q is announced but not handled", a.URN(), s.ID))
		}
	}
	return errors.Join(errs...)
}

// Echo returns the agent every server can host: its skill "echo" answers with
// {"echoed": input}, the input as it was sent (core.md, section 7). The name is
// "Echo" unless given.
func Echo(urn string, name ...string) *Agent {
	called := "Echo"
	if len(name) > 0 {
		called = name[0]
	}
	a := New(urn, called, Description("Echoes back its input"))
	a.Handle("echo", func(_ context.Context, t *Task) (any, error) {
		return object("echoed", t.Input()), nil
	}, Describe("Echo back the input"))
	return a
}
