package postgres

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// What each session is told, whatever the server's configuration says. Durations
// are milliseconds.
const (
	statementMS = 30_000
	lockMS      = 10_000
	idleMS      = 5_000 // inside a transaction: how long a node that hangs keeps the chain lock
)

// connectWithin bounds one attempt to connect.
const connectWithin = 5 * time.Second

// answerWithin bounds the wait for one answer of the server. It is longer than
// the server's own limits, so that it means a connection that is dead.
const answerWithin = statementMS*time.Millisecond + 5*time.Second

// readConfig parses a connection string. Errors do not repeat the password.
func readConfig(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("the address of the store: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement // results come in binary
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectWithin
	}
	parameters := map[string]string{
		"statement_timeout": strconv.Itoa(statementMS), "lock_timeout": strconv.Itoa(lockMS), "idle_in_transaction_session_timeout": strconv.Itoa(idleMS),
		"default_transaction_isolation": "read committed", "timezone": "UTC", "client_min_messages": "warning", "jit": "off",
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
	}
	if config.RuntimeParams["application_name"] == "" {
		parameters["application_name"] = "asap"
	}
	maps.Copy(config.RuntimeParams, parameters)
	return config, nil
}

// writing is the configuration of a connection that writes: on a server that
// can be written to, and with plans that walk indexes whatever the statistics of
// a young table say.
func writing(config *pgx.ConnConfig, primary bool) *pgx.ConnConfig {
	c := config.Copy()
	if primary && c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	maps.Copy(c.RuntimeParams, map[string]string{"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
		"enable_material": "off", "plan_cache_mode": "force_generic_plan"})
	return c
}

// nameOf says where a database is.
func nameOf(c *pgconn.Config) string {
	host := c.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(c.Port)))
	}
	return fmt.Sprintf("postgres %s at %s", c.Database, host)
}

// connect opens a connection and sees to it that what it commits is durable.
func (s *Store) connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.explain(err)
	}
	// on waits for the local disk at least, like the stronger settings; the weaker
	// ones answer before anything is durable.
	if _, err := c.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')`); err != nil {
		_ = c.Close(ctx) // err says more
		return nil, s.explain(err)
	}
	return c, nil
}

// checkServer refuses a server on which the ledger would not be safe.
func checkServer(ctx context.Context, c *pgx.Conn) error {
	var version int
	var encoding, fsync, pages string
	if err := c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync'),
		current_setting('full_page_writes')`).Scan(&version, &encoding, &fsync, &pages); err != nil {
		return err
	}
	switch {
	case version < 140000:
		return fmt.Errorf("the server is PostgreSQL %d, the store needs 14 or newer", version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("the database is encoded in %s, the store needs UTF8", encoding)
	case fsync != "on" || pages != "on":
		return fmt.Errorf("the server runs with fsync=%s and full_page_writes=%s: a crash would lose what was acknowledged; refusing to write to it", fsync, pages)
	}
	return nil
}

// restsUnasked is how long a connection may have rested to be used without being
// asked first whether it is still there.
const restsUnasked = 50 * time.Millisecond

// openPool opens the connections that read, and write what is not the ledger's.
func (s *Store) openPool(ctx context.Context, config *pgx.ConnConfig) error {
	pool, err := pgxpool.ParseConfig("")
	if err != nil {
		return err
	}
	pool.ConnConfig = config.Copy()
	if !s.options.ReadOnly && pool.ConnConfig.ValidateConnect == nil {
		pool.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	pool.MaxConns = int32(s.options.Readers) //nolint:gosec // a small number
	pool.MaxConnIdleTime = time.Minute
	// A server that was restarted leaves connections that look open. It takes
	// longer to come back than a connection that is in constant use rests.
	pool.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > restsUnasked }
	pool.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')`)
		return err
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
		return s.explain(err)
	}
	return nil
}

// connected returns the writing connection, a new one if there is none. The
// caller holds write.
func (s *Store) connected(ctx context.Context) (*pgx.Conn, error) {
	if s.writer != nil && s.writer.IsClosed() {
		s.disconnect()
	}
	if s.writer == nil {
		if s.config == nil || s.closed {
			return nil, fmt.Errorf("%w: %w", ledger.ErrUnavailable, ErrReadOnly)
		}
		c, err := s.connect(ctx, s.config)
		if err != nil {
			return nil, &connectionError{err}
		}
		s.writer = c
	}
	return s.writer, nil
}

// disconnect drops the writing connection. The server rolls back what was open
// on it, once it notices.
func (s *Store) disconnect() {
	if s.writer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.writer.Close(ctx) // what it could say is known by other means
	s.writer = nil
}
