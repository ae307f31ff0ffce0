package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// Store is what a node keeps: its ledger and the readers of it. SQLite and
// PostgreSQL both do.
type Store interface {
	ledger.Store
	auditlog.Store
	slawatch.Store
	slawatch.Log
	slawatch.Deliveries
	usageReader
	auditReader
	delegationReader
	registryReader
	follow
	// Task returns how a task stands; Holds how many are held, and since when.
	Task(ctx context.Context, id asap.TaskID) (ledger.EndedTask, bool, error)
	Holds(ctx context.Context) (count int64, oldest time.Time, err error)
	// Path says where the store is, for messages.
	Path() string
}

// usageReader reads usage records.
type usageReader interface {
	ListUsage(ctx context.Context, f metering.Filter, page metering.Page) ([]metering.Record, error)
	ExportUsage(ctx context.Context, f metering.Filter) iter.Seq2[metering.Record, error]
	Rollups(ctx context.Context, f metering.Filter, dims metering.Dims) iter.Seq2[metering.RollupRow, error]
	UsageStats(ctx context.Context) (metering.Stats, error)
}

// auditReader reads the log by its index.
type auditReader interface {
	ListAudit(ctx context.Context, f audit.Filter, from int64, limit int) ([]audit.Entry, int64, error)
	AuditEntry(ctx context.Context, id string) (audit.Entry, error)
}

// delegationReader reads tokens, their counters and what was revoked.
type delegationReader interface {
	Budget(ctx context.Context, key ledger.BudgetKey) (ledger.Budget, bool, error)
	Revocations(ctx context.Context) iter.Seq2[ledger.Revocation, error]
	Revocation(ctx context.Context, key ledger.BudgetKey) (ledger.Revocation, bool, error)
	ListTokens(ctx context.Context, f ledger.TokenFilter, before int64, limit int) ([]ledger.Token, error)
}

// registryReader reads what was registered.
type registryReader interface {
	Agents(ctx context.Context) ([]registry.Agent, error)
}

// follow is what a node reads that follows the log.
type follow interface {
	News(ctx context.Context, after int64) (ledger.News, error)
	LimitWarnings(ctx context.Context, after int64, limit int) ([]ledger.Warning, error)
	LastLimitWarning(ctx context.Context) (int64, error)
}

// waker is a store of several nodes, which tell each other to look.
type waker interface {
	Wake(seq int64)
	Listen(ctx context.Context) <-chan int64
}

// reachable is a store that may be out of reach.
type reachable interface {
	Ready(ctx context.Context) error
}

var (
	_ Store     = (*sqlite.Store)(nil)
	_ Store     = (*postgres.Store)(nil)
	_ waker     = (*postgres.Store)(nil)
	_ reachable = (*postgres.Store)(nil)
)

// place is where a ledger is: a file, a PostgreSQL database, or memory.
type place struct {
	file     string // of SQLite
	postgres string // connection string, with its password
}

func (p place) memory() bool { return p == place{} }

// storePlace reads where the ledger is. Errors do not repeat what may be secret.
func (c *Config) storePlace() (place, error) {
	value, from := c.Store, ""
	if kind, name, _ := strings.Cut(value, ":"); kind == "env" || kind == "file" {
		text, err := secret(value)
		if err != nil {
			return place{}, fmt.Errorf("%w: store: %w", ErrConfig, err)
		}
		value, from = strings.TrimSpace(string(text)), " from "+kind+":"+name
	}
	switch {
	case value == "":
		return place{file: filepath.Join(c.Data, LedgerFile)}, nil
	case value == "memory:":
		return place{}, nil
	case strings.HasPrefix(value, "postgres://") || strings.HasPrefix(value, "postgresql://"):
		return place{postgres: value}, nil
	}
	if path, ok := strings.CutPrefix(value, "sqlite:"); ok && path != "" {
		return place{file: path}, nil
	}
	return place{}, fmt.Errorf("%w: store: %q%s is neither sqlite:PATH, postgres://USER@HOST/DATABASE nor memory: (a ledger that is forgotten)",
		ErrConfig, redactStore(value), from)
}

// redactStore hides what may be a password: that of a connection string, or what
// follows the scheme of anything unknown.
func redactStore(s string) string {
	scheme, _, ok := strings.Cut(s, ":")
	switch {
	case scheme == "sqlite" || scheme == "memory" || scheme == "env" || scheme == "file":
		return s
	case scheme == "postgres" || scheme == "postgresql":
		u, err := url.Parse(s)
		if err != nil {
			return scheme + ":…"
		}
		if q := u.Query(); q.Has("password") {
			q.Set("password", "xxxxx")
			u.RawQuery = q.Encode()
		}
		return u.Redacted()
	case ok:
		return scheme + ":…"
	}
	return s
}

// Masked returns the configuration without what must not be shown.
func (c Config) Masked() Config {
	c.Store = redactStore(c.Store)
	return c
}

// StorePath returns the path of the SQLite file, or "" for a ledger that is
// elsewhere.
func (c *Config) StorePath() (string, error) {
	p, err := c.storePlace()
	return p.file, err
}

