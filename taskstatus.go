package asap

// TaskStatus is where a task stands.
type TaskStatus string

// The statuses (core.md 9.8).
const (
	Submitted     TaskStatus = "submitted"
	Working       TaskStatus = "working"
	Completed     TaskStatus = "completed"
	Failed        TaskStatus = "failed"
	Cancelled     TaskStatus = "cancelled"
	InputRequired TaskStatus = "input_required"
)

// Valid reports whether s is one of the statuses.
func (s TaskStatus) Valid() bool {
	switch s {
	case Submitted, Working, Completed, Failed, Cancelled, InputRequired:
		return true
	}
	return false
}

// Terminal reports whether no transition leads out of s.
func (s TaskStatus) Terminal() bool { return s == Completed || s == Failed || s == Cancelled }

// CanBecome reports whether the state machine (core.md 9.9) has the transition
// from s to next. There is none from a status to itself.
func (s TaskStatus) CanBecome(next TaskStatus) bool {
	switch s {
	case Submitted:
		return next == Working || next == Cancelled
	case Working:
		return next == Completed || next == Failed || next == Cancelled || next == InputRequired
	case InputRequired:
		return next == Working || next == Cancelled
	}
	return false
}

// Transition returns nil if a task may go from s to next, else an *Error of
// CodeInvalidState whose details hold from_state, to_state and task_id.
func (s TaskStatus) Transition(task TaskID, next TaskStatus) error {
	if s.CanBecome(next) {
		return nil
	}
	details := append([]byte(nil), `{"from_state":`...)
	details = appendString(details, string(s))
	details = append(details, `,"to_state":`...)
	details = appendString(details, string(next))
	details = append(details, `,"task_id":`...)
	details = appendString(details, string(task))
	return &Error{Code: CodeInvalidState, Message: "task cannot go from " + string(s) + " to " + string(next), Details: append(details, '}')}
}
