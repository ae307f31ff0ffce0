package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// News returns what the log has gained behind an entry.
func (s *Store) News(ctx context.Context, after int64) (news ledger.News, err error) {
	head := func(q querier) error {
		return query(ctx, q, `SELECT seq, records FROM ledger_head`, func(r *row) error {
			news.Head, news.Records = r.int(0), r.int(1)
			return nil
		})
	}
	// Mostly there is nothing, which one round trip tells.
	if err := s.readError(ctx, head(s.pool)); err != nil || news.Head <= after {
		return news, err
	}
	err = s.read(ctx, func(q pgx.Tx) error {
		if err := head(q); err != nil {
			return err
		}
		if err := query(ctx, q, `SELECT EXISTS (SELECT 1 FROM sla_notification WHERE seq > $1), EXISTS (SELECT 1 FROM limit_warnings WHERE seq > $1)`, func(r *row) error {
			news.Breaches, news.Warnings = r.int(0) != 0, r.int(1) != 0
			return nil
		}, after); err != nil {
			return err
		}
		if err := query(ctx, q, `SELECT `+revocationColumns+` WHERE r.entry_seq > $1 ORDER BY r.entry_seq`, func(r *row) error {
			news.Revocations = append(news.Revocations, readRevocation(r))
			return nil
		}, after); err != nil {
			return err
		}
		news.Agents, err = readAgents(ctx, q, after, `a.entry_seq, a.agent`)
		return err
	})
	return news, err
}

// LimitWarnings returns the warnings after a position, in order: at most limit,
// and what belongs to the same entry as the last of them.
func (s *Store) LimitWarnings(ctx context.Context, after int64, limit int) (warnings []ledger.Warning, err error) {
	err = s.one(ctx, `SELECT w.seq, w.at_us, w.issuer, w.token_id, d.delegate, w.unit, w.percent, w.of_limit, w.used FROM limit_warnings w
		LEFT JOIN delegations d ON d.issuer = w.issuer AND d.token_id = w.token_id
		WHERE w.seq > $1 AND w.seq <= (SELECT max(seq) FROM (SELECT seq FROM limit_warnings WHERE seq > $1 ORDER BY seq LIMIT $2) AS page)
		ORDER BY w.seq, w.issuer, w.token_id, w.unit, w.percent`, func(r *row) error {
		w := ledger.Warning{Seq: r.int(0), At: fromUS(r.int(1)), Delegate: asap.AgentURN(r.text(4)), Unit: ledger.Unit(r.text(5)),
			Percent: int(r.int(6)), Limit: r.int(7), Used: r.int(8)}
		w.Issuer, w.TokenID = asap.AgentURN(r.text(2)), r.text(3)
		warnings = append(warnings, w)
		return nil
	}, after, limit)
	return warnings, err
}

// LastLimitWarning is the position of the newest warning; -1 if there is none.
func (s *Store) LastLimitWarning(ctx context.Context) (seq int64, err error) {
	err = s.one(ctx, `SELECT coalesce(max(seq), -1) FROM limit_warnings`, func(r *row) error { seq = r.int(0); return nil })
	return seq, err
}
