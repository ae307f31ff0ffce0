package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/identity"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// loadRegistry makes the index of the agents in a store. Searches go by what was
// measured unless they ask for promises.
func loadRegistry(ctx context.Context, store Store) (*registry.Index, error) {
	agents, err := store.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the registry: %w", err)
	}
	index := registry.NewIndex(registry.Measured)
	index.Put(agents...)
	return index, nil
}

// registryOf loads the index of a store that nobody writes to through this
// process, when it is asked for the first time.
func registryOf(store Store) func(context.Context) (*registry.Index, error) {
	var mu sync.Mutex // guards index
	var index *registry.Index
	return func(ctx context.Context) (*registry.Index, error) {
		mu.Lock()
		defer mu.Unlock()
		if index != nil {
			return index, nil
		}
		loaded, err := loadRegistry(ctx, store)
		index = loaded
		return index, err
	}
}

// showAgents brings the index up to date after a commit. What was committed was
// parsed before, so it does parse.
func showAgents(index *registry.Index, agents []registry.Agent) {
	parsed := make([]registry.Agent, 0, len(agents))
	for _, a := range agents {
		if a.Parse() == nil {
			parsed = append(parsed, a)
		}
	}
	index.Put(parsed...)
}

// hostAgents registers the agents that the node runs itself. They are not
// stored and not in the audit log: they are part of the registry as long as the
// node runs them.
func hostAgents(index *registry.Index, hosted []*agent.Agent, now time.Time) {
	for _, a := range hosted {
		m := a.Manifest()
		if parsed, err := asap.ParseManifest(m.AppendJSON(nil)); err == nil { // what is wrong, the agent server says
			index.Put(registry.HostedAgent(parsed, now))
		}
	}
}

// registeredKeys are the keys that the registry pinned, for those who verify
// tokens.
type registeredKeys struct{ index *registry.Index }

// AgentKeys implements identity.KeySource.
func (r registeredKeys) AgentKeys(id asap.AgentURN) []identity.Key {
	pinned := r.index.Keys(id)
	keys := make([]identity.Key, len(pinned))
	for i, k := range pinned {
		keys[i] = identity.Key{Agent: id, Public: k.Public}
	}
	return keys
}

// priceOf returns the most a task costs by the price list in force now.
func (n *Node) priceOf(id asap.AgentURN, skill string) (metering.NanoUSD, bool) {
	list := n.prices.Load().At(id, n.now())
	if list == nil {
		return 0, false
	}
	return list.Most(skill)
}
