package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// killEnv makes the test binary a node that posts until it is killed.
const killEnv = "ASAP_TEST_KILLED_NODE"

// kills is how often TestKill kills: a few, or what ASAP_TEST_KILLS says.
func kills(t *testing.T) int {
	text := os.Getenv("ASAP_TEST_KILLS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKill kills a process at random moments while 16 callers post, and asks
// afterwards whether all that was acknowledged is there, once (I1).
func TestKill(t *testing.T) {
	if path := os.Getenv(killEnv); path != "" {
		killedNode(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "asap.db")
	acknowledged := map[string]bool{}
	for round := range kills(t) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), killEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := 1 + rand.IntN(400) // lines that are waited for: no clock in here
		lines := 0
		for scan := bufio.NewScanner(out); scan.Scan(); {
			if id, ok := strings.CutPrefix(scan.Text(), "ok "); ok {
				acknowledged[id] = true
				if lines++; lines == after {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		_ = cmd.Wait() // "killed", as it should be
		if lines < after {
			t.Fatalf("round %d: the node ended after %d postings, before it was killed", round, lines)
		}
	}
	t.Logf("%d postings were acknowledged", len(acknowledged))

	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := ledger.Open(t.Context(), store, ledger.Options{Origin: "kill.example/log"}); err != nil {
		t.Fatal(err)
	}
	if held, _, err := store.Holds(t.Context()); held != 0 || err != nil {
		t.Errorf("I5: %d tasks are held, %v", held, err)
	}
	settled := map[string]int{}
	var tasks int64
	for rec, err := range store.ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		settled[string(rec.TaskID)]++
		tasks++
	}
	for id := range acknowledged {
		if settled[id] != 1 {
			t.Errorf("I1: %s was acknowledged and is there %d times", id, settled[id])
		}
	}
	for row, err := range store.Rollups(t.Context(), metering.Filter{}, 0) {
		if err != nil || row.Tasks != tasks {
			t.Errorf("I3: %d records, rollups say %d (%v)", tasks, row.Tasks, err)
		}
	}
	head := audit.GenesisHash("kill.example/log")
	for from := int64(0); ; {
		page, size, err := store.ListAudit(t.Context(), audit.Filter{}, from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if e.Seq != from || e.PreviousHash != head {
				t.Fatalf("I7: the chain breaks at %d", e.Seq)
			}
			head, from = e.Hash, e.Seq+1
		}
		if from == size {
			break
		}
	}
}

func killedNode(t *testing.T, path string) {
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), store, ledger.Options{Origin: "kill.example/log"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.Run(context.Background()) }() // ends with the process
	ids := asap.NewIDSource()
	var out sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for t.Context().Err() == nil {
				id := ids.NewTaskID(time.Now())
				if _, err := l.Admit(t.Context(), ledger.Admission{TaskID: id, Consumer: "urn:asap:agent:c", EnvelopeID: asap.EnvelopeID(id), Agent: "urn:asap:agent:a",
					Links: []ledger.Link{{Issuer: "urn:asap:agent:c", TokenID: "del"}}}); err != nil {
					t.Error(err)
					return
				}
				if _, err := l.Settle(t.Context(), ledger.Settlement{TaskID: id, Record: metering.Record{Outcome: metering.Completed, Evidence: metering.Observed}}); err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				fmt.Println("ok " + string(id))
				out.Unlock()
			}
		})
	}
	wg.Wait()
}
