package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	immudb "github.com/codenotary/immudb/embedded/store"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/go-logr/logr"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/load"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// evidenceLog is a contender beside P11: a log that can be verified. append is
// called by many at once and returns when the entry is durable; verify checks
// the whole log once all are in; nil: measured otherwise.
type evidenceLog struct {
	append func(ctx context.Context, entry []byte) error
	verify func(ctx context.Context, entries int) error
	close  func() error
}

// entryOf is about what an audit entry of a task is.
func entryOf(i int) []byte {
	return fmt.Appendf(nil, `{"actor":"urn:asap:agent:worker","details":{"agent":"urn:asap:agent:worker","consumer":"urn:asap:agent:customer-%d","cost_nano_usd":100000,"outcome":"completed",`+
		`"record":"01KGB7ZK0000000000%08d","row_hash":"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"},"event_type":"usage.recorded","id":"01KGB7ZK0000000000%08d",`+
		`"prev":"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","seq":%d,"subject":"task_%d","timestamp":"2026-11-22T00:00:00.000000Z"}`, i%8, i, i, i, i)
}

// openOwn is our ledger on SQLite, appending entries of the audit log alone.
func openOwn(ctx context.Context, dir string) (*evidenceLog, error) {
	store, err := sqlite.Open(ctx, filepath.Join(dir, "asap.db"), sqlite.Options{})
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, store, ledger.Options{Origin: "bench.example/log"})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- l.Run(running) }()
	return &evidenceLog{
		append: func(ctx context.Context, entry []byte) error {
			_, err := l.Append(ctx, audit.Event{Type: audit.ConfigChanged, Actor: "urn:asap:agent:worker", Subject: "bench", Details: jsontext.Value(entry)})
			return err
		},
		close: func() error { stop(); return errors.Join(<-done, store.Close()) },
	}, nil
}

// openTessera is a POSIX log of tessera. Its entries are durable when they have
// their index; batches are as large as ours can be.
func openTessera(ctx context.Context, dir string) (*evidenceLog, error) {
	private, public, err := note.GenerateKey(rand.Reader, "bench.example/log")
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	appender, shutdown, reader, err := tessera.NewAppender(running, driver,
		tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(connections, 5*time.Millisecond).WithCheckpointInterval(time.Second))
	if err != nil {
		stop()
		return nil, err
	}
	return &evidenceLog{
		append: func(ctx context.Context, entry []byte) error {
			_, err := appender.Add(ctx, tessera.NewEntry(entry))()
			return err
		},
		verify: func(ctx context.Context, entries int) error {
			// The checkpoint follows within its interval.
			for {
				text, err := reader.ReadCheckpoint(ctx)
				if err == nil && strings.Split(string(text), "\n")[1] == strconv.Itoa(entries) {
					break
				}
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(10 * time.Millisecond):
				}
			}
			return fsck.New(verifier.Name(), verifier, reader, leafHashes, fsck.Opts{N: 1}).Check(ctx)
		},
		close: func() error {
			err := shutdown(ctx)
			stop()
			return err
		},
	}, nil
}

// leafHashes are the RFC 6962 hashes of the entries of a bundle.
func leafHashes(text []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(text); err != nil {
		return nil, err
	}
	out := make([][]byte, len(bundle.Entries))
	for i, entry := range bundle.Entries {
		h := sha256.Sum256(append([]byte{0}, entry...))
		out[i] = h[:]
	}
	return out, nil
}

// openImmudb is immudb's embedded store with every transaction synced; it groups
// those that wait by itself.
func openImmudb(_ context.Context, dir string) (*evidenceLog, error) {
	st, err := immudb.Open(dir, immudb.DefaultOptions().WithSynced(true).WithMaxConcurrency(connections).WithSyncFrequency(time.Millisecond).
		WithLogger(logger.NewMemoryLoggerWithLevel(logger.LogError)))
	if err != nil {
		return nil, err
	}
	return &evidenceLog{
		append: func(ctx context.Context, entry []byte) error {
			tx, err := st.NewWriteOnlyTx(ctx)
			if err != nil {
				return err
			}
			key := sha256.Sum256(entry)
			if err := tx.Set(key[:], nil, entry); err != nil {
				return err
			}
			_, err = tx.Commit(ctx)
			return err
		},
		verify: func(ctx context.Context, entries int) error {
			last := st.LastCommittedTxID()
			if last != uint64(entries) { //nolint:gosec // not negative
				return fmt.Errorf("%d transactions, want %d", last, entries)
			}
			tx := immudb.NewTx(st.MaxTxEntries(), st.MaxKeyLen())
			for id := uint64(1); id <= last && ctx.Err() == nil; id++ {
				if err := st.ReadTx(id, false, tx); err != nil {
					return err
				}
				for _, e := range tx.Entries() {
					if _, err := st.ReadValue(e); err != nil { // checked against its hash
						return err
					}
				}
			}
			return ctx.Err()
		},
		close: st.Close,
	}, nil
}

