package asap

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxTaskDepth bounds how deep tasks may be nested.
const MaxTaskDepth = 10

// Agent is a short record of an agent (core.md 9.2).
type Agent struct {
	ID          AgentURN
	ManifestURI string
	// Capabilities has at least one element.
	Capabilities []string
}

// ParseAgent reads a Agent; the error is a *ValidationError.
func ParseAgent(v jsontext.Value) (*Agent, error) { return read(&agentModel, v, buildAgent) }

func buildAgent(o *object) *Agent {
	return &Agent{
		ID:           o.urn(0),
		ManifestURI:  o.str(1),
		Capabilities: o.strs(2),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (a *Agent) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, string(a.ID))
	dst = append(dst, `,"manifest_uri":`...)
	dst = appendString(dst, a.ManifestURI)
	dst = append(dst, `,"capabilities":`...)
	dst = appendStrings(dst, a.Capabilities)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (a *Agent) MarshalJSON() ([]byte, error) { return a.AppendJSON(nil), nil }

// Conversation groups tasks (core.md 9.3).
type Conversation struct {
	ID ConversationID
	// Participants has at least one element; they are not checked as URNs.
	Participants []string
	CreatedAt    time.Time
	Metadata     jsontext.Value
}

// ParseConversation reads a Conversation; the error is a *ValidationError.
func ParseConversation(v jsontext.Value) (*Conversation, error) {
	return read(&conversationModel, v, buildConversation)
}

func buildConversation(o *object) *Conversation {
	return &Conversation{
		ID:           ConversationID(o.str(0)),
		Participants: o.strs(1),
		CreatedAt:    o.instant(2),
		Metadata:     o.obj(3),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (c *Conversation) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, string(c.ID))
	dst = append(dst, `,"participants":`...)
	dst = appendStrings(dst, c.Participants)
	dst = append(dst, `,"created_at":`...)
	dst = appendTime(dst, c.CreatedAt)
	dst = append(dst, `,"metadata":`...)
	dst = appendOptObject(dst, c.Metadata)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (c *Conversation) MarshalJSON() ([]byte, error) { return c.AppendJSON(nil), nil }

// Task is one piece of work (core.md 9.4).
type Task struct {
	ID             TaskID
	ConversationID ConversationID
	ParentTaskID   *string
	Status         TaskStatus
	// Depth is 0 to MaxTaskDepth.
	Depth     int64
	Progress  jsontext.Value
	CreatedAt time.Time
	UpdatedAt time.Time
}

// ParseTask reads a Task; the error is a *ValidationError.
func ParseTask(v jsontext.Value) (*Task, error) { return read(&taskModel, v, buildTask) }

func buildTask(o *object) *Task {
	return &Task{
		ID:             TaskID(o.str(0)),
		ConversationID: ConversationID(o.str(1)),
		ParentTaskID:   o.optStr(2),
		Status:         TaskStatus(o.enum(3)),
		Depth:          deref(o.integer(4)),
		Progress:       o.obj(5),
		CreatedAt:      o.instant(6),
		UpdatedAt:      o.instant(7),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (t *Task) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, string(t.ID))
	dst = append(dst, `,"conversation_id":`...)
	dst = appendString(dst, string(t.ConversationID))
	dst = append(dst, `,"parent_task_id":`...)
	dst = appendOptString(dst, t.ParentTaskID)
	dst = append(dst, `,"status":`...)
	dst = appendString(dst, string(t.Status))
	dst = append(dst, `,"depth":`...)
	dst = strconv.AppendInt(dst, t.Depth, 10)
	dst = append(dst, `,"progress":`...)
	dst = appendOptObject(dst, t.Progress)
	dst = append(dst, `,"created_at":`...)
	dst = appendTime(dst, t.CreatedAt)
	dst = append(dst, `,"updated_at":`...)
	dst = appendTime(dst, t.UpdatedAt)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (t *Task) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// Message is one message of a task (core.md 9.5).
type Message struct {
	ID        string
	TaskID    TaskID
	Sender    string
	Role      Role
	Parts     []string
	Timestamp time.Time
}

// ParseMessage reads a Message; the error is a *ValidationError.
func ParseMessage(v jsontext.Value) (*Message, error) { return read(&messageModel, v, buildMessage) }

func buildMessage(o *object) *Message {
	return &Message{
		ID:        o.str(0),
		TaskID:    TaskID(o.str(1)),
		Sender:    o.str(2),
		Role:      Role(o.enum(3)),
		Parts:     o.strs(4),
		Timestamp: o.instant(5),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (m *Message) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, m.ID)
	dst = append(dst, `,"task_id":`...)
	dst = appendString(dst, string(m.TaskID))
	dst = append(dst, `,"sender":`...)
	dst = appendString(dst, m.Sender)
	dst = append(dst, `,"role":`...)
	dst = appendString(dst, string(m.Role))
	dst = append(dst, `,"parts":`...)
	dst = appendStrings(dst, m.Parts)
	dst = append(dst, `,"timestamp":`...)
	dst = appendTime(dst, m.Timestamp)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *Message) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// Artifact is something a task produced (core.md 9.6).
type Artifact struct {
	ID        string
	TaskID    TaskID
	Name      string
	Parts     []string
	CreatedAt time.Time
}

// ParseArtifact reads a Artifact; the error is a *ValidationError.
func ParseArtifact(v jsontext.Value) (*Artifact, error) {
	return read(&artifactModel, v, buildArtifact)
}

func buildArtifact(o *object) *Artifact {
	return &Artifact{
		ID:        o.str(0),
		TaskID:    TaskID(o.str(1)),
		Name:      o.str(2),
		Parts:     o.strs(3),
		CreatedAt: o.instant(4),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (a *Artifact) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, a.ID)
	dst = append(dst, `,"task_id":`...)
	dst = appendString(dst, string(a.TaskID))
	dst = append(dst, `,"name":`...)
	dst = appendString(dst, a.Name)
	dst = append(dst, `,"parts":`...)
	dst = appendStrings(dst, a.Parts)
	dst = append(dst, `,"created_at":`...)
	dst = appendTime(dst, a.CreatedAt)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (a *Artifact) MarshalJSON() ([]byte, error) { return a.AppendJSON(nil), nil }

// StateSnapshot is the state of a task at one moment (core.md 9.7).
type StateSnapshot struct {
	ID     string
	TaskID TaskID
	// Version is at least 1.
	Version    int64
	Data       jsontext.Value
	Checkpoint bool
	CreatedAt  time.Time
}

// ParseStateSnapshot reads a StateSnapshot; the error is a *ValidationError.
func ParseStateSnapshot(v jsontext.Value) (*StateSnapshot, error) {
	return read(&stateSnapshotModel, v, buildStateSnapshot)
}

func buildStateSnapshot(o *object) *StateSnapshot {
	return &StateSnapshot{
		ID:         o.str(0),
		TaskID:     TaskID(o.str(1)),
		Version:    deref(o.integer(2)),
		Data:       o.obj(3),
		Checkpoint: o.boolean(4),
		CreatedAt:  o.instant(5),
	}
}

// AppendJSON appends the value with every member, null for what is absent.
func (s *StateSnapshot) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, s.ID)
	dst = append(dst, `,"task_id":`...)
	dst = appendString(dst, string(s.TaskID))
	dst = append(dst, `,"version":`...)
	dst = strconv.AppendInt(dst, s.Version, 10)
	dst = append(dst, `,"data":`...)
	dst = appendObject(dst, s.Data)
	dst = append(dst, `,"checkpoint":`...)
	dst = appendBool(dst, s.Checkpoint)
	dst = append(dst, `,"created_at":`...)
	dst = appendTime(dst, s.CreatedAt)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (s *StateSnapshot) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// instant reads a required date-time.
func (o *object) instant(i int) time.Time {
	t, _ := o.time(i)
	return t
}

func deref(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func appendOptInt(dst []byte, n *int64) []byte {
	if n == nil {
		return append(dst, "null"...)
	}
	return strconv.AppendInt(dst, *n, 10)
}
