package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// begin opens a transaction of the ledger: the chain lock first, so that every
// statement after it, each of which sees what is committed when it begins, sees
// the work of everybody who had the lock before.
const (
	beginWrite = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`
	lockChain  = `SELECT pg_advisory_xact_lock(1095975248, hashtext('chain ' || current_schema()))`
	readHead   = `SELECT version FROM ledger_head`
)

// tx is a transaction of the ledger. What Write is told goes to the server
// together with the COMMIT, so that it costs one round trip.
type tx struct {
	store   *Store
	open    bool  // BEGIN was sent and answered
	loaded  bool  // something was loaded under version
	version int64 // of the ledger, as it was found under the lock
	changes *ledger.Changes
	batch   *pgx.Batch // what changes become
	tally   tally
	parts   []partition // to be made first
	sent    bool        // the COMMIT may have reached the server
}

// tally is what the statements of a batch have counted.
type tally struct {
	removed int64
	done    bool // the COMMIT was answered
}

// Update implements ledger.Store.
func (s *Store) Update(ctx context.Context, f func(ledger.Tx) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	t := &tx{store: s}
	if err := f(t); err != nil {
		t.rollback(ctx)
		if _, lost := errors.AsType[*connectionError](err); lost || code(err) != "" {
			err = s.explain(err)
		}
		return err
	}
	if t.changes == nil {
		t.rollback(ctx)
		return nil
	}
	err := t.commit(ctx)
	switch {
	case err == nil:
		return t.committed(ctx)
	case answered(err): // the server has refused a statement before the COMMIT, or the COMMIT itself
		t.rollback(ctx)
		s.parts = partitions{} // what is known of them may be what was wrong
		if !again(err) {
			return s.explain(err)
		}
	default:
		s.disconnect()
	}
	if err = t.resolve(ctx, err); err != nil {
		return err
	}
	return t.committed(ctx)
}

// committed passes on what a commit has counted.
func (t *tx) committed(ctx context.Context) error {
	s := t.store
	if t.changes.Removed != nil {
		*t.changes.Removed += t.tally.removed
	}
	s.parts.add(t.parts...)
	if t.tally.removed > 0 {
		s.dropEmpty(ctx)
	}
	return nil
}

// rollback ends an open transaction. A connection on which that does not work is
// dropped.
func (t *tx) rollback(ctx context.Context) {
	s := t.store
	if s.writer == nil || s.writer.IsClosed() || s.writer.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.writer.PgConn().Exec(ctx, `ROLLBACK`).Close(); err != nil {
		s.disconnect()
	}
}

// connectionError is an error that is no answer of the server: there is no
// connection, or not any more.
type connectionError struct{ cause error }

func (e *connectionError) Error() string { return e.cause.Error() }
func (e *connectionError) Unwrap() error { return e.cause }

// send sends a batch in one round trip and waits for all its answers.
func (s *Store) send(ctx context.Context, batch *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	c, err := s.connected(ctx)
	if err != nil {
		return err
	}
	if err := c.SendBatch(ctx, batch).Close(); err != nil {
		if c.IsClosed() {
			err = &connectionError{err}
		}
		return err
	}
	return nil
}

// begun queues what a transaction begins with.
func (t *tx) begun(batch *pgx.Batch) {
	batch.Queue(beginWrite)
	batch.Queue(lockChain)
	batch.Queue(readHead).QueryRow(func(row pgx.Row) error { return row.Scan(&t.version) })
}

// Load implements ledger.Tx. What a group needs is asked for in one round trip,
// whatever its size: the keys go in as arrays. The first one takes the lock as
// well. Nothing has been written by then, so when the connection turns out to be
// dead a new one goes on, unless somebody else was first.
func (t *tx) Load(ctx context.Context, n *ledger.Needs) (*ledger.Loaded, error) {
	s := t.store
	var out *ledger.Loaded
	err := s.persist(ctx, func() error {
		batch := &pgx.Batch{}
		found := t.version
		if !t.open {
			t.begun(batch)
		}
		l := &loading{tasks: map[int64]*ledger.Task{}}
		l.queue(batch, n)
		out = &l.out
		if err := s.send(ctx, batch); err != nil {
			t.open = false
			t.rollback(ctx)
			t.version = found
			return err
		}
		if t.loaded && t.version != found {
			return fmt.Errorf("%w: %s: the connection was lost, and somebody else was first", ledger.ErrUnavailable, s.name)
		}
		t.open, t.loaded = true, true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// persist does what changes nothing until it works, the error is one that stays,
// or patience ends.
func (s *Store) persist(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(s.options.Patience)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := do()
		if err == nil || !again(err) || ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// Write implements ledger.Tx.
func (t *tx) Write(ctx context.Context, c *ledger.Changes) error {
	t.changes = c
	if !t.open { // nothing was loaded: the lock all the same
		if _, err := t.Load(ctx, &ledger.Needs{}); err != nil {
			return err
		}
	}
	return t.queue()
}

// queue makes the batch that writes the changes and commits them.
func (t *tx) queue() error {
	t.batch, t.tally = &pgx.Batch{}, tally{}
	w := &changing{batch: t.batch, tally: &t.tally}
	if err := w.changes(t.changes); err != nil {
		return err
	}
	t.batch.Queue(`COMMIT`).Exec(func(tag pgconn.CommandTag) error {
		t.tally.done = tag.String() == "COMMIT"
		return nil
	})
	return nil
}

// commit sends the changes and the COMMIT.
func (t *tx) commit(ctx context.Context) error {
	var err error
	if t.parts, err = t.store.missing(ctx, t.changes); err != nil {
		return err
	}
	if err := t.store.makeParts(ctx, t.parts); err != nil {
		return err
	}
	t.sent = true
	if err := t.store.send(ctx, t.batch); err != nil {
		return err
	}
	if !t.tally.done {
		return errors.New("the server has rolled back a transaction that it was told to commit")
	}
	return nil
}

// resolve finds out what became of a commit whose answer is missing, or that the
// server refused for reasons that have passed, and brings it to an end. Whoever
// holds the chain lock knows that the transaction in doubt has ended, since it
// held the lock as well. Then
//
//   - the entries are there: it was committed;
//   - they are not, and the ledger is as it was found: it was not, and what was
//     decided is still right, so it is written again;
//   - they are not, and somebody else has written since: it was not, and what was
//     decided may be wrong by now. Nothing was kept.
//
// Only when that cannot be found out in time the outcome is unknown.
func (t *tx) resolve(ctx context.Context, cause error) error {
	s := t.store
	doubt := t.sent && !answered(cause)
	err := s.persist(ctx, func() error {
		batch := &pgx.Batch{}
		version, kept := t.version, false
		t.begun(batch)
		t.ours(batch, &kept)
		err := s.send(ctx, batch)
		found := t.version
		t.version = version
		if err != nil || kept || found != version {
			t.rollback(ctx)
		}
		switch {
		case err != nil || kept:
			return err
		case found != version:
			doubt = false
			return fmt.Errorf("%w: %s: the connection was lost, and somebody else was first: %w", ledger.ErrUnavailable, s.name, cause)
		}
		doubt, t.sent = false, false
		if err := t.queue(); err != nil {
			return err
		}
		err = t.commit(ctx)
		if err != nil && !answered(err) {
			doubt = t.sent
			s.disconnect()
		}
		if err != nil {
			t.rollback(ctx)
		}
		return err
	})
	switch {
	case err == nil:
		return nil
	case doubt:
		return fmt.Errorf("%w: %s: %w", ledger.ErrOutcomeUnknown, s.name, errors.Join(cause, err))
	default:
		return s.explain(err)
	}
}

// ours queues the question whether the changes of t were committed.
func (t *tx) ours(batch *pgx.Batch, kept *bool) {
	c := t.changes
	if n := len(c.Entries); n > 0 {
		last := &c.Entries[n-1]
		batch.Queue(`SELECT hash FROM audit_entries WHERE seq = $1`, last.Seq).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				*kept = *kept || bytes.Equal((&row{rows.RawValues()}).bytes(0), last.Hash[:])
			}
			return rows.Err()
		})
		return
	}
	// What is removed is removed again without harm. A checkpoint is there or not.
	for i := range c.Checkpoints {
		k := &c.Checkpoints[i]
		batch.Queue(`SELECT count(*) FROM audit_checkpoints WHERE size = $1 AND note = $2`, k.Size, string(k.Note)).QueryRow(func(r pgx.Row) error {
			var n int64
			err := r.Scan(&n)
			*kept = n > 0
			return err
		})
	}
}
