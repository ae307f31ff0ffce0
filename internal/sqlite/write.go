package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Write implements ledger.Tx. Tables with triggers are written with OR ROLLBACK,
// see the guards in the schema; a failure undoes the whole transaction anyway.
func (t *tx) Write(_ context.Context, c *ledger.Changes) error {
	t.wrote = true
	fresh := make(map[int64]bool, len(c.NewTasks))
	for _, task := range c.NewTasks {
		fresh[task.Seq] = true
	}
	// The key that a release frees may be taken again in the same group.
	for _, task := range c.EndedTasks {
		if task.State == ledger.Released && !fresh[task.Seq] {
			if err := t.endTask(task); err != nil {
				return fmt.Errorf("task %s: %w", task.ID, err)
			}
		}
	}
	for _, task := range c.NewTasks {
		if err := t.insertTask(task); err != nil {
			return fmt.Errorf("task %s: %w", task.ID, err)
		}
	}
	for _, task := range c.EndedTasks {
		if task.State == ledger.Released && !fresh[task.Seq] {
			continue // above
		}
		if err := t.endTask(task); err != nil {
			return fmt.Errorf("task %s: %w", task.ID, err)
		}
	}
	for i := range c.Budgets {
		if err := t.putBudget(&c.Budgets[i]); err != nil {
			return fmt.Errorf("budget of %s: %w", c.Budgets[i].TokenID, err)
		}
	}
	for _, r := range c.Records {
		if err := t.insertRecord(r); err != nil {
			return fmt.Errorf("usage record %s: %w", r.Record.ID, err)
		}
	}
	for i := range c.Rollups {
		if err := t.putRollup(&c.Rollups[i]); err != nil {
			return fmt.Errorf("rollup: %w", err)
		}
	}
	for _, p := range c.PriceLists {
		if _, err := t.c.exec(`INSERT OR IGNORE INTO price_lists (hash, agent, canonical, at_us) VALUES (?, ?, ?, ?)`,
			p.Hash, string(p.Agent), p.Canonical, p.At.UnixMicro()); err != nil {
			return fmt.Errorf("price list %s: %w", p.Hash, err)
		}
	}
	for i := range c.Tokens {
		if err := t.insertToken(&c.Tokens[i]); err != nil {
			return fmt.Errorf("delegation %s: %w", c.Tokens[i].TokenID, err)
		}
	}
	for i := range c.Revocations {
		if err := t.insertRevocation(&c.Revocations[i]); err != nil {
			return fmt.Errorf("revocation of %s: %w", c.Revocations[i].TokenID, err)
		}
	}
	for i := range c.Warnings {
		w := &c.Warnings[i]
		if _, err := t.c.exec(`INSERT OR IGNORE INTO limit_warnings (issuer, token_id, unit, percent, seq, at_us, of_limit, used) VALUES (?,?,?,?,?,?,?,?)`,
			string(w.Issuer), w.TokenID, string(w.Unit), int64(w.Percent), w.Seq, w.At.UnixMicro(), w.Limit, w.Used); err != nil {
			return fmt.Errorf("warning about %s: %w", w.TokenID, err)
		}
	}
	for i := range c.Agents {
		if err := t.putAgent(&c.Agents[i]); err != nil {
			return fmt.Errorf("agent %s: %w", c.Agents[i].ID, err)
		}
	}
	for i := range c.Breaches {
		if err := t.putBreach(&c.Breaches[i]); err != nil {
			return fmt.Errorf("breach %s: %w", c.Breaches[i].Breach.ID, err)
		}
	}
	if err := t.appendEntries(c.Entries); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if err := t.seal(c); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if err := t.putCounters(c.Counters); err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	return t.remove(c)
}

