package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// slaMetrics is what the commands print of measured figures.
type slaMetrics struct {
	AgentID     string   `json:"agent_id"`
	PeriodStart string   `json:"period_start"`
	PeriodEnd   string   `json:"period_end"`
	Uptime      *float64 `json:"uptime_percent"`
	P95         *int64   `json:"latency_p95_ms"`
	ErrorRate   *float64 `json:"error_rate_percent"`
	Completed   int64    `json:"tasks_completed"`
	Failed      int64    `json:"tasks_failed"`
}

// number prints a figure, or a dash for one that was not measured.
func number(f *float64) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

// slaPath is the path of an agent's service levels.
func slaPath(agent, rest string) string { return "/agents/" + url.PathEscape(agent) + "/sla" + rest }

// showJSON gets a path and prints it, as JSON or as text does.
func showJSON[T any](ctx context.Context, a *app, n *nodeAPI, path string, q url.Values, text func(T) error) error {
	var raw jsontext.Value
	if err := n.get(ctx, path, q, &raw); err != nil {
		return err
	}
	return a.answer(raw, func(io.Writer) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return stateErrorf("read the node's answer: %w", err)
		}
		return text(v)
	})
}

func (a *app) slaStatusCommand(flags *nodeFlags) *cobra.Command {
	var window string
	cmd := &cobra.Command{
		Use:   "status [AGENT]",
		Short: "How agents keep what they promise, or one of them in detail",
		Args:  cobra.MaximumNArgs(1),
		Example: `  asap sla status
  asap sla status urn:asap:agent:echo --window 30d`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := url.Values{"window": {window}}
			if len(args) == 1 {
				return showJSON(ctx, a, n, slaPath(args[0], ""), q, a.slaStatus)
			}
			return showJSON(ctx, a, n, "/sla", q, func(page struct {
				Data []struct {
					Metrics    slaMetrics `json:"metrics"`
					Compliance *float64   `json:"compliance_percent"`
					DataStatus string     `json:"data_status"`
					Score      *float64   `json:"sla_score"`
					Open       int        `json:"open_breaches"`
				} `json:"data"`
			}) error {
				rows := make([][]string, len(page.Data))
				for i, r := range page.Data {
					m := r.Metrics
					rows[i] = []string{m.AgentID, number(m.Uptime), count(m.P95), number(m.ErrorRate), fmt.Sprint(m.Completed + m.Failed), number(r.Compliance), number(r.Score), fmt.Sprint(r.Open), r.DataStatus}
				}
				return a.table([]string{"AGENT", "UPTIME %", "P95 MS", "ERRORS %", "TASKS", "COMPLIANCE %", "SCORE", "OPEN BREACHES", "DATA"}, rows)
			})
		})(cmd, args)
	}
	cmd.Flags().StringVar(&window, "window", "24h", "1h, 24h, 7d or 30d")
	return cmd
}

// slaStatus prints the status of one agent: its promises, then what is beside them.
func (a *app) slaStatus(s struct {
	AgentID    string     `json:"agent_id"`
	Window     string     `json:"window"`
	Metrics    slaMetrics `json:"metrics"`
	DataStatus string     `json:"data_status"`
	Compliance *float64   `json:"compliance_percent"`
	Score      *float64   `json:"sla_score"`
	Objectives []struct {
		Objective  string   `json:"objective"`
		Promised   string   `json:"promised"`
		Actual     *float64 `json:"actual"`
		Met        *bool    `json:"met"`
		Budget     *float64 `json:"budget_remaining"`
		DataStatus string   `json:"data_status"`
	} `json:"objectives"`
	Open []struct {
		ID string `json:"id"`
	} `json:"open_breaches"`
}) error {
	m := s.Metrics
	_, err := fmt.Fprintf(a.out, "%s, last %s: uptime %s %%, p95 %s ms, errors %s %% of %d tasks, compliance %s %%, score %s (%s)\n",
		plain(s.AgentID), plain(s.Window), number(m.Uptime), count(m.P95), number(m.ErrorRate), m.Completed+m.Failed, number(s.Compliance), number(s.Score), plain(s.DataStatus))
	if err != nil || len(s.Objectives) == 0 {
		return err
	}
	rows := make([][]string, len(s.Objectives))
	for i, o := range s.Objectives {
		met := "-"
		if o.Met != nil {
			met = map[bool]string{true: "kept", false: "broken"}[*o.Met]
		}
		rows[i] = []string{o.Objective, o.Promised, number(o.Actual), met, number(o.Budget), o.DataStatus}
	}
	if err := a.table([]string{"PROMISE", "PROMISED", "ACTUAL", "", "BUDGET LEFT", "DATA"}, rows); err != nil {
		return err
	}
	for _, b := range s.Open {
		if _, err := fmt.Fprintf(a.out, "open breach %s\n", plain(b.ID)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) slaHistoryCommand(flags *nodeFlags) *cobra.Command {
	var granularity, start, end, cursor string
	var limit int
	cmd := &cobra.Command{
		Use:   "history AGENT",
		Short: "What an agent delivered, hour by hour or day by day",
		Args:  cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := given(map[string]string{"granularity": granularity, "start": start, "end": end, "cursor": cursor, "limit": strconv.Itoa(limit)})
			return showJSON(ctx, a, n, slaPath(args[0], "/history"), q, func(page struct {
				Data []slaMetrics `json:"data"`
				Next *string      `json:"next_cursor"`
			}) error {
				rows := make([][]string, len(page.Data))
				for i, m := range page.Data {
					rows[i] = []string{m.PeriodStart, m.PeriodEnd, number(m.Uptime), count(m.P95), number(m.ErrorRate), fmt.Sprint(m.Completed), fmt.Sprint(m.Failed)}
				}
				err := a.table([]string{"FROM", "TO", "UPTIME %", "P95 MS", "ERRORS %", "COMPLETED", "FAILED"}, rows)
				return a.more(page.Next, err)
			})
		})(cmd, args)
	}
	cmd.Flags().StringVar(&granularity, "granularity", "hour", "hour or day, of UTC")
	cmd.Flags().StringVar(&start, "start", "", "from this time on (RFC 3339, with zone)")
	cmd.Flags().StringVar(&end, "end", "", "before this time (RFC 3339, with zone)")
	cmd.Flags().IntVar(&limit, "limit", 100, "rows a page, 1 to 1000")
	cmd.Flags().StringVar(&cursor, "cursor", "", "where the page before ended")
	return cmd
}