// verifyAudit is P11, with two other logs of evidence beside it.
func verifyAudit(ctx context.Context, b *bench) (outcome, error) {
	klog.SetLogger(logr.Discard()) // tessera's
	entries := pick(b, 1_000_000, 100_000)
	m, err := b.goBench(ctx, goBench{pkg: "./internal/auditlog", pattern: "^BenchmarkVerify$", env: []string{"ASAP_BENCH_ENTRIES=" + strconv.Itoa(entries)},
		time: pick(b, "5x", "3x"), count: 1, limit: 10 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("Verify", "database/sha256", "export/sha256", "MiB-live")
	if err != nil {
		return outcome{}, err
	}
	contenders := []struct {
		name string
		open func(context.Context, string) (*evidenceLog, error)
	}{
		{"asap-go on SQLite", openOwn}, {"tessera, POSIX", openTessera}, {"immudb, embedded", openImmudb},
	}
	n := pick(b, 20_000, 4_000)
	all := make([][]byte, n)
	total := 0
	for i := range all {
		all[i] = entryOf(i)
		total += len(all[i])
	}
	rates, ratios := make([][]float64, len(contenders)), make([][]float64, len(contenders))
	for range pick(b, 3, 1) {
		for i, c := range contenders {
			rate, ratio, err := b.appendAndVerify(ctx, c.open, all)
			if err != nil {
				return outcome{}, fmt.Errorf("%s: %w", c.name, err)
			}
			rates[i] = append(rates[i], rate)
			if ratio > 0 {
				ratios[i] = append(ratios[i], ratio)
			}
		}
	}
	o := outcome{
		Reached: fmt.Sprintf("%s entries: SQLite %.1f, export %.1f; %.2f MiB live", thousands(entries), v[0], v[1], v[2]),
		Met:     metIf(v[0] <= 4, v[1] <= 4, v[2] < 16),
	}
	verification := chart{Title: "P11: verification of a whole log against SHA-256 of its bytes (shorter is better)", Unit: "×", Line: 4, LineName: "4",
		Bars: []bar{{"asap-go, SQLite", v[0], true}, {"asap-go, export", v[1], true}}}
	appended := chart{Title: "P11: durable entries a second, 64 callers (longer is better)", Unit: "/s"}
	for i, c := range contenders {
		appended.Bars = append(appended.Bars, bar{c.name, median(rates[i]), i == 0})
		if i > 0 {
			verification.Bars = append(verification.Bars, bar{c.name, median(ratios[i]), false})
		}
	}
	o.Charts = []chart{verification, appended}
	o.Details = []string{
		fmt.Sprintf("Verification of ours checks the chain of hashes, every column, signed checkpoints and the Merkle roots; tessera's fsck rebuilds every tile; immudb reads every transaction with its integrity check, and every value. Peers: %s entries of %d bytes.", thousands(n), total/n),
		fmt.Sprintf("Appending, entries alone, in turn: ours %.0f, tessera %.0f, immudb %.0f a second. Ours and immudb's are on disk and synced when the caller goes on; tessera's have their index.", median(rates[0]), median(rates[1]), median(rates[2])),
	}
	return o, nil
}

// appendAndVerify fills a fresh log and verifies it: entries a second, and the
// ratio of the time of verification to that of hashing the same bytes.
func (b *bench) appendAndVerify(ctx context.Context, open func(context.Context, string) (*evidenceLog, error), entries [][]byte) (rate, ratio float64, err error) {
	dir, err := os.MkdirTemp("", "asap-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log, err := open(ctx, dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	r, err := load.Run(ctx, load.Plan{Tasks: len(entries), Connections: connections, Do: func(ctx context.Context, _, i int) error { return log.append(ctx, entries[i]) }})
	if err != nil {
		return 0, 0, err
	}
	if len(r.Failures) > 0 {
		return 0, 0, fmt.Errorf("%d × %s", r.Failed()[0].Count, r.Failed()[0].Reason)
	}
	if log.verify == nil {
		return r.DonePerSecond(), 0, nil
	}
	if err := log.verify(ctx, len(entries)); err != nil { // waits for what is still to come, and warms up
		return 0, 0, err
	}
	begun := time.Now()
	if err := log.verify(ctx, len(entries)); err != nil {
		return 0, 0, err
	}
	verified := time.Since(begun)
	begun = time.Now()
	h := sha256.New()
	for _, entry := range entries {
		h.Write(entry)
	}
	h.Sum(nil)
	return r.DonePerSecond(), float64(verified) / float64(time.Since(begun)), nil
}
