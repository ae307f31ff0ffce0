package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Codes of PostgreSQL that are told apart.
const (
	codeSerialization      = "40001"
	codeDeadlock           = "40P01"
	codeLockTimeout        = "55P03"
	codeStatementTime      = "57014"
	codeOutOfRange         = "22003"
	codeUniqueViolation    = "23505"
	codeCheckViolation     = "23514"
	codeDiskFull           = "53100"
	codeTooManyConnections = "53300"
	codeReadOnly           = "25006"
)

// code returns the SQLSTATE of a server's answer, "" for another error.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// ended tells whether the server, by its own account, ends the session: a
// shutdown, a crash of another session, a timeout of an idle transaction.
func ended(err error) bool {
	c := code(err)
	return strings.HasPrefix(c, "57P") || strings.HasPrefix(c, "08") || c == "25P03"
}

// answered tells whether an error is the server's answer to a statement, which
// means that the statement, and the transaction with it, changed nothing.
func answered(err error) bool { return code(err) != "" && !ended(err) }

// again tells whether what failed without having changed anything may be tried
// again at once: the connection is gone, or transactions stood in each other's
// way, or a primary has become a standby and the next connection finds the new one.
func again(err error) bool {
	if errors.Is(err, ledger.ErrOutcomeUnknown) {
		return false
	}
	switch c := code(err); c {
	case "":
		_, lost := errors.AsType[*connectionError](err)
		return lost
	case codeSerialization, codeDeadlock, codeLockTimeout, codeReadOnly, codeTooManyConnections:
		return true
	default:
		return ended(err)
	}
}

// explain says in a sentence what went wrong, for the cases an operator meets.
// The result is a ledger.ErrUnavailable.
func (s *Store) explain(err error) error {
	if err == nil || errors.Is(err, ledger.ErrUnavailable) {
		return err
	}
	say := func(what string) error { return fmt.Errorf("%w: %s: %s: %w", ledger.ErrUnavailable, s.name, what, err) }
	switch c := code(err); {
	case c == codeDiskFull || strings.HasPrefix(c, "53"):
		return say("the server has run out of space or connections; nothing was stored")
	case c == codeLockTimeout:
		return say("another node holds the lock of the ledger for too long")
	case c == codeStatementTime:
		return say("a statement took too long")
	case c == codeReadOnly:
		return say("the server cannot be written to, it may be a standby")
	case strings.HasPrefix(c, "28"):
		return say("the server does not accept the user or the password")
	case c == "3D000":
		return say("there is no such database")
	case c == "42501":
		return say("the user lacks a permission")
	}
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return fmt.Errorf("%w: %s cannot be reached: %w", ledger.ErrUnavailable, s.name, connect.Unwrap())
	}
	return fmt.Errorf("%w: %s: %w", ledger.ErrUnavailable, s.name, err)
}

// readError is what a reader is told.
func (s *Store) readError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code(err) == codeOutOfRange:
		return fmt.Errorf("%w: %w", metering.ErrOverflow, err)
	case code(err) != "" || pgconn.SafeToRetry(err) || pgconn.Timeout(err):
		return s.explain(err)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return s.explain(err)
	}
	return err
}
