package sqlite

import (
	"errors"
	"fmt"
	"strings"

	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// code returns the primary result code of SQLite, 0 for another error.
func code(err error) int {
	if e, ok := errors.AsType[*driversqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// explain says in a sentence what went wrong, for the cases an operator meets.
// The result is a ledger.ErrUnavailable.
func explain(path string, err error) error {
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: no space left for %s; nothing was stored: %w", ledger.ErrUnavailable, path, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return fmt.Errorf("%w: %s cannot be written, check its directory's permissions: %w", ledger.ErrUnavailable, path, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: another program holds %s: %w", ledger.ErrUnavailable, path, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %s is damaged or no database: %w", ledger.ErrUnavailable, path, err)
	default:
		return fmt.Errorf("%w: %s: %w", ledger.ErrUnavailable, path, err)
	}
}

// surelyUndone tells whether a COMMIT that failed like this was undone as a
// whole. A full disk fails while pages are written, before the one that would
// make them count; a lock fails before anything. What else went wrong, a failed
// fsync above all, says nothing about what a crash would leave.
func surelyUndone(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_READONLY:
		return true
	}
	return false
}

// noTransaction tells whether a ROLLBACK failed because SQLite had rolled back
// by itself.
func noTransaction(err error) bool {
	return code(err) == sqlite3.SQLITE_ERROR && strings.Contains(err.Error(), "no transaction is active")
}
