package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"
)

// configFlags are the flags of commands that read the node's configuration.
type configFlags struct {
	file   string
	listen string
	data   string
	store  string
	set    []string
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "configuration file (default: ASAP_CONFIG, else asap.yaml if it is there)")
	cmd.Flags().StringVar(&f.listen, "listen", "", "address and port to serve on")
	cmd.Flags().StringVar(&f.data, "data", "", "data directory")
	cmd.Flags().StringVar(&f.store, "store", "", "ledger: sqlite:PATH, postgres://USER@HOST/DATABASE, env:NAME or file:PATH that hold one of them, or memory:")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "any other setting, as KEY=VALUE (asap config lists the keys)")
}

// load reads the configuration: flags over environment over file over defaults.
func (a *app) load(f *configFlags) (node.Config, error) {
	path := f.file
	if path == "" {
		path = a.getenv("ASAP_CONFIG")
	}
	if path == "" {
		if _, err := os.Stat("asap.yaml"); err == nil {
			path = "asap.yaml"
		}
	}
	c, err := node.Load(path, os.Environ())
	if err != nil {
		return c, &statusError{status: exitUsage, err: err}
	}
	for _, flag := range []struct{ value, key string }{{f.listen, "listen"}, {f.data, "data"}, {f.store, "store"}} {
		if flag.value != "" {
			f.set = append(f.set, flag.key+"="+flag.value)
		}
	}
	if err := c.Override(f.set); err != nil {
		return c, &statusError{status: exitUsage, err: err}
	}
	if err := c.Validate(); err != nil {
		return c, &statusError{status: exitUsage, err: err}
	}
	return c, nil
}

func (a *app) serveCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `serve runs a node until it is interrupted: the agents of its configuration (an echo
agent where there is none), the ledger of what they did, and the REST interface
to it. On first start it makes its key and an operator token in the data
directory. SIGHUP reads the configuration again; SIGTERM lets running tasks
finish first.`,
		Example: `  asap serve
  asap serve --listen 127.0.0.1:9000 --data /var/lib/asap
  asap serve --store memory:`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			config, err := a.load(&flags)
			if err != nil {
				return err
			}
			n, err := node.Open(cmd.Context(), config, node.Options{Log: a.errOut})
			if err != nil {
				return openFailure(err)
			}
			fmt.Fprint(a.out, n.Greeting())
			return errors.Join(a.runNode(cmd.Context(), n, &flags), n.Close())
		}),
	}
	flags.add(cmd)
	return cmd
}

// openFailure gives the reason a node did not start its exit status: a mistake
// in the configuration is a usage error, a data directory in use a refusal, and
// one that cannot be read or written a matter of state.
func openFailure(err error) error {
	switch {
	case errors.Is(err, node.ErrConfig):
		return &statusError{status: exitUsage, err: err}
	case errors.Is(err, node.ErrInUse):
		return &statusError{status: exitRefused, err: err}
	}
	return &statusError{status: exitState, err: err}
}

// runNode runs n until ctx ends, and reloads its configuration on SIGHUP.
func (a *app) runNode(ctx context.Context, n *node.Node, flags *configFlags) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-hup:
			config, err := a.load(flags)
			n.Reload(ctx, config, err)
		}
	}
}

func (a *app) configCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the configuration that serve would run with, secrets masked",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(&flags)
			if err != nil {
				return err
			}
			c = c.Masked()
			if a.json {
				values := map[string]any{"agents": c.Agents, "metering.prices": c.Metering.Prices}
				for _, s := range c.Settings() {
					values[s.Key] = s.Value
				}
				return writeJSON(a.out, values)
			}
			text, err := c.YAML()
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		}),
	}
	flags.add(cmd)
	return cmd
}
