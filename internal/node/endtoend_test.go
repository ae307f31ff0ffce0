package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	counterURN = "urn:asap:agent:counter"
	callerURN  = "urn:asap:agent:caller"
)

// counter is an agent that reports what its input tells it to: {"n": N} uses N
// tokens in, 2N out and one API call.
func counter(runs *atomic.Int64) *agent.Agent {
	a := agent.New(counterURN, "Counter")
	a.Handle("count", func(_ context.Context, t *agent.Task) (any, error) {
		var in struct {
			N int64 `json:"n"`
		}
		if err := t.Decode(&in); err != nil {
			return nil, err
		}
		runs.Add(1)
		t.Usage().AddTokens(in.N, 2*in.N)
		t.Usage().AddAPICalls(1)
		return map[string]int64{"n": in.N}, nil
	})
	a.Handle("forever", func(ctx context.Context, _ *agent.Task) (any, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	return a
}

// testConfig is a node on a free port with its data in dir.
func testConfig(dir string) Config {
	c := Defaults()
	c.Listen, c.Data, c.Agents = "127.0.0.1:0", dir, nil
	c.Limits.ShutdownDeadline = Duration(5 * time.Second)
	return c
}

// start runs a node until stop is called; stop reports how it ended.
func start(t testing.TB, c Config, agents ...*agent.Agent) (n *Node, stop func()) {
	t.Helper()
	n, err := Open(t.Context(), c, Options{Agents: agents})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, n.Close()); err != nil {
				t.Errorf("the node ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return n, stop
}

// get reads a REST answer as the operator.
func get(t testing.TB, n *Node, path string) []byte {
	t.Helper()
	token, err := ReadOperatorToken(n.config.Data)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v\n%s", path, res.Status, err, body)
	}
	return body
}

func decode[T any](t testing.TB, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %.300s", err, b)
	}
	return v
}

// totals are the quantities every report of the same records must agree on.
type totals struct{ Tasks, In, Out, Calls int64 }

func newClient(t testing.TB, n *Node) *client.Client {
	t.Helper()
	c, err := client.New(n.URL(), client.WithSender(callerURN))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The main job: 64 callers, 1,000 tasks, and every way of asking who used what
// says the same to the unit.
func TestEveryReportAgrees(t *testing.T) {
	const tasks, callers = 1000, 64
	var runs atomic.Int64
	n, stop := start(t, testConfig(t.TempDir()), counter(&runs))
	c := newClient(t, n)

	want := totals{Tasks: tasks, Calls: tasks}
	jobs := make(chan int64)
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for k := range jobs {
				result, err := c.Task(t.Context(), client.TaskCall{
					Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, k)),
				})
				if err != nil || result.Status != asap.Completed || result.Receipt == nil {
					t.Errorf("task %d: %+v, %v", k, result, err)
				}
			}
		})
	}
	for k := range int64(tasks) {
		want.In, want.Out = want.In+k, want.Out+2*k
		jobs <- k
	}
	close(jobs)
	group.Wait()
	if runs.Load() != tasks {
		t.Errorf("%d handlers ran, want %d", runs.Load(), tasks)
	}

	type sums struct {
		Tasks int64 `json:"total_tasks"`
		In    int64 `json:"total_tokens_in"`
		Out   int64 `json:"total_tokens_out"`
		Calls int64 `json:"total_api_calls"`
	}
	check := func(what string, got totals) {
		t.Helper()
		if got != want {
			t.Errorf("%s says %+v, want %+v", what, got, want)
		}
	}
	check("summary", totals(decode[sums](t, get(t, n, "/usage/summary"))))
	for _, by := range []string{"agent", "consumer", "hour", "day", "week", "month", "skill", "outcome", "agent,consumer,hour"} {
		var got totals
		for _, row := range decode[struct {
			Data []sums `json:"data"`
		}](t, get(t, n, "/usage/aggregate?group_by="+by)).Data {
			got = totals{got.Tasks + row.Tasks, got.In + row.In, got.Out + row.Out, got.Calls + row.Calls}
		}
		check("aggregate by "+by, got)
	}
	type record struct {
		In    int64 `json:"tokens_in"`
		Out   int64 `json:"tokens_out"`
		Calls int64 `json:"api_calls"`
	}
	add := func(got *totals, records []record) {
		for _, r := range records {
			*got = totals{got.Tasks + 1, got.In + r.In, got.Out + r.Out, got.Calls + r.Calls}
		}
	}
	var list totals
	for cursor := ""; ; {
		page := decode[struct {
			Data []record `json:"data"`
			Next string   `json:"next_cursor"`
		}](t, get(t, n, "/usage?limit=300"+cursor))
		add(&list, page.Data)
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + page.Next
	}
	check("list", list)
	var export totals
	add(&export, decode[struct {
		Data []record `json:"data"`
	}](t, get(t, n, "/usage/export?export_format=json")).Data)
	check("export", export)
	if lines := strings.Count(string(get(t, n, "/usage/export?export_format=csv")), "\r\n"); lines != tasks+1 {
		t.Errorf("the CSV export has %d lines, want %d", lines, tasks+1)
	}
	stop()
	check("the audit log", auditedTotals(t, n.config.Data))
}

