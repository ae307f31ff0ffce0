//go:build postgres

package postgrestest

import (
	"context"
	"testing"
)

// What was committed is there after a stop and after a kill, and nothing else is
// left of the server.
func TestStopAndKill(t *testing.T) {
	c := Start(t)
	ctx := context.Background()
	exec := func(sql string) {
		t.Helper()
		if err := c.Exec(ctx, "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE kept (n int)")
	for _, down := range []func() error{c.Stop, c.Kill} {
		exec("INSERT INTO kept VALUES (1)")
		if err := down(); err != nil {
			t.Fatal(err)
		}
		if c.Exec(ctx, "postgres", "SELECT 1") == nil {
			t.Error("the server still answers")
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	exec("DO $$ BEGIN IF (SELECT count(*) FROM kept) <> 2 THEN RAISE 'lost'; END IF; END $$")
}
