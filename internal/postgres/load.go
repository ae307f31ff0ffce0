package postgres

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// errDamaged reports a database that contradicts itself.
var errDamaged = errors.New("the audit log is damaged, see asap audit verify")

// loading gathers the answer to one Load.
type loading struct {
	out   ledger.Loaded
	tasks map[int64]*ledger.Task
}

// ask queues a query whose rows each gets.
func ask(batch *pgx.Batch, sql string, each func(*row) error, args ...any) {
	batch.Queue(sql, args...).Query(func(rows pgx.Rows) error { return all(rows, each) })
}

// queue puts the queries that answer n into a batch.
func (l *loading) queue(batch *pgx.Batch, n *ledger.Needs) {
	if n.Head {
		ask(batch, `SELECT h.seq, h.hash, h.records, h.purged, h.purged_before_us, e.timestamp_us, e.id, e.hash,
			(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
			FROM ledger_head h LEFT JOIN audit_entries e ON e.seq = h.seq`, l.head)
	}
	if len(n.Envelopes) > 0 {
		consumers, envelopes := make([]string, len(n.Envelopes)), make([]string, len(n.Envelopes))
		for i, k := range n.Envelopes {
			consumers[i], envelopes[i] = string(k.Consumer), string(k.Envelope)
		}
		ask(batch, `SELECT `+taskColumns+`, s.id, s.hash, a.answer FROM unnest($1::text[], $2::text[]) AS k (consumer, envelope_id)
			JOIN tasks t ON t.consumer = k.consumer AND t.envelope_id = k.envelope_id
			LEFT JOIN task_ends d ON d.task_seq = t.seq LEFT JOIN audit_entries e ON e.seq = d.end_seq
			LEFT JOIN audit_entries s ON s.seq = t.seq LEFT JOIN answers a ON a.task_seq = t.seq`, func(r *row) error {
			t, err := l.task(r)
			if err == nil {
				t.Started.EntryID, t.Started.Hash, t.Answer = r.text(23), r.hash(24), r.blob(25)
			}
			return err
		}, consumers, envelopes)
	}
	each := func(r *row) error { _, err := l.task(r); return err }
	if len(n.Tasks) > 0 {
		ask(batch, `SELECT `+taskColumns+` FROM unnest($1::text[]) AS k (task_id) JOIN tasks t ON t.task_id = k.task_id
			LEFT JOIN task_ends d ON d.task_seq = t.seq LEFT JOIN audit_entries e ON e.seq = d.end_seq`, each, texts(n.Tasks))
	}
	if n.HeldTasks > 0 {
		l.held(batch, n, each)
	}
	if len(n.Records) > 0 {
		ask(batch, `SELECT `+recordColumns+` FROM unnest($1::text[]) AS k (id) JOIN usage_ids i ON i.id = k.id
			LEFT JOIN usage_records u ON u.timestamp_us = i.timestamp_us AND u.seq = i.seq LEFT JOIN audit_entries e ON e.seq = i.entry_seq`,
			func(r *row) error {
				rec, err := readRecord(r)
				l.out.Records = append(l.out.Records, rec)
				return err
			}, texts(n.Records))
	}
	if len(n.Corrections) > 0 {
		ask(batch, `SELECT `+recordColumns+` FROM unnest($1::text[]) AS k (ref) JOIN usage_records u ON u.ref = k.ref AND u.ref IS NOT NULL
			JOIN usage_ids i ON i.id = u.id LEFT JOIN audit_entries e ON e.seq = u.entry_seq ORDER BY u.seq`, func(r *row) error {
			rec, err := readRecord(r)
			l.out.Corrections = append(l.out.Corrections, rec)
			return err
		}, texts(n.Corrections))
	}
	if len(n.Budgets) > 0 {
		issuers, ids := keys(n.Budgets)
		ask(batch, `SELECT `+budgetColumns+` FROM unnest($1::text[], $2::text[]) AS k (issuer, token_id)
			JOIN budgets b ON b.issuer = k.issuer AND b.token_id = k.token_id`, func(r *row) error {
			l.out.Budgets = append(l.out.Budgets, readBudget(r))
			return nil
		}, issuers, ids)
	}
	if len(n.Rollups) > 0 {
		l.rollups(batch, n.Rollups)
	}
	if len(n.Revocations) > 0 {
		issuers, ids := keys(n.Revocations)
		ask(batch, `SELECT r.issuer, r.token_id, r.at_us, r.actor, r.reason, r.entry_seq, e.id, e.hash
			FROM unnest($1::text[], $2::text[]) AS k (issuer, token_id) JOIN revocations r ON r.issuer = k.issuer AND r.token_id = k.token_id
			LEFT JOIN audit_entries e ON e.seq = r.entry_seq`, func(r *row) error {
			l.out.Revocations = append(l.out.Revocations, ledger.Revocation{
				Issuer: asap.AgentURN(r.text(0)), TokenID: r.text(1), At: fromUS(r.int(2)), Actor: asap.AgentURN(r.text(3)), Reason: r.text(4),
				Receipt: ledger.Receipt{Seq: r.int(5), EntryID: r.text(6), Hash: r.hash(7)},
			})
			return nil
		}, issuers, ids)
	}
	if len(n.Tokens) > 0 {
		issuers, ids := keys(n.Tokens)
		ask(batch, `SELECT d.issuer, d.token_id FROM unnest($1::text[], $2::text[]) AS k (issuer, token_id)
			JOIN delegations d ON d.issuer = k.issuer AND d.token_id = k.token_id`, func(r *row) error {
			l.out.Tokens = append(l.out.Tokens, ledger.BudgetKey{Issuer: asap.AgentURN(r.text(0)), TokenID: r.text(1)})
			return nil
		}, issuers, ids)
	}
	if len(n.Agents) > 0 {
		l.agents(batch, n.Agents)
	}
	if n.Prunable {
		ask(batch, `SELECT 1 FROM audit_entries WHERE seq < (SELECT max(min_index) FROM audit_prune) LIMIT 1`, func(*row) error {
			l.out.Prunable = true
			return nil
		})
	}
	if n.Entry != nil {
		ask(batch, `SELECT hash FROM audit_entries WHERE seq = $1`, func(r *row) error {
			l.out.Entry = new(r.hash(0))
			return nil
		}, *n.Entry)
	}
	if len(n.Breaches)+len(n.OpenBreaches) > 0 {
		found := func(r *row) error {
			b, err := readBreach(r)
			l.out.Breaches = append(l.out.Breaches, b)
			return err
		}
		ask(batch, `SELECT `+breachColumns+` FROM sla_breach WHERE id = ANY($1)`, found, texts(n.Breaches))
		ask(batch, `SELECT `+breachColumns+` FROM sla_breach WHERE resolved_ms IS NULL AND agent_id = ANY($1)`, found, texts(n.OpenBreaches))
	}
	if !n.PurgeBefore.IsZero() {
		ask(batch, `SELECT count(*) FROM usage_records WHERE timestamp_us < $1`, func(r *row) error {
			l.out.Purgeable = r.int(0)
			return nil
		}, n.PurgeBefore.UnixMicro())
	}
}

