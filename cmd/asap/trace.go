package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func (a *app) traceCommand() *cobra.Command {
	var logFile, format string
	cmd := &cobra.Command{
		Use:   "trace TRACE_ID",
		Short: "Show the way of a request through agents, from their JSON logs",
		Long: `Reads JSON log lines, keeps those with exactly this trace id, and shows who
called whom and how long each call took. Durations are (?) where the logs do not
say which request an end belongs to.`,
		Example: `  asap trace 7f3c… --log-file node.log
  cat *.log | asap trace 7f3c…`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || strings.TrimSpace(args[0]) == "" {
				return errors.New("trace_id is required. Usage: asap trace <trace-id> [--log-file PATH]")
			}
			if format != "ascii" && format != "json" {
				return errors.New("--format must be 'ascii' or 'json'")
			}
			if !cmd.Flags().Changed("log-file") {
				logFile = a.getenv("ASAP_TRACE_LOG")
			}
			hops, err := a.readHops(logFile, args[0])
			if err != nil {
				return err
			}
			if len(hops) == 0 {
				if a.json {
					return fmt.Errorf("No trace found for: %s", args[0])
				}
				fmt.Fprintf(a.out, "No trace found for: %s\n", args[0])
				return quietFailure(exitRefused)
			}
			if a.json || format == "json" {
				return writeJSON(a.out, struct {
					TraceID string `json:"trace_id"`
					Hops    []hop  `json:"hops"`
				}{args[0], hops})
			}
			_, err = fmt.Fprintln(a.out, drawHops(hops))
			return err
		}),
	}
	cmd.Flags().StringVarP(&logFile, "log-file", "f", "", "file of JSON log lines (default: ASAP_TRACE_LOG, else standard input)")
	cmd.Flags().StringVarP(&format, "format", "o", "ascii", "ascii or json")
	return cmd
}

// readHops reads the hops of a trace from the named log, or from standard input
// where there is no name.
func (a *app) readHops(logFile, traceID string) ([]hop, error) {
	if logFile == "" {
		return traceHops(a.in, traceID)
	}
	f, err := os.Open(logFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, badValuef("Log file not found: %s", logFile)
	}
	if err != nil {
		return nil, badValuef("Cannot read log file: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	hops, err := traceHops(f, traceID)
	if err != nil {
		return nil, badValuef("Cannot read log file: %w", err)
	}
	return hops, nil
}

// hop is one request of a trace.
type hop struct {
	Sender     string   `json:"sender"`
	Recipient  string   `json:"recipient"`
	DurationMS *float64 `json:"duration_ms"` // nil if the logs do not tell
}

// The log events that a trace is made of.
const (
	eventReceived  = "asap.request.received"
	eventProcessed = "asap.request.processed"
)

// logLine holds the members of a JSON log line that a trace needs, under the
// names that the Python release's logger and Go's log/slog give them.
type logLine struct {
	Event      string   `json:"event"`
	Msg        string   `json:"msg"`
	Timestamp  string   `json:"timestamp"`
	Time       string   `json:"time"`
	TraceID    string   `json:"trace_id"`
	RequestID  string   `json:"request_id"`
	EnvelopeID string   `json:"envelope_id"`
	Sender     string   `json:"sender"`
	Recipient  string   `json:"recipient"`
	DurationMS *float64 `json:"duration_ms"`
}

// request names the request that a line is about: its request id where the log
// has one, else the envelope's. In logs of the Python release the envelope id of
// an end is the answer's, so there nothing pairs.
func (l *logLine) request() string { return cmp.Or(l.RequestID, l.EnvelopeID) }

// traceHops returns the requests of a trace in the order in which they were
// received. Lines that are not JSON objects are passed over, as logs hold them.
func traceHops(log io.Reader, traceID string) ([]hop, error) {
	type received struct {
		line logLine
		at   time.Time
		raw  string
	}
	var requests []received
	durations := map[string]*float64{}
	lines := bufio.NewReader(log)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		var line logLine
		if json.Unmarshal(text, &line, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil && line.TraceID == traceID {
			switch cmp.Or(line.Event, line.Msg) {
			case eventReceived:
				raw := cmp.Or(line.Timestamp, line.Time)
				at, _ := time.Parse(time.RFC3339Nano, raw) // an unreadable time sorts by its text
				requests = append(requests, received{line, at, raw})
			case eventProcessed:
				durations[line.request()] = line.DurationMS
			}
		}
		if err != nil {
			break
		}
	}
	slices.SortStableFunc(requests, func(x, y received) int {
		return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.raw, y.raw))
	})
	hops := make([]hop, 0, len(requests))
	for _, r := range requests {
		hops = append(hops, hop{r.line.Sender, r.line.Recipient, durations[r.line.request()]})
	}
	return hops, nil
}

// drawHops writes hops on one line, agents by the last part of their URN.
func drawHops(hops []hop) string {
	var b strings.Builder
	b.WriteString(lastSegment(hops[0].Sender))
	for _, h := range hops {
		duration := "?"
		if h.DurationMS != nil {
			duration = fmt.Sprintf("%.0fms", math.RoundToEven(*h.DurationMS))
		}
		fmt.Fprintf(&b, " -> %s (%s)", lastSegment(h.Recipient), duration)
	}
	return plain(b.String())
}

func lastSegment(urn string) string { return urn[strings.LastIndexByte(urn, ':')+1:] }
