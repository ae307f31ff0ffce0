package node

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// childClock makes a child a node that is to be killed while it measures service
// levels. It is when the clock of the test began, in Unix nanoseconds.
const childClock = "ASAP_TEST_NODE_CLOCK"

// fast is how fast that clock runs: a minute takes a fifth of a second.
const fast = 300

// fastClock is a clock that began at an instant. Processes agree on it.
func fastClock(began int64) func() time.Time {
	return func() time.Time { return time.Unix(0, began).Add(time.Duration(time.Now().UnixNano()-began) * fast) }
}

// watched are the agents of such a node.
func watched(i int) asap.AgentURN { return asap.AgentURN(fmt.Sprintf("urn:asap:agent:watched-%d", i)) }

const manyWatched = 4

// openWatched opens a node that stores its service levels all the time.
func openWatched(dir string, clock func() time.Time) (*Node, error) {
	c := testConfig(dir)
	c.SLA.Windows, c.SLA.ProbeInterval = "1h 24h", Duration(100*time.Millisecond)
	def, err := asap.ParseSLADefinition([]byte(`{"availability":"50%","max_latency_p95_ms":100000,"max_error_rate":"5%"}`))
	if err != nil {
		return nil, err
	}
	var agents []*agent.Agent
	for i := range manyWatched {
		a := agent.New(string(watched(i)), "Watched", agent.SLA(*def))
		a.Handle("work", func(context.Context, *agent.Task) (any, error) { return nil, nil })
		agents = append(agents, a)
	}
	return Open(context.Background(), c, Options{Agents: agents, Now: clock, Log: os.Stderr, checkpoints: checkpoints{30 * time.Millisecond, 1}})
}

// runWatchedChild is such a node in a process of its own, under load.
func runWatchedChild(dir, clock string) error {
	began, err := strconv.ParseInt(clock, 10, 64)
	if err != nil {
		return err
	}
	now := fastClock(began)
	n, err := openWatched(dir, now)
	if err != nil {
		return err
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	var left atomic.Int64
	left.Store(20 + rand.Int64N(400))
	for range 4 {
		go func() {
			for {
				if err := n.work(now); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				if left.Add(-1) == 0 {
					_ = self.Kill() // SIGKILL, in the middle of whatever else goes on
				}
			}
		}()
	}
	fmt.Println(n.URL())
	return errors.Join(n.Run(context.Background()), n.Close())
}

// work is one task, of which a third fail.
func (n *Node) work(now func() time.Time) error {
	id := asap.TaskID(asap.NewIDSource().NewEnvelopeID(time.Now()))
	_, err := n.ledger.Admit(context.Background(), ledger.Admission{TaskID: id, Consumer: callerURN, EnvelopeID: asap.EnvelopeID(id), Agent: watched(rand.IntN(manyWatched)), Skill: "work"})
	if err != nil {
		return err
	}
	ms := rand.Int64N(2000)
	r := metering.Record{Outcome: metering.Completed, DurationMS: &ms, Timestamp: now(), Evidence: metering.Observed}
	failure := ""
	if ms%3 == 0 {
		r.Outcome, failure = metering.Failed, "agent_failed"
	}
	_, err = n.ledger.Settle(context.Background(), ledger.Settlement{TaskID: id, Record: r, Failure: failure})
	return err
}

// W7, B12: a node that is killed again and again under load, and while it stores
// what it knows, has in the end the same figures, the same bytes of sketches, the
// same buckets and the same breaches as rules that were told the same, at the
// same instants, without interruption.
func TestServiceLevelsSurviveKills(t *testing.T) {
	const kills = 6
	dir := filepath.Join(t.TempDir(), "data")
	began := time.Now().UnixNano()
	clock := fastClock(began)
	// The store is made, and from then on keeps a copy of all that is ever journalled.
	n, err := openWatched(dir, clock)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, LedgerFile)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`CREATE TABLE kept_input (seq INTEGER PRIMARY KEY, at_ms INTEGER, input BLOB)`,
		`CREATE TRIGGER keep_input AFTER INSERT ON sla_input BEGIN INSERT INTO kept_input VALUES (new.seq, new.at_ms, new.input); END`,
	} {
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = []string{childClock + "=" + strconv.FormatInt(began, 10)}
		runningChild(t, cmd, dir)
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("it ended with %v", err)
		}
	}
	// One that is not killed takes up what was left, and stores it all.
	if n, err = openWatched(dir, clock); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for { // at least one of the breaches has to be there
		if err := n.work(clock); err != nil {
			t.Fatal(err)
		}
		if n.watch.Idle() && n.watch.Position() >= 0 {
			break
		}
	}
	stop()
	if err := errors.Join(<-done, n.Close()); err != nil {
		t.Fatal(err)
	}

	store, err := sqlite.Open(t.Context(), path, sqlite.Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	saved, err := store.LoadSLA(t.Context())
	if err != nil || len(saved.Inputs) > 0 {
		t.Fatalf("%d inputs are not in the state: %v", len(saved.Inputs), err)
	}
	buckets := sla.NewMemoryBuckets()
	engine, events := uninterrupted(t, store, path, buckets)
	more, err := engine.Advance(saved.Position.At)
	if err != nil {
		t.Fatal(err)
	}
	events = append(events, more...)

	// What is known of the agent, with the sketches of the buckets that are open.
	if len(saved.Agents) != manyWatched {
		t.Fatalf("%d agents", len(saved.Agents))
	}
	for _, got := range saved.Agents {
		want, _ := engine.AgentSnapshot(got.Agent)
		for _, s := range []*sla.AgentState{&want, &got} {
			s.AsOf, s.Mark, s.Order = 0, 0, 0
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("another state (-uninterrupted +killed):\n%s", diff)
		}
	}
	// The buckets that are closed.
	var stored []sla.Bucket
	for _, tier := range []sla.Tier{sla.TierMinute, sla.TierFive, sla.TierHour, sla.TierDay} {
		list, err := store.SLABuckets(t.Context(), tier, "", 0, 1<<60)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, list...)
	}
	all := buckets.All()
	if len(all) != len(stored) || len(all) == 0 {
		t.Errorf("%d buckets, want %d", len(stored), len(all))
	}
	for i := range min(len(all), len(stored)) {
		w, g := &all[i], &stored[i]
		if w.Tier != g.Tier || w.Start != g.Start || w.Counts != g.Counts || !slices.Equal(w.Sketch.Append(nil), g.Sketch.Append(nil)) {
			t.Errorf("bucket %d: %+v, want %+v", i, g, w)
		}
	}
	// The breaches, and each thing that happened to them, once.
	changes, err := store.BreachChanges(t.Context(), -1, 1000)
	if err != nil || len(changes) == 0 {
		t.Fatalf("no breach: %v", err)
	}
	told := func(kind sla.EventKind, b *sla.Breach) string {
		return fmt.Sprint(kind, b.ID, b.StartedAt, b.DetectedAt)
	}
	var wantTold, gotTold []string
	for i := range events {
		wantTold = append(wantTold, told(events[i].Kind, &events[i].Breach))
	}
	for i := range changes {
		gotTold = append(gotTold, told(changes[i].Kind, &changes[i].Breach.Breach))
	}
	slices.Sort(wantTold) // of one instant, in whatever order
	slices.Sort(gotTold)
	if diff := cmp.Diff(wantTold, gotTold); diff != "" {
		t.Errorf("other events (-uninterrupted +killed):\n%s", diff)
	}
	t.Logf("%d inputs, %d buckets, %d events", saved.Position.Input, len(all), len(events))
}