func (l *loading) head(r *row) error {
	l.out.Now = fromUS(r.int(8))
	l.out.Counters = ledger.Counters{Records: r.int(2), Purged: r.int(3)}
	if !r.null(4) {
		l.out.Counters.PurgedBefore = fromUS(r.int(4))
	}
	if r.int(0) < 0 {
		return nil
	}
	if r.null(5) || r.hash(1) != r.hash(7) {
		return fmt.Errorf("%w: its head is not its last entry", errDamaged)
	}
	l.out.Head = audit.Head{Size: r.int(0) + 1, Hash: r.hash(1), TimestampUS: r.int(5), LastID: r.text(6)}
	return nil
}

const taskColumns = `t.seq, t.task_id, t.consumer, t.envelope_id, t.digest, t.agent, t.verified, t.skill, t.parent_task, t.trace_id,
	t.links, t.ceiling_nano_usd, t.started_us, t.expires_us, d.state, d.ended_us, d.end_seq, d.record_id, d.settlement, d.failure, d.charged_nano_usd,
	e.id, e.hash`

func (l *loading) held(batch *pgx.Batch, n *ledger.Needs, each func(*row) error) {
	const columns = `SELECT ` + taskColumns + ` FROM holds h JOIN tasks t ON t.seq = h.task_seq
		LEFT JOIN task_ends d ON d.task_seq = t.seq LEFT JOIN audit_entries e ON e.seq = d.end_seq`
	if n.HeldBeside != "" {
		ask(batch, columns+` WHERE h.instance <> $1 AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.instance = h.instance AND i.until > clock_timestamp())
			ORDER BY h.task_seq LIMIT $2`, each, n.HeldBeside, n.HeldTasks)
		return
	}
	if n.HeldExpiredBy.IsZero() {
		ask(batch, columns+` ORDER BY h.task_seq LIMIT $1`, each, n.HeldTasks)
		return
	}
	ask(batch, columns+` WHERE h.expires_us <= $1 ORDER BY h.task_seq LIMIT $2`, each, n.HeldExpiredBy.UnixMicro(), n.HeldTasks)
}

