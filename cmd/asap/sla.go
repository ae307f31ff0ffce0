package main

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/spf13/cobra"
)

func (a *app) slaCommand() *cobra.Command {
	flags := &nodeFlags{}
	cmds := []*cobra.Command{a.slaStatusCommand(flags), a.slaHistoryCommand(flags), a.slaBreachesCommand(flags), a.slaWatchCommand(flags)}
	for _, cmd := range cmds {
		flags.add(cmd)
	}
	return group(&cobra.Command{
		Use:   "sla",
		Short: "See how agents keep what they promise",
	}, append(cmds, a.slaMaintenanceCommand(flags), a.slaReplayCommand())...)
}

func (a *app) slaReplayCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "replay FILE.jsonl|-",
		Short: "Run events through the rules for service levels",
		Long: `Reads events, one JSON object a line, and tells what a node would have measured
and which promises would have been broken, one JSON object a line: a status for
each query, and breaches as they happen. Time is that of the events; nothing
waits. The answer is JSON with or without --json.

A line is an object with "at" (RFC 3339), "kind" and, for most kinds, "agent":

  register     probe_interval_s, tz
  sla          sla: {availability, max_latency_p95_ms, max_error_rate, support_hours}
  policy       windows, min_tasks, for_s, resolve_after_s (before all other lines)
  probe        state (up, down, unknown), observer
  task         task_id, outcome (completed, failed, timeout, cancelled, rejected),
               latency_ms, cause, cancelled_by, elapsed_ms
  maintenance  start, end, announced_at
  remove
  query        window (1h, 24h, 7d, 30d)
  clock        only moves time

A line about something that became known late says when in "received_at". Events
that the rules refuse are left out with a warning; a line that is not an event
ends the replay.`,
		Example: `  asap sla replay events.jsonl
  asap sla replay - < events.jsonl | jq 'select(.kind == "breach")'`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			in := a.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if errors.Is(err, fs.ErrNotExist) {
					return badValuef("File not found: %s", args[0])
				}
				if err != nil {
					return badValuef("File cannot be read: %w", err)
				}
				defer f.Close() //nolint:errcheck // opened for reading only
				in = f
			}
			return a.replaySLA(in)
		}),
	}
}

func (a *app) replaySLA(in io.Reader) error {
	replayer := sla.Replayer{Refused: func(line int, err error) { a.warnf("line %d: %v", line, err) }}
	out := bufio.NewWriter(a.out)
	if err := replayer.Run(in, out); err != nil {
		// What came before the line at fault has been said.
		return errors.Join(badValuef("%w", err), out.Flush())
	}
	return out.Flush()
}