// open opens the ledger to write it.
func (p place) open(ctx context.Context, c *Config, now func() time.Time) (Store, error) {
	switch {
	case p.memory():
		return opened(sqlite.OpenMemory(ctx, sqlite.Options{Now: now}))
	case p.postgres != "":
		return opened(postgres.Open(ctx, p.postgres, postgres.Options{KeepSchema: !c.Migrate}))
	}
	store, err := sqlite.Open(ctx, p.file, sqlite.Options{Now: now})
	if _, locked := errors.AsType[*sqlite.LockedError](err); locked {
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return opened(store, err)
}

// openReadOnly opens the ledger to read it, and changes nothing.
func (p place) openReadOnly(ctx context.Context) (Store, error) {
	if p.postgres != "" {
		return opened(postgres.Open(ctx, p.postgres, postgres.Options{ReadOnly: true}))
	}
	return opened(sqlite.OpenReadOnly(ctx, p.file, sqlite.Options{}))
}

// opened makes a store of one kind a Store, and none of none.
func opened[S Store](s S, err error) (Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openStore opens the data directory, its key, and the store.
func (n *Node) openStore(ctx context.Context, now func() time.Time) error {
	at, err := n.config.storePlace()
	if err != nil {
		return err
	}
	if err := openData(n.config.Data); err != nil {
		return err
	}
	exists := false
	if at.file != "" {
		_, err := os.Stat(at.file)
		exists = err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if at.postgres != "" { // it has to be opened to know
		if n.store, err = at.open(ctx, &n.config, now); err != nil {
			return err
		}
		news, err := n.store.News(ctx, -1)
		if err != nil {
			return err
		}
		exists = news.Head >= 0
	}
	if n.key, err = n.config.key(exists); err != nil {
		return err
	}
	if at.postgres != "" {
		// For those who look for a ledger in the directory.
		return writePublic(filepath.Join(n.config.Data, ElsewhereFile), n.store.Path()+"\n")
	}
	n.store, err = at.open(ctx, &n.config, now)
	return err
}

// ElsewhereFile is the file in the data directory that says where the ledger of
// the node is, if it is not in the directory.
const ElsewhereFile = "store.txt"

// storeReady tells whether the store can be written to, as far as that can be
// told without writing.
func (n *Node) storeReady(ctx context.Context) error {
	if s, ok := n.store.(reachable); ok {
		ctx, cancel := context.WithTimeout(ctx, readyWithin)
		defer cancel()
		return s.Ready(ctx)
	}
	path := n.ledgerFile()
	if path == "" {
		return nil
	}
	free, err := freeBytes(filepath.Dir(path))
	if err == nil && free < fullDiskBytes {
		return fmt.Errorf("the disk of %s is full", path)
	}
	return nil // where free space cannot be read, commits tell
}

// committed is told what this node has made durable. It must not block.
func (n *Node) committed(b ledger.Batch) {
	n.follower.Wake()
	if s, ok := n.store.(waker); ok && len(b.Entries) > 0 {
		s.Wake(b.Entries[len(b.Entries)-1].Seq)
	}
}

// listen looks at the log when another node says that there is something new,
// until ctx ends. What is not heard is found a moment later anyhow.
func (n *Node) listen(ctx context.Context) {
	s, ok := n.store.(waker)
	if !ok {
		return
	}
	for range s.Listen(ctx) {
		n.follower.Wake()
	}
}

// readyWithin is how long a store may take to answer whether it is ready.
const readyWithin = 2 * time.Second

// Schema says how far the schema of a ledger is.
type Schema struct {
	Store   string   `json:"store"`   // where it is
	Applied int      `json:"applied"` // steps that the database has
	Known   int      `json:"known"`   // steps that this program has
	Missing []string `json:"missing"` // those still to be applied
}

// ReadSchema tells how far the schema of the configured ledger is, and changes
// nothing. Migrate brings it up to date.
func ReadSchema(ctx context.Context, c Config) (Schema, error) {
	return c.schema(ctx, sqlite.ReadSchema, postgres.ReadSchema)
}

// Migrate brings the schema of the configured ledger up to date.
func Migrate(ctx context.Context, c Config) (Schema, error) {
	return c.schema(ctx, sqlite.Migrate, postgres.Migrate)
}

func (c *Config) schema(ctx context.Context, file func(context.Context, string) (sqlite.Schema, error),
	server func(context.Context, string) (postgres.Schema, error)) (Schema, error) {
	at, err := c.storePlace()
	switch {
	case err != nil:
		return Schema{}, err
	case at.memory():
		return Schema{}, fmt.Errorf("%w: store: a ledger in memory has no schema to migrate", ErrConfig)
	case at.postgres != "":
		s, err := server(ctx, at.postgres)
		return Schema{redactStore(at.postgres), s.Applied, s.Known, s.Missing}, err
	}
	s, err := file(ctx, at.file)
	if _, locked := errors.AsType[*sqlite.LockedError](err); locked {
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return Schema{at.file, s.Applied, s.Known, s.Missing}, err
}
