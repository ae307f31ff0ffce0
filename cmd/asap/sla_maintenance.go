package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
)

// maintenanceRow is what the commands print of planned maintenance.
type maintenanceRow struct {
	ID          string  `json:"id"`
	Start       string  `json:"start"`
	End         string  `json:"end"`
	Status      string  `json:"status"`
	Excluded    float64 `json:"excluded_seconds"`
	Actor       string  `json:"actor"`
	Retroactive bool    `json:"retroactive"`
	Reason      string  `json:"reason"`
}

func (a *app) slaMaintenanceCommand(flags *nodeFlags) *cobra.Command {
	cmds := []*cobra.Command{a.maintenanceAddCommand(flags), a.maintenanceListCommand(flags), a.maintenanceRemoveCommand(flags)}
	for _, cmd := range cmds {
		flags.add(cmd)
	}
	return group(&cobra.Command{
		Use:   "maintenance",
		Short: "Plan maintenance of an agent, which does not count as service",
	}, cmds...)
}

// maintenancePath is the path of an agent's maintenance.
func maintenancePath(urn, rest string) (string, error) {
	if _, err := asap.ParseAgentURN(urn); err != nil {
		return "", badValuef("%q: %w", urn, err)
	}
	return slaPath(urn, "/maintenance"+rest), nil
}

func (a *app) maintenanceAddCommand(flags *nodeFlags) *cobra.Command {
	var identity identityFlags
	var in struct {
		Start       string `json:"start"`
		End         string `json:"end"`
		Reason      string `json:"reason,omitempty"`
		Retroactive bool   `json:"retroactive,omitzero"`
	}
	cmd := &cobra.Command{
		Use:   "add AGENT",
		Short: "Announce maintenance",
		Long: `Announces maintenance of an agent to a running node. It has to be announced an hour
before it starts. What then happens until its end counts neither for nor against
the agent, up to 4 hours in 30 days; the rest counts as ever. The act is an entry
of the audit log.

The operator announces for any agent and, with --retroactive, without notice or
afterwards, which stays visible. An agent that the node knows a key of announces
its own: --key FILE.`,
		Example: `  asap sla maintenance add urn:asap:agent:echo --start 2026-03-01T02:00:00Z --end 2026-03-01T03:00:00Z --reason "new disks"`,
		Args:    cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			path, err := maintenancePath(args[0], "")
			if err != nil {
				return err
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				if err := a.as(ctx, n, identity, args[0]); err != nil {
					return err
				}
				body, err := json.Marshal(&in)
				if err != nil {
					return err
				}
				res, err := n.do(ctx, http.MethodPost, path, nil, "application/json", body)
				if err != nil {
					return err
				}
				defer res.Body.Close() //nolint:errcheck // only read
				var made maintenanceRow
				if err := json.UnmarshalRead(res.Body, &made); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				return a.answer(&made, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s: %s to %s\n", made.ID, made.Start, made.End)
					return err
				})
			})(cmd, nil)
		}),
	}
	identity.add(cmd)
	cmd.Flags().StringVar(&in.Start, "start", "", "when it starts (RFC 3339, with zone)")
	cmd.Flags().StringVar(&in.End, "end", "", "when it ends (RFC 3339, with zone)")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "for whoever reads it later")
	cmd.Flags().BoolVar(&in.Retroactive, "retroactive", false, "operator: without notice, or afterwards")
	return required(cmd, "start", "end")
}

// required makes flags be demanded.
func required(cmd *cobra.Command, names ...string) *cobra.Command {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // there is no such flag
		}
	}
	return cmd
}

func (a *app) maintenanceListCommand(flags *nodeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list AGENT",
		Short: "Show what is planned, and what was in the last 60 days",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			path, err := maintenancePath(args[0], "")
			if err != nil {
				return err
			}
			return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
				return showJSON(ctx, a, n, path, url.Values{}, func(page struct {
					Data []maintenanceRow `json:"data"`
				}) error {
					rows := make([][]string, len(page.Data))
					for i, m := range page.Data {
						how := m.Status
						if m.Retroactive {
							how += ", retroactive"
						}
						rows[i] = []string{m.Start, m.End, how, strconv.FormatFloat(m.Excluded, 'f', -1, 64), m.Actor, m.Reason, m.ID}
					}
					return a.table([]string{"START", "END", "STATUS", "SECONDS EXCLUDED", "ANNOUNCED BY", "REASON", "ID"}, rows)
				})
			})(cmd, nil)
		}),
	}
}

func (a *app) maintenanceRemoveCommand(flags *nodeFlags) *cobra.Command {
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "remove AGENT ID",
		Short: "Take maintenance back, as far as it has not begun",
		Args:  cobra.ExactArgs(2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			path, err := maintenancePath(args[0], "/"+url.PathEscape(args[1]))
			if err != nil {
				return err
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				if err := a.as(ctx, n, identity, args[0]); err != nil {
					return err
				}
				res, err := n.do(ctx, http.MethodDelete, path, nil, "", nil)
				if err != nil {
					return err
				}
				return res.Body.Close()
			})(cmd, nil)
		}),
	}
	identity.add(cmd)
	return cmd
}