// auditedTotals verifies the audit log in a data directory, and adds up what it
// says was used. It reads every entry from its octets.
func auditedTotals(t testing.TB, dir string) (sum totals) {
	t.Helper()
	store := openLedger(t, dir)
	var page []audit.Entry
	entries := func(yield func(audit.Entry) bool) {
		for from := int64(0); ; from += int64(len(page)) {
			var err error
			if page, _, err = store.ListAudit(t.Context(), audit.Filter{}, from, 1000); err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				return
			}
			for _, e := range page {
				if !yield(e) {
					return
				}
			}
		}
	}
	verdict, err := audit.Verify(audit.Source{Origin: Defaults().URN, Rows: rows(entries)}, audit.Options{})
	if err != nil || !verdict.Valid {
		t.Fatalf("the audit log: %+v, %v", verdict, err)
	}
	for e := range entries {
		if e.Type != audit.UsageRecorded {
			continue
		}
		d := decode[struct {
			In    int64 `json:"tokens_in"`
			Out   int64 `json:"tokens_out"`
			Calls int64 `json:"api_calls"`
		}](t, e.Details)
		sum = totals{sum.Tasks + 1, sum.In + d.In, sum.Out + d.Out, sum.Calls + d.Calls}
	}
	return sum
}

func rows(entries iter.Seq[audit.Entry]) iter.Seq2[audit.Row, error] {
	return func(yield func(audit.Row, error) bool) {
		for e := range entries {
			if !yield(audit.Row{Seq: e.Seq, Octets: e.Octets, Hash: e.Hash[:]}, nil) {
				return
			}
		}
	}
}

// openLedger reads the ledger of a data directory.
func openLedger(t testing.TB, dir string) *sqlite.Store {
	t.Helper()
	store, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(dir, LedgerFile), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// One envelope sent twenty times at once, before and after a restart: one run,
// one record, one answer.
func TestDuplicatesRunOnce(t *testing.T) {
	const copies = 20
	dir := t.TempDir()
	var runs atomic.Int64
	call := client.TaskCall{
		Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":21}`),
		EnvelopeID: "the-one", ConversationID: "c", Timestamp: time.Now(),
	}
	var first string
	for _, life := range []string{"before the restart", "after the restart"} {
		n, stop := start(t, testConfig(dir), counter(&runs))
		c := newClient(t, n)
		var group sync.WaitGroup
		answers := make([]string, copies)
		for i := range answers {
			group.Go(func() {
				result, err := c.Task(t.Context(), call)
				if err != nil {
					t.Errorf("%s: %v", life, err)
					return
				}
				answers[i] = fmt.Sprintf("%s %s %+v", result.Envelope.ID, result.Response.AppendJSON(nil), *result.Receipt)
			})
		}
		group.Wait()
		if first == "" {
			first = answers[0]
		}
		for _, answer := range answers {
			if answer != first {
				t.Errorf("%s: answered %s, first %s", life, answer, first)
			}
		}
		changed := call
		changed.Input = jsontext.Value(`{"n":22}`)
		var refused *client.RemoteError
		if _, err := c.Task(t.Context(), changed); !errors.As(err, &refused) || refused.DataCode != asap.CodeIdempotencyConflict {
			t.Errorf("%s: the same id with other content: %v", life, err)
		}
		stop()
	}
	if runs.Load() != 1 {
		t.Errorf("%d runs, want 1", runs.Load())
	}
	if got, want := auditedTotals(t, dir), (totals{1, 21, 42, 1}); got != want {
		t.Errorf("recorded %+v, want %+v", got, want)
	}
}

// A second node on one data directory is refused in one line that names the
// first, and the first goes on.
func TestSecondNode(t *testing.T) {
	n, _ := start(t, testConfig(t.TempDir()), counter(new(atomic.Int64)))
	_, err := Open(t.Context(), n.config, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if _, err := newClient(t, n).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
		t.Error(err)
	}
}

// The manifest of a hosted agent names the node, or what the configuration says.
func TestManifestNamesTheNode(t *testing.T) {
	c := testConfig(t.TempDir())
	n, stop := start(t, c, counter(new(atomic.Int64)))
	if d, err := newClient(t, n).Manifest(t.Context()); err != nil || d.Manifest.Endpoints.ASAP != n.URL()+"/asap" {
		t.Errorf("%+v, %v", d, err)
	}
	stop()
	c.PublicURL = "https://agents.example.com/"
	n, _ = start(t, c, counter(new(atomic.Int64)))
	if d, err := newClient(t, n).Manifest(t.Context()); err != nil || *d.Manifest.Endpoints.Events != "wss://agents.example.com/asap/ws" {
		t.Errorf("%+v, %v", d, err)
	}
}

// What a price list says is what a task costs, and a reload changes it for the
// tasks after.
func TestPricesAndReload(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Metering.Prices = []PriceConfig{{Agent: counterURN, List: jsontext.Value(`{"usd_per_million_tokens_in":"3","usd_per_api_call":"0.000000001"}`)}}
	n, _ := start(t, c, counter(new(atomic.Int64)))
	send := func() {
		if _, err := newClient(t, n).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1000}`)}); err != nil {
			t.Fatal(err)
		}
	}
	send()
	c.Metering.Prices[0].List = jsontext.Value(`{"usd_per_task":"1"}`)
	n.Reload(t.Context(), c, nil)
	n.Reload(t.Context(), Config{}, errors.New("broken file")) // changes nothing
	send()
	var costs []metering.NanoUSD
	for r, err := range openLedger(t, c.Data).ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil || r.CostNanoUSD == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		costs = append(costs, *r.CostNanoUSD)
	}
	if len(costs) != 2 || costs[0] != 3_000_001 || costs[1] != 1_000_000_000 {
		t.Errorf("costs %v", costs)
	}
}
