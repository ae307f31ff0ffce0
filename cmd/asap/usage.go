package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// usageFilter holds the flags that choose records; they become the query
// parameters of the same names.
type usageFilter struct{ values map[string]*string }

var usageFilterFlags = []struct{ name, param, help string }{
	{"agent", "agent", "only what this agent did (URN)"},
	{"consumer", "consumer", "only what this consumer asked for (URN)"},
	{"task", "task_id", "only this task"},
	{"skill", "skill", "only this skill"},
	{"outcome", "outcome", "completed, failed, cancelled, timeout or rejected"},
	{"delegation", "delegation", "only what ran under this delegation token (jti)"},
	{"start", "start", "from this time on (RFC 3339, with zone)"},
	{"end", "end", "before this time (RFC 3339, with zone)"},
}

func (f *usageFilter) add(cmd *cobra.Command) {
	f.values = map[string]*string{}
	for _, flag := range usageFilterFlags {
		f.values[flag.param] = cmd.Flags().String(flag.name, "", flag.help)
	}
}

func (f *usageFilter) query() url.Values {
	q := url.Values{}
	for param, value := range f.values {
		if *value != "" {
			q.Set(param, *value)
		}
	}
	return q
}

func (a *app) usageCommand() *cobra.Command {
	flags := &nodeFlags{}
	cmd := group(&cobra.Command{
		Use:   "usage",
		Short: "Who used what: list, add up, export and report usage",
	},
		a.usageListCommand(flags), a.usageReportCommand(flags), a.usageAggregateCommand(flags),
		a.usageSummaryCommand(flags), a.usageExportCommand(flags))
	flags.add(cmd)
	return cmd
}

// withNode opens the node the flags name, to read from it, for the length of do.
func (a *app) withNode(flags *nodeFlags, do func(ctx context.Context, n *nodeAPI) error) func(*cobra.Command, []string) error {
	return a.withNodeTo(false, flags, do)
}

// withRunningNode is withNode for what writes.
func (a *app) withRunningNode(flags *nodeFlags, do func(ctx context.Context, n *nodeAPI) error) func(*cobra.Command, []string) error {
	return a.withNodeTo(true, flags, do)
}

func (a *app) withNodeTo(write bool, flags *nodeFlags, do func(ctx context.Context, n *nodeAPI) error) func(*cobra.Command, []string) error {
	return work(func(cmd *cobra.Command, _ []string) (err error) {
		n, err := a.openNode(cmd.Context(), flags, write)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, n.Close()) }()
		return do(cmd.Context(), n)
	})
}

// usageRow is what the commands print of a record.
type usageRow struct {
	ID         string  `json:"id"`
	TaskID     string  `json:"task_id"`
	Agent      string  `json:"agent"`
	Consumer   string  `json:"consumer"`
	Skill      string  `json:"skill"`
	Outcome    string  `json:"outcome"`
	TokensIn   *int64  `json:"tokens_in"`
	TokensOut  *int64  `json:"tokens_out"`
	APICalls   *int64  `json:"api_calls"`
	DurationMS *int64  `json:"duration_ms"`
	CostUSD    *string `json:"cost_usd"`
	Timestamp  string  `json:"timestamp"`
}

func (a *app) usageListCommand(flags *nodeFlags) *cobra.Command {
	var filter usageFilter
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List usage records, oldest first",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := filter.query()
			q.Set("limit", strconv.Itoa(limit))
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			var raw jsontext.Value
			if err := n.get(ctx, "/usage", q, &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error {
				var page struct {
					Data []usageRow `json:"data"`
					Next *string    `json:"next_cursor"`
				}
				if err := json.Unmarshal(raw, &page); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				rows := make([][]string, len(page.Data))
				for i, r := range page.Data {
					cost := "unpriced"
					if r.CostUSD != nil {
						cost = *r.CostUSD
					}
					rows[i] = []string{
						r.Timestamp, r.TaskID, r.Agent, r.Consumer, r.Skill, r.Outcome,
						count(r.TokensIn), count(r.TokensOut), count(r.APICalls), count(r.DurationMS), cost,
					}
				}
				err := a.table([]string{"TIME", "TASK", "AGENT", "CONSUMER", "SKILL", "OUTCOME", "TOKENS IN", "TOKENS OUT", "API CALLS", "MS", "USD"}, rows)
				if err == nil && page.Next != nil {
					_, err = fmt.Fprintf(a.errOut, "more: --cursor %s\n", plain(*page.Next))
				}
				return err
			})
		}),
	}
	filter.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "records a page, 1 to 1000")
	cmd.Flags().StringVar(&cursor, "cursor", "", "where the page before ended")
	return cmd
}

