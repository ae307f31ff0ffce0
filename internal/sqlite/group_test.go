package sqlite_test

import (
	"context"
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// waiting is a context that tells when a caller of the
// ledger begins to wait: its operation is in the queue by then. It never ends.
type waiting struct {
	context.Context
	began func()
}

func (w *waiting) Done() <-chan struct{} {
	w.began()
	return nil
}

func (w *waiting) Err() error { return nil }

// The envelope of a task that is released may start another one in the same commit.
func TestReleasedEnvelopeInOneGroup(t *testing.T) {
	store, err := sqlite.OpenMemory(t.Context(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	block, blocked, once := make(chan struct{}), make(chan struct{}), sync.Once{}
	l, err := ledger.Open(t.Context(), store, ledger.Options{Origin: "test.example/log", Observed: func(_ time.Duration, added ledger.Batch, _ error) {
		if len(added.Entries) > 0 && added.Entries[0].Subject == "task_busy" {
			once.Do(func() { close(blocked); <-block })
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := l.Run(run); err != nil {
			t.Error(err)
		}
	})
	defer parts.Wait()
	defer stop()
	admit := func(ctx context.Context, task asap.TaskID, envelope asap.EnvelopeID) {
		a := ledger.Admission{TaskID: task, Consumer: "urn:asap:agent:alice", EnvelopeID: envelope, Digest: sha256.Sum256([]byte(envelope)),
			Agent: "urn:asap:agent:worker", Verified: true, Skill: "echo"}
		if got, err := l.Admit(ctx, a); err != nil || got.Replay != nil {
			t.Errorf("%s: %+v, %v", task, got, err)
		}
	}
	admit(t.Context(), "task_first", "env_first")
	parts.Go(func() { admit(t.Context(), "task_busy", "env_busy") })
	<-blocked
	queued := make(chan struct{})
	parts.Go(func() {
		if _, err := l.Release(&waiting{Context: t.Context(), began: sync.OnceFunc(func() { close(queued) })}, "task_first", "not begun"); err != nil {
			t.Error(err)
		}
	})
	<-queued
	again := make(chan struct{})
	parts.Go(func() {
		admit(&waiting{Context: t.Context(), began: sync.OnceFunc(func() { close(again) })}, "task_second", "env_first")
	})
	<-again
	close(block)
}
