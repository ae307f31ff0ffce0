//go:build postgres

package postgres_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/postgrestest"
)

// cut is where a line is cut.
type cut int32

const (
	nowhere     cut = iota
	beforeWrite     // what writes and commits does not reach the server
	afterCommit     // it does, and its answer is lost
)

// line carries connections to a server and can be cut at a point of the
// protocol: the answers of a transaction end with its state, T inside and I
// after it.
type line struct {
	listener net.Listener
	server   string
	at       atomic.Int32
	wg       sync.WaitGroup
}

func newLine(t *testing.T, c *postgrestest.Cluster) *line {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener, server: c.Socket()}
	l.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", l.server)
			if err != nil {
				client.Close()
				continue
			}
			var inside atomic.Bool // the server has answered from within a transaction
			l.wg.Go(func() { l.ask(client, server, &inside) })
			l.wg.Go(func() { l.answer(client, server, &inside) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.wg.Wait()
	})
	return l
}

// through is the connection string of a database by way of the line.
func (l *line) through(t *testing.T, to string) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("host", filepath.Dir(l.listener.Addr().String()))
	u.RawQuery = q.Encode()
	return u.String()
}

// ask carries what the client says.
func (l *line) ask(client, server net.Conn, inside *atomic.Bool) {
	defer server.Close()
	defer client.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if inside.Load() && l.at.CompareAndSwap(int32(beforeWrite), int32(nowhere)) {
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answer carries what the server says, message by message.
func (l *line) answer(client, server net.Conn, inside *atomic.Bool) {
	defer server.Close()
	defer client.Close()
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
		copy(message, head)
		if _, err := io.ReadFull(server, message[5:]); err != nil {
			return
		}
		if message[0] == 'Z' {
			was := inside.Swap(message[5] == 'T')
			if was && message[5] == 'I' && l.at.CompareAndSwap(int32(afterCommit), int32(nowhere)) {
				return
			}
		}
		if _, err := client.Write(message); err != nil {
			return
		}
	}
}

// run runs a ledger on a store until the test ends.
func run(t *testing.T, url string) (*ledger.Ledger, *postgres.Store) {
	t.Helper()
	store, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), store, ledger.Options{Origin: "test.example/log"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return l, store
}

func admission(n int) ledger.Admission {
	return ledger.Admission{TaskID: asap.TaskID(fmt.Sprintf("task_%d", n)), Consumer: "urn:asap:agent:alice", EnvelopeID: asap.EnvelopeID(fmt.Sprintf("env_%d", n)),
		Digest: [32]byte{byte(n)}, Agent: "urn:asap:agent:worker", Skill: "echo"}
}

func settlement(n int) ledger.Settlement {
	return ledger.Settlement{TaskID: asap.TaskID(fmt.Sprintf("task_%d", n)), Answer: []byte("answer"), Record: metering.Record{
		Agent: "urn:asap:agent:worker", Consumer: "urn:asap:agent:alice", Skill: "echo", Outcome: metering.Completed, Evidence: metering.Observed}}
}

// A connection that breaks before or after a COMMIT costs nobody anything: the
// store finds out what is true, and goes on from there. Once.
func TestCutLine(t *testing.T) {
	l := newLine(t, cluster)
	books, store := run(t, l.through(t, cluster.Database(t)))
	n := 0
	for _, at := range []cut{beforeWrite, afterCommit, beforeWrite, afterCommit} {
		n++
		l.at.Store(int32(at))
		if _, err := books.Admit(t.Context(), admission(n)); err != nil {
			t.Errorf("cut %d: admit: %v", at, err)
		}
		if l.at.Load() != int32(nowhere) {
			t.Errorf("the line was not cut at %d", at)
		}
		l.at.Store(int32(at))
		if _, err := books.Settle(t.Context(), settlement(n)); err != nil {
			t.Errorf("cut %d: settle: %v", at, err)
		}
	}
	entries, size, err := store.ListAudit(t.Context(), audit.Filter{}, 0, 100)
	if err != nil || size != int64(3*n) || len(entries) != 3*n {
		t.Errorf("%d entries of %d, want %d: %v", len(entries), size, 3*n, err)
	}
}

// When somebody else was first on a store whose answer was lost, what was decided
// may be wrong by now, and nothing of it is kept.
func TestCutLineAndSomebodyElse(t *testing.T) {
	database := cluster.Database(t)
	l := newLine(t, cluster)
	cutOff, err := postgres.Open(t.Context(), l.through(t, database), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cutOff.Close()
	other, store := run(t, database)
	err = cutOff.Update(t.Context(), func(tx ledger.Tx) error {
		got, err := tx.Load(t.Context(), &ledger.Needs{Head: true})
		if err != nil {
			return err
		}
		entry, _, err := audit.Append(audit.GenesisHead("test.example/log"), got.Now, audit.Event{Type: "test", Actor: "urn:asap:agent:a", Subject: "s"}, rand.Reader)
		if err != nil {
			return err
		}
		if err := tx.Write(t.Context(), &ledger.Changes{Entries: []audit.Entry{entry}}); err != nil {
			return err
		}
		// The connection breaks here, the lock with it, and another node commits.
		l.at.Store(int32(beforeWrite))
		return errors.Join(cluster.Exec(t.Context(), databaseOf(t, database), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE state = 'idle in transaction' AND datname = current_database()`), func() error {
			_, err := other.Admit(t.Context(), admission(1))
			return err
		}())
	})
	if !errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrOutcomeUnknown) {
		t.Errorf("told %v", err)
	}
	if _, size, err := store.ListAudit(t.Context(), audit.Filter{}, 0, 10); size != 1 || err != nil {
		t.Errorf("%d entries, %v", size, err)
	}
}

func databaseOf(t *testing.T, s string) string {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}

// A server that is killed in the middle of commits, and started again, loses
// nothing that was acknowledged, and stops no ledger.
func TestServerKilled(t *testing.T) {
	c := postgrestest.Start(t)
	database := c.Database(t)
	one, store := run(t, database)
	two, _ := run(t, database)
	books := []*ledger.Ledger{one, two}
	var settled atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	progress := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				n := w*1_000_000 + i
				for { // as a client: again under the same key, until it is answered
					_, err := books[w%2].Admit(t.Context(), admission(n))
					if err == nil {
						_, err = books[(w/2)%2].Settle(t.Context(), settlement(n))
					}
					if err == nil {
						settled.Add(1)
						select {
						case progress <- struct{}{}:
						default:
						}
						break
					}
					if !errors.Is(err, ledger.ErrUnavailable) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for _, down := range []func() error{c.Kill, c.Stop, c.Kill} {
		for range 10 {
			<-progress
		}
		if err := errors.Join(down(), c.Start()); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		<-progress
	}
	stop()
	wg.Wait()
	stats, err := store.UsageStats(t.Context())
	if err != nil || stats.Records != settled.Load() {
		t.Errorf("%d settlements were acknowledged, %d records are there, %v", settled.Load(), stats.Records, err)
	}
	if held, _, err := store.Holds(t.Context()); held != 0 || err != nil {
		t.Errorf("I5: %d held, %v", held, err)
	}
	_, size, err := store.ListAudit(t.Context(), audit.Filter{}, 0, 1)
	if err != nil || size != 3*settled.Load() {
		t.Errorf("%d entries for %d tasks, %v", size, settled.Load(), err)
	}
}
