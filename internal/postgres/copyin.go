package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// A copy fills an empty database in one transaction, and is marked as unfinished
// from before its first row until somebody has verified it: until then no node
// opens the store. The mark is a table, so that it costs nothing to look for.

// ErrCopyUnfinished reports a database into which a history is being copied, or
// was, and nobody came to say that it is right.
var ErrCopyUnfinished = errors.New("copy not finished: run asap store copy again")

// ErrNotEmpty reports a database that holds something already.
var ErrNotEmpty = errors.New("the store to copy into is not empty")

const unfinished = `SELECT to_regclass('copy_unfinished') IS NOT NULL`

// copyBatch is how many rows are sent at once.
const copyBatch = 10_000

// owned are the tables and functions of the schema, for a copy that starts over.
const (
	ownedTables = `tasks holds task_ends answers budgets usage_records usage_ids usage_rollups price_lists audit_entries audit_blocks
		audit_checkpoints audit_tree audit_prune delegations revocations limit_warnings registry_keys registry_agents sla_agent sla_bucket sla_dedup
		sla_position sla_input sla_notification sla_breach sla_delivery sla_dead_letter ledger_head partitions leader instances schema_migrations`
	ownedFunctions = `refuse_change refuse_entry_delete refuse_record_delete refuse_id_change`
)

// Copy is a copy under way.
type Copy struct {
	store *Store
	conn  *pgx.Conn
	tx    pgx.Tx
	parts partitions
}

// BeginCopy prepares the database that url names: an empty one, or one with a
// copy that was not finished, which is dropped. End or Abort must follow.
func BeginCopy(ctx context.Context, url string, o Options) (c *Copy, err error) {
	config, err := readConfig(url)
	if err != nil {
		return nil, err
	}
	for _, limit := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		config.RuntimeParams[limit] = "0" // a history may be long
	}
	if o.AuditPartition <= 0 {
		o.AuditPartition = 1 << 22
	}
	s := &Store{options: o, name: nameOf(&config.Config), parts: partitions{}}
	conn, err := s.connect(ctx, writing(config, true))
	if err != nil {
		return nil, err
	}
	c = &Copy{store: s, conn: conn, parts: partitions{}}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(s.readError(ctx, err), conn.Close(ctx))
	}
	if c.tx, err = conn.Begin(ctx); err != nil {
		return nil, errors.Join(s.explain(err), conn.Close(ctx))
	}
	return c, nil
}

func (c *Copy) prepare(ctx context.Context) error {
	if err := checkServer(ctx, c.conn); err != nil {
		return err
	}
	steps, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	var again bool
	if err := c.conn.QueryRow(ctx, unfinished).Scan(&again); err != nil {
		return err
	}
	if again {
		if err := c.drop(ctx); err != nil {
			return fmt.Errorf("drop what an unfinished copy has left: %w", err)
		}
	}
	if err := migrate(ctx, c.conn, steps); err != nil || again {
		return err
	}
	if err := c.empty(ctx); err != nil {
		return err
	}
	_, err = c.conn.Exec(ctx, `CREATE TABLE copy_unfinished (began timestamptz NOT NULL DEFAULT clock_timestamp())`)
	return err
}

