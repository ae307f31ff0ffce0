package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// The tables that have partitions.
const (
	auditEntries = "audit_entries"
	usageRecords = "usage_records"
)

// partition is a part of a table: the rows with first <= key < until.
type partition struct {
	parent       string
	first, until int64
	name         string
}

// partitions are those that are known to be there. Another node may have made or
// dropped some since.
type partitions map[string][]partition

func (p partitions) has(parent string, key int64) bool {
	for _, part := range p[parent] {
		if part.first <= key && key < part.until {
			return true
		}
	}
	return false
}

func (p partitions) add(parts ...partition) {
	for _, part := range parts {
		p[part.parent] = append(p[part.parent], part)
	}
}

// missing lists the partitions that changes need and that are not there. The
// transaction is open, so nobody else makes any.
func (s *Store) missing(ctx context.Context, c *ledger.Changes) ([]partition, error) {
	known := func(p partitions) bool {
		for i := range c.Entries {
			if !p.has(auditEntries, c.Entries[i].Seq) {
				return false
			}
		}
		for _, r := range c.Records {
			if !p.has(usageRecords, r.Record.Timestamp.UnixMicro()) {
				return false
			}
		}
		return true
	}
	if known(s.parts) {
		return nil, nil
	}
	there := partitions{}
	batch := &pgx.Batch{}
	ask(batch, `SELECT parent, first, until, name FROM partitions`, func(r *row) error {
		there.add(partition{r.text(0), r.int(1), r.int(2), r.text(3)})
		return nil
	})
	if err := s.send(ctx, batch); err != nil {
		return nil, err
	}
	s.parts = partitions{}
	for parent, parts := range there {
		s.parts[parent] = append(s.parts[parent], parts...)
	}
	var list []partition
	add := func(p partition) {
		there.add(p)
		list = append(list, p)
	}
	for i := range c.Entries {
		if seq := c.Entries[i].Seq; !there.has(auditEntries, seq) {
			add(s.partitionOf(auditEntries, seq))
		}
	}
	for _, r := range c.Records {
		if at := r.Record.Timestamp.UnixMicro(); !there.has(usageRecords, at) {
			add(s.partitionOf(usageRecords, at))
		}
	}
	return list, nil
}

// makeParts makes partitions within the open transaction. A table that is made
// first and attached then holds up nobody who reads or writes the others.
func (s *Store) makeParts(ctx context.Context, parts []partition) error {
	for _, p := range parts {
		if err := s.script(ctx, p.sql()); err != nil {
			return fmt.Errorf("make partition %s: %w", p.name, err)
		}
	}
	return nil
}

// sql makes the partition.
func (p *partition) sql() string {
	//nolint:gosec // names and bounds are of this package's making
	return fmt.Sprintf(`CREATE TABLE %[1]s (LIKE %[2]s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE);
			ALTER TABLE %[2]s ATTACH PARTITION %[1]s FOR VALUES FROM (%[3]d) TO (%[4]d);
			CREATE TRIGGER %[1]s_no_truncate BEFORE TRUNCATE ON %[1]s FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
			INSERT INTO partitions (parent, first, until, name) VALUES ('%[2]s', %[3]d, %[4]d, '%[1]s')`, p.name, p.parent, p.first, p.until)
}

// partitionOf is the partition that a key needs which none has: of entries from
// there on, of records the month.
func (s *Store) partitionOf(parent string, key int64) partition {
	if parent == auditEntries {
		return partition{auditEntries, key, key + s.options.AuditPartition, fmt.Sprintf("%s_%d", auditEntries, key)}
	}
	first := ledger.Month.StartUS(fromUS(key))
	month := fromUS(first)
	return partition{usageRecords, first, month.AddDate(0, 1, 0).UnixMicro(), usageRecords + month.Format("_2006_01")}
}

// script runs several statements on the writing connection.
func (s *Store) script(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	c, err := s.connected(ctx)
	if err != nil {
		return err
	}
	if err := c.PgConn().Exec(ctx, sql).Close(); err != nil {
		if c.IsClosed() {
			err = &connectionError{err}
		}
		return err
	}
	return nil
}

// dropWithin is how long dropping a partition may wait for readers, who wait
// behind it meanwhile.
const dropWithin = 200 * time.Millisecond

// dropEmpty drops partitions whose rows were all purged or pruned, and into
// which nothing will be written any more. It is done by whoever has removed
// something; what does not work now works the next time.
func (s *Store) dropEmpty(ctx context.Context) {
	batch := &pgx.Batch{}
	var old []partition
	ask(batch, `SELECT parent, first, until, name FROM partitions WHERE until <= CASE parent
		WHEN 'audit_entries' THEN coalesce((SELECT max(min_index) FROM audit_prune), 0)
		ELSE (SELECT coalesce(purged_before_us, -9223372036854775808) FROM ledger_head) END ORDER BY parent, first`, func(r *row) error {
		old = append(old, partition{r.text(0), r.int(1), r.int(2), r.text(3)})
		return nil
	})
	if s.send(ctx, batch) != nil {
		return
	}
	for _, p := range old {
		//nolint:gosec // names are of this package's making
		sql := fmt.Sprintf(`BEGIN; SET LOCAL lock_timeout = %[3]d; %[4]s; DO $$ BEGIN
			IF NOT EXISTS (SELECT FROM %[1]s) THEN
				DROP TABLE %[1]s;
				DELETE FROM partitions WHERE name = '%[1]s' AND parent = '%[2]s';
			END IF;
		END $$; COMMIT`, p.name, p.parent, dropWithin.Milliseconds(), lockChain)
		if err := s.script(ctx, sql); err != nil {
			_ = s.script(ctx, `ROLLBACK`) // nothing was dropped
			return
		}
	}
	if len(old) > 0 {
		s.parts = partitions{}
	}
}