// given returns those parameters that have a value.
func given(values map[string]string) url.Values {
	q := url.Values{}
	for name, value := range values {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// more says how to get the next page, unless something failed.
func (a *app) more(next *string, err error) error {
	if err == nil && next != nil {
		_, err = fmt.Fprintf(a.errOut, "more: --cursor %s\n", plain(*next))
	}
	return err
}

// breachRow is what the commands print of a breach.
type breachRow struct {
	ID        string  `json:"id"`
	AgentID   string  `json:"agent_id"`
	Objective string  `json:"objective"`
	Window    string  `json:"window"`
	Severity  string  `json:"severity"`
	Threshold string  `json:"threshold"`
	Actual    string  `json:"actual"`
	StartedAt string  `json:"started_at"`
	Resolved  *string `json:"resolved_at"`
	Seconds   float64 `json:"duration_seconds"`
	Status    string  `json:"status"`
}

func (b *breachRow) cells() []string {
	resolved := "-"
	if b.Resolved != nil {
		resolved = *b.Resolved
	}
	return []string{b.StartedAt, resolved, strconv.FormatFloat(b.Seconds, 'f', -1, 64), b.Status, b.Severity, b.Objective, b.Window, b.Threshold, b.Actual, b.ID}
}

func (a *app) slaBreachesCommand(flags *nodeFlags) *cobra.Command {
	var status, severity, objective, start, end, cursor string
	var limit int
	cmd := &cobra.Command{
		Use:   "breaches AGENT",
		Short: "When an agent broke its promises, newest first",
		Args:  cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := given(map[string]string{"status": status, "severity": severity, "objective": objective, "start": start, "end": end, "cursor": cursor, "limit": strconv.Itoa(limit)})
			return showJSON(ctx, a, n, slaPath(args[0], "/breaches"), q, func(page struct {
				Data []breachRow `json:"data"`
				Next *string     `json:"next_cursor"`
			}) error {
				rows := make([][]string, len(page.Data))
				for i := range page.Data {
					rows[i] = page.Data[i].cells()
				}
				err := a.table([]string{"STARTED", "RESOLVED", "SECONDS", "STATUS", "SEVERITY", "PROMISE", "WINDOW", "PROMISED", "ACTUAL", "ID"}, rows)
				return a.more(page.Next, err)
			})
		})(cmd, args)
	}
	cmd.Flags().StringVar(&status, "status", "", "open or resolved")
	cmd.Flags().StringVar(&severity, "severity", "", "warning or critical: the highest that was reached")
	cmd.Flags().StringVar(&objective, "objective", "", "availability, latency or error_rate")
	cmd.Flags().StringVar(&start, "start", "", "not over before this time (RFC 3339, with zone)")
	cmd.Flags().StringVar(&end, "end", "", "begun before this time (RFC 3339, with zone)")
	cmd.Flags().IntVar(&limit, "limit", 100, "breaches a page, 1 to 1000")
	cmd.Flags().StringVar(&cursor, "cursor", "", "where the page before ended")
	return cmd
}