// drop drops everything but the mark.
func (c *Copy) drop(ctx context.Context) error {
	return pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+strings.Join(strings.Fields(ownedTables), ", ")+` CASCADE`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DROP FUNCTION IF EXISTS `+strings.Join(strings.Fields(ownedFunctions), ", "))
		return err
	})
}

// empty refuses a database in which something is stored.
func (c *Copy) empty(ctx context.Context) error {
	for _, table := range strings.Fields(ownedTables) {
		where := ""
		switch table {
		case "schema_migrations", "partitions", "leader", "instances":
			continue
		case "ledger_head":
			where = " WHERE version <> 0"
		}
		var some bool
		if err := c.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+table+where+`)`).Scan(&some); err != nil {
			return err
		}
		if some {
			return fmt.Errorf("%w: %s has rows in %s", ErrNotEmpty, c.store.name, table)
		}
	}
	return nil
}

// Put fills a table and returns the digest of its rows.
func (c *Copy) Put(ctx context.Context, t ledger.CopyTable) (*ledger.CopyDigest, error) {
	digest := ledger.NewCopyDigest(t.Name)
	types, err := c.columnTypes(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("copy into %s: %w", t.Name, err)
	}
	rows := make([][]any, 0, copyBatch)
	flush := func() error {
		if err := c.send(ctx, t, rows); err != nil {
			return fmt.Errorf("copy into %s: %w", t.Name, c.store.explain(err))
		}
		rows = rows[:0]
		return nil
	}
	for row, err := range t.Rows {
		if err == nil {
			err = digest.Add(t.Columns, row)
		}
		if err != nil {
			return nil, fmt.Errorf("copy into %s: %w", t.Name, err)
		}
		row = slices.Clone(row)
		for i, v := range row {
			if n, ok := v.(int64); ok && types[i] == pgtype.BoolOID {
				row[i] = n != 0
			}
		}
		if rows = append(rows, row); len(rows) == copyBatch {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return digest, flush()
}

// columnTypes are those of the columns of a table, of which none may be missing.
func (c *Copy) columnTypes(ctx context.Context, t ledger.CopyTable) ([]uint32, error) {
	types := make([]uint32, len(t.Columns))
	rows, err := c.tx.Query(ctx, `SELECT attname, atttypid FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
		AND NOT (attrelid = to_regclass('audit_checkpoints') AND attname = 'number') AND NOT (attrelid = to_regclass('ledger_head') AND attname IN ('one', 'version'))`, t.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var name string
		var oid uint32
		if err := rows.Scan(&name, &oid); err != nil {
			return nil, err
		}
		i := slices.Index(t.Columns, name)
		if i < 0 {
			return nil, fmt.Errorf("nothing is known of column %s", name)
		}
		types[i] = oid
		found++
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if found != len(t.Columns) {
		return nil, fmt.Errorf("it has %d of the columns %v", found, t.Columns)
	}
	return types, nil
}

func (c *Copy) send(ctx context.Context, t ledger.CopyTable, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	switch t.Name {
	case "ledger_head": // its one row is there
		row := rows[0]
		column := func(name string) any { return row[slices.Index(t.Columns, name)] }
		_, err := c.tx.Exec(ctx, `UPDATE ledger_head SET version = 1, seq = coalesce($1, -1), hash = $2, records = $3, purged = $4, purged_before_us = $5`,
			column("seq"), column("hash"), column("records"), column("purged"), column("purged_before_us"))
		return err
	case auditEntries:
		if err := c.makeParts(ctx, t, rows, "seq"); err != nil {
			return err
		}
	case usageRecords:
		if err := c.makeParts(ctx, t, rows, "timestamp_us"); err != nil {
			return err
		}
	}
	_, err := c.tx.CopyFrom(ctx, pgx.Identifier{t.Name}, t.Columns, pgx.CopyFromRows(rows))
	return err
}

// makeParts makes the partitions that rows need.
func (c *Copy) makeParts(ctx context.Context, t ledger.CopyTable, rows [][]any, key string) error {
	at := slices.Index(t.Columns, key)
	for _, row := range rows {
		key, ok := row[at].(int64)
		if !ok || c.parts.has(t.Name, key) {
			continue
		}
		p := c.store.partitionOf(t.Name, key)
		if _, err := c.tx.Exec(ctx, p.sql(), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("make partition %s: %w", p.name, err)
		}
		c.parts.add(p)
	}
	return nil
}

// End commits the copy, which stays marked as unfinished until FinishCopy.
func (c *Copy) End(ctx context.Context) error {
	_, err := c.tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence('delegations', 'seq'), (SELECT max(seq) FROM delegations)) WHERE EXISTS (SELECT FROM delegations)`)
	if err == nil {
		err = c.tx.Commit(ctx)
	}
	if err == nil {
		_, err = c.conn.Exec(ctx, `ANALYZE`)
	}
	if err != nil {
		err = c.store.explain(err)
	}
	return errors.Join(err, c.conn.Close(ctx))
}

// Abort gives the copy up. The mark stays.
func (c *Copy) Abort(ctx context.Context) error { return c.conn.Close(context.WithoutCancel(ctx)) }

// FinishCopy takes the mark of an unfinished copy away: what was copied has been
// verified.
func FinishCopy(ctx context.Context, url string) error {
	_, err := withSchema(ctx, url, func(c *pgx.Conn, _ []migration) error {
		_, err := c.Exec(ctx, `DROP TABLE copy_unfinished`)
		return err
	})
	return err
}

// Digest reads a table as it is now, in the order in which it was put in, and
// sums it up.
func (s *Store) Digest(ctx context.Context, t ledger.CopyTable) (*ledger.CopyDigest, error) {
	table, columns := t.Name, t.Columns
	digest := ledger.NewCopyDigest(table)
	names := make([]string, len(columns))
	for i, name := range columns {
		names[i] = pgx.Identifier{name}.Sanitize()
	}
	order := ""
	switch {
	case table == "audit_checkpoints":
		order = " ORDER BY size, number"
	case t.Key != "":
		order = " ORDER BY " + t.Key
	}
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly, IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, s.explain(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only reads
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return nil, s.explain(err)
	}
	//nolint:gosec // the names are those of this package's tables
	rows, err := tx.Query(ctx, `SELECT `+strings.Join(names, ", ")+` FROM `+pgx.Identifier{table}.Sanitize()+order)
	if err != nil {
		return nil, s.explain(err)
	}
	defer rows.Close()
	row := make([]any, len(columns))
	head := table == "ledger_head"
	for rows.Next() {
		for i, f := range rows.FieldDescriptions() {
			if row[i], err = plainValue(f.DataTypeOID, rows.RawValues()[i]); err != nil {
				return nil, fmt.Errorf("%s.%s: %w", table, columns[i], err)
			}
			if head && columns[i] == "seq" && row[i] == int64(-1) {
				row[i] = nil // as others say that there is none
			}
		}
		if err := digest.Add(columns, row); err != nil {
			return nil, err
		}
	}
	return digest, s.readError(ctx, rows.Err())
}

// plainValue is a value in the words of ledger.CopyTable.
func plainValue(oid uint32, raw []byte) (any, error) {
	r := row{values: [][]byte{raw}}
	switch {
	case raw == nil:
		return nil, nil
	case oid == pgtype.BoolOID, oid == pgtype.Int2OID, oid == pgtype.Int4OID, oid == pgtype.Int8OID:
		return r.int(0), nil
	case oid == pgtype.Float8OID:
		return *r.float(0), nil
	case oid == pgtype.TextOID:
		return r.text(0), nil
	case oid == pgtype.JSONBOID: // text, in binary after a version byte
		return strings.TrimPrefix(string(raw), "\x01"), nil
	case oid == pgtype.ByteaOID:
		return r.blob(0), nil
	}
	return nil, fmt.Errorf("a column of type %d cannot be compared", oid)
}
