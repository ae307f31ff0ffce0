package sqlite

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL,
    checksum BLOB    NOT NULL,
    at_us    INTEGER NOT NULL
) STRICT`

// migrate applies the steps the database does not have yet, each once and in a
// transaction of its own, after it has compared those it has.
func migrate(c *conn, steps []migration, nowUS int64) error {
	applied, err := checkSchema(c, steps)
	if err != nil {
		return err
	}
	if err := c.script(createMigrations); err != nil {
		return err
	}
	for _, m := range steps[applied:] {
		if err := c.script("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		err := c.script(m.sql)
		if err == nil {
			_, err = c.exec(`INSERT INTO schema_migrations (number, name, checksum, at_us) VALUES (?, ?, ?, ?)`, m.number, m.name, m.sum[:], nowUS)
		}
		if err == nil {
			err = c.script("COMMIT")
		}
		if err != nil {
			if e := c.script("ROLLBACK"); e != nil && !noTransaction(e) {
				err = errors.Join(err, e)
			}
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}

// checkSchema returns how many of the steps the database has.
func checkSchema(c *conn, steps []migration) (int, error) {
	exists, err := c.one(`SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'`)
	if err != nil || exists == int64(0) {
		return 0, err
	}
	applied := 0
	err = c.query(`SELECT number, name, checksum FROM schema_migrations ORDER BY number`, func(r *row) error {
		if applied == len(steps) {
			return fmt.Errorf("%w: it has step %s, this program ends at %s", ErrNewerSchema, r.text(1), steps[len(steps)-1].name)
		}
		if m := steps[applied]; r.int(0) != m.number || r.hash(2) != m.sum {
			return fmt.Errorf("%w: step %s", ErrSchemaChanged, r.text(1))
		}
		applied++
		return nil
	})
	return applied, err
}

// Schema says how far the schema of a database is, for asap migrate.
type Schema struct {
	Applied, Known int
	// Missing names the steps that are still to be applied.
	Missing []string
}

// ReadSchema reads how far the schema of the database at path is. It changes
// nothing.
func ReadSchema(_ context.Context, path string) (out Schema, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return out, err
	}
	if _, err := os.Stat(abs); err != nil {
		return out, fmt.Errorf("open database: %w", err)
	}
	c, err := openConn(fileDSN(abs, readerPragmas+"&mode=ro"))
	if err != nil {
		return out, explain(abs, err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	steps, err := readMigrations(migrations)
	if err != nil {
		return out, err
	}
	if out.Applied, err = checkSchema(c, steps); err != nil {
		return out, err
	}
	out.Known = len(steps)
	for _, m := range steps[out.Applied:] {
		out.Missing = append(out.Missing, m.name)
	}
	return out, nil
}

// Migrate brings the schema of the database at path up to date. A node that uses
// it makes that a *LockedError.
func Migrate(ctx context.Context, path string) (Schema, error) {
	s, err := Open(ctx, path, Options{})
	if err != nil {
		return Schema{}, err
	}
	if err := s.Close(); err != nil {
		return Schema{}, err
	}
	return ReadSchema(ctx, path)
}
