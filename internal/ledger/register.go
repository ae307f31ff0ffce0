package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// The types of the entries about the registry. Subject is the agent, actor the
// agent itself or the operator of the node; that of registry.imported is always
// the operator, and its subject "registry". The row_hash is that of the document
// (a signed manifest, or the document that was imported).
const (
	AgentRegistered  = "agent.registered"
	AgentUpdated     = "agent.updated"
	AgentRemoved     = "agent.removed"
	AgentKeyAdded    = "agent.key_added"
	AgentKeyRemoved  = "agent.key_removed"
	RegistryImported = "registry.imported"
)

// AgentChanged is the answer to a change of the registry.
type AgentChanged struct {
	Change  registry.Change
	Agent   registry.Agent // as it is now
	Receipt Receipt        // of the change's first entry; zero when Unchanged
}

// Register makes a signed manifest what the registry holds of its agent, as the
// rules of [registry.Registration] say; their refusals are returned as they are.
// When it returns, the agent is durable and [Options].AgentsChanged knows of it.
func (l *Ledger) Register(ctx context.Context, r *registry.Registration) (AgentChanged, error) {
	op := &changeAgent{id: r.ID(), by: r.By, decide: func(b *book) (registry.Outcome, error) {
		return r.Apply(b.agents[r.ID()], b.now)
	}}
	err := l.do(ctx, op)
	return op.out, err
}

// Unregister takes an agent out of the registry.
func (l *Ledger) Unregister(ctx context.Context, r registry.Removal) (AgentChanged, error) {
	op := &changeAgent{id: r.ID, by: r.By, decide: func(b *book) (registry.Outcome, error) {
		return r.Apply(b.agents[r.ID], b.now)
	}}
	err := l.do(ctx, op)
	return op.out, err
}

// changeAgent is a change of one agent, by a rule that sees what is there.
type changeAgent struct {
	id     asap.AgentURN
	by     registry.Caller
	decide func(*book) (registry.Outcome, error)
	out    AgentChanged
}

func (o *changeAgent) weight() int        { return 1 }
func (o *changeAgent) needs(n *Needs)     { n.Agents = append(n.Agents, o.id) }
func (o *changeAgent) more(*book, *Needs) {}
func (o *changeAgent) apply(b *book) error {
	outcome, err := o.decide(b)
	if err != nil {
		return err
	}
	o.out = AgentChanged{Change: outcome.Change, Agent: outcome.Agent}
	if outcome.Change == registry.Unchanged {
		return nil
	}
	var p posting
	if err := b.chain(&p, b.agentEvents(&outcome, o.by)...); err != nil {
		return err
	}
	b.take(&p)
	o.out.Agent.Seq, o.out.Receipt = p.entries[0].Seq, p.receipt(0)
	b.putAgent(o.out.Agent)
	return nil
}

// agentEvents tells what happened to an agent, and to its keys.
func (b *book) agentEvents(o *registry.Outcome, by registry.Caller) []audit.Event {
	actor := string(by.Agent)
	if by.Operator {
		actor = string(b.ledger.actor())
	}
	agent := string(o.Agent.ID)
	event := func(kind string, details []byte) audit.Event {
		return audit.Event{Type: kind, Actor: actor, Subject: agent, Parties: []string{agent}, Details: details}
	}
	kind := map[registry.Change]string{registry.Registered: AgentRegistered, registry.Updated: AgentUpdated, registry.Removed: AgentRemoved}[o.Change]
	details := append(appendText([]byte(`{"source":`), string(o.Agent.Source)), `,"version":`...)
	first := event(kind, append(appendText(details, o.Agent.Version), '}'))
	if !o.Agent.Removed() {
		hash := sha256.Sum256(o.Agent.Document)
		first.RowHash = &hash
	}
	events := []audit.Event{first}
	for _, keys := range []struct {
		kind string
		list []ed25519.PublicKey
	}{{AgentKeyAdded, o.KeysAdded}, {AgentKeyRemoved, o.KeysRemoved}} {
		for _, key := range keys.list {
			events = append(events, event(keys.kind, append(appendText([]byte(`{"public_key":`), asap.EncodePublicKey(key)), '}')))
		}
	}
	return events
}

// putAgent makes an agent part of the book.
func (b *book) putAgent(a registry.Agent) {
	b.agents[a.ID] = &a
	b.changes.Agents = append(b.changes.Agents, a)
}

// Imported is the answer to an import.
type Imported struct {
	Registered int // came in
	Updated    int // were there from an import, and said something else
	Unchanged  int // were there and said the same
	Kept       int // have a signed manifest or were removed, which an import does not touch
	Receipt    Receipt
}

// ImportAgents puts the entries of a Lite Registry document into the registry,
// all in one commit with one entry in the log, or none if nothing changes. Only
// the operator may; the caller has seen to that.
func (l *Ledger) ImportAgents(ctx context.Context, lite *registry.Lite) (Imported, error) {
	if len(lite.Entries) > registry.MaxEntries {
		return Imported{}, fmt.Errorf("%w: %d entries at once", ErrInvalid, len(lite.Entries))
	}
	op := &importAgents{lite: lite}
	err := l.do(ctx, op)
	return op.out, err
}

type importAgents struct {
	lite *registry.Lite
	out  Imported
}

func (o *importAgents) weight() int { return MaxGroup } // a group of its own
func (o *importAgents) needs(n *Needs) {
	n.Agents = slices.Grow(n.Agents, len(o.lite.Entries))
	for i := range o.lite.Entries {
		n.Agents = append(n.Agents, o.lite.Entries[i].ID)
	}
}

func (o *importAgents) more(*book, *Needs) {}

func (o *importAgents) apply(b *book) error {
	var changed []registry.Agent
	var out Imported
	for i := range o.lite.Entries {
		have := b.agents[o.lite.Entries[i].ID]
		outcome := o.lite.Entries[i].Apply(have, b.now)
		switch {
		case outcome.Change == registry.Registered:
			out.Registered++
		case outcome.Change == registry.Updated:
			out.Updated++
		case have.Source != registry.Imported:
			out.Kept++
			continue
		default:
			out.Unchanged++
			continue
		}
		changed = append(changed, outcome.Agent)
	}
	if len(changed) > 0 {
		details := strconv.AppendInt([]byte(`{"registered":`), int64(out.Registered), 10)
		details = strconv.AppendInt(append(details, `,"skipped":`...), int64(o.lite.Skipped), 10)
		details = strconv.AppendInt(append(details, `,"updated":`...), int64(out.Updated), 10)
		var p posting
		if err := b.chain(&p, audit.Event{Type: RegistryImported, Actor: string(b.ledger.actor()), Subject: "registry",
			RowHash: &o.lite.Digest, Details: append(details, '}')}); err != nil {
			return err
		}
		b.take(&p)
		out.Receipt = p.receipt(0)
		for _, a := range changed {
			a.Seq = out.Receipt.Seq
			b.putAgent(a)
		}
	}
	o.out = out
	return nil
}
