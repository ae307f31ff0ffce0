package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/registry"
)

func (l *loading) agents(n *ledger.Needs) error {
	keys := []byte{'['}
	for _, id := range n.Agents {
		keys = append(appendString(keys, string(id)), ',')
	}
	array := closeArray(keys)
	byID := map[asap.AgentURN]*registry.Agent{}
	err := l.c.query(`SELECT a.agent, a.entry_seq, a.source, a.version, a.content, a.document, a.registered_us, a.updated_us
		FROM (SELECT DISTINCT value FROM json_each(?)) j CROSS JOIN registry_agents a ON a.agent = j.value`, func(r *row) error {
		a := &registry.Agent{ID: asap.AgentURN(r.text(0)), Seq: r.int(1), Source: registry.Source(r.text(2)), Version: r.text(3),
			Content: r.hash(4), Document: bytes.Clone(r.blob(5)), RegisteredAt: fromUS(r.int(6)), UpdatedAt: fromUS(r.int(7))}
		byID[a.ID] = a
		l.out.Agents = append(l.out.Agents, a)
		return nil
	}, array)
	if err != nil || len(byID) == 0 {
		return err
	}
	return l.c.query(`SELECT k.agent, k.public_key, k.added_us FROM (SELECT DISTINCT value FROM json_each(?)) j
		CROSS JOIN registry_keys k ON k.agent = j.value ORDER BY k.agent, k.position`, func(r *row) error {
		a := byID[asap.AgentURN(r.text(0))]
		a.Keys = append(a.Keys, registry.Key{Public: bytes.Clone(r.blob(1)), AddedAt: fromUS(r.int(2))})
		return nil
	}, array)
}

func (t *tx) putAgent(a *registry.Agent) error {
	var document driver.Value
	if !a.Removed() {
		document = []byte(a.Document)
	}
	_, err := t.c.exec(`INSERT INTO registry_agents (agent, entry_seq, source, version, content, document, registered_us, updated_us)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (agent) DO UPDATE SET entry_seq = ?2, source = ?3, version = ?4, content = ?5,
		document = ?6, registered_us = ?7, updated_us = ?8`, string(a.ID), a.Seq, string(a.Source), a.Version, a.Content[:], document,
		a.RegisteredAt.UnixMicro(), a.UpdatedAt.UnixMicro())
	if err == nil {
		_, err = t.c.exec(`DELETE FROM registry_keys WHERE agent = ?`, string(a.ID))
	}
	for i := 0; i < len(a.Keys) && err == nil; i++ {
		_, err = t.c.exec(`INSERT INTO registry_keys (agent, position, public_key, added_us) VALUES (?, ?, ?, ?)`,
			string(a.ID), int64(i), []byte(a.Keys[i].Public), a.Keys[i].AddedAt.UnixMicro())
	}
	return err
}

// Agents returns every agent of the registry, removed ones too, parsed, in the
// order of their ids.
func (s *Store) Agents(ctx context.Context) (agents []registry.Agent, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		agents, err = readAgents(ctx, q, ``, `agent`)
		return err
	})
	return agents, err
}

func readAgentKeys(ctx context.Context, q *sql.Tx, which string, args ...any) (map[asap.AgentURN][]registry.Key, error) {
	rows, err := q.QueryContext(ctx, `SELECT agent, public_key, added_us FROM registry_keys`+which+` ORDER BY agent, position`, args...) //nolint:gosec // the conditions are texts of this package
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // its error is that of Err
	keys := map[asap.AgentURN][]registry.Key{}
	for rows.Next() {
		var id asap.AgentURN
		var public []byte
		var addedUS int64
		if err := rows.Scan(&id, &public, &addedUS); err != nil {
			return nil, err
		}
		keys[id] = append(keys[id], registry.Key{Public: public, AddedAt: fromUS(addedUS)})
	}
	return keys, rows.Err()
}
