//go:build heavy && linux

package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	loadtest "github.com/asap-protocol/asap-go/internal/load"
	"github.com/go-json-experiment/json/jsontext"
)

// failing starts a node whose disk fails when told to, lets it do some tasks, and
// tells it. It returns the caller, and what was answered.
func failing(t *testing.T, how string) (dir string, c *client.Client, url string, answered map[asap.TaskID]bool, end func()) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{childFails + "=" + how}
	word, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	url, end = runningChild(t, cmd, dir)
	t.Cleanup(end)
	if c, err = client.New(url, client.WithSender(callerURN), client.WithRetry(client.RetryPolicy{Attempts: 1})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	answered = map[asap.TaskID]bool{}
	for range 20 {
		r, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		if err != nil {
			t.Fatal(err)
		}
		answered[r.TaskID] = true
	}
	if _, err := word.Write([]byte("fail\n")); err != nil {
		t.Fatal(err)
	}
	return dir, c, url, answered, end
}

// afterFault checks, on a good disk again, that what was answered is there, once,
// that nothing is held, and that the log is whole.
func afterFault(t *testing.T, dir string, answered map[asap.TaskID]bool) {
	t.Helper()
	recordedOnce(t, dir, answered)
	auditedTotals(t, dir) // verifies the chain
}

// Disks that fail in the middle: an fsync that fails, whose outcome nobody knows,
// and a file system that turns read-only. Nobody is told that something is done
// that is not; the node is not ready, or ends; the next start has all that was
// answered, once.
func TestFaultDisk(t *testing.T) {
	for _, how := range []string{"fsync", "readonly"} {
		t.Run(how, func(t *testing.T) {
			dir, c, url, answered, end := failing(t, how)
			var err error
			for err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				var r *client.TaskResult
				r, err = c.Task(ctx, client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
				cancel()
				if err == nil {
					answered[r.TaskID] = true // before the word arrived
				}
			}
			var refused *client.RemoteError
			var unreached *client.TransportError
			switch {
			case errors.As(err, &refused) && (refused.DataCode == asap.CodeTaskIndeterminate || refused.DataCode == asap.CodeLedgerUnavailable):
			case errors.As(err, &unreached):
			default:
				t.Errorf("a caller is told %v", err)
			}
			t.Logf("a caller is told: %v", err)
			if res, err := http.Get(url + "/readyz"); err == nil { //nolint:noctx // of a test
				_ = res.Body.Close()
				if res.StatusCode == http.StatusOK {
					t.Error("it says that it is ready")
				}
				t.Logf("ready: %s", res.Status)
			} else {
				t.Logf("ready: %v", err)
			}
			end()
			afterFault(t, dir, answered)
		})
	}
}

// SIGTERM under load: the node takes no more, answers what it took, and ends
// within ten seconds by its own account; everything that was answered is there.
func TestFaultTerminatedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	url, end := runningChild(t, cmd, dir)
	defer end()
	var mu sync.Mutex
	answered, enough := map[asap.TaskID]bool{}, make(chan struct{})
	var callers sync.WaitGroup
	for range 32 {
		c, err := client.New(url, client.WithSender(callerURN), client.WithRetry(client.RetryPolicy{Attempts: 1}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		callers.Go(func() {
			for {
				r, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
				if err != nil {
					return
				}
				mu.Lock()
				if answered[r.TaskID] = true; len(answered) == 500 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	callers.Wait() // each has met a node that takes no more
	if err := cmd.Wait(); err != nil {
		t.Error("it ended with", err)
	}
	text := fmt.Sprint(cmd.Stderr)
	var took time.Duration
	if _, account, ok := strings.Cut(text, "msg=stopped after="); ok {
		var err error
		if took, err = time.ParseDuration(strings.Fields(account)[0]); err != nil {
			t.Error(err)
		}
	}
	if took == 0 || took >= 10*time.Second {
		t.Errorf("it took %v to stop:\n%s", took, text)
	}
	t.Logf("%d tasks were answered, it stopped within %s", len(answered), took)
	afterFault(t, dir, answered)
}

// overloadSeconds is how long a node is overloaded; the long run says more.
func overloadSeconds(t *testing.T) (seconds int) {
	seconds = 5
	if text := os.Getenv("ASAP_TEST_OVERLOAD_SECONDS"); text != "" {
		if _, err := fmt.Sscan(text, &seconds); err != nil {
			t.Fatal(err)
		}
	}
	return seconds
}

// Three times as many tasks arrive as the node can do, whoever waits or not: those
// that are answered are recorded, once; the others are refused and told when to
// come back; and the answered did not wait for long.
func TestFaultOverload(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{childSettings + "=limits.running_tasks=64"}
	url, end := runningChild(t, cmd, dir)
	defer end()
	const connections = 1024
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	c, err := client.New(url, client.WithSender(callerURN), client.WithTransport(transport), client.WithRetry(client.RetryPolicy{Attempts: 1}), client.WithCircuitBreaker(1<<30, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var mu sync.Mutex
	answered := map[asap.TaskID]bool{}
	do := func(ctx context.Context, _, _ int) error {
		r, err := c.Task(ctx, client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		var refused *client.RemoteError
		switch {
		case err == nil:
			mu.Lock()
			answered[r.TaskID] = true
			mu.Unlock()
			return nil
		case errors.As(err, &refused) && refused.HTTPStatus == http.StatusServiceUnavailable && refused.RetryAfter > 0:
			return errRefused
		}
		return err
	}
	capacity, err := loadtest.Run(t.Context(), loadtest.Plan{Tasks: 1 << 30, Duration: 2 * time.Second, Connections: 32, Do: do})
	if err != nil || len(capacity.Failures) > 0 {
		t.Fatalf("%v, %v", err, capacity.Failures)
	}
	rate := 3 * float64(capacity.Done) / capacity.Elapsed.Seconds()
	seconds := overloadSeconds(t)
	over, err := loadtest.Run(t.Context(), loadtest.Plan{Tasks: int(rate) * seconds, Duration: time.Duration(seconds) * time.Second, PerSecond: rate, Connections: connections, Do: do})
	if err != nil {
		t.Fatal(err)
	}
	for reason, n := range over.Failures {
		if reason != errRefused.Error() {
			t.Errorf("%d times: %s", n, reason)
		}
	}
	if over.Done == 0 || over.Failures[errRefused.Error()] == 0 {
		t.Errorf("done %d, %v: that was no overload", over.Done, over.Failures)
	}
	// Of 64 at work at once none is behind many others; far beyond what it takes here.
	if last := over.Latencies[len(over.Latencies)-1]; last > 30*time.Second {
		t.Errorf("one that was admitted waited %s", last)
	}
	t.Logf("%.0f tasks/s for %d s: %d done, %d refused; p50 %s, p99 %s of what was admitted", rate, seconds, over.Done, over.Failures[errRefused.Error()],
		over.Latencies[len(over.Latencies)/2], over.Latencies[len(over.Latencies)*99/100])
	end()
	afterFault(t, dir, answered)
}

var errRefused = errors.New("refused for the moment")