// uninterrupted tells the rules all that was ever journalled.
func uninterrupted(t *testing.T, store *sqlite.Store, path string, buckets sla.Buckets) (*sla.Engine, []sla.Event) {
	t.Helper()
	policy := sla.DefaultPolicy()
	policy.Windows, policy.LateProbes = []sla.Window{sla.LastHour, sla.LastDay}, 3*60_000
	engine, err := sla.NewEngine(policy, buckets)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), `SELECT seq, at_ms, input FROM kept_input ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var events []sla.Event
	for last := int64(0); rows.Next(); last++ {
		var seq, at int64
		var text []byte
		var in slawatch.Input
		if err := errors.Join(rows.Scan(&seq, &at, &text), json.Unmarshal(text, &in)); err != nil || seq != last+1 {
			t.Fatalf("input %d after %d: %v", seq, last, err)
		}
		now := sla.Instant(at)
		take := func(list []sla.Event, err error) {
			if err != nil && !errors.Is(err, sla.ErrRefused) {
				t.Fatal(err)
			}
			events = append(events, list...)
		}
		switch in.Kind {
		case "register":
			take(engine.Register(now, sla.Registration{Agent: in.Agent, ProbeInterval: time.Duration(in.IntervalMS) * time.Millisecond, TTL: time.Duration(in.TTLMS) * time.Millisecond}))
		case "promise":
			def, err := asap.ParseSLADefinition(in.SLA)
			if err != nil {
				t.Fatal(err)
			}
			take(engine.Promise(now, in.Agent, def))
		case "probe":
			take(engine.Observe(now, sla.Probe{Agent: in.Agent, At: in.ProbedAt, State: in.State, Observer: in.Observer}))
		case "tasks":
			ends, _, err := store.TaskEnds(t.Context(), in.From-1, in.To, 1_000_000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range ends {
				o := sla.Outcome{Agent: e.Agent, TaskID: e.TaskID, At: e.EndedAt, Outcome: e.Outcome, LatencyMS: e.DurationMS, Once: e.Observed}
				if strings.HasPrefix(e.Failure, "agent_") {
					o.Cause = "agent_error"
				}
				take(engine.Ingest(now, o))
			}
		default:
			t.Fatalf("input %d is a %s", seq, in.Kind)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return engine, events
}
