package postgres

import (
	"context"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// Renew implements ledger.Store.
func (s *Store) Renew(ctx context.Context, instance string, lead bool) (out ledger.Standing, err error) {
	if err := s.writable(); err != nil {
		return out, err
	}
	sql := `WITH alive AS (INSERT INTO instances (instance, until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
			ON CONFLICT (instance) DO UPDATE SET until = excluded.until),
		forgotten AS (DELETE FROM instances WHERE until < clock_timestamp() - interval '1 hour' AND instance <> $1 AND NOT EXISTS (SELECT FROM holds h WHERE h.instance = instances.instance)), `
	if lead {
		sql += `led AS (INSERT INTO leader AS l (one, instance, until) VALUES (true, $1, clock_timestamp() + make_interval(secs => $3))
			ON CONFLICT (one) DO UPDATE SET until = excluded.until, instance = excluded.instance
			WHERE l.instance = excluded.instance OR l.until <= clock_timestamp() RETURNING 1)`
	} else {
		sql += `left_over AS (DELETE FROM leader WHERE instance = $1), led AS (SELECT 1 WHERE $3::float8 < 0)`
	}
	err = s.one(ctx, sql+` SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT count(*) FROM led)`, func(r *row) error {
		out = ledger.Standing{Now: fromUS(r.int(0)), Leads: r.int(1) > 0}
		return nil
	}, instance, ledger.InstanceLease.Seconds(), ledger.LeadLease.Seconds())
	return out, err
}

// Leave implements ledger.Store.
func (s *Store) Leave(ctx context.Context, instance string) error {
	if err := s.writable(); err != nil {
		return err
	}
	return s.one(ctx, `WITH led AS (DELETE FROM leader WHERE instance = $1) DELETE FROM instances WHERE instance = $1`, func(*row) error { return nil }, instance)
}
