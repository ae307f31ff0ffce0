package sqlite_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// callers is how many goroutines post at once in P3 and P7.
const callers = 64

// BenchmarkSettle64 is P3: durable settlements by 64 callers, and in the same
// run the physical limit, which appends and syncs the same bytes in the same
// batches. ratio is limit time / ledger time.
func BenchmarkSettle64(b *testing.B) {
	benchmarkPostings(b, nil, false)
}

// BenchmarkAdmitSettle64 counts both halves of a task.
func BenchmarkAdmitSettle64(b *testing.B) {
	benchmarkPostings(b, nil, true)
}

// BenchmarkAdmitSettleChain64 is P7: one hot budget of three links. x-row-lock is
// how many times as fast as a transaction with row locks for each call, in the
// same run.
func BenchmarkAdmitSettleChain64(b *testing.B) {
	limit := int64(1 << 40)
	benchmarkPostings(b, []ledger.Link{
		{Issuer: "urn:asap:agent:root", TokenID: "del_0", LimitTasks: &limit},
		{Issuer: "urn:asap:agent:middle", TokenID: "del_1", LimitTasks: &limit},
		{Issuer: "urn:asap:agent:leaf", TokenID: "del_2", LimitTasks: &limit},
	}, true)
}

func benchmarkPostings(b *testing.B, links []ledger.Link, both bool) {
	ctx := b.Context()
	dir := b.TempDir()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "asap.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var groups []int // sizes of the commits that were measured
	var bytes atomic.Int64
	var counting atomic.Bool
	l, err := ledger.Open(ctx, store, ledger.Options{Origin: "bench.example/log", Committed: func(batch ledger.Batch) {
		if !counting.Load() {
			return
		}
		groups = append(groups, len(batch.Entries))
		for i := range batch.Entries {
			bytes.Add(int64(len(batch.Entries[i].Octets)))
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error)
	go func() { stopped <- l.Run(run) }()

	ids := asap.NewIDSource()
	now := time.Now()
	tasks := make([]asap.TaskID, b.N)
	envelopes := make([]asap.EnvelopeID, b.N)
	for i := range tasks {
		tasks[i], envelopes[i] = ids.NewTaskID(now), ids.NewEnvelopeID(now)
	}
	answer := []byte(`{"id":"01KGB7ZK00000000000000000A","payload_type":"task.response","payload":{"task_id":"t","status":"completed","result":{"echo":"hello"}}}`)
	admit := func(i int) {
		if _, err := l.Admit(ctx, ledger.Admission{TaskID: tasks[i], Consumer: consumer(i), EnvelopeID: envelopes[i],
			Digest: sha256.Sum256([]byte(envelopes[i])), Agent: "urn:asap:agent:worker", Skill: "echo", Links: links}); err != nil {
			b.Error(err)
		}
	}
	in, out, calls := int64(1200), int64(340), int64(2)
	settle := func(i int) {
		r := metering.Record{Agent: "urn:asap:agent:worker", Consumer: consumer(i), Skill: "echo", Outcome: metering.Completed,
			Evidence: metering.Observed, TokensIn: &in, TokensOut: &out, APICalls: &calls, DurationMS: new(int64(12))}
		if _, err := l.Settle(ctx, ledger.Settlement{TaskID: tasks[i], Record: r, Answer: answer}); err != nil {
			b.Error(err)
		}
	}
	if !both {
		inParallel(b.N, callers, admit)
	}
	counting.Store(true)
	b.ResetTimer()
	started, cpuBefore := time.Now(), cpuTime(b)
	inParallel(b.N, callers, func(i int) {
		if both {
			admit(i)
		}
		settle(i)
	})
	ledgerTime, cpu := time.Since(started), cpuTime(b)-cpuBefore
	b.StopTimer()
	stop()
	if err := <-stopped; err != nil {
		b.Fatal(err)
	}
	floor := floorTime(b, filepath.Join(dir, "floor"), groups, int(bytes.Load()))
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
	if links != nil {
		b.ReportMetric(float64(b.N)/ledgerTime.Seconds()/rowLockRate(b, dir), "x-row-lock")
	}
	b.ReportMetric(float64(b.N)/ledgerTime.Seconds(), "postings/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/posting")
	b.ReportMetric(floor.Seconds()/ledgerTime.Seconds(), "ratio")
	b.ReportMetric(float64(b.N)/float64(max(1, len(groups))), "postings/commit")
}

// floorTime appends and syncs the entries of each group to a file and chains
// their hashes: nothing durable and tamper-evident can be faster.
func floorTime(b *testing.B, path string, groups []int, total int) time.Duration {
	b.Helper()
	entries := 0
	for _, n := range groups {
		entries += n
	}
	entry := make([]byte, total/max(1, entries))
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var hash [32]byte
	buf := make([]byte, 0, 1<<20)
	started := time.Now()
	for _, n := range groups {
		buf = buf[:0]
		for range n {
			copy(entry, hash[:])
			hash = sha256.Sum256(entry)
			buf = append(append(buf, entry...), hash[:]...)
		}
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(started)
}

// cpuTime is what the process has used so far, both cores added up.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func consumer(i int) asap.AgentURN {
	return asap.AgentURN(fmt.Sprintf("urn:asap:agent:consumer-%d", i%8))
}

// inParallel does 0..n-1 with so many workers.
func inParallel(n, workers int, do func(i int)) {
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
