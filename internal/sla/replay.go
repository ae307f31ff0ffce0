package sla

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Replay feeds recorded or invented events through the rules, with the events' own
// clock. It reads one JSON object a line and writes one a line: a status for each
// query, and breaches as they happen. An event that the rules refuse (a negative
// latency, maintenance without notice) is left out, as a node would do; a line
// that is not an event ends the replay with an error that names it.
func Replay(r io.Reader, w io.Writer) error { return new(Replayer).Run(r, w) }

// Replayer is a replay with a say in what is left out.
type Replayer struct {
	// Refused is told about events that the rules refuse; nil ignores them.
	Refused func(line int, err error)
	// Location finds time zones by IANA name; nil means those of package time.
	Location func(name string) (*time.Location, error)
}

// maxReplayLine bounds a line of a replay.
const maxReplayLine = 1 << 20

// replayLine is a line of a replay: the members of all kinds.
type replayLine struct {
	At         *Instant `json:"at"`
	ReceivedAt *Instant `json:"received_at"`
	Kind       string   `json:"kind"`
	Agent      string   `json:"agent"`

	ProbeIntervalS *float64 `json:"probe_interval_s"`
	TTLSeconds     *float64 `json:"ttl_seconds"`
	Zone           string   `json:"tz"`

	SLA jsontext.Value `json:"sla"`

	Windows       []Window `json:"windows"`
	MinTasks      *int64   `json:"min_tasks"`
	ForS          *float64 `json:"for_s"`
	ResolveAfterS *float64 `json:"resolve_after_s"`

	State    *State `json:"state"`
	Observer string `json:"observer"`

	TaskID      string `json:"task_id"`
	Outcome     string `json:"outcome"`
	LatencyMS   *int64 `json:"latency_ms"`
	Cause       string `json:"cause"`
	CancelledBy string `json:"cancelled_by"`
	ElapsedMS   *int64 `json:"elapsed_ms"`

	Start       *Instant `json:"start"`
	End         *Instant `json:"end"`
	AnnouncedAt *Instant `json:"announced_at"`
	Retroactive bool     `json:"retroactive"`

	Window *Window `json:"window"`
}

// replay is one run of a Replayer.
type replay struct {
	Replayer
	engine *Engine
	policy Policy
	out    *bufio.Writer
	number int
}

// Run replays the events of r onto w.
func (rp *Replayer) Run(r io.Reader, w io.Writer) error {
	run := &replay{Replayer: *rp, policy: DefaultPolicy(), out: bufio.NewWriter(w)}
	if run.Location == nil {
		run.Location = time.LoadLocation
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxReplayLine)
	var err error
	for err == nil && lines.Scan() {
		run.number++
		if text := bytes.TrimSpace(lines.Bytes()); len(text) > 0 {
			err = run.line(text)
		}
	}
	if err == nil && lines.Err() != nil {
		run.number++
		err = lines.Err()
	}
	if err != nil {
		err = fmt.Errorf("line %d: %w", run.number, err)
	}
	return errors.Join(err, run.out.Flush())
}

