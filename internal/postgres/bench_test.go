//go:build postgres

package postgres_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/postgres"
)

// callers is how many goroutines post at once to each ledger in P4 and P7.
const callers = 64

// BenchmarkSettle64 is P4: durable settlements by 64 callers of a ledger, on one
// and on three that share the database. x-insert is how many times as fast as the
// same rows inserted as pgbench would, a transaction for each posting on 64
// connections, in the same run.
func BenchmarkSettle64(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchmarkPostings(b, nodes, nil, false) })
	}
}

// BenchmarkAdmitSettleChain64 is P7: one hot budget of three links. x-row-lock is
// how many times as fast as a transaction with row locks for each call, in the
// same run.
func BenchmarkAdmitSettleChain64(b *testing.B) {
	limit := int64(1 << 40)
	links := []ledger.Link{
		{Issuer: "urn:asap:agent:root", TokenID: "del_0", LimitTasks: &limit},
		{Issuer: "urn:asap:agent:middle", TokenID: "del_1", LimitTasks: &limit},
		{Issuer: "urn:asap:agent:leaf", TokenID: "del_2", LimitTasks: &limit},
	}
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchmarkPostings(b, nodes, links, true) })
	}
}

func benchmarkPostings(b *testing.B, nodes int, links []ledger.Link, both bool) {
	ctx := b.Context()
	url := cluster.Database(b)
	var commits atomic.Int64
	ledgers := make([]*ledger.Ledger, nodes)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for i := range ledgers {
		store, err := postgres.Open(ctx, url, postgres.Options{})
		if err != nil {
			b.Fatal(err)
		}
		l, err := ledger.Open(ctx, store, ledger.Options{Origin: "bench.example/log", Committed: func(ledger.Batch) { commits.Add(1) }})
		if err != nil {
			b.Fatal(err)
		}
		ledgers[i] = l
		running.Go(func() {
			if err := l.Run(run); err != nil {
				b.Error(err)
			}
			if err := store.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	ids, now := asap.NewIDSource(), time.Now()
	tasks, envelopes := make([]asap.TaskID, b.N), make([]asap.EnvelopeID, b.N)
	for i := range tasks {
		tasks[i], envelopes[i] = ids.NewTaskID(now), ids.NewEnvelopeID(now)
	}
	answer := []byte(`{"id":"01KGB7ZK00000000000000000A","payload_type":"task.response","payload":{"task_id":"t","status":"completed","result":{"echo":"hello"}}}`)
	admit := func(i int) {
		if _, err := ledgers[i%nodes].Admit(ctx, ledger.Admission{TaskID: tasks[i], Consumer: consumer(i), EnvelopeID: envelopes[i],
			Digest: sha256.Sum256([]byte(envelopes[i])), Agent: "urn:asap:agent:worker", Skill: "echo", Links: links}); err != nil {
			b.Error(err)
		}
	}
	in, out, calls := int64(1200), int64(340), int64(2)
	settle := func(i int) {
		r := metering.Record{Agent: "urn:asap:agent:worker", Consumer: consumer(i), Skill: "echo", Outcome: metering.Completed,
			Evidence: metering.Observed, TokensIn: &in, TokensOut: &out, APICalls: &calls, DurationMS: new(int64(12))}
		if _, err := ledgers[i%nodes].Settle(ctx, ledger.Settlement{TaskID: tasks[i], Record: r, Answer: answer}); err != nil {
			b.Error(err)
		}
	}
	if !both {
		inParallel(nodes*callers, b.N, admit)
	}
	commits.Store(0)
	b.ResetTimer()
	started := time.Now()
	inParallel(nodes*callers, b.N, func(i int) {
		if both {
			admit(i)
		}
		settle(i)
	})
	rate := float64(b.N) / time.Since(started).Seconds()
	b.StopTimer()
	stop()
	running.Wait()
	b.ReportMetric(rate, "postings/s")
	b.ReportMetric(float64(b.N)/float64(max(1, commits.Load())), "postings/commit")
	if links != nil {
		b.ReportMetric(rate/rowLockRate(b, url), "x-row-lock")
	} else {
		b.ReportMetric(rate/insertRate(b, url), "x-insert")
	}
}

// insertRate is the baseline of P4: how many postings a second go in when each is
// a transaction of its own on one of 64 connections, into tables with the same
// rows and indexes as those of the ledger, without rules, chain and counters.
func insertRate(b *testing.B, url string) float64 {
	b.Helper()
	const postings = 4000
	pool := openPool(b, url)
	defer pool.Close()
	ctx := b.Context()
	if _, err := pool.Exec(ctx, `CREATE TABLE plain_records (LIKE usage_records INCLUDING ALL); CREATE TABLE plain_entries (LIKE audit_entries INCLUDING ALL);
		CREATE TABLE plain_ids (LIKE usage_ids INCLUDING ALL); CREATE TABLE plain_ends (LIKE task_ends INCLUDING ALL);
		CREATE TABLE plain_answers (LIKE answers INCLUDING ALL)`); err != nil {
		b.Fatal(err)
	}
	octets, hash := make([]byte, 420), make([]byte, 32)
	started := time.Now()
	inParallel(callers, postings, func(i int) {
		batch := &pgx.Batch{}
		batch.Queue(`BEGIN`)
		id := fmt.Sprintf("01KGB7ZK%018d", i)
		batch.Queue(`INSERT INTO plain_records VALUES ($1, $2, $3, $4, 'urn:asap:agent:worker', $5, $3, 'echo', 'completed', NULL, NULL, $2, $6)`,
			started.UnixMicro()+int64(i), i, id, 2*i, string(consumer(i)), octets)
		batch.Queue(`INSERT INTO plain_ids VALUES ($1, $2, $3, $4, $5, false, NULL)`, id, i, started.UnixMicro(), hash, 2*i)
		for j := range 2 {
			batch.Queue(`INSERT INTO plain_entries VALUES ($1, $2, $3, 'usage.recorded', 'urn:asap:agent:worker', $2, $4, $5)`, 2*i+j, id, started.UnixMicro(), octets, hash)
		}
		batch.Queue(`INSERT INTO plain_ends VALUES ($1, 1, $2, $3, $4, $5, NULL, NULL)`, i, started.UnixMicro(), 2*i, id, hash)
		batch.Queue(`INSERT INTO plain_answers VALUES ($1, $2, $3)`, i, started.UnixMicro(), octets[:150])
		batch.Queue(`COMMIT`)
		if err := pool.SendBatch(ctx, batch).Close(); err != nil {
			b.Error(err)
		}
	})
	return postings / time.Since(started).Seconds()
}

// rowLockRate is the baseline of P7: tasks a second of what is usually built
// instead, a transaction for each reservation and one for each settlement, each
// with a conditional update of every link's row and one row for the task. It does
// without usage, audit log and answers.
func rowLockRate(b *testing.B, url string) float64 {
	b.Helper()
	const tasks = 512
	pool := openPool(b, url)
	defer pool.Close()
	ctx := b.Context()
	if _, err := pool.Exec(ctx, `CREATE TABLE plain_budgets (link int PRIMARY KEY, most bigint, used bigint, held bigint);
		CREATE TABLE plain_tasks (id int PRIMARY KEY, state int); INSERT INTO plain_budgets SELECT link, 1::bigint << 40, 0, 0 FROM generate_series(0, 2) AS link`); err != nil {
		b.Fatal(err)
	}
	within := func(do func(tx pgx.Tx)) {
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { do(tx); return nil }); err != nil {
			b.Error(err)
		}
	}
	exec := func(tx pgx.Tx, sql string, args ...any) {
		if _, err := tx.Exec(ctx, sql, args...); err != nil {
			b.Error(err)
		}
	}
	started := time.Now()
	inParallel(callers, tasks, func(i int) {
		within(func(tx pgx.Tx) {
			for link := range 3 {
				exec(tx, `UPDATE plain_budgets SET held = held + 1 WHERE link = $1 AND used + held < most`, link)
			}
			exec(tx, `INSERT INTO plain_tasks VALUES ($1, 0)`, i)
		})
		within(func(tx pgx.Tx) {
			for link := range 3 {
				exec(tx, `UPDATE plain_budgets SET held = held - 1, used = used + 1 WHERE link = $1`, link)
			}
			exec(tx, `UPDATE plain_tasks SET state = 1 WHERE id = $1`, i)
		})
	})
	return tasks / time.Since(started).Seconds()
}

func openPool(b *testing.B, url string) *pgxpool.Pool {
	b.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns, config.MinConns = callers, callers
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

func consumer(i int) asap.AgentURN {
	return asap.AgentURN(fmt.Sprintf("urn:asap:agent:consumer-%d", i%8))
}

// inParallel does 0..n-1 with that many workers.
func inParallel(workers, n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
}