// count prints a quantity, or a dash for one nobody reported.
func count(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

func (a *app) usageSummaryCommand(flags *nodeFlags) *cobra.Command {
	var filter usageFilter
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Add everything up",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			var raw jsontext.Value
			if err := n.get(ctx, "/usage/summary", filter.query(), &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error { return a.members(raw) })
		}),
	}
	filter.add(cmd)
	return cmd
}

func (a *app) usageAggregateCommand(flags *nodeFlags) *cobra.Command {
	var filter usageFilter
	var by, tz string
	cmd := &cobra.Command{
		Use:   "aggregate --by agent|consumer|hour|day|week|month|skill|outcome|delegation[,…]",
		Short: "Add usage up by agent, consumer, time, skill, outcome or delegation",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := filter.query()
			q.Set("group_by", by)
			if tz != "" {
				q.Set("tz", tz)
			}
			var raw jsontext.Value
			if err := n.get(ctx, "/usage/aggregate", q, &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error {
				var page struct {
					Data []jsontext.Value `json:"data"`
				}
				if err := json.Unmarshal(raw, &page); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				return a.objects(page.Data)
			})
		}),
	}
	filter.add(cmd)
	cmd.Flags().StringVar(&by, "by", "agent", "what to add up by; several as a comma list")
	cmd.Flags().StringVar(&by, "group-by", "agent", "the same as --by, as the parameter is called over HTTP")
	cmd.Flags().StringVar(&tz, "tz", "", "time zone of days, weeks and months (IANA name; default UTC)")
	return cmd
}

// members prints a JSON object as lines of name and value, in its own order.
func (a *app) members(object jsontext.Value) error {
	names, values, err := flat(object)
	if err != nil {
		return err
	}
	for i, name := range names {
		if _, err := fmt.Fprintf(a.out, "%-24s %s\n", plain(name), plain(values[i])); err != nil {
			return err
		}
	}
	return nil
}

// objects prints JSON objects of one shape as a table.
func (a *app) objects(objects []jsontext.Value) error {
	var header []string
	rows := make([][]string, len(objects))
	for i, object := range objects {
		names, values, err := flat(object)
		if err != nil {
			return err
		}
		header, rows[i] = names, values
	}
	if len(objects) == 0 {
		return nil
	}
	return a.table(header, rows)
}

// flat reads the members of an object as texts; null is a dash.
func flat(object jsontext.Value) (names, values []string, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, stateErrorf("read the node's answer: %w", err)
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, nil, stateErrorf("read the node's answer: %w", err)
		}
		names = append(names, name.String())
		value, err := d.ReadValue()
		if err != nil {
			return nil, nil, stateErrorf("read the node's answer: %w", err)
		}
		text := string(value)
		switch value.Kind() {
		case '"':
			if err := json.Unmarshal(value, &text); err != nil {
				return nil, nil, stateErrorf("read the node's answer: %w", err)
			}
		case 'n':
			text = "-"
		}
		values = append(values, text)
	}
	return names, values, nil
}

func (a *app) usageExportCommand(flags *nodeFlags) *cobra.Command {
	var filter usageFilter
	var format, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write usage records as json, csv or ndjson, all of them",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := filter.query()
			q.Set("export_format", format)
			res, err := n.do(ctx, http.MethodGet, "/usage/export", q, "", nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if out == "" || out == "-" {
				_, err := io.Copy(a.out, res.Body)
				return err
			}
			return writeFile(out, res.Body)
		}),
	}
	filter.add(cmd)
	cmd.Flags().StringVar(&format, "format", "json", "json, csv or ndjson")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write to (default: standard output)")
	return cmd
}

// writeFile copies r to a file that appears under its name only when complete.
func writeFile(path string, r io.Reader) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, r)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func (a *app) usageReportCommand(flags *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report FILE|-",
		Short: "Report usage to a node: one record, or many as {\"events\": […]}",
		Example: `  echo '{"task_id":"t1","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:b",
    "tokens_in":12,"tokens_out":80,"duration_ms":950,"api_calls":1,
    "timestamp":"2026-02-01T12:00:00Z"}' | asap usage report - --node http://127.0.0.1:8080`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			body, err := a.readInput("Usage file", args[0])
			if err != nil {
				return err
			}
			var shape struct {
				Events jsontext.Value `json:"events"`
			}
			if err := json.Unmarshal(body, &shape); err != nil {
				return usageErrorf("%s: not a JSON object: %w", args[0], err)
			}
			path := "/usage"
			if shape.Events != nil {
				path = "/usage/batch"
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				res, err := n.do(ctx, http.MethodPost, path, nil, "application/json", body)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				var raw jsontext.Value
				if err := json.UnmarshalRead(res.Body, &raw); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				return a.answer(raw, func(io.Writer) error { return a.members(raw) })
			})(cmd, nil)
		}),
	}
	return cmd
}
