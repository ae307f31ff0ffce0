package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"

	driversqlite "modernc.org/sqlite"
)

// conn is one connection without database/sql in between: its statements are
// prepared once and their arguments are not converted. Not safe for concurrent
// use, unless turns is set: then different queries may run at once.
type conn struct {
	raw        driver.Conn
	statements map[string]*statement
	turns      *sync.Mutex // held while SQLite works for a query
}

// statement is a prepared statement and the place its arguments are bound from.
type statement struct {
	sql  string
	raw  driver.Stmt
	args []driver.NamedValue
	row  row
}

// row is one row of a result. Its values are valid until the next one.
type row struct{ values []driver.Value }

func openConn(dsn string) (*conn, error) {
	raw, err := (&driversqlite.Driver{}).Open(dsn)
	if err != nil {
		return nil, err
	}
	return &conn{raw: raw, statements: map[string]*statement{}}, nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.statements {
		errs = append(errs, s.raw.Close())
	}
	c.statements = nil
	return errors.Join(append(errs, c.raw.Close())...)
}

// script runs SQL that is not worth preparing, several statements if need be.
func (c *conn) script(sql string) error {
	_, err := c.raw.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

// prepare returns the statement of an SQL text, which must be a constant.
func (c *conn) prepare(sql string) (*statement, error) {
	if s := c.statements[sql]; s != nil {
		return s, nil
	}
	raw, err := c.raw.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %.60q: %w", sql, err)
	}
	s := &statement{sql: sql, raw: raw}
	c.statements[sql] = s
	return s, nil
}

func (s *statement) bind(args []driver.Value) []driver.NamedValue {
	s.args = s.args[:0]
	for i, v := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s.args
}

// exec runs a statement that returns no rows and says how many it changed.
// Arguments are int64, string, []byte or nil.
func (c *conn) exec(sql string, args ...driver.Value) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	result, err := s.raw.(driver.StmtExecContext).ExecContext(context.Background(), s.bind(args))
	if err != nil {
		return 0, fmt.Errorf("%.40q: %w", sql, err)
	}
	return result.RowsAffected()
}

// query calls each for every row.
func (c *conn) query(sql string, each func(*row) error, args ...driver.Value) (err error) {
	s, rows, err := c.start(sql, args)
	if err != nil {
		return err
	}
	defer func() {
		c.enter()
		defer c.leave()
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	for {
		c.enter()
		err := rows.Next(s.row.values)
		c.leave()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%.40q: %w", sql, err)
		}
		if err := each(&s.row); err != nil {
			return err
		}
	}
}

// start begins a query.
func (c *conn) start(sql string, args []driver.Value) (*statement, driver.Rows, error) {
	c.enter()
	defer c.leave()
	s, err := c.prepare(sql)
	if err != nil {
		return nil, nil, err
	}
	rows, err := s.raw.(driver.StmtQueryContext).QueryContext(context.Background(), s.bind(args))
	if err != nil {
		return nil, nil, fmt.Errorf("%.40q: %w", sql, err)
	}
	if s.row.values == nil {
		s.row.values = make([]driver.Value, len(rows.Columns()))
	}
	return s, rows, nil
}

func (c *conn) enter() {
	if c.turns != nil {
		c.turns.Lock()
	}
}

func (c *conn) leave() {
	if c.turns != nil {
		c.turns.Unlock()
	}
}

// one returns the first column of the only row; absent is nil.
func (c *conn) one(sql string, args ...driver.Value) (v driver.Value, err error) {
	err = c.query(sql, func(r *row) error { v = r.values[0]; return nil }, args...)
	return v, err
}

func (r *row) null(i int) bool   { return r.values[i] == nil }
func (r *row) int(i int) int64   { n, _ := r.values[i].(int64); return n }
func (r *row) text(i int) string { s, _ := r.values[i].(string); return s }
func (r *row) blob(i int) []byte { b, _ := r.values[i].([]byte); return b }
func (r *row) hash(i int) (h [32]byte) {
	copy(h[:], r.blob(i))
	return h
}
