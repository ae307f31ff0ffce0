package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/metering"
)

// row is one row of a result in PostgreSQL's binary format, which is what the
// hot path reads without detours. Its values are valid until the next one.
type row struct{ values [][]byte }

func (r *row) null(i int) bool   { return r.values[i] == nil }
func (r *row) text(i int) string { return string(r.values[i]) }

// int reads an integer of any size, or a boolean; null is 0.
func (r *row) int(i int) int64 {
	switch v := r.values[i]; len(v) {
	case 8:
		return int64(binary.BigEndian.Uint64(v)) //nolint:gosec // two's complement
	case 4:
		return int64(int32(binary.BigEndian.Uint32(v))) //nolint:gosec // two's complement
	case 2:
		return int64(int16(binary.BigEndian.Uint16(v))) //nolint:gosec // two's complement
	case 1:
		return int64(v[0])
	}
	return 0
}

func (r *row) float(i int) *float64 {
	if r.null(i) {
		return nil
	}
	return new(math.Float64frombits(binary.BigEndian.Uint64(r.values[i])))
}

// bytes are the row's own; blob is a copy.
func (r *row) bytes(i int) []byte { return r.values[i] }
func (r *row) blob(i int) []byte  { return bytes.Clone(r.values[i]) }

func (r *row) hash(i int) (h [32]byte) {
	copy(h[:], r.values[i])
	return h
}

func (r *row) money(i int) *metering.NanoUSD {
	if r.null(i) {
		return nil
	}
	return new(metering.NanoUSD(r.int(i)))
}

func (r *row) number(i int) *int64 {
	if r.null(i) {
		return nil
	}
	return new(r.int(i))
}

func (r *row) sums(i int) metering.Sums {
	return metering.Sums{Tasks: r.int(i), TokensIn: r.int(i + 1), TokensOut: r.int(i + 2), APICalls: r.int(i + 3), DurationMS: r.int(i + 4),
		CostNanoUSD: metering.NanoUSD(r.int(i + 5)), Unpriced: r.int(i + 6), Unreported: r.int(i + 7)}
}

func fromUS(us int64) time.Time { return time.UnixMicro(us).UTC() }

// all calls each for every row.
func all(rows pgx.Rows, each func(*row) error) error {
	defer rows.Close()
	r := &row{}
	for rows.Next() {
		r.values = rows.RawValues()
		if err := each(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// query calls each for every row of a query.
func query(ctx context.Context, q querier, sql string, each func(*row) error, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return all(rows, each)
}

// read runs f on one consistent state. f must not keep the transaction.
func (s *Store) read(ctx context.Context, f func(q pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
	return s.readError(ctx, err)
}

// one runs a query whose answer is a state of its own.
func (s *Store) one(ctx context.Context, sql string, each func(*row) error, args ...any) error {
	return s.readError(ctx, query(ctx, s.pool, sql, each, args...))
}
