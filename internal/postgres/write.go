package postgres

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// changing puts the statements that write changes into a batch: one statement
// for each table, whatever the number of rows, which go in as columns.
type changing struct {
	batch *pgx.Batch
	tally *tally
}

func (w *changing) changes(c *ledger.Changes) error {
	if err := w.tasks(c); err != nil {
		return err
	}
	w.budgets(c.Budgets)
	w.records(c.Records)
	w.rollups(c.Rollups)
	for _, p := range c.PriceLists {
		w.batch.Queue(`INSERT INTO price_lists (hash, agent, canonical, at_us) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			p.Hash, string(p.Agent), p.Canonical, p.At.UnixMicro())
	}
	for i := range c.Tokens {
		if err := w.token(&c.Tokens[i]); err != nil {
			return err
		}
	}
	for i := range c.Revocations {
		r := &c.Revocations[i]
		w.batch.Queue(`INSERT INTO revocations (issuer, token_id, at_us, actor, reason, entry_seq) VALUES ($1, $2, $3, $4, $5, $6)`,
			string(r.Issuer), r.TokenID, r.At.UnixMicro(), string(r.Actor), r.Reason, r.Receipt.Seq)
	}
	for i := range c.Warnings {
		v := &c.Warnings[i]
		w.batch.Queue(`INSERT INTO limit_warnings (issuer, token_id, unit, percent, seq, at_us, of_limit, used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT DO NOTHING`, string(v.Issuer), v.TokenID, string(v.Unit), v.Percent, v.Seq, v.At.UnixMicro(), v.Limit, v.Used)
	}
	for i := range c.Agents {
		w.agent(&c.Agents[i])
	}
	for i := range c.Breaches {
		if err := w.breach(&c.Breaches[i]); err != nil {
			return err
		}
	}
	w.entries(c.Entries)
	w.seal(c)
	w.head(c)
	w.remove(c)
	return nil
}

// exactly queues a statement that returns the rows it changes, and makes the
// server refuse everything unless there are so many: the COMMIT is under way
// already when its answer comes.
func (w *changing) exactly(n int, sql string, args ...any) {
	//nolint:gosec // the statements are texts of this package
	w.batch.Queue(fmt.Sprintf(`WITH changed AS (%s RETURNING 1) SELECT 1 / (count(*) = $%d)::int FROM changed`, sql, len(args)+1), append(args, n)...)
}

func (w *changing) tasks(c *ledger.Changes) error {
	fresh := make(map[int64]bool, len(c.NewTasks))
	for _, t := range c.NewTasks {
		fresh[t.Seq] = true
	}
	// The key that a release frees may be taken again in the same group.
	var released []int64
	for _, t := range c.EndedTasks {
		if t.State == ledger.Released && !fresh[t.Seq] {
			released = append(released, t.Seq)
		}
	}
	if len(released) > 0 {
		w.exactly(len(released), `UPDATE tasks SET envelope_id = NULL WHERE seq = ANY($1)`, released)
	}
	if len(c.NewTasks) > 0 {
		if err := w.newTasks(c.NewTasks); err != nil {
			return err
		}
	}
	if len(c.EndedTasks) > 0 {
		w.endedTasks(c)
	}
	return nil
}

func (w *changing) newTasks(tasks []*ledger.Task) error {
	n := len(tasks)
	seq, started := make([]int64, n), make([]int64, n)
	id, consumer, agent, skill, parent, trace := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	envelope, links := make([]*string, n), make([]*string, n)
	digest, verified := make([][]byte, n), make([]bool, n)
	ceiling, expires := make([]*int64, n), make([]*int64, n)
	instance := make([]string, n)
	for i, t := range tasks {
		seq[i], started[i], id[i], consumer[i], agent[i] = t.Seq, t.StartedAt.UnixMicro(), string(t.ID), string(t.Consumer), string(t.Agent)
		skill[i], parent[i], trace[i], envelope[i] = t.Skill, string(t.ParentTask), t.TraceID, orNull(string(t.EnvelopeID))
		digest[i], verified[i], ceiling[i], instance[i] = t.Digest[:], t.Verified, money(t.Ceiling), t.Instance
		if !t.ExpiresAt.IsZero() {
			expires[i] = new(t.ExpiresAt.UnixMicro())
		}
		if len(t.Links) > 0 {
			pairs := make([][2]string, len(t.Links))
			for j, link := range t.Links {
				pairs[j] = [2]string{string(link.Issuer), link.TokenID}
			}
			text, err := json.Marshal(pairs)
			if err != nil {
				return err
			}
			links[i] = new(string(text))
		}
	}
	w.batch.Queue(`INSERT INTO tasks (seq, task_id, consumer, envelope_id, digest, agent, verified, skill, parent_task, trace_id, links, ceiling_nano_usd,
		started_us, expires_us) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::boolean[],
		$8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[])`,
		seq, id, consumer, envelope, digest, agent, verified, skill, parent, trace, links, ceiling, started, expires)
	// One that has ended in the same group leaves with the others.
	w.batch.Queue(`INSERT INTO holds (task_seq, started_us, expires_us, instance) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])`,
		seq, started, expires, instance)
	// Who takes on a task is alive.
	w.batch.Queue(`INSERT INTO instances (instance, until) SELECT i, clock_timestamp() + make_interval(secs => $2) FROM unnest($1::text[]) AS k (i)
		ON CONFLICT (instance) DO UPDATE SET until = excluded.until WHERE instances.until < excluded.until - interval '1 second'`,
		texts(instance), ledger.InstanceLease.Seconds())
	return nil
}

func (w *changing) endedTasks(c *ledger.Changes) {
	n := len(c.EndedTasks)
	seq, ended, end := make([]int64, n), make([]int64, n), make([]int64, n)
	state := make([]int16, n)
	record, failure := make([]*string, n), make([]*string, n)
	settlement, charged := make([][]byte, n), make([]*int64, n)
	var answered, answeredAt []int64
	var answers [][]byte
	for i, t := range c.EndedTasks {
		seq[i], ended[i], end[i], state[i] = t.Seq, t.EndedAt.UnixMicro(), t.End.Seq, int16(t.State) //nolint:gosec // a state is 0 to 3
		failure[i] = orNull(t.Failure)
		if t.State != ledger.Released {
			record[i], settlement[i], charged[i] = new(t.RecordID), t.Settlement[:], money(t.Charged)
		}
		if t.Answer != nil {
			answered, answeredAt, answers = append(answered, t.Seq), append(answeredAt, ended[i]), append(answers, t.Answer)
		}
	}
	w.exactly(n, `DELETE FROM holds WHERE task_seq = ANY($1)`, seq)
	w.batch.Queue(`INSERT INTO task_ends (task_seq, state, ended_us, end_seq, record_id, settlement, failure, charged_nano_usd)
		SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::text[], $8::bigint[])`,
		seq, state, ended, end, record, settlement, failure, charged)
	if len(answered) > 0 {
		w.batch.Queue(`INSERT INTO answers (task_seq, ended_us, answer) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])`,
			answered, answeredAt, answers)
	}
}

func (w *changing) budgets(budgets []ledger.Budget) {
	n := len(budgets)
	if n == 0 {
		return
	}
	issuer, token := make([]string, n), make([]string, n)
	limitTasks, limitCost := make([]*int64, n), make([]*int64, n)
	usedTasks, heldTasks, usedCost, heldCost, overrun := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i := range budgets {
		b := &budgets[i]
		issuer[i], token[i], limitTasks[i], limitCost[i] = string(b.Issuer), b.TokenID, b.LimitTasks, money(b.LimitNanoUSD)
		usedTasks[i], heldTasks[i], usedCost[i], heldCost[i], overrun[i] = b.UsedTasks, b.HeldTasks, int64(b.UsedNanoUSD), int64(b.HeldNanoUSD), int64(b.OverrunNanoUSD)
	}
	w.batch.Queue(`INSERT INTO budgets (issuer, token_id, limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd, overrun_nano_usd)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
		ON CONFLICT (issuer, token_id) DO UPDATE SET limit_tasks = excluded.limit_tasks, limit_nano_usd = excluded.limit_nano_usd,
		used_tasks = excluded.used_tasks, held_tasks = excluded.held_tasks, used_nano_usd = excluded.used_nano_usd,
		held_nano_usd = excluded.held_nano_usd, overrun_nano_usd = excluded.overrun_nano_usd`,
		issuer, token, limitTasks, limitCost, usedTasks, heldTasks, usedCost, heldCost, overrun)
}

func (w *changing) records(records []*ledger.StoredRecord) {
	n := len(records)
	if n == 0 {
		return
	}
	at, seq, entry := make([]int64, n), make([]int64, n), make([]int64, n)
	id, agent, consumer, task, skill, outcome := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	delegation, ref, taskSeq := make([]*string, n), make([]*string, n), make([]*int64, n)
	octets, digest := make([][]byte, n), make([][]byte, n)
	for i, s := range records {
		r := &s.Record
		at[i], seq[i], entry[i], id[i] = r.Timestamp.UnixMicro(), r.Sequence, s.Entry.Seq, r.ID
		agent[i], consumer[i], task[i], skill[i], outcome[i] = string(r.Agent), string(r.Consumer), string(r.TaskID), r.Skill, string(r.Outcome)
		if r.Delegation != nil {
			delegation[i] = &r.Delegation.TokenID
		}
		if s.Task != nil {
			taskSeq[i] = &s.Task.Seq
		}
		ref[i], octets[i], digest[i] = orNull(r.Ref), s.Octets, s.Digest[:]
	}
	w.batch.Queue(`INSERT INTO usage_ids (id, seq, timestamp_us, digest, entry_seq)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[])`, id, seq, at, digest, entry)
	w.batch.Queue(`INSERT INTO usage_records (timestamp_us, seq, id, entry_seq, agent, consumer, task_id, skill, outcome, delegation, ref, task_seq, octets)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
		$10::text[], $11::text[], $12::bigint[], $13::bytea[])`,
		at, seq, id, entry, agent, consumer, task, skill, outcome, delegation, ref, taskSeq, octets)
}

func (w *changing) rollups(rollups []ledger.Rollup) {
	n := len(rollups)
	if n == 0 {
		return
	}
	var c cells
	var sums [8][]int64
	for i := range rollups {
		c.add(&rollups[i].Key)
		s := &rollups[i].Sums
		for j, v := range [...]int64{s.Tasks, s.TokensIn, s.TokensOut, s.APICalls, s.DurationMS, int64(s.CostNanoUSD), s.Unpriced, s.Unreported} {
			sums[j] = append(sums[j], v)
		}
	}
	w.batch.Queue(`INSERT INTO usage_rollups (`+cellColumns+`, `+sumColumns+`)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
		$8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
		ON CONFLICT (span, delegation, start_us, agent, consumer, outcome, skill) DO UPDATE SET tasks = excluded.tasks,
		tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, api_calls = excluded.api_calls, duration_ms = excluded.duration_ms,
		cost_nano_usd = excluded.cost_nano_usd, unpriced = excluded.unpriced, unreported = excluded.unreported`,
		c.span, c.start, c.delegation, c.agent, c.consumer, c.outcome, c.skill,
		sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7])
}

// blockSize is how many entries share a place in audit_blocks.
const blockSize = 64

func (w *changing) entries(entries []audit.Entry) {
	n := len(entries)
	if n == 0 {
		return
	}
	seq, at := make([]int64, n), make([]int64, n)
	id, kind, actor, subject := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	octets, hash := make([][]byte, n), make([][]byte, n)
	type block struct {
		urn   string
		block int64
	}
	blocks := map[block]struct{}{}
	for i := range entries {
		e := &entries[i]
		seq[i], at[i], id[i], kind[i], actor[i], subject[i] = e.Seq, e.Timestamp.UnixMicro(), e.ID, e.Type, e.Actor, e.Subject
		octets[i], hash[i] = e.Octets, e.Hash[:]
		blocks[block{e.Actor, e.Seq / blockSize}] = struct{}{}
		for _, party := range e.Parties {
			blocks[block{party, e.Seq / blockSize}] = struct{}{}
		}
		if strings.HasPrefix(e.Subject, "urn:") {
			blocks[block{e.Subject, e.Seq / blockSize}] = struct{}{}
		}
	}
	urns, numbers := make([]string, 0, len(blocks)), make([]int64, 0, len(blocks))
	for b := range blocks {
		urns, numbers = append(urns, b.urn), append(numbers, b.block)
	}
	w.batch.Queue(`INSERT INTO audit_entries (seq, id, timestamp_us, event_type, actor, subject, octets, hash)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])`,
		seq, id, at, kind, actor, subject, octets, hash)
	w.batch.Queue(`INSERT INTO audit_blocks (urn, block) SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING`, urns, numbers)
}

// seal stores checkpoints, and what is kept of a prefix that will be removed.
func (w *changing) seal(c *ledger.Changes) {
	for i := range c.Checkpoints {
		k := &c.Checkpoints[i]
		w.batch.Queue(`INSERT INTO audit_checkpoints (size, root, note) VALUES ($1, $2, $3)`, k.Size, k.Root[:], string(k.Note))
	}
	for i := range c.TreeNodes {
		n := &c.TreeNodes[i]
		w.batch.Queue(`INSERT INTO audit_tree (level, position, hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, n.Level, n.Position, n.Hash[:])
	}
	if p := c.Prune; p != nil {
		var hashes []byte
		for _, h := range p.CompactRange {
			hashes = append(hashes, h[:]...)
		}
		if hashes == nil {
			hashes = []byte{}
		}
		w.batch.Queue(`INSERT INTO audit_prune (min_index, head_hash, compact_range, checkpoint_size, at_us) VALUES ($1, $2, $3, $4, $5)`,
			p.MinIndex, p.HeadHash[:], hashes, p.CheckpointSize, p.AtUS)
	}
}

