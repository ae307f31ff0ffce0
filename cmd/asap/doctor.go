package main

import (
	"io"
	"time"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) doctorCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check a data directory and the node that serves from it; the output is safe to share",
		Long: `doctor looks at the data directory, the modes of secret files, free disk space,
the ledger's schema, pages and audit chain, held tasks, the clock, what the node
has to reach, and the running node, and changes nothing. It ends with status 1 if
any check failed.`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			findings := node.Diagnose(cmd.Context(), config, time.Now())
			err = a.answer(map[string]any{"findings": findings}, func(io.Writer) error {
				rows := make([][]string, len(findings))
				for i, f := range findings {
					rows[i] = []string{string(f.Severity), f.Check, f.Text}
				}
				return a.table([]string{"STATE", "CHECK", "FINDING"}, rows)
			})
			if err != nil {
				return err
			}
			for _, f := range findings {
				if f.Severity == node.Fail {
					return quietFailure(exitRefused)
				}
			}
			return nil
		}),
	}
	flags.add(cmd)
	return cmd
}
