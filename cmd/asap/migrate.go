package main

import (
	"fmt"
	"io"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Look at the schema of the ledger, or bring it up to date",
		Long: `migrate works on the ledger that serve would use. serve brings its schema up to
date by itself, unless the ledger is in PostgreSQL and the setting migrate is
false. A program refuses a ledger whose schema is newer than it knows.`,
	}
	return group(cmd, a.migrateStatusCommand(), a.migrateUpCommand())
}

func (a *app) migrateStatusCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which steps of the schema are still to be applied; status 1 if any is",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			schema, err := node.ReadSchema(cmd.Context(), config)
			if err != nil {
				return stateErrorf("%w", err)
			}
			if err := a.answerSchema(schema); err != nil {
				return err
			}
			if len(schema.Missing) > 0 {
				return quietFailure(exitRefused)
			}
			return nil
		}),
	}
	flags.add(cmd)
	return cmd
}

func (a *app) migrateUpCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Apply the missing steps; nodes of the version before may go on serving from PostgreSQL meanwhile",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			schema, err := node.Migrate(cmd.Context(), config)
			if err != nil {
				return stateErrorf("%w", err)
			}
			return a.answerSchema(schema)
		}),
	}
	flags.add(cmd)
	return cmd
}

func (a *app) answerSchema(s node.Schema) error {
	return a.answer(s, func(w io.Writer) error {
		if len(s.Missing) == 0 {
			_, err := fmt.Fprintf(w, "%s: up to date, step %d of %d\n", s.Store, s.Applied, s.Known)
			return err
		}
		_, err := fmt.Fprintf(w, "%s: step %d of %d; missing:\n", s.Store, s.Applied, s.Known)
		for _, name := range s.Missing {
			if err == nil {
				_, err = fmt.Fprintf(w, "  %s\n", name)
			}
		}
		return err
	})
}
