package postgres

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/registry"
)

const agentColumns = `a.agent, a.entry_seq, a.source, a.version, a.content, a.document, a.registered_us, a.updated_us`

func readAgent(r *row) *registry.Agent {
	return &registry.Agent{ID: asap.AgentURN(r.text(0)), Seq: r.int(1), Source: registry.Source(r.text(2)), Version: r.text(3),
		Content: r.hash(4), Document: jsontext.Value(r.blob(5)), RegisteredAt: fromUS(r.int(6)), UpdatedAt: fromUS(r.int(7))}
}

func (l *loading) agents(batch *pgx.Batch, ids []asap.AgentURN) {
	byID := map[asap.AgentURN]*registry.Agent{}
	ask(batch, `SELECT `+agentColumns+` FROM registry_agents a WHERE a.agent = ANY($1)`, func(r *row) error {
		a := readAgent(r)
		byID[a.ID] = a
		l.out.Agents = append(l.out.Agents, a)
		return nil
	}, texts(ids))
	ask(batch, `SELECT k.agent, k.public_key, k.added_us FROM registry_keys k WHERE k.agent = ANY($1) ORDER BY k.agent, k.position`, func(r *row) error {
		if a := byID[asap.AgentURN(r.text(0))]; a != nil {
			a.Keys = append(a.Keys, registry.Key{Public: r.blob(1), AddedAt: fromUS(r.int(2))})
		}
		return nil
	}, texts(ids))
}

func (w *changing) agent(a *registry.Agent) {
	var document []byte
	if !a.Removed() {
		document = []byte(a.Document)
	}
	w.batch.Queue(`INSERT INTO registry_agents (agent, entry_seq, source, version, content, document, registered_us, updated_us)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (agent) DO UPDATE SET entry_seq = $2, source = $3, version = $4, content = $5,
		document = $6, registered_us = $7, updated_us = $8`, string(a.ID), a.Seq, string(a.Source), a.Version, a.Content[:], document,
		a.RegisteredAt.UnixMicro(), a.UpdatedAt.UnixMicro())
	w.batch.Queue(`DELETE FROM registry_keys WHERE agent = $1`, string(a.ID))
	for i, key := range a.Keys {
		w.batch.Queue(`INSERT INTO registry_keys (agent, position, public_key, added_us) VALUES ($1, $2, $3, $4)`,
			string(a.ID), i, []byte(key.Public), key.AddedAt.UnixMicro())
	}
}

// Agents returns every agent of the registry, removed ones too, parsed, in the
// order of their ids.
func (s *Store) Agents(ctx context.Context) (agents []registry.Agent, err error) {
	err = s.read(ctx, func(q pgx.Tx) error {
		agents, err = readAgents(ctx, q, -1, `a.agent`)
		return err
	})
	return agents, err
}

// readAgents reads the agents whose last change is an entry after one.
func readAgents(ctx context.Context, q querier, after int64, order string) (agents []registry.Agent, err error) {
	keys := map[asap.AgentURN][]registry.Key{}
	if err := query(ctx, q, `SELECT k.agent, k.public_key, k.added_us FROM registry_keys k JOIN registry_agents a ON a.agent = k.agent
		WHERE a.entry_seq > $1 ORDER BY k.agent, k.position`, func(r *row) error {
		id := asap.AgentURN(r.text(0))
		keys[id] = append(keys[id], registry.Key{Public: r.blob(1), AddedAt: fromUS(r.int(2))})
		return nil
	}, after); err != nil {
		return nil, err
	}
	err = query(ctx, q, `SELECT `+agentColumns+` FROM registry_agents a WHERE a.entry_seq > $1 ORDER BY `+order, func(r *row) error {
		a := readAgent(r)
		a.Keys = keys[a.ID]
		if err := a.Parse(); err != nil {
			return fmt.Errorf("registry: %w", err)
		}
		agents = append(agents, *a)
		return nil
	}, after)
	return agents, err
}

var _ ledger.Store = (*Store)(nil)