func (run *replay) line(text []byte) error {
	var l replayLine
	if err := json.Unmarshal(text, &l); err != nil {
		return err
	}
	if l.At == nil {
		return errors.New(`"at" is missing`)
	}
	now := *l.At
	if l.ReceivedAt != nil {
		now = *l.ReceivedAt
	}
	if l.Kind == "policy" {
		return run.setPolicy(&l)
	}
	if err := run.start(); err != nil {
		return err
	}
	if now < run.engine.now {
		return fmt.Errorf("time goes backwards from %s to %s: a line that came late carries received_at", run.engine.now, now)
	}
	// Time first, so that what the line then says is judged at its own instant.
	events, err := run.engine.Advance(now)
	if err != nil {
		return err
	}
	if err := run.writeEvents(events); err != nil {
		return err
	}
	events, err = run.apply(now, &l)
	if errors.Is(err, ErrRefused) {
		if run.engine.agents[l.Agent] == nil && l.Kind != "clock" {
			return err
		}
		if run.Refused != nil {
			run.Refused(run.number, err)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	return run.writeEvents(events)
}

// start makes the engine, once nothing more can be said about the policy.
func (run *replay) start() (err error) {
	if run.engine == nil {
		run.engine, err = NewEngine(run.policy, NewMemoryBuckets())
	}
	return err
}

func (run *replay) setPolicy(l *replayLine) error {
	if run.engine != nil {
		return errors.New("a policy comes before all other lines")
	}
	p := &run.policy
	if l.Windows != nil {
		p.Windows = l.Windows
	}
	if l.MinTasks != nil {
		p.MinTasks = *l.MinTasks
	}
	if l.ForS != nil {
		p.For = milliseconds(*l.ForS)
	}
	if l.ResolveAfterS != nil {
		p.ResolveAfter = milliseconds(*l.ResolveAfterS)
	}
	return p.Validate()
}

// milliseconds rounds seconds; what is out of any range comes out negative.
func milliseconds(seconds float64) Instant {
	if !(seconds >= 0 && seconds < 1e12) {
		return -1
	}
	return Instant(math.Round(seconds * 1000))
}

func (run *replay) apply(now Instant, l *replayLine) ([]Event, error) {
	switch l.Kind {
	case "clock":
		return nil, nil
	case "register":
		return run.register(now, l)
	case "sla":
		if len(l.SLA) == 0 || l.SLA.Kind() == 'n' {
			return run.engine.Promise(now, l.Agent, nil)
		}
		def, err := asap.ParseSLADefinition(l.SLA)
		if err != nil {
			return nil, fmt.Errorf("sla: %w", err)
		}
		return run.engine.Promise(now, l.Agent, def)
	case "probe":
		if l.State == nil {
			return nil, errors.New(`a probe needs "state"`)
		}
		return run.engine.Observe(now, Probe{Agent: l.Agent, At: *l.At, State: *l.State, Observer: l.Observer})
	case "task":
		return run.task(now, l)
	case "maintenance":
		if l.Start == nil || l.End == nil {
			return nil, errors.New(`maintenance needs "start" and "end"`)
		}
		x := Exclusion{Start: *l.Start, End: *l.End, AnnouncedAt: *l.At, Retroactive: l.Retroactive}
		if l.AnnouncedAt != nil {
			x.AnnouncedAt = *l.AnnouncedAt
		}
		return run.engine.Exclude(now, l.Agent, x)
	case "remove":
		return run.engine.Remove(now, l.Agent)
	case "query":
		if l.Window == nil {
			return nil, errors.New(`a query needs "window"`)
		}
		status, err := run.engine.Status(l.Agent, *l.Window)
		if err != nil {
			return nil, err
		}
		return nil, run.write(statusLine{At: now, Kind: "status", Status: status})
	default:
		return nil, fmt.Errorf("unknown kind %.40q", l.Kind)
	}
}

func (run *replay) register(now Instant, l *replayLine) ([]Event, error) {
	r := Registration{Agent: l.Agent}
	if _, err := asap.ParseAgentURN(l.Agent); err != nil {
		return nil, err
	}
	if l.ProbeIntervalS != nil {
		interval := milliseconds(*l.ProbeIntervalS)
		if interval <= 0 {
			return nil, errors.New("probe_interval_s must be positive")
		}
		r.ProbeInterval = time.Duration(interval) * time.Millisecond
	}
	if l.TTLSeconds != nil {
		r.TTL = time.Duration(max(0, milliseconds(*l.TTLSeconds))) * time.Millisecond
	}
	if l.Zone != "" {
		zone, err := run.Location(l.Zone)
		if err != nil {
			return nil, fmt.Errorf("tz: %w", err)
		}
		r.Zone = zone
	}
	return run.engine.Register(now, r)
}

func (run *replay) task(now Instant, l *replayLine) ([]Event, error) {
	o := Outcome{Agent: l.Agent, TaskID: l.TaskID, At: *l.At, Outcome: l.Outcome, LatencyMS: l.LatencyMS, Cause: l.Cause}
	switch l.CancelledBy {
	case "", "caller":
	case "agent":
		o.ByAgent = true
	default:
		return nil, errors.New("cancelled_by must be one of: caller, agent")
	}
	switch {
	case l.ElapsedMS != nil:
		o.ElapsedMS = *l.ElapsedMS
	case l.LatencyMS != nil:
		o.ElapsedMS = *l.LatencyMS
	}
	return run.engine.Ingest(now, o)
}

type statusLine struct {
	At   Instant `json:"at"`
	Kind string  `json:"kind"`
	*Status
}

type breachLine struct {
	At              Instant   `json:"at"`
	Kind            string    `json:"kind"`
	Event           EventKind `json:"event"`
	ID              string    `json:"id"`
	Agent           string    `json:"agent"`
	Objective       Objective `json:"objective"`
	Window          Window    `json:"window"`
	Severity        Severity  `json:"severity"`
	Threshold       string    `json:"threshold"`
	Actual          string    `json:"actual"`
	StartedAt       Instant   `json:"started_at"`
	ResolvedAt      *Instant  `json:"resolved_at"`
	DurationSeconds Seconds   `json:"duration_seconds"`
	Flaps           int       `json:"flaps"`
	CloseReason     *string   `json:"close_reason"`
}

func (run *replay) writeEvents(events []Event) error {
	for i := range events {
		b := &events[i].Breach
		l := breachLine{
			At: events[i].At, Kind: "breach", Event: events[i].Kind, ID: b.ID, Agent: b.Agent, Objective: b.Objective, Window: b.Window,
			Severity: b.Severity, Threshold: b.Threshold, Actual: b.ActualLast, StartedAt: b.StartedAt, ResolvedAt: b.ResolvedAt,
			DurationSeconds: b.Duration(events[i].At), Flaps: b.Flaps,
		}
		if b.CloseReason != "" {
			l.CloseReason = &b.CloseReason
		}
		if err := run.write(l); err != nil {
			return err
		}
	}
	return nil
}

func (run *replay) write(line any) error {
	if err := json.MarshalWrite(run.out, line); err != nil {
		return err
	}
	return run.out.WriteByte('\n')
}
