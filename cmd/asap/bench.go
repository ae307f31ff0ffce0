package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/load"
	"github.com/spf13/cobra"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	plan  load.Plan
	node  nodeFlags
	skill string
}

// benchReport is how a run went, and whether the node's accounts agree.
type benchReport struct {
	Node        string         `json:"node"` // URL, or "temporary"
	Connections int            `json:"connections"`
	Rate        float64        `json:"rate"` // asked for; 0: as fast as the node answers
	Sent        int            `json:"sent"`
	Served      int            `json:"served"` // answered with a completed task
	Failures    []load.Failure `json:"failures"`
	ElapsedMS   int64          `json:"elapsed_ms"`
	PerSecond   float64        `json:"served_per_second"`
	// Latencies of the tasks served, in milliseconds; with a rate from the moment
	// a task was due. Null without any.
	P50MS *float64 `json:"p50_ms"`
	P90MS *float64 `json:"p90_ms"`
	P99MS *float64 `json:"p99_ms"`
	MaxMS *float64 `json:"max_ms"`
	// Complete tells whether exactly the tasks served are recorded. It and the
	// accounts are null where they could not be read.
	Accounts *load.Accounts `json:"accounts"`
	Complete *bool          `json:"complete"`
	// What the node used, for a temporary one and where the system tells.
	CPUMicrosPerTask *float64 `json:"cpu_us_per_task"`
	ResidentMiB      *float64 `json:"resident_mib"`
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put a node on this machine under load, and compare what it served with what it recorded",
		Long: `bench sends tasks and tells how fast they were answered. Then it asks the node
what it has recorded for the sender, and to verify its audit log: exactly the
tasks served must be there.

Without --node it starts a node of its own with data in a temporary directory
and everything on: callers prove who they are, tasks are priced and run under a
delegation of three links whose limits are counted, all of it durable. With
--node it takes a node that runs on this machine; the tasks are sent in the name
of a new sender and stay in that node's ledger. Nodes elsewhere are refused.

With --rate tasks arrive by the clock, whether or not those before were
answered, and a task's latency counts from when it was due. Without it each
connection sends its next task when the last was answered. A run ends after
--tasks or --duration, whichever comes first.`,
		Example: `  asap bench
  asap bench --tasks 100000 --connections 64 --duration 0
  asap bench --node http://127.0.0.1:8080 --rate 200 --duration 1m --json`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error { return a.runBench(cmd.Context(), &f) }),
	}
	cmd.Flags().IntVar(&f.plan.Tasks, "tasks", 10_000, "how many tasks at most, up to 10000000")
	cmd.Flags().DurationVar(&f.plan.Duration, "duration", 30*time.Second, "how long new tasks are begun; 0: until all are sent")
	cmd.Flags().Float64Var(&f.plan.PerSecond, "rate", 0, "tasks a second; 0: as fast as they are answered")
	cmd.Flags().IntVar(&f.plan.Connections, "connections", 64, "connections, which is how many tasks are under way at once, up to 1024")
	cmd.Flags().StringVar(&f.node.url, "node", "", "URL of a running node on this machine, instead of one for the purpose")
	cmd.Flags().StringVar(&f.node.data, "data", "", "with --node: its data directory, where the operator token is, which its accounts need")
	cmd.Flags().StringVar(&f.node.tokenFile, "token-file", "", "with --node: file with the operator token (default: ASAP_TOKEN, else from --data)")
	cmd.Flags().StringVar(&f.skill, "skill", "echo", "with --node: skill to ask for; its agent is the node's first")
	return cmd
}