// head moves the head row, which every commit of the ledger does.
func (w *changing) head(c *ledger.Changes) {
	var before, seq *int64
	var hash []byte
	if !c.Counters.PurgedBefore.IsZero() {
		before = new(c.Counters.PurgedBefore.UnixMicro())
	}
	if n := len(c.Entries); n > 0 {
		seq, hash = &c.Entries[n-1].Seq, c.Entries[n-1].Hash[:]
	}
	w.exactly(1, `UPDATE ledger_head SET version = version + 1, records = $1, purged = $2, purged_before_us = $3,
		seq = coalesce($4, seq), hash = coalesce($5, hash)`, c.Counters.Records, c.Counters.Purged, before, seq, hash)
}

// remove drops rows that are due, a limited number at a time.
func (w *changing) remove(c *ledger.Changes) {
	count := func(sql string, args ...any) {
		w.batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			return all(rows, func(r *row) error { w.tally.removed += r.int(0); return nil })
		})
	}
	if c.RemovePurged > 0 {
		count(`WITH doomed AS (SELECT timestamp_us, seq FROM usage_records WHERE timestamp_us < $1 ORDER BY timestamp_us, seq LIMIT $2),
			gone AS (DELETE FROM usage_records u USING doomed d WHERE u.timestamp_us = d.timestamp_us AND u.seq = d.seq RETURNING u.id, u.task_id),
			kept AS (UPDATE usage_ids i SET purged = true, task_id = g.task_id FROM gone g WHERE i.id = g.id),
			counted AS (UPDATE ledger_head SET purged = purged + (SELECT count(*) FROM gone))
			SELECT count(*) FROM gone`, c.Counters.PurgedBefore.UnixMicro(), c.RemovePurged)
	}
	if c.RemovePruned > 0 {
		count(`WITH gone AS (DELETE FROM audit_entries WHERE seq IN (SELECT seq FROM audit_entries
			WHERE seq < coalesce((SELECT max(min_index) FROM audit_prune), 0) ORDER BY seq LIMIT $1) RETURNING 1) SELECT count(*) FROM gone`, c.RemovePruned)
	}
	if c.DropAnswers > 0 {
		count(`WITH gone AS (DELETE FROM answers WHERE task_seq IN (SELECT task_seq FROM answers WHERE ended_us < $1 ORDER BY ended_us LIMIT $2) RETURNING 1)
			SELECT count(*) FROM gone`, c.DropAnswersBefore.UnixMicro(), c.DropAnswers)
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func money(m *metering.NanoUSD) *int64 {
	if m == nil {
		return nil
	}
	return new(int64(*m))
}
