package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema reports a database that a newer version of the program has
// changed. Nothing was touched.
var ErrNewerSchema = errors.New("the database was made by a newer version of this program")

// ErrSchemaChanged reports a database whose migrations are not the ones this
// program knows.
var ErrSchemaChanged = errors.New("the database was made by other migrations than this program has")

// migration is one step of the schema.
type migration struct {
	number int64
	name   string
	sql    string
	sum    [32]byte
}

// readMigrations returns the steps in order. Their files are named NNNN_what.sql,
// numbered from 1 without gaps.
func readMigrations(dir fs.FS) ([]migration, error) {
	files, err := fs.Glob(dir, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, name := range files { // Glob sorts
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		base := name[len("migrations/"):]
		number, err := strconv.Atoi(base[:min(4, len(base))])
		if err != nil || number != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", base, i+1)
		}
		all = append(all, migration{int64(number), base, string(text), sha256.Sum256(text)})
	}
	return all, nil
}

const createMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations (
    number   bigint PRIMARY KEY,
    name     text   NOT NULL,
    checksum bytea  NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
)`

// lockSchema lets one migrate at a time. It is another lock than that of the
// chain: nodes of the version before go on working meanwhile.
const lockSchema = `SELECT pg_advisory_xact_lock(1095975248, hashtext('schema ' || current_schema()))`

// migrate applies the steps the database does not have yet, each once and in a
// transaction of its own, after it has compared those it has. Nodes that start
// at once wait for each other.
func migrate(ctx context.Context, c *pgx.Conn, steps []migration) error {
	for {
		applied, err := checkSchema(ctx, c, steps)
		if err != nil || applied == len(steps) {
			return err
		}
		if err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error { return step(ctx, tx, steps) }); err != nil {
			return err
		}
	}
}

// step applies the next migration, if somebody else has not done so by now.
func step(ctx context.Context, tx pgx.Tx, steps []migration) error {
	// A change of a large table takes its time, and so does waiting for it.
	for _, sql := range []string{`SET LOCAL statement_timeout = 0`, `SET LOCAL lock_timeout = 0`, lockSchema, createMigrations} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	applied, err := checkSchema(ctx, tx.Conn(), steps)
	if err != nil || applied == len(steps) {
		return err
	}
	m := steps[applied]
	if err := tx.Conn().PgConn().Exec(ctx, m.sql).Close(); err != nil {
		return fmt.Errorf("migration %s: %w", m.name, err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)`, m.number, m.name, m.sum[:])
	return err
}

// checkSchema returns how many of the steps the database has.
func checkSchema(ctx context.Context, c *pgx.Conn, steps []migration) (int, error) {
	var exists bool
	if err := c.QueryRow(ctx, `SELECT to_regclass('schema_migrations') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	rows, err := c.Query(ctx, `SELECT number, name, checksum FROM schema_migrations ORDER BY number`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	applied := 0
	for rows.Next() {
		var number int64
		var name string
		var sum []byte
		if err := rows.Scan(&number, &name, &sum); err != nil {
			return 0, err
		}
		if applied == len(steps) {
			return 0, fmt.Errorf("%w: it has step %s, this program ends at %s", ErrNewerSchema, name, steps[len(steps)-1].name)
		}
		if m := steps[applied]; number != m.number || !bytes.Equal(sum, m.sum[:]) {
			return 0, fmt.Errorf("%w: step %s", ErrSchemaChanged, name)
		}
		applied++
	}
	return applied, rows.Err()
}

// Schema says how far the schema of a database is, for asap migrate.
type Schema struct {
	Applied, Known int
	// Missing names the steps that are still to be applied.
	Missing []string
}

// ReadSchema reads how far the schema of the database that url names is. It
// changes nothing.
func ReadSchema(ctx context.Context, url string) (Schema, error) {
	return withSchema(ctx, url, func(*pgx.Conn, []migration) error { return nil })
}

// Migrate brings the schema of the database that url names up to date.
func Migrate(ctx context.Context, url string) (Schema, error) {
	return withSchema(ctx, url, func(c *pgx.Conn, steps []migration) error {
		if err := checkServer(ctx, c); err != nil {
			return err
		}
		return migrate(ctx, c, steps)
	})
}

func withSchema(ctx context.Context, url string, do func(*pgx.Conn, []migration) error) (out Schema, err error) {
	config, err := readConfig(url)
	if err != nil {
		return out, err
	}
	s := &Store{name: nameOf(&config.Config)}
	steps, err := readMigrations(migrations)
	if err != nil {
		return out, err
	}
	c, err := s.connect(ctx, config)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	if err := do(c, steps); err != nil {
		return out, s.readError(ctx, err)
	}
	applied, err := checkSchema(ctx, c, steps)
	if err != nil {
		return out, s.readError(ctx, err)
	}
	out.Applied, out.Known = applied, len(steps)
	for _, m := range steps[applied:] {
		out.Missing = append(out.Missing, m.name)
	}
	return out, nil
}
