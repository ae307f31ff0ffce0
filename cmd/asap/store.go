package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) storeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "store",
		Short: "The database of a node",
	}, a.storeCopyCommand())
}

func (a *app) storeCopyCommand() *cobra.Command {
	var flags configFlags
	var from, to string
	cmd := &cobra.Command{
		Use:   "copy --to postgres://…",
		Short: "Move the whole history of a stopped node from SQLite to PostgreSQL",
		Long: `copy verifies the audit log and every total of a stopped node's SQLite store,
copies all of it into an empty PostgreSQL database, reads everything back,
compares it, and verifies log and totals in the new place. The source stays as
it is, and so do the node's key and audit-signer.json in the data directory: go
on with them and the new store.

Until all of that has succeeded no node opens the target ("copy not finished").
A copy that was interrupted starts over when the command is run again. It ends
with status 1 if the target is not empty, or if anything differs.`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			if from != "" {
				if !strings.HasPrefix(from, "sqlite:") {
					return usageErrorf("--from: %s is not sqlite:PATH", safeStore(from))
				}
				config.Store = from
			}
			report, err := node.CopyStore(cmd.Context(), config, to, time.Now, func(t node.CopiedTable) {
				if !a.json {
					_, _ = fmt.Fprintf(a.errOut, "%s: %d rows\n", t.Name, t.Rows) // progress is for people
				}
			})
			switch {
			case errors.Is(err, node.ErrCopyRefused):
				return refusedErrorf("%w", err)
			case errors.Is(err, node.ErrConfig):
				return usageErrorf("%w", err)
			case err != nil:
				return stateErrorf("%w", err)
			}
			return a.answer(report, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "copied %s to %s\nverified: %d entries, head %s, sealed through %d; %d usage records, drift %s %%\n",
					plain(report.From), plain(report.To), report.Entries, report.HeadHash, report.SealedThrough, report.Records, report.DriftPercent)
				return err
			})
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&from, "from", "", "the store to copy, sqlite:PATH (default: that of the configuration)")
	cmd.Flags().StringVar(&to, "to", "", "the empty database to copy into: postgres://USER@HOST/DATABASE, or env:NAME or file:PATH of one")
	mustRequire(cmd, "to")
	return cmd
}

// safeStore is an address of a store without what may be a password.
func safeStore(s string) string {
	scheme, _, ok := strings.Cut(s, ":")
	if !ok {
		return s
	}
	return scheme + ":…"
}
