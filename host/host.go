// Package host runs agents on a node of their own: what asap serve does, around
// agents written in Go. Every task is authorised, metered once, recorded in the
// audit log and answered after that is on disk.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/node"
)

// Options say where a node is and where its configuration comes from. The zero
// value is a node with the defaults: 127.0.0.1:8080, data in ./asap-data.
type Options struct {
	// Config is the path of a configuration file; empty for none. Environment
	// variables (ASAP_…) go over it, as for asap serve.
	Config string
	// Listen is HOST:PORT and goes over the configuration if it is not empty.
	Listen string
	// Data is the data directory and goes over the configuration if not empty.
	Data string
	// Started is told the node's URL before it takes the first request; nil
	// prints what a person needs to know to standard output.
	Started func(url string)
}

// Run serves the agents until ctx ends, or SIGINT or SIGTERM arrives, then lets
// running tasks finish and returns nil. The first agent answers what names no
// hosted agent. The built-in agents of the configuration are not hosted.
func Run(ctx context.Context, o Options, agents ...*agent.Agent) error {
	config, err := node.Load(o.Config, os.Environ())
	if err != nil {
		return err
	}
	config.Agents = nil
	if o.Listen != "" {
		config.Listen = o.Listen
	}
	if o.Data != "" {
		config.Data = o.Data
	}
	n, err := node.Open(ctx, config, node.Options{Agents: agents, Log: os.Stderr})
	if err != nil {
		return err
	}
	if o.Started != nil {
		o.Started(n.URL())
	} else {
		fmt.Print(n.Greeting())
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return errors.Join(n.Run(ctx), n.Close())
}
