package asap

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// UpdateType says what a TaskUpdate is about.
type UpdateType string

// The update types.
const (
	UpdateProgress      UpdateType = "progress"
	UpdateInputRequired UpdateType = "input_required"
	UpdateStatusChange  UpdateType = "status_change"
)

// TaskRequest asks an agent to do a task with one of its skills (core.md 7).
type TaskRequest struct {
	ConversationID ConversationID
	ParentTaskID   *string
	SkillID        string
	// Input and Config are free-form JSON objects; Config may be nil.
	Input  jsontext.Value
	Config jsontext.Value
}

// ParseTaskRequest reads a TaskRequest; the error is a *ValidationError.
func ParseTaskRequest(v jsontext.Value) (*TaskRequest, error) {
	return read(&taskRequestModel, v, buildTaskRequest)
}

func buildTaskRequest(o *object) *TaskRequest {
	return &TaskRequest{
		ConversationID: ConversationID(o.str(0)),
		ParentTaskID:   o.optStr(1),
		SkillID:        o.str(2),
		Input:          o.obj(3),
		Config:         o.obj(4),
	}
}

// Kind is KindTaskRequest.
func (t *TaskRequest) Kind() PayloadKind { return KindTaskRequest }

// AppendJSON appends the value with every member, null for what is absent.
func (t *TaskRequest) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"conversation_id":`...)
	dst = appendString(dst, string(t.ConversationID))
	dst = append(dst, `,"parent_task_id":`...)
	dst = appendOptString(dst, t.ParentTaskID)
	dst = append(dst, `,"skill_id":`...)
	dst = appendString(dst, t.SkillID)
	dst = append(dst, `,"input":`...)
	dst = appendObject(dst, t.Input)
	dst = append(dst, `,"config":`...)
	dst = appendOptObject(dst, t.Config)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (t *TaskRequest) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// TaskResponse says how a task stands or ended (core.md 7).
type TaskResponse struct {
	TaskID TaskID
	// Status need not be a terminal one.
	Status TaskStatus
	// Result, FinalState and Metrics are free-form JSON objects or nil.
	Result     jsontext.Value
	FinalState jsontext.Value
	Metrics    jsontext.Value
}

// ParseTaskResponse reads a TaskResponse; the error is a *ValidationError.
func ParseTaskResponse(v jsontext.Value) (*TaskResponse, error) {
	return read(&taskResponseModel, v, buildTaskResponse)
}

func buildTaskResponse(o *object) *TaskResponse {
	return &TaskResponse{
		TaskID:     TaskID(o.str(0)),
		Status:     TaskStatus(o.enum(1)),
		Result:     o.obj(2),
		FinalState: o.obj(3),
		Metrics:    o.obj(4),
	}
}

// Kind is KindTaskResponse.
func (t *TaskResponse) Kind() PayloadKind { return KindTaskResponse }

// AppendJSON appends the value with every member, null for what is absent.
func (t *TaskResponse) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(t.TaskID))
	dst = append(dst, `,"status":`...)
	dst = appendString(dst, string(t.Status))
	dst = append(dst, `,"result":`...)
	dst = appendOptObject(dst, t.Result)
	dst = append(dst, `,"final_state":`...)
	dst = appendOptObject(dst, t.FinalState)
	dst = append(dst, `,"metrics":`...)
	dst = appendOptObject(dst, t.Metrics)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (t *TaskResponse) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// TaskUpdate tells the progress of a task, a change of its status, or that it
// needs input (core.md 7).
type TaskUpdate struct {
	TaskID     TaskID
	UpdateType UpdateType
	Status     TaskStatus
	// Progress is a free-form JSON object or nil; a member percent must be a number
	// from 0 to 100.
	Progress     jsontext.Value
	InputRequest jsontext.Value
}

// ParseTaskUpdate reads a TaskUpdate; the error is a *ValidationError.
func ParseTaskUpdate(v jsontext.Value) (*TaskUpdate, error) {
	return read(&taskUpdateModel, v, buildTaskUpdate)
}

func buildTaskUpdate(o *object) *TaskUpdate {
	t := &TaskUpdate{
		TaskID:       TaskID(o.str(0)),
		UpdateType:   UpdateType(o.enum(1)),
		Status:       TaskStatus(o.enum(2)),
		Progress:     o.obj(3),
		InputRequest: o.obj(4),
	}
	o.checkProgress(3, t.Progress)
	return t
}

// Kind is KindTaskUpdate.
func (t *TaskUpdate) Kind() PayloadKind { return KindTaskUpdate }

// AppendJSON appends the value with every member, null for what is absent.
func (t *TaskUpdate) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(t.TaskID))
	dst = append(dst, `,"update_type":`...)
	dst = appendString(dst, string(t.UpdateType))
	dst = append(dst, `,"status":`...)
	dst = appendString(dst, string(t.Status))
	dst = append(dst, `,"progress":`...)
	dst = appendOptObject(dst, t.Progress)
	dst = append(dst, `,"input_request":`...)
	dst = appendOptObject(dst, t.InputRequest)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (t *TaskUpdate) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// TaskCancel asks to stop a task (core.md 7).
type TaskCancel struct {
	TaskID TaskID
	Reason *string
}

// ParseTaskCancel reads a TaskCancel; the error is a *ValidationError.
func ParseTaskCancel(v jsontext.Value) (*TaskCancel, error) {
	return read(&taskCancelModel, v, buildTaskCancel)
}

func buildTaskCancel(o *object) *TaskCancel {
	return &TaskCancel{
		TaskID: TaskID(o.str(0)),
		Reason: o.optStr(1),
	}
}

// Kind is KindTaskCancel.
func (t *TaskCancel) Kind() PayloadKind { return KindTaskCancel }

// AppendJSON appends the value with every member, null for what is absent.
func (t *TaskCancel) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(t.TaskID))
	dst = append(dst, `,"reason":`...)
	dst = appendOptString(dst, t.Reason)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (t *TaskCancel) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// StateQuery asks for a snapshot of a task: a version of it, or the newest
// (core.md 7).
type StateQuery struct {
	TaskID  TaskID
	Version *int64
}

// ParseStateQuery reads a StateQuery; the error is a *ValidationError.
func ParseStateQuery(v jsontext.Value) (*StateQuery, error) {
	return read(&stateQueryModel, v, buildStateQuery)
}

func buildStateQuery(o *object) *StateQuery {
	return &StateQuery{
		TaskID:  TaskID(o.str(0)),
		Version: o.integer(1),
	}
}

// Kind is KindStateQuery.
func (s *StateQuery) Kind() PayloadKind { return KindStateQuery }

// AppendJSON appends the value with every member, null for what is absent.
func (s *StateQuery) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(s.TaskID))
	dst = append(dst, `,"version":`...)
	dst = appendOptInt(dst, s.Version)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (s *StateQuery) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// StateRestore asks to bring a task back to a snapshot (core.md 7).
type StateRestore struct {
	TaskID     TaskID
	SnapshotID string
}

// ParseStateRestore reads a StateRestore; the error is a *ValidationError.
func ParseStateRestore(v jsontext.Value) (*StateRestore, error) {
	return read(&stateRestoreModel, v, buildStateRestore)
}

func buildStateRestore(o *object) *StateRestore {
	return &StateRestore{
		TaskID:     TaskID(o.str(0)),
		SnapshotID: o.str(1),
	}
}

// Kind is KindStateRestore.
func (s *StateRestore) Kind() PayloadKind { return KindStateRestore }

// AppendJSON appends the value with every member, null for what is absent.
func (s *StateRestore) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(s.TaskID))
	dst = append(dst, `,"snapshot_id":`...)
	dst = appendString(dst, s.SnapshotID)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (s *StateRestore) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// checkProgress applies the rule on progress.percent: if there, a number from 0
// to 100. As in v1.3.0 a boolean counts as a number.
func (o *object) checkProgress(i int, progress jsontext.Value) {
	for w := walkObject(progress); w.next(); {
		if string(w.name) != "percent" {
			continue
		}
		switch kindOf(w.value) {
		case 't', 'f':
		case '0':
			if f, err := strconv.ParseFloat(string(w.value), 64); err != nil || f < 0 || f > 100 {
				o.fail(i, "value_error", "Value error, progress.percent must be between 0 and 100")
			}
		default:
			o.fail(i, "value_error", "Value error, progress.percent must be a number")
		}
	}
}
