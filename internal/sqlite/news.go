package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// newsQuery says, in one look, how far the log has come, and what there is of each
// kind behind an entry. It is asked after every commit.
const newsQuery = `SELECT h.seq, c.records,
	EXISTS (SELECT 1 FROM sla_notification WHERE seq > ?1), EXISTS (SELECT 1 FROM limit_warnings WHERE seq > ?1),
	EXISTS (SELECT 1 FROM revocations WHERE entry_seq > ?1), EXISTS (SELECT 1 FROM registry_agents WHERE entry_seq > ?1)
	FROM audit_head h CROSS JOIN ledger_counters c`

// News returns what the log has gained behind an entry.
func (s *Store) News(ctx context.Context, after int64) (ledger.News, error) {
	news, more, err := s.newest(ctx, after)
	if err != nil || !more {
		return news, s.readError(ctx, err)
	}
	// Seldom: all of it as of one moment.
	news = ledger.News{Head: -1}
	err = s.read(ctx, func(q *sql.Tx) error {
		var revoked, changed bool
		if err := q.QueryRowContext(ctx, newsQuery, after).Scan(&news.Head, &news.Records, &news.Breaches, &news.Warnings, &revoked, &changed); err != nil {
			return err
		}
		if err := each(ctx, q, `SELECT issuer, token_id, at_us, actor, reason, entry_seq FROM revocations WHERE entry_seq > ? ORDER BY entry_seq`,
			func(scan func(...any) error) error {
				var r ledger.Revocation
				var us int64
				err := scan(&r.Issuer, &r.TokenID, &us, &r.Actor, &r.Reason, &r.Receipt.Seq)
				r.At = fromUS(us)
				news.Revocations = append(news.Revocations, r)
				return err
			}, after); err != nil {
			return err
		}
		var err error
		news.Agents, err = readAgents(ctx, q, ` WHERE entry_seq > ?`, `entry_seq, agent`, after)
		return err
	})
	return news, err
}

// newest asks newsQuery; more tells whether there are revocations or
// changed agents to read.
func (s *Store) newest(ctx context.Context, after int64) (news ledger.News, more bool, err error) {
	news.Head = -1
	if s.memory != nil {
		s.memory.RLock()
		defer s.memory.RUnlock()
	}
	s.preparing.Lock()
	if s.newestQuery == nil {
		s.newestQuery, err = s.readers.PrepareContext(ctx, newsQuery)
	}
	query := s.newestQuery
	s.preparing.Unlock()
	if err != nil {
		return news, false, err
	}
	var revoked, changed bool
	err = query.QueryRowContext(ctx, after).Scan(&news.Head, &news.Records, &news.Breaches, &news.Warnings, &revoked, &changed)
	if errors.Is(err, sql.ErrNoRows) { // an empty log
		return news, false, nil
	}
	return news, revoked || changed, err
}

// readAgents reads the agents that a condition selects, in an order, parsed.
func readAgents(ctx context.Context, q *sql.Tx, which, order string, args ...any) (agents []registry.Agent, err error) {
	err = each(ctx, q, `SELECT agent, entry_seq, source, version, content, document, registered_us, updated_us FROM registry_agents`+which+` ORDER BY `+order, func(scan func(...any) error) error {
		var a registry.Agent
		var document, content []byte
		var registeredUS, updatedUS int64
		if err := scan(&a.ID, &a.Seq, &a.Source, &a.Version, &content, &document, &registeredUS, &updatedUS); err != nil {
			return err
		}
		copy(a.Content[:], content)
		a.Document, a.RegisteredAt, a.UpdatedAt = jsontext.Value(document), fromUS(registeredUS), fromUS(updatedUS)
		agents = append(agents, a)
		return nil
	}, args...)
	if err != nil || len(agents) == 0 {
		return nil, err
	}
	if which != "" {
		which = ` WHERE agent IN (SELECT agent FROM registry_agents` + which + `)`
	}
	keys, err := readAgentKeys(ctx, q, which, args...)
	if err != nil {
		return nil, err
	}
	for i := range agents {
		agents[i].Keys = keys[agents[i].ID]
		if err := agents[i].Parse(); err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
	}
	return agents, nil
}

// LimitWarnings returns the warnings after a position, in order: at most limit,
// and what belongs to the same entry as the last of them.
func (s *Store) LimitWarnings(ctx context.Context, after int64, limit int) (warnings []ledger.Warning, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return each(ctx, q, `SELECT w.seq, w.at_us, w.issuer, w.token_id, coalesce(d.delegate, ''), w.unit, w.percent, w.of_limit, w.used FROM limit_warnings w
			LEFT JOIN delegations d ON d.issuer = w.issuer AND d.token_id = w.token_id
			WHERE w.seq > ?1 AND w.seq <= (SELECT max(seq) FROM (SELECT seq FROM limit_warnings WHERE seq > ?1 ORDER BY seq LIMIT ?2))
			ORDER BY w.seq, w.issuer, w.token_id, w.unit, w.percent`, func(scan func(...any) error) error {
			var w ledger.Warning
			var us int64
			err := scan(&w.Seq, &us, &w.Issuer, &w.TokenID, &w.Delegate, &w.Unit, &w.Percent, &w.Limit, &w.Used)
			w.At = fromUS(us)
			warnings = append(warnings, w)
			return err
		}, after, limit)
	})
	return warnings, err
}

// LastLimitWarning is the position of the newest warning; -1 if there is none.
func (s *Store) LastLimitWarning(ctx context.Context) (seq int64, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return q.QueryRowContext(ctx, `SELECT coalesce(max(seq), -1) FROM limit_warnings`).Scan(&seq)
	})
	return seq, err
}
