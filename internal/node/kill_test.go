package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/go-json-experiment/json/jsontext"
)

// childData names the data directory when this test binary is run as a node, to
// be killed; childSettings are KEY=VALUE pairs of its configuration, one a line.
const (
	childData     = "ASAP_TEST_NODE_DATA"
	childSettings = "ASAP_TEST_NODE_SETTINGS"
	childAhead    = "ASAP_TEST_NODE_AHEAD" // seconds by which its clock is ahead
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childData); dir != "" {
		run := runChild
		if clock := os.Getenv(childClock); clock != "" {
			run = func(dir string) error { return runWatchedChild(dir, clock) }
		}
		if err := run(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runChild is a node in a process of its own. It says where it is.
func runChild(dir string) error {
	if err := spoilDisk(dir); err != nil {
		return err
	}
	c := testConfig(dir)
	c.Metering.Prices = []PriceConfig{{Agent: counterURN, List: jsontext.Value(`{"usd_per_task":"0.001","max_usd_per_task":"0.002"}`)}}
	if err := c.Override(strings.FieldsFunc(os.Getenv(childSettings), func(r rune) bool { return r == '\n' })); err != nil {
		return err
	}
	ahead := 0
	if text := os.Getenv(childAhead); text != "" {
		var err error
		if ahead, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	now := func() time.Time { return time.Now().Add(time.Duration(ahead) * time.Second) }
	n, err := Open(context.Background(), c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64)), breaking()}, Log: os.Stderr, Now: now})
	if err != nil {
		return err
	}
	fmt.Println(n.URL())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return errors.Join(n.Run(ctx), n.Close())
}

// failingURN is an agent that promises what it does not keep.
const failingURN = "urn:asap:agent:failing"

func breaking() *agent.Agent {
	promise, err := asap.ParseSLADefinition(jsontext.Value(`{"max_error_rate":"1%"}`))
	if err != nil {
		panic(err)
	}
	a := agent.New(failingURN, "Failing", agent.SLA(*promise))
	a.Handle("fail", func(context.Context, *agent.Task) (any, error) { return nil, &agent.Failure{Message: "as ever"} })
	return a
}

// startChild runs a node in a process of its own and returns its URL and what
// kills it.
func startChild(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	return runningChild(t, exec.CommandContext(t.Context(), os.Args[0]), dir)
}

// runningChild starts cmd, which is this test binary, as a node.
func runningChild(t *testing.T, cmd *exec.Cmd, dir string) (url string, kill func()) {
	t.Helper()
	cmd.Env = append(append(os.Environ(), childData+"="+dir), cmd.Env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the node did not start: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(line), func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()         // "signal: killed"
	}
}

// kills is how often the node is killed: enough to hit every step of a commit.
const kills = 50

// Fifty times the node is killed under load, at a random moment. Afterwards every
// task that was answered is in the ledger, once and as answered; nothing is held;
// the chain of the audit log is whole; totals are those of the records.
func TestKilledUnderLoad(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	var mu sync.Mutex
	answered := map[asap.TaskID]int64{} // guarded by mu
	count := 0
	rounds := kills
	if testing.Short() {
		rounds = 5
	}
	if text := os.Getenv("ASAP_TEST_KILLS"); text != "" { // of the long run
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for range rounds {
		url, kill := startChild(t, dir)
		c, err := client.New(url, client.WithSender(callerURN), client.WithRetry(client.RetryPolicy{Attempts: 1}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() {
				for ctx.Err() == nil {
					mu.Lock()
					count++
					n := int64(count)
					mu.Unlock()
					result, err := c.Task(ctx, client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, n))})
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					answered[result.TaskID] = n
					mu.Unlock()
				}
			})
		}
		<-time.After(time.Duration(5+random.IntN(120)) * time.Millisecond) // the random moment is the test
		kill()
		cancel()
		group.Wait()
		c.Close()
	}

	// One clean start recovers what the last kill left.
	n, stop := start(t, testConfig(dir), counter(new(atomic.Int64)))
	summary := decode[struct {
		Tasks int64 `json:"total_tasks"`
		In    int64 `json:"total_tokens_in"`
		Out   int64 `json:"total_tokens_out"`
		Calls int64 `json:"total_api_calls"`
	}](t, get(t, n, "/usage/summary"))
	stop()

	store := openLedger(t, dir)
	held, _, err := store.Holds(t.Context())
	if err != nil || held != 0 {
		t.Errorf("%d tasks are held (%v)", held, err)
	}
	var sum totals
	seen := map[asap.TaskID]bool{}
	lost := 0
	for r, err := range store.ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.TaskID] {
			t.Errorf("task %s is recorded twice", r.TaskID)
		}
		seen[r.TaskID] = true
		sum.Tasks++
		if r.Indeterminate {
			lost++
			if _, ok := answered[r.TaskID]; ok {
				t.Errorf("task %s was answered and is recorded as lost", r.TaskID)
			}
			continue
		}
		sum.In, sum.Out, sum.Calls = sum.In+*r.TokensIn, sum.Out+*r.TokensOut, sum.Calls+*r.APICalls
		if n, ok := answered[r.TaskID]; ok && (*r.TokensIn != n || r.Outcome != metering.Completed) {
			t.Errorf("task %s: recorded %d tokens, %s; answered %d", r.TaskID, *r.TokensIn, r.Outcome, n)
		}
	}
	for id := range answered {
		if !seen[id] {
			t.Errorf("task %s was answered and is not recorded", id)
		}
	}
	if got := totals(summary); got != sum {
		t.Errorf("the summary says %+v, the records %+v", got, sum)
	}
	checkAuditLog(t, store, dir)
	audited := auditedTotals(t, dir)
	if audited != sum {
		t.Errorf("the audit log says %+v, the records %+v", audited, sum)
	}
	t.Logf("%d kills: %d tasks answered, %d recorded, %d of them lost with the node", rounds, len(answered), sum.Tasks, lost)
}
