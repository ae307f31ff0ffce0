package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) auditAdoptCommand() *cobra.Command {
	var flags configFlags
	var checkpoints []string
	var require string
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Give the signer of a stopped node a new memory, if the old one is lost",
		Long: `adopt is for a data directory whose audit-signer.json is lost. A node without it
signs nothing: it cannot tell its log from an older copy. If a backup has the
file, put that back instead.

The whole log is verified by the node's key; then the act is written to the log
as audit.signer_adopted, and a new memory that goes on from the newest stored
checkpoint. What was cut off the end before that cannot be seen, except against
checkpoints that somebody has kept: give them with --checkpoint.

It ends with status 1, and nothing is written, if the log is not valid.`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			var o node.AdoptOptions
			if require != "" {
				if o.Require, err = audit.ParseAssurance(require); err != nil {
					return usageErrorf("--require: %w", err)
				}
			}
			for _, name := range checkpoints {
				b, err := readNamed(name)
				if err != nil {
					return err
				}
				o.Remembered = append(o.Remembered, b)
			}
			adopted, err := node.AdoptAudit(cmd.Context(), config, o, time.Now)
			var broken *audit.IntegrityError
			switch {
			case errors.As(err, &broken), errors.Is(err, node.ErrNothingToAdopt):
				return refusedErrorf("%w", err)
			case errors.Is(err, node.ErrCheckpoint), errors.Is(err, node.ErrConfig):
				return usageErrorf("%w", err)
			case err != nil:
				return stateErrorf("%w", err)
			}
			return a.answer(adopted, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "adopted: %d entries verified, the signer goes on from its checkpoint of %d\n", adopted.Entries, adopted.Size)
				return err
			})
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "file with a checkpoint kept from before, which the log must continue; may be repeated")
	cmd.Flags().StringVar(&require, "require", "", "least assurance: chain if the log has no checkpoint yet (default: sealed)")
	return cmd
}