func (a *app) runBench(ctx context.Context, f *benchFlags) (err error) {
	switch {
	case f.plan.Tasks < 1 || f.plan.Tasks > 10_000_000:
		return badValuef("--tasks must be between 1 and 10000000")
	case f.plan.Connections < 1 || f.plan.Connections > 1024:
		return badValuef("--connections must be between 1 and 1024")
	case !(f.plan.PerSecond >= 0 && f.plan.PerSecond <= 1e6) || f.plan.Duration < 0: //nolint:staticcheck // NaN is neither
		return badValuef("--rate must be between 0 and 1000000, and --duration not negative")
	}
	report := benchReport{Node: f.node.url, Connections: f.plan.Connections, Rate: f.plan.PerSecond}
	var target *load.Target
	var process *load.Process
	if f.node.url != "" {
		if target, err = a.benchTarget(ctx, f); err != nil {
			return err
		}
	} else {
		report.Node = "temporary"
		var end func() error
		if target, process, end, err = startBenchNode(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	do, hangUp := target.Tasks(f.plan.Connections)
	defer hangUp()
	f.plan.Do = do
	var before load.Effort
	if process != nil {
		before, _ = process.Effort()
	}
	result, err := load.Run(ctx, f.plan)
	if err != nil {
		return err
	}
	report.fill(&result)
	if process != nil {
		if after, ok := process.Effort(); ok && result.Done > 0 {
			report.CPUMicrosPerTask = new(float64((after.CPU - before.CPU).Microseconds()) / float64(result.Done))
			report.ResidentMiB = &after.ResidentMiB
		}
	}
	if target.OperatorToken != "" {
		accounts, err := target.Accounts(ctx)
		if err != nil {
			return stateErrorf("%w", err)
		}
		report.Accounts, report.Complete = &accounts, new(accounts.Recorded == int64(result.Done))
	}
	if err := a.answer(report, report.text); err != nil {
		return err
	}
	switch {
	case result.Done == 0:
		return quietFailure(exitState)
	case result.Done < result.Sent, report.Complete != nil && !(*report.Complete && report.Accounts.AuditValid):
		return quietFailure(exitRefused)
	}
	return nil
}

// benchTarget is the node of --node.
func (a *app) benchTarget(ctx context.Context, f *benchFlags) (*load.Target, error) {
	u, err := url.Parse(f.node.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, usageErrorf("--node: %q is not a URL such as http://127.0.0.1:8080", f.node.url)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, refusedErrorf("%s is not this machine: bench puts load on nodes of this machine only", u.Hostname())
	}
	token, err := a.benchToken(f)
	if err != nil {
		return nil, err
	}
	c, err := client.New(f.node.url)
	if err != nil {
		return nil, usageErrorf("--node: %w", err)
	}
	defer c.Close()
	found, err := c.Manifest(ctx)
	if err != nil {
		return nil, stateErrorf("the node's manifest: %w", err)
	}
	t := &load.Target{URL: f.node.url, Recipient: found.Manifest.ID, Skill: f.skill, Sender: load.NewSender(), OperatorToken: token}
	if token != "" {
		t.Header = http.Header{"Authorization": {"Bearer " + token}}
	}
	return t, nil
}

// benchToken finds the operator token, "" for none: without --data and without
// a token somewhere the accounts are left out.
func (a *app) benchToken(f *benchFlags) (string, error) {
	if f.node.data == "" && f.node.tokenFile == "" {
		return strings.TrimSpace(a.getenv("ASAP_TOKEN")), nil
	}
	return a.bearer(&f.node)
}

// startBenchNode starts this program as a node with everything on, and returns
// what ends it and removes its data.
func startBenchNode(ctx context.Context) (_ *load.Target, _ *load.Process, end func() error, err error) {
	dir, err := os.MkdirTemp("", "asap-bench-")
	if err != nil {
		return nil, nil, nil, err
	}
	var process *load.Process
	end = func() error {
		var stopped error
		if process != nil && ctx.Err() == nil {
			stopped = process.Stop()
		}
		return errors.Join(stopped, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(stateErrorf("start a node: %w", err), end())
		}
	}()
	scene, err := load.NewScene(dir, time.Now())
	if err != nil {
		return nil, nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log")) //nolint:gosec // in the directory just made
	if err != nil {
		return nil, nil, nil, err
	}
	defer log.Close() //nolint:errcheck // the process has its own
	if process, err = load.Start(ctx, log, self, "serve", "--config", scene.Config); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, nil, nil, fmt.Errorf("%w\n%s", err, text)
	}
	target, err := scene.Target(ctx, process.URL)
	return target, process, end, err
}

func (r *benchReport) fill(result *load.Result) {
	r.Sent, r.Served, r.Failures, r.ElapsedMS = result.Sent, result.Done, result.Failed(), result.Elapsed.Milliseconds()
	r.PerSecond = float64(int64(result.DonePerSecond()*10)) / 10
	if result.Done == 0 {
		return
	}
	ms := func(q float64) *float64 { return new(float64(result.Quantile(q).Microseconds()) / 1000) }
	r.P50MS, r.P90MS, r.P99MS, r.MaxMS = ms(0.50), ms(0.90), ms(0.99), ms(1)
}

// text writes the report for people.
func (r *benchReport) text(w io.Writer) error {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s%s\n", what, fmt.Sprintf(format, args...))
	}
	line("sent", "%d", r.Sent)
	line("served", "%d in %.1f s, %.1f a second", r.Served, float64(r.ElapsedMS)/1000, r.PerSecond)
	for _, f := range r.Failures {
		line("failed", "%d x %s", f.Count, plain(f.Reason))
	}
	if r.P50MS != nil {
		line("latency", "p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, longest %.1f ms", *r.P50MS, *r.P90MS, *r.P99MS, *r.MaxMS)
	}
	if r.CPUMicrosPerTask != nil {
		line("node", "%.0f µs of CPU a task, %.0f MiB resident", *r.CPUMicrosPerTask, *r.ResidentMiB)
	}
	if r.Accounts == nil {
		line("recorded", "not known: its accounts need the operator token (--data or --token-file)")
	} else {
		agrees := "exactly what was served"
		if !*r.Complete {
			agrees = "NOT what was served"
		}
		line("recorded", "%d, %s", r.Accounts.Recorded, agrees)
		verifies := "verifies"
		if !r.Accounts.AuditValid {
			verifies = "DOES NOT VERIFY"
		}
		line("audit log", "%d entries, %s", r.Accounts.AuditEntries, verifies)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