func (t *tx) insertTask(k *ledger.Task) error {
	_, err := t.c.exec(`INSERT INTO tasks (seq, task_id, consumer, envelope_id, digest, agent, verified, skill, parent_task, trace_id, links,
		ceiling_nano_usd, started_us, expires_us, state, ended_us, end_seq, record_id, settlement, failure, charged_nano_usd, instance)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		k.Seq, string(k.ID), string(k.Consumer), orNull(string(k.EnvelopeID)), k.Digest[:], string(k.Agent), flag(k.Verified), k.Skill,
		string(k.ParentTask), k.TraceID, int64(len(k.Links)), money(k.Ceiling), k.StartedAt.UnixMicro(), timeOrNull(k),
		int64(ledger.Held), nil, nil, nil, nil, nil, nil, orNull(k.Instance))
	for i := 0; i < len(k.Links) && err == nil; i++ {
		_, err = t.c.exec(`INSERT INTO task_links (task_seq, link, issuer, token_id) VALUES (?, ?, ?, ?)`,
			k.Seq, int64(i), string(k.Links[i].Issuer), k.Links[i].TokenID)
	}
	return err
}

func (t *tx) endTask(k *ledger.Task) error {
	var changed int64
	var err error
	if k.State == ledger.Released { // the only end that frees the key, and touches its index
		changed, err = t.c.exec(`UPDATE tasks SET state = ?, envelope_id = NULL, ended_us = ?, end_seq = ?, failure = ?, instance = NULL WHERE seq = ?`,
			int64(k.State), k.EndedAt.UnixMicro(), k.End.Seq, orNull(k.Failure), k.Seq)
	} else {
		changed, err = t.c.exec(`UPDATE tasks SET state = ?, ended_us = ?, end_seq = ?, record_id = ?, settlement = ?, failure = ?, charged_nano_usd = ?, instance = NULL WHERE seq = ?`,
			int64(k.State), k.EndedAt.UnixMicro(), k.End.Seq, k.RecordID, k.Settlement[:], orNull(k.Failure), money(k.Charged), k.Seq)
	}
	if err == nil && changed != 1 {
		err = fmt.Errorf("%d rows", changed)
	}
	if err == nil && k.Answer != nil {
		_, err = t.c.exec(`INSERT INTO answers (task_seq, ended_us, answer) VALUES (?, ?, ?)`, k.Seq, k.EndedAt.UnixMicro(), k.Answer)
	}
	return err
}

func (t *tx) putBudget(b *ledger.Budget) error {
	var tasks driver.Value
	if b.LimitTasks != nil {
		tasks = *b.LimitTasks
	}
	_, err := t.c.exec(`REPLACE INTO budgets (issuer, token_id, limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd,
		overrun_nano_usd) VALUES (?,?,?,?,?,?,?,?,?)`, string(b.Issuer), b.TokenID, tasks, money(b.LimitNanoUSD), b.UsedTasks, b.HeldTasks,
		int64(b.UsedNanoUSD), int64(b.HeldNanoUSD), int64(b.OverrunNanoUSD))
	return err
}

func (t *tx) insertRecord(s *ledger.StoredRecord) error {
	r := &s.Record
	var delegation driver.Value
	if r.Delegation != nil {
		delegation = r.Delegation.TokenID
	}
	var task driver.Value
	if s.Task != nil {
		task = s.Task.Seq
	}
	_, err := t.c.exec(`INSERT OR ROLLBACK INTO usage_records (seq, id, digest, entry_seq, timestamp_us, agent, consumer, task_id, skill, outcome, delegation, ref, task_seq, octets)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`, r.Sequence, r.ID, s.Digest[:], s.Entry.Seq, r.Timestamp.UnixMicro(), string(r.Agent), string(r.Consumer),
		string(r.TaskID), r.Skill, string(r.Outcome), delegation, orNull(r.Ref), task, s.Octets)
	return err
}

func (t *tx) putRollup(v *ledger.Rollup) error {
	k, s := &v.Key, &v.Sums
	_, err := t.c.exec(`REPLACE INTO usage_rollups (span, start_us, delegation, agent, consumer, outcome, skill, `+sumColumns+`)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`, int64(k.Span), k.StartUS, k.Delegation, string(k.Agent), string(k.Consumer), string(k.Outcome), k.Skill,
		s.Tasks, s.TokensIn, s.TokensOut, s.APICalls, s.DurationMS, int64(s.CostNanoUSD), s.Unpriced, s.Unreported)
	return err
}

func (t *tx) appendEntries(entries []audit.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	for i := range entries {
		e := &entries[i]
		if _, err := t.c.exec(`INSERT OR ROLLBACK INTO audit_entries (seq, id, timestamp_us, event_type, actor, subject, octets, hash) VALUES (?,?,?,?,?,?,?,?)`,
			e.Seq, e.ID, e.Timestamp.UnixMicro(), e.Type, e.Actor, e.Subject, e.Octets, e.Hash[:]); err != nil {
			return err
		}
		t.mark(e)
	}
	for key := range t.blocks {
		if _, err := t.c.exec(`INSERT OR IGNORE INTO audit_blocks (urn, block) VALUES (?, ?)`, key.urn, key.block); err != nil {
			return err
		}
	}
	head := &entries[len(entries)-1]
	changed, err := t.c.exec(`UPDATE audit_head SET seq = ?, hash = ?`, head.Seq, head.Hash[:])
	if err == nil && changed == 0 {
		_, err = t.c.exec(`INSERT INTO audit_head (seq, hash) VALUES (?, ?)`, head.Seq, head.Hash[:])
	}
	return err
}

// blockSize is how many entries share a place in audit_blocks.
const blockSize = 64

// block is a key of audit_blocks.
type block struct {
	urn   string
	block int64
}

// mark notes whom an entry concerns.
func (t *tx) mark(e *audit.Entry) {
	if t.blocks == nil {
		t.blocks = map[block]struct{}{}
	}
	t.blocks[block{e.Actor, e.Seq / blockSize}] = struct{}{}
	for _, party := range e.Parties {
		t.blocks[block{party, e.Seq / blockSize}] = struct{}{}
	}
	if strings.HasPrefix(e.Subject, "urn:") {
		t.blocks[block{e.Subject, e.Seq / blockSize}] = struct{}{}
	}
}

// seal stores checkpoints, and what is kept of a prefix that will be removed.
func (t *tx) seal(c *ledger.Changes) error {
	for i := range c.Checkpoints {
		k := &c.Checkpoints[i]
		if _, err := t.c.exec(`INSERT OR ROLLBACK INTO audit_checkpoints (size, root, note) VALUES (?, ?, ?)`, k.Size, k.Root[:], string(k.Note)); err != nil {
			return err
		}
	}
	for i := range c.TreeNodes {
		n := &c.TreeNodes[i]
		if _, err := t.c.exec(`INSERT OR IGNORE INTO audit_tree (level, position, hash) VALUES (?, ?, ?)`, int64(n.Level), n.Position, n.Hash[:]); err != nil {
			return err
		}
	}
	if p := c.Prune; p != nil {
		var hashes []byte
		for _, h := range p.CompactRange {
			hashes = append(hashes, h[:]...)
		}
		if _, err := t.c.exec(`INSERT INTO audit_prune (min_index, head_hash, compact_range, checkpoint_size, at_us) VALUES (?, ?, ?, ?, ?)`,
			p.MinIndex, p.HeadHash[:], hashes, p.CheckpointSize, p.AtUS); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) putCounters(c ledger.Counters) error {
	var before driver.Value
	if !c.PurgedBefore.IsZero() {
		before = c.PurgedBefore.UnixMicro()
	}
	_, err := t.c.exec(`UPDATE ledger_counters SET records = ?, purged = ?, purged_before_us = ?`, c.Records, c.Purged, before)
	return err
}

// remove drops rows that are due, a limited number at a time.
func (t *tx) remove(c *ledger.Changes) error {
	if c.RemovePurged > 0 {
		before := c.Counters.PurgedBefore.UnixMicro()
		const doomed = `(SELECT seq FROM usage_records WHERE timestamp_us < ?1 ORDER BY timestamp_us, seq LIMIT ?2)`
		if _, err := t.c.exec(`INSERT INTO purged_records (id, digest, task_id, entry_seq)
			SELECT id, digest, task_id, entry_seq FROM usage_records WHERE seq IN `+doomed, before, int64(c.RemovePurged)); err != nil {
			return fmt.Errorf("keep the keys of purged records: %w", err)
		}
		n, err := t.c.exec(`DELETE FROM usage_records WHERE seq IN `+doomed, before, int64(c.RemovePurged))
		if err != nil {
			return fmt.Errorf("purge: %w", err)
		}
		*c.Removed += n
		if _, err := t.c.exec(`UPDATE ledger_counters SET purged = purged + ?`, n); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	if c.RemovePruned > 0 {
		n, err := t.c.exec(`DELETE FROM audit_entries WHERE seq IN (SELECT seq FROM audit_entries
			WHERE seq < coalesce((SELECT max(min_index) FROM audit_prune), 0) ORDER BY seq LIMIT ?)`, int64(c.RemovePruned))
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		*c.Removed += n
	}
	if c.DropAnswers > 0 {
		newest, err := t.c.one(`SELECT max(seq) FROM audit_entries`)
		if err != nil {
			return fmt.Errorf("drop answers: %w", err)
		}
		size, _ := newest.(int64)
		size++
		// What ended before a time also started before it, so its key is below
		// that of the first entry since.
		first, err := seqAt(func(seq int64) (us int64, err error) {
			v, err := t.c.one(entryTime, seq)
			us, _ = v.(int64)
			return us, err
		}, size, c.DropAnswersBefore.UnixMicro())
		if err != nil {
			return fmt.Errorf("drop answers: %w", err)
		}
		n, err := t.c.exec(`DELETE FROM answers WHERE task_seq IN (SELECT task_seq FROM answers WHERE task_seq < ? AND ended_us < ? LIMIT ?)`,
			first, c.DropAnswersBefore.UnixMicro(), int64(c.DropAnswers))
		if err != nil {
			return fmt.Errorf("drop answers: %w", err)
		}
		*c.Removed += n
	}
	return nil
}

func orNull(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

func money(m *metering.NanoUSD) driver.Value {
	if m == nil {
		return nil
	}
	return int64(*m)
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func timeOrNull(k *ledger.Task) driver.Value {
	if k.ExpiresAt.IsZero() {
		return nil
	}
	return k.ExpiresAt.UnixMicro()
}
