package node

import (
	"context"
	"time"
)

// leadsAgain is how often a node looks whether it leads.
const leadsAgain = 250 * time.Millisecond

// whileLeading runs what only one of the nodes of a store does: for as long as
// this node leads, and again whenever it leads anew, until ctx ends. A node that has
// the store for itself always leads.
func (n *Node) whileLeading(ctx context.Context, run func(context.Context) error) error {
	if !n.ledger.Shared() {
		return run(ctx)
	}
	ticker := time.NewTicker(leadsAgain)
	defer ticker.Stop()
	for {
		if n.ledger.Leads() {
			if err := n.term(ctx, ticker.C, run); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// term runs one term of leadership.
func (n *Node) term(ctx context.Context, look <-chan time.Time, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-look:
			if !n.ledger.Leads() {
				cancel()
				return <-ended
			}
		}
	}
}