// task makes a task of a row that begins with taskColumns. One that was read
// before is that one.
func (l *loading) task(r *row) (*ledger.Task, error) {
	if t := l.tasks[r.int(0)]; t != nil {
		return t, nil
	}
	t := &ledger.Task{
		Seq: r.int(0), ID: asap.TaskID(r.text(1)), Consumer: asap.AgentURN(r.text(2)), EnvelopeID: asap.EnvelopeID(r.text(3)),
		Digest: r.hash(4), Agent: asap.AgentURN(r.text(5)), Verified: r.int(6) != 0, Skill: r.text(7),
		ParentTask: asap.TaskID(r.text(8)), TraceID: r.text(9), Ceiling: r.money(11), StartedAt: fromUS(r.int(12)),
		State: ledger.TaskState(r.int(14)), RecordID: r.text(17), Settlement: r.hash(18), Failure: r.text(19), Charged: r.money(20),
	}
	t.Started.Seq = t.Seq
	if !r.null(13) {
		t.ExpiresAt = fromUS(r.int(13))
	}
	if !r.null(16) {
		t.EndedAt = fromUS(r.int(15))
		t.End = ledger.Receipt{Seq: r.int(16), EntryID: r.text(21), Hash: r.hash(22)}
	}
	if !r.null(10) {
		pairs, err := readPairs(r.bytes(10))
		if err != nil {
			return nil, fmt.Errorf("links of task %s: %w", t.ID, err)
		}
		for _, k := range pairs {
			t.Links = append(t.Links, ledger.Link{Issuer: k.Issuer, TokenID: k.TokenID})
		}
	}
	l.tasks[t.Seq] = t
	l.out.Tasks = append(l.out.Tasks, t)
	return t, nil
}

// readPairs reads a JSON list of issuers and token ids.
func readPairs(text []byte) ([]ledger.BudgetKey, error) {
	var pairs [][2]string
	if err := json.Unmarshal(text, &pairs); err != nil {
		return nil, err
	}
	keys := make([]ledger.BudgetKey, len(pairs))
	for i, p := range pairs {
		keys[i] = ledger.BudgetKey{Issuer: asap.AgentURN(p[0]), TokenID: p[1]}
	}
	return keys, nil
}

const recordColumns = `i.seq, i.id, i.digest, u.octets, i.entry_seq, e.id, e.hash`

func readRecord(r *row) (*ledger.StoredRecord, error) {
	s := &ledger.StoredRecord{Digest: r.hash(2), Entry: ledger.Receipt{Seq: r.int(4), EntryID: r.text(5), Hash: r.hash(6)}}
	if r.null(3) {
		s.Record, s.Purged = metering.Record{ID: r.text(1)}, true
		return s, nil
	}
	s.Octets = r.blob(3)
	rec, err := metering.ParseRecord(s.Octets)
	if err != nil {
		return nil, fmt.Errorf("usage record %d: %w", r.int(0), err)
	}
	rec.Sequence = r.int(0)
	s.Record = rec
	return s, nil
}

