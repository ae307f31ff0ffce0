package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	flags := &nodeFlags{}
	cmd := group(&cobra.Command{
		Use:   "audit",
		Short: "The tamper-evident log of every billable event",
	}, a.auditListCommand(flags), a.auditShowCommand(flags), a.auditVerifyCommand(flags), a.auditExportCommand(flags),
		a.auditCheckpointCommand(flags), a.auditProveCommand(flags), a.auditReconcileCommand(flags), a.auditAdoptCommand())
	flags.add(cmd)
	return cmd
}

func (a *app) auditListCommand(flags *nodeFlags) *cobra.Command {
	filter := map[string]*string{}
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List audit entries in the order of the log",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for param, value := range filter {
				if *value != "" {
					q.Set(param, *value)
				}
			}
			var raw jsontext.Value
			if err := n.get(ctx, "/audit/logs", q, &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error {
				var page struct {
					Data []struct {
						Seq       int64  `json:"seq"`
						Timestamp string `json:"timestamp"`
						Type      string `json:"event_type"`
						Actor     string `json:"actor"`
						Subject   string `json:"subject"`
						Hash      string `json:"hash"`
					} `json:"data"`
					Next *string `json:"next_cursor"`
					Size int64   `json:"as_of_size"`
				}
				if err := json.Unmarshal(raw, &page); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				rows := make([][]string, len(page.Data))
				for i, e := range page.Data {
					rows[i] = []string{strconv.FormatInt(e.Seq, 10), e.Timestamp, e.Type, e.Actor, e.Subject, e.Hash}
				}
				if err := a.table([]string{"SEQ", "TIME", "EVENT", "ACTOR", "SUBJECT", "HASH"}, rows); err != nil {
					return err
				}
				if page.Next != nil {
					_, err := fmt.Fprintf(a.errOut, "more: --cursor %s (%d entries in the log)\n", plain(*page.Next), page.Size)
					return err
				}
				return nil
			})
		}),
	}
	for _, f := range []struct{ name, param, help string }{
		{"actor", "actor", "only what this agent did (URN)"},
		{"subject", "subject", "only this task or target"},
		{"task", "task", "the same as --subject"},
		{"agent", "agent", "only what concerns this agent, as actor, subject or party (URN)"},
		{"type", "event_type", "only events of this type, such as usage.recorded"},
		{"start", "start", "from this time on (RFC 3339, with zone)"},
		{"end", "end", "before this time (RFC 3339, with zone)"},
		{"cursor", "cursor", "where the page before ended"},
	} {
		filter[f.param] = cmd.Flags().String(f.name, "", f.help)
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "entries a page, 1 to 1000")
	return cmd
}

func (a *app) auditShowCommand(flags *nodeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show ENTRY_ID",
		Short: "Show one audit entry",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
				var raw jsontext.Value
				if err := n.get(ctx, "/audit/logs/"+url.PathEscape(args[0]), nil, &raw); err != nil {
					return err
				}
				return a.answer(raw, func(io.Writer) error { return a.members(raw) })
			})(cmd, nil)
		}),
	}
}
