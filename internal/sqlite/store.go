package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// ErrReadOnly reports an attempt to write to a store that was opened to read.
var ErrReadOnly = errors.New("the store was opened read-only")

// LockedError says that another process writes to the database.
type LockedError struct {
	Path    string // of the lock file
	Process string // its pid, as far as it is known
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is in use by process %s", strings.TrimSuffix(e.Path, ".lock"), e.Process)
}

// Options are what Open can be told. The zero value is a good one.
type Options struct {
	// Readers is how many connections read at once; 0 for 4.
	Readers int
	// Retention is reported by UsageStats: how long records are kept.
	Retention time.Duration
	// Now stamps the migrations; nil for the system's clock.
	Now func() time.Time
}

// Store is a ledger.Store in one SQLite database, and the readers of what it
// holds. Reading is safe for concurrent use and never waits for a commit.
type Store struct {
	path    string // for messages
	options Options
	lock    *lock
	readers *sql.DB
	dsn     string // of connections that read

	preparing   sync.Mutex
	newestQuery *sql.Stmt // newsQuery, once it was asked; guarded by preparing

	// memory is held by the one writer or by readers, where there is no WAL that
	// would keep them apart; nil for a file.
	memory *sync.RWMutex

	// write guards the writing connection.
	write  sync.Mutex
	writer *conn // nil when read-only
	open   bool  // a transaction may have been left open by a failed ROLLBACK
}

// busyTimeoutMS is how long a lock of another program is waited for.
const busyTimeoutMS = 5000

// Open opens the database at path for one writer, creates it if it is not there,
// and brings its schema up to date. A second writer gets a *LockedError.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	l, err := acquire(abs + ".lock")
	if err != nil {
		if _, locked := errors.AsType[*LockedError](err); locked {
			return nil, err
		}
		return nil, fmt.Errorf("the directory of %s must exist and be writable: %w", abs, err)
	}
	s := &Store{path: abs, options: o, lock: l, dsn: fileDSN(abs, readerPragmas)}
	// SQLite gives the files beside the database the mode of the database.
	if err := ownerOnly(abs); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	dsn := fileDSN(abs, "")
	if err := s.start(ctx, dsn, s.dsn, "wal"); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// ownerOnly makes the file if it is not there, and lets nobody but its owner
// read it.
func ownerOnly(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

// OpenMemory opens an empty database that ends with the store.
func OpenMemory(ctx context.Context, o Options) (*Store, error) {
	dsn := "file:asap-" + rand.Text() + "?mode=memory&cache=shared"
	s := &Store{path: "the database in memory", options: o, memory: &sync.RWMutex{}, dsn: dsn + "&" + readerPragmas}
	if err := s.start(ctx, dsn, dsn+"&"+readerPragmas, "memory"); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenReadOnly opens the database at path to read it, whether or not a node is
// writing to it. It changes nothing, the schema neither.
func OpenReadOnly(ctx context.Context, path string, o Options) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	options := readerPragmas + "&mode=ro"
	if _, err := os.Stat(abs + "-wal"); errors.Is(err, os.ErrNotExist) && !writable(filepath.Dir(abs)) {
		// Nobody can be writing, and SQLite could not make the files it
		// needs to watch out for a writer.
		options += "&immutable=1"
	}
	dsn := fileDSN(abs, options)
	s := &Store{path: abs, options: o, dsn: dsn}
	c, err := openConn(dsn)
	if err != nil {
		return nil, explain(abs, err)
	}
	steps, err := readMigrations(migrations)
	applied := 0
	if err == nil {
		applied, err = checkSchema(c, steps)
	}
	if err == nil && applied < len(steps) {
		err = fmt.Errorf("%s has an older schema (step %d of %d); start the node once to bring it up to date", abs, applied, len(steps))
	}
	if code(err) != 0 {
		err = explain(abs, err)
	}
	if err = errors.Join(err, c.close()); err != nil {
		return nil, err
	}
	return s, s.openReaders(ctx, dsn)
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".asap-probe-*")
	if err != nil {
		return false
	}
	return errors.Join(f.Close(), os.Remove(f.Name())) == nil
}

const readerPragmas = "_pragma=query_only(1)&_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)"

func fileDSN(path, options string) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: options}).String()
}