func (a *app) slaWatchCommand(flags *nodeFlags) *cobra.Command {
	var filter struct {
		Agents      []string `json:"agents,omitempty"`
		Objectives  []string `json:"objectives,omitempty"`
		Windows     []string `json:"windows,omitempty"`
		MinSeverity string   `json:"min_severity,omitempty"`
		SinceSeq    *int64   `json:"since_seq,omitempty"`
	}
	var since, times int64
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Follow what happens to breaches as it happens",
		Long: `Follows a running node over its WebSocket and prints a line for each thing that
happens to a breach: that it opens, escalates, ends. With --json each line is the
notification. --since begins after a position of the log of notifications, as
each notification tells it in "seq".`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("since") {
			filter.SinceSeq = &since
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		params, err := json.Marshal(&filter)
		if err != nil {
			return err
		}
		return a.watchSLA(ctx, flags, params, times)
	})
	cmd.Flags().StringSliceVar(&filter.Agents, "agent", nil, "only these agents (URN)")
	cmd.Flags().StringSliceVar(&filter.Objectives, "objective", nil, "only availability, latency or error_rate")
	cmd.Flags().StringSliceVar(&filter.Windows, "window", nil, "only breaches in 1h, 24h, 7d or 30d")
	cmd.Flags().StringVar(&filter.MinSeverity, "min-severity", "", "warning or critical")
	cmd.Flags().Int64Var(&since, "since", -1, "begin after this position; -1 with the first there is")
	cmd.Flags().Int64Var(&times, "count", 0, "stop after so many; 0 goes on")
	return cmd
}

// watchSLA prints notifications until ctx ends, there were enough, or the node
// says that this side was too slow.
func (a *app) watchSLA(ctx context.Context, flags *nodeFlags, params jsontext.Value, times int64) (err error) {
	base := flags.url
	if base == "" {
		base = a.getenv("ASAP_NODE")
	}
	if base == "" {
		if base, err = node.ReadURL(flags.data); err != nil {
			return errNoNode(flags.data)
		}
	}
	token, err := a.bearer(flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	seen := int64(0)
	var socket *client.Socket
	options := []client.Option{client.WithPushQueue(watchQueue), client.WithHandlers(client.Handlers{
		Notification: func(_ context.Context, method string, p jsontext.Value) {
			if ctx.Err() != nil {
				return
			}
			switch method {
			case "sla.breach":
				if socket.Dropped() > 0 {
					cancel(refusedErrorf("too slow for what happens; go on with --since and the last seq"))
					return
				}
				if err := a.printEvent(p); err != nil {
					cancel(err)
				}
				if seen++; seen == times {
					cancel(errEnough)
				}
			case "sla.lagged":
				cancel(refusedErrorf("too slow for the node; go on with what it says: %s", p))
			}
		},
		Disconnected: func(_ context.Context, err error) { cancel(stateErrorf("the connection was lost: %w", err)) },
	})}
	if token != "" {
		options = append(options, client.WithTokenSource(client.StaticToken(token)))
	}
	if socket, err = client.NewSocket(base, options...); err != nil {
		return usageErrorf("--node: %w", err)
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if err := socket.Connect(ctx); err != nil {
		return stateErrorf("cannot reach the node: %w", err)
	}
	if _, err := socket.SubscribeSLA(ctx, params); err != nil && ctx.Err() == nil {
		return refusedErrorf("%w", err)
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, errEnough) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// watchQueue is how many notifications may wait to be printed.
const watchQueue = 8192

var errEnough = errors.New("enough")

// printEvent prints one notification.
func (a *app) printEvent(p jsontext.Value) error {
	if a.json {
		_, err := fmt.Fprintf(a.out, "%s\n", p)
		return err
	}
	var e struct {
		Seq    int64     `json:"seq"`
		Event  string    `json:"event"`
		At     string    `json:"at"`
		Breach breachRow `json:"breach"`
	}
	if err := json.Unmarshal(p, &e); err != nil {
		return stateErrorf("read the node's notification: %w", err)
	}
	b := &e.Breach
	line := []string{e.At, e.Event, b.Severity, b.AgentID, b.Objective, b.Window, "promised " + b.Threshold, "actual " + b.Actual, b.ID, "seq " + strconv.FormatInt(e.Seq, 10)}
	if b.Resolved != nil {
		line = append(line, "after "+strconv.FormatFloat(b.Seconds, 'f', -1, 64)+" s")
	}
	for i := range line {
		line[i] = plain(line[i])
	}
	_, err := fmt.Fprintln(a.out, strings.Join(line, "\t"))
	return err
}
