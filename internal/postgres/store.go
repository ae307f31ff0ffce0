package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// ErrReadOnly reports an attempt to write to a store that was opened to read.
var ErrReadOnly = errors.New("the store was opened read-only")

// Options are what Open can be told. The zero value is a good one.
type Options struct {
	// Readers is how many connections read at once; 0 for 8.
	Readers int
	// Retention is reported by UsageStats: how long records are kept.
	Retention time.Duration
	// Patience is how long a commit that lost its connection tries to find out
	// what became of it; 0 for 20 s. An answer that says "unknown" stops the
	// ledger, so it should be longer than a failover takes.
	Patience time.Duration
	// KeepSchema refuses to open a store whose schema is older than this program's,
	// instead of bringing it up to date.
	KeepSchema bool
	// ReadOnly opens the store to read: it changes nothing, the schema neither.
	ReadOnly bool
	// AuditPartition is how many entries of the audit log share a partition, for
	// partitions that are made from now on; 0 for 4,194,304.
	AuditPartition int64
	// UnfinishedCopy opens a store even if a copy into it was not finished, to
	// verify it.
	UnfinishedCopy bool
}

// Store is a ledger.Store in a PostgreSQL database, and the readers of what it
// holds. Reading is safe for concurrent use and never waits for a commit.
type Store struct {
	options Options
	name    string // for messages: host and database
	pool    *pgxpool.Pool
	config  *pgx.ConnConfig // of the writing connection

	// write guards the writing connection.
	write  sync.Mutex
	writer *pgx.Conn // nil when there is none at the moment
	parts  partitions
	closed bool

	wake waker
}

// Open opens the database that url names, a connection string as libpq knows
// them, and brings its schema up to date. Any number of stores may be open on
// one database.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	if o.Readers <= 0 {
		o.Readers = 8
	}
	if o.Patience <= 0 {
		o.Patience = 20 * time.Second
	}
	if o.AuditPartition <= 0 {
		o.AuditPartition = 1 << 22
	}
	config, err := readConfig(url)
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, name: nameOf(&config.Config), parts: partitions{}}
	if err := s.open(ctx, config); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, config *pgx.ConnConfig) error {
	steps, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	first, err := s.connect(ctx, writing(config, !s.options.ReadOnly))
	if err != nil {
		return err
	}
	err = s.prepare(ctx, first, steps)
	if err != nil || s.options.ReadOnly {
		err = errors.Join(err, first.Close(ctx))
	} else {
		s.config, s.writer = writing(config, true), first
	}
	if err != nil {
		return err
	}
	return s.openPool(ctx, config)
}

// prepare checks the server and brings the schema up to date.
func (s *Store) prepare(ctx context.Context, c *pgx.Conn, steps []migration) error {
	if err := checkServer(ctx, c); err != nil {
		return s.readError(ctx, err)
	}
	if !s.options.UnfinishedCopy {
		var copying bool
		if err := c.QueryRow(ctx, unfinished).Scan(&copying); err != nil {
			return s.readError(ctx, err)
		}
		if copying {
			return fmt.Errorf("%s: %w", s.name, ErrCopyUnfinished)
		}
	}
	if !s.options.ReadOnly && !s.options.KeepSchema {
		return s.readError(ctx, migrate(ctx, c, steps))
	}
	applied, err := checkSchema(ctx, c, steps)
	if err != nil {
		return s.readError(ctx, err)
	}
	if applied < len(steps) {
		return fmt.Errorf("%s has an older schema (step %d of %d); bring it up to date with: asap migrate up", s.name, applied, len(steps))
	}
	return nil
}

// Close closes the connections.
func (s *Store) Close() error {
	s.wake.close()
	s.write.Lock()
	defer s.write.Unlock()
	s.closed = true
	s.disconnect()
	if s.pool != nil {
		s.pool.Close()
	}
	return nil
}

// Path says where the store is, without its password.
func (s *Store) Path() string { return s.name }

// Ready asks the server whether it can be written to. Its errors are
// ledger.ErrUnavailable.
func (s *Store) Ready(ctx context.Context) error {
	var recovering bool
	if err := s.pool.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovering); err != nil {
		return s.explain(err)
	}
	if recovering && !s.options.ReadOnly {
		return fmt.Errorf("%w: %s is a standby", ledger.ErrUnavailable, s.name)
	}
	return nil
}

// Now returns the server's clock.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return now, s.explain(err)
	}
	return now.UTC(), nil
}
