package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"
)

// rowLockRate is the baseline of P7: tasks a second of what is usually built
// instead, a transaction for each reservation and one for each settlement, each
// with a conditional update of every link's row and one row for the task, as
// durable as the ledger. It does without usage, audit log and answers.
func rowLockRate(b *testing.B, dir string) float64 {
	b.Helper()
	const tasks = 256
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "rowlock.db")+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(callers)
	ctx := b.Context()
	exec := func(do interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	}, query string, args ...any) {
		if _, err := do.ExecContext(ctx, query, args...); err != nil {
			b.Error(err)
		}
	}
	exec(db, `CREATE TABLE budgets (link INTEGER PRIMARY KEY, most INTEGER, used INTEGER, held INTEGER) STRICT`)
	exec(db, `CREATE TABLE tasks (id INTEGER PRIMARY KEY, state INTEGER) STRICT`)
	for link := range 3 {
		exec(db, `INSERT INTO budgets VALUES (?, 1 << 40, 0, 0)`, link)
	}
	within := func(do func(tx *sql.Tx)) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			b.Error(err)
			return
		}
		do(tx)
		if err := tx.Commit(); err != nil {
			b.Error(err)
		}
	}
	started := time.Now()
	inParallel(tasks, callers, func(i int) {
		within(func(tx *sql.Tx) {
			for link := range 3 {
				exec(tx, `UPDATE budgets SET held = held + 1 WHERE link = ? AND used + held < most`, link)
			}
			exec(tx, `INSERT INTO tasks VALUES (?, 0)`, i)
		})
		within(func(tx *sql.Tx) {
			for link := range 3 {
				exec(tx, `UPDATE budgets SET held = held - 1, used = used + 1 WHERE link = ?`, link)
			}
			exec(tx, `UPDATE tasks SET state = 1 WHERE id = ?`, i)
		})
	})
	rate := tasks / time.Since(started).Seconds()
	var used int64
	if err := db.QueryRowContext(ctx, `SELECT min(used) FROM budgets`).Scan(&used); err != nil || used != tasks {
		b.Fatal(used, err)
	}
	return rate
}
