//go:build postgres

package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/postgres"
)

// A rolling upgrade as docs/scaling.md says: the next version's step, which only
// adds, goes in while nodes of this one serve. Those go on; one that starts is
// refused, until the step is taken back. A store that is behind is not touched by a
// program that is told not to.
func TestRollingUpgrade(t *testing.T) {
	url := cluster.Database(t)
	books, store := run(t, url)
	exec := func(statements ...string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context()) //nolint:errcheck // nothing to lose
		for _, sql := range statements {
			if _, err := c.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
	post := func(n int) {
		t.Helper()
		if _, err := books.Admit(t.Context(), admission(n)); err != nil {
			t.Errorf("admit: %v", err)
		}
		if _, err := books.Settle(t.Context(), settlement(n)); err != nil {
			t.Errorf("settle: %v", err)
		}
	}
	post(1)
	// Expand: what the next version needs is added, and may be left out.
	exec(`ALTER TABLE tasks ADD COLUMN region text`, `CREATE TABLE of_the_next_version (id bigint PRIMARY KEY)`,
		`INSERT INTO schema_migrations (number, name, checksum) SELECT max(number) + 1, 'next_version.sql', '\x00' FROM schema_migrations`)
	post(2)
	if _, err := store.News(t.Context(), -1); err != nil {
		t.Errorf("read: %v", err)
	}
	for _, o := range []postgres.Options{{}, {KeepSchema: true}, {ReadOnly: true}} {
		if s, err := postgres.Open(t.Context(), url, o); !errors.Is(err, postgres.ErrNewerSchema) {
			t.Errorf("%+v: a program of the version before was let in: %v, %v", o, s, err)
		}
	}
	post(3)
	exec(`DELETE FROM schema_migrations WHERE name = 'next_version.sql'`)
	again, err := postgres.Open(t.Context(), url, postgres.Options{KeepSchema: true})
	if err != nil {
		t.Fatalf("with the step taken back: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}

	behind := cluster.Database(t)
	if s, err := postgres.Open(t.Context(), behind, postgres.Options{KeepSchema: true}); err == nil || !strings.Contains(err.Error(), "asap migrate up") {
		t.Errorf("an empty database was taken for one: %v, %v", s, err)
	}
	ready, err := postgres.Open(t.Context(), behind, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ready.Close(); err != nil {
		t.Error(err)
	}
}