const budgetColumns = `b.issuer, b.token_id, b.limit_tasks, b.limit_nano_usd, b.used_tasks, b.held_tasks, b.used_nano_usd, b.held_nano_usd, b.overrun_nano_usd`

func readBudget(r *row) ledger.Budget {
	return ledger.Budget{Link: ledger.Link{Issuer: asap.AgentURN(r.text(0)), TokenID: r.text(1), LimitTasks: r.number(2), LimitNanoUSD: r.money(3)},
		UsedTasks: r.int(4), HeldTasks: r.int(5), UsedNanoUSD: metering.NanoUSD(r.int(6)), HeldNanoUSD: metering.NanoUSD(r.int(7)),
		OverrunNanoUSD: metering.NanoUSD(r.int(8))}
}

const (
	cellColumns = `span, start_us, delegation, agent, consumer, outcome, skill`
	sumColumns  = `tasks, tokens_in, tokens_out, api_calls, duration_ms, cost_nano_usd, unpriced, unreported`
)

func (l *loading) rollups(batch *pgx.Batch, wanted []ledger.RollupKey) {
	seen := make(map[ledger.RollupKey]bool, len(wanted))
	var c cells
	for _, k := range wanted {
		if !seen[k] {
			seen[k] = true
			c.add(&k)
		}
	}
	ask(batch, `SELECT r.span, r.start_us, r.delegation, r.agent, r.consumer, r.outcome, r.skill, `+sumColumns+`
		FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS k (`+cellColumns+`)
		JOIN usage_rollups r ON r.span = k.span AND r.delegation = k.delegation AND r.start_us = k.start_us AND r.agent = k.agent
			AND r.consumer = k.consumer AND r.outcome = k.outcome AND r.skill = k.skill`, func(r *row) error {
		l.out.Rollups = append(l.out.Rollups, readRollup(r))
		return nil
	}, c.span, c.start, c.delegation, c.agent, c.consumer, c.outcome, c.skill)
}

func readRollup(r *row) ledger.Rollup {
	return ledger.Rollup{Key: ledger.RollupKey{Span: ledger.Span(r.int(0)), StartUS: r.int(1), Delegation: r.text(2), Agent: asap.AgentURN(r.text(3)),
		Consumer: asap.AgentURN(r.text(4)), Outcome: metering.Outcome(r.text(5)), Skill: r.text(6)}, Sums: r.sums(7)}
}

// cells are keys of rollups, column by column.
type cells struct {
	span                                        []int16
	start                                       []int64
	delegation, agent, consumer, outcome, skill []string
}

func (c *cells) add(k *ledger.RollupKey) {
	c.span, c.start = append(c.span, int16(k.Span)), append(c.start, k.StartUS) //nolint:gosec // a span is 0, 1 or 2
	c.delegation, c.agent = append(c.delegation, k.Delegation), append(c.agent, string(k.Agent))
	c.consumer, c.outcome, c.skill = append(c.consumer, string(k.Consumer)), append(c.outcome, string(k.Outcome)), append(c.skill, k.Skill)
}

// keys splits keys of tokens into two columns, each key once.
func keys(list []ledger.BudgetKey) (issuers, ids []string) {
	seen := make(map[ledger.BudgetKey]bool, len(list))
	for _, k := range list {
		if !seen[k] {
			seen[k] = true
			issuers, ids = append(issuers, string(k.Issuer)), append(ids, k.TokenID)
		}
	}
	return issuers, ids
}

// texts is a list of texts as the driver takes it, each once.
func texts[T ~string](list []T) []string {
	seen := make(map[T]bool, len(list))
	out := make([]string, 0, len(list))
	for _, v := range list {
		if !seen[v] {
			seen[v] = true
			out = append(out, string(v))
		}
	}
	return out
}