// start opens the connections and brings the schema up to date.
func (s *Store) start(ctx context.Context, writer, reader, journal string) error {
	c, err := openConn(writer)
	if err != nil {
		return explain(s.path, err)
	}
	s.writer = c
	if err := configure(c, journal); err != nil {
		return explain(s.path, err)
	}
	steps, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	now := time.Now
	if s.options.Now != nil {
		now = s.options.Now
	}
	if err := migrate(c, steps, now().UnixMicro()); err != nil {
		return explain(s.path, err)
	}
	return s.openReaders(ctx, reader)
}

func (s *Store) openReaders(ctx context.Context, dsn string) error {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	s.readers = db
	n := s.options.Readers
	if n <= 0 {
		n = 4
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	var queryOnly int
	if err := db.QueryRowContext(ctx, "PRAGMA query_only").Scan(&queryOnly); err != nil {
		return explain(s.path, err)
	}
	if queryOnly != 1 {
		return fmt.Errorf("pragma query_only is %d, want 1", queryOnly)
	}
	return nil
}

// configure sets the pragmas of the writing connection and reads them back: a
// misspelt or refused one is silent otherwise.
func configure(c *conn, journal string) error {
	pragmas := []struct{ name, set, want string }{
		{"busy_timeout", strconv.Itoa(busyTimeoutMS), strconv.Itoa(busyTimeoutMS)},
		{"journal_mode", journal, journal},
		{"synchronous", "FULL", "2"},
		{"foreign_keys", "ON", "1"},
		{"trusted_schema", "OFF", "0"},
		{"temp_store", "MEMORY", "2"},
		{"cache_size", "-12288", "-12288"},     // KiB
		{"wal_autocheckpoint", "4000", "4000"}, // pages
	}
	for _, p := range pragmas {
		if err := c.script("PRAGMA " + p.name + " = " + p.set); err != nil {
			return fmt.Errorf("pragma %s: %w", p.name, err)
		}
		got, err := c.one("PRAGMA " + p.name)
		if err != nil {
			return fmt.Errorf("pragma %s: %w", p.name, err)
		}
		if fmt.Sprint(got) != p.want {
			return fmt.Errorf("pragma %s is %v, want %s: refusing to write without it", p.name, got, p.want)
		}
	}
	return nil
}

// Close closes the connections and gives up the lock.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	var errs []error
	if s.readers != nil {
		s.preparing.Lock()
		if s.newestQuery != nil {
			errs = append(errs, s.newestQuery.Close())
			s.newestQuery = nil
		}
		s.preparing.Unlock()
		errs = append(errs, s.readers.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.close())
		s.writer = nil
	}
	errs = append(errs, s.lock.release())
	s.lock = nil
	return errors.Join(errs...)
}

// Path returns where the database is.
func (s *Store) Path() string { return s.path }

// Update implements ledger.Store.
func (s *Store) Update(ctx context.Context, f func(ledger.Tx) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.writer == nil {
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ErrReadOnly)
	}
	if s.memory != nil {
		s.memory.Lock()
		defer s.memory.Unlock()
	}
	if s.open {
		if err := s.rollback(); err != nil {
			return explain(s.path, err)
		}
	}
	if _, err := s.writer.exec("BEGIN IMMEDIATE"); err != nil {
		return explain(s.path, err)
	}
	tx := &tx{c: s.writer}
	if err := f(tx); err != nil {
		_ = s.rollback() // a failure is remembered in s.open and tried again
		if code(err) != 0 {
			err = explain(s.path, err)
		}
		return err
	}
	if !tx.wrote {
		return s.rollback()
	}
	if _, err := s.writer.exec("COMMIT"); err != nil {
		if s.rollback() == nil && surelyUndone(err) {
			return explain(s.path, err)
		}
		return fmt.Errorf("%w: commit to %s: %w", ledger.ErrOutcomeUnknown, s.path, err)
	}
	return nil
}

// Renew implements ledger.Store. The file has one writer, which the lock sees to:
// nobody else is alive.
func (s *Store) Renew(context.Context, string, bool) (ledger.Standing, error) {
	return ledger.Standing{}, nil
}

// Leave implements ledger.Store.
func (s *Store) Leave(context.Context, string) error { return nil }

func (s *Store) rollback() error {
	_, err := s.writer.exec("ROLLBACK")
	if err != nil && noTransaction(err) {
		err = nil
	}
	s.open = err != nil
	return err
}
