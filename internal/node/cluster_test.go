//go:build postgres

package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/postgrestest"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// fleet is three nodes, each a process of its own, on one PostgreSQL. Their clocks
// are five seconds apart; the second one reaches the server through a line that can
// be cut.
type fleet struct {
	t       *testing.T
	cluster *postgrestest.Cluster
	store   string // connection string
	urn     string
	dirs    []string
	urls    []string
	kill    []func()
	line    *line
}

func newFleet(t *testing.T, settings ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, cluster: postgrestest.Start(t), urn: testConfig("").URN}
	f.store = f.cluster.Database(t)
	f.line = newLine(t, f.cluster.Socket())
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := asap.EncodePrivateKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	var token string
	for i := range 3 {
		dir := t.TempDir()
		know(t, dir)
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := WriteSecret(filepath.Join(dir, KeyFile), pem, false); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			token, err = NewOperatorToken(dir)
		} else {
			err = WriteSecret(filepath.Join(dir, OperatorTokenFile), []byte(token+"\n"), false)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.dirs, f.urls, f.kill = append(f.dirs, dir), append(f.urls, ""), append(f.kill, nil)
		f.up(i, settings...)
	}
	return f
}

// up starts a node.
func (f *fleet) up(i int, settings ...string) {
	f.t.Helper()
	store := f.store
	if i == 1 {
		store = f.line.url(store)
	}
	cmd := exec.CommandContext(f.t.Context(), os.Args[0])
	cmd.Env = []string{
		childSettings + "=" + strings.Join(append([]string{"store=" + store, "limits.task_timeout=20s"}, settings...), "\n"),
		childAhead + "=" + strconv.Itoa(5*(i-1)),
	}
	f.urls[i], f.kill[i] = runningChild(f.t, cmd, f.dirs[i])
	f.t.Cleanup(f.kill[i])
}

// as returns a client of a node that is that agent, under a delegation.
func (f *fleet) as(i int, who asap.AgentURN, token string) *client.Client {
	f.t.Helper()
	return as(f.t, f.urls[i], f.urn, who, token)
}

// open opens the store to look at it.
func (f *fleet) open() *postgres.Store {
	f.t.Helper()
	s, err := postgres.Open(f.t.Context(), f.store, postgres.Options{ReadOnly: true})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

// settled waits until nothing is held any more, which takes as long as a dead node's
// lease at most.
func (f *fleet) settled(s *postgres.Store) {
	f.t.Helper()
	f.until("nothing is held", 2*ledger.InstanceLease, func() (bool, string) {
		held, _, err := s.Holds(f.t.Context())
		return held == 0 && err == nil, fmt.Sprintf("%d held, %v", held, err)
	})
}

// until waits for a condition.
func (f *fleet) until(what string, atMost time.Duration, ok func() (bool, string)) {
	f.t.Helper()
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		done, how := ok()
		if done {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			f.t.Fatalf("never: %s (%s)", what, how)
		}
	}
}

// whole verifies the log as an auditor does, with the nodes' public key, and that
// the tables say what it says.
func (f *fleet) whole(s *postgres.Store) {
	f.t.Helper()
	vkey := ReadVKey(f.dirs[0])
	keys, err := audit.ParseKeys(vkey)
	if err != nil {
		f.t.Fatal(err)
	}
	log := auditlog.New(s, f.urn, vkey, nil)
	f.until("the log is sealed to its end", 20*time.Second, func() (bool, string) {
		verdict, err := log.Verify(f.t.Context(), auditlog.Check{Keys: keys, Reconcile: true})
		return err == nil && verdict.Valid && verdict.SealedThrough == verdict.Size, fmt.Sprintf("%+v %v", verdict, err)
	})
}

// line is a connection to the server that can be cut: what is on it then stays
// where it is, as when a network is split.
type line struct {
	listener net.Listener
	socket   string
	mu       sync.Mutex
	open     chan struct{} // closed while traffic flows
	conns    []net.Conn
}

func newLine(t *testing.T, socket string) *line {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener, socket: socket, open: make(chan struct{})}
	close(l.open)
	var parts sync.WaitGroup
	parts.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			parts.Go(func() { l.serve(&parts, conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.mend()
		l.mu.Lock()
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		parts.Wait()
	})
	return l
}

func (l *line) serve(parts *sync.WaitGroup, conn net.Conn) {
	<-l.flowing()
	server, err := net.Dial("unix", l.socket) //nolint:noctx // ends with the test
	if err != nil {
		_ = conn.Close()
		return
	}
	l.mu.Lock()
	l.conns = append(l.conns, conn, server)
	l.mu.Unlock()
	carry := func(to, from net.Conn) {
		defer func() { _ = to.Close() }()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			<-l.flowing()
			if n > 0 {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	parts.Go(func() { carry(server, conn) })
	carry(conn, server)
}

func (l *line) flowing() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

// url is the connection string through the line.
func (l *line) url(direct string) string {
	_, rest, _ := strings.Cut(direct, "@/")
	database, _, _ := strings.Cut(rest, "?")
	return "postgres://postgres@" + l.listener.Addr().String() + "/" + database + "?sslmode=disable"
}

// Limits hold over three nodes, whose clocks are apart, to the unit; what was
// revoked on one is revoked on all; a node with another key does not join.
func TestNodesShareLimits(t *testing.T) {
	f := newFleet(t)
	token, ids := chainOf(t, time.Now(), []string{"*"}, limits{100, -1}, limits{99, -1}, limits{98, -1})
	costly, costlyIDs := chainOf(t, time.Now(), []string{"*"}, limits{-1, 50_000_000}, limits{-1, 40_000_000})
	var ran, refused, spent atomic.Int64
	var group sync.WaitGroup
	for w := range 64 {
		counted, priced := f.as(w%3, agentD, token), f.as(w%3, agentC, costly)
		group.Go(func() {
			for i := range 3 {
				call := client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, (w*7+i)%9))}
				for again := true; again; {
					_, err := counted.Task(t.Context(), call)
					again = codeOf(err) == string(asap.CodeDelegationLimitHeld)
					switch code := codeOf(err); {
					case again:
					case code == "":
						ran.Add(1)
					case code == string(asap.CodeDelegationLimitTasks):
						refused.Add(1)
					default:
						t.Error(code)
					}
				}
				for again := true; again; {
					_, err := priced.Task(t.Context(), call)
					again = codeOf(err) == string(asap.CodeDelegationLimitHeld)
					switch code := codeOf(err); {
					case again, code == string(asap.CodeDelegationLimitCost):
					case code == "":
						spent.Add(1)
					default:
						t.Error(code)
					}
				}
			}
		})
	}
	group.Wait()
	if ran.Load() != 98 || refused.Load() != 64*3-98 {
		t.Errorf("%d ran and %d were refused, want exactly 98 and %d", ran.Load(), refused.Load(), 64*3-98)
	}
	store := f.open()
	f.settled(store)
	issuers := []asap.AgentURN{agentA, agentB, agentC}
	for i, id := range ids {
		b, found, err := store.Budget(t.Context(), ledger.BudgetKey{Issuer: issuers[i], TokenID: id})
		if err != nil || !found || b.UsedTasks != 98 || b.HeldTasks != 0 {
			t.Errorf("link %d: %+v, %v", i, b, err)
		}
	}
	var sum metering.NanoUSD
	n := int64(0)
	for r, err := range store.ExportUsage(t.Context(), metering.Filter{Delegation: costlyIDs[1]}) {
		if err != nil {
			t.Fatal(err)
		}
		n, sum = n+1, sum+*r.CostNanoUSD
	}
	for i, id := range costlyIDs {
		b, _, err := store.Budget(t.Context(), ledger.BudgetKey{Issuer: issuers[i], TokenID: id})
		if err != nil || b.UsedNanoUSD != sum || b.HeldNanoUSD != 0 || b.OverrunNanoUSD != 0 || sum > 40_000_000 || n != spent.Load() {
			t.Errorf("link %d: %+v, %v; %d tasks for %d, %d answered", i, b, err, n, sum, spent.Load())
		}
		if i == 1 && sum <= 40_000_000-2_000_000 {
			t.Errorf("refused while %d of 40000000 were used", sum)
		}
	}

	free, freeIDs := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1})
	if _, err := f.as(1, agentB, free).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
		t.Fatal(err)
	}
	f.request(0, http.MethodDelete, "/delegations/"+freeIDs[0]+"?issuer="+agentA, agentA, "", http.StatusNoContent)
	for i := range f.urls {
		if _, err := f.as(i, agentB, free).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); codeOf(err) != string(asap.CodeDelegationRevoked) {
			t.Errorf("node %d: %v", i, err)
		}
		f.until("the others know what was revoked", 10*time.Second, func() (bool, string) {
			body := f.request(i, http.MethodPost, "/delegations/verify", agentB, `{"token":"`+free+`","caller":"`+agentB+`","action":"data.read"}`, http.StatusOK)
			return strings.Contains(body, string(asap.CodeDelegationRevoked)), body
		})
	}
	f.whole(store)

	stranger := testConfig(t.TempDir())
	stranger.Store = f.store
	if err := openData(stranger.Data); err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.key(false); err != nil {
		t.Fatal(err)
	}
	if n, err := Open(t.Context(), stranger, Options{}); err == nil || !strings.Contains(err.Error(), "signed with another key") {
		t.Errorf("a node with another key: %v", errors.Join(err, n.Close()))
	}
	stranger.URN = "urn:asap:agent:another"
	if n, err := Open(t.Context(), stranger, Options{}); err == nil || !strings.Contains(err.Error(), "begun under another urn") {
		t.Errorf("a node with another name: %v", errors.Join(err, n.Close()))
	}
}

// request sends a request to a node as an agent, and returns the body.
func (f *fleet) request(i int, method, path string, who asap.AgentURN, body string, want int) string {
	f.t.Helper()
	status, text := f.ask(i, method, path, who, body)
	if status != want {
		f.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

func (f *fleet) ask(i int, method, path string, who asap.AgentURN, body string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.urls[i]+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", bearerOf(who, f.urn, time.Now()))
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, string(text)
}

// The same envelope sent to all nodes at once runs once, and all answer the same.
func TestNodesShareEnvelopes(t *testing.T) {
	f := newFleet(t)
	const envelopes = 40
	for range envelopes {
		body := send(agentB, "task.request", countOne, "")
		answers := make([]string, len(f.urls))
		var group sync.WaitGroup
		for i := range f.urls {
			group.Go(func() { answers[i] = f.request(i, http.MethodPost, "/asap", agentB, body, http.StatusOK) })
		}
		group.Wait()
		for i := range answers {
			if answers[i] != answers[0] || !strings.Contains(answers[i], `"completed"`) {
				t.Fatalf("node %d answered\n%s\nnode 0\n%s", i, answers[i], answers[0])
			}
		}
	}
	store := f.open()
	n := 0
	for _, err := range store.ExportUsage(t.Context(), metering.Filter{}) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != envelopes {
		t.Errorf("%d records of %d envelopes", n, envelopes)
	}
	f.settled(store)
	f.whole(store)
}

// Under load a node is killed, PostgreSQL restarted and killed, and a node cut off
// from it for ten seconds. Nothing that was answered is lost, no limit is exceeded,
// the chain is whole and nothing stays held.
func TestNodesSurvive(t *testing.T) {
	alerts := make(chan string, 1000)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		alerts <- r.Header.Get("Webhook-Id")
	}))
	defer hook.Close()
	f := newFleet(t, "sla.webhook_url="+hook.URL)
	token, ids := chainOf(t, time.Now(), []string{"*"}, limits{100_000, -1}, limits{150, -1})
	var mu sync.Mutex
	answered := map[asap.TaskID]int64{} // guarded by mu
	var count, acknowledged, limited atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	var up [3]atomic.Bool
	for i := range up {
		up[i].Store(true)
	}
	for w := range 12 {
		clients := make([]*client.Client, 3)
		for i := range clients {
			who, chain := asap.AgentURN(agentB), ""
			if w%4 == 0 {
				who, chain = agentC, token
			}
			clients[i] = f.as(i, who, chain)
		}
		group.Go(func() {
			for at := w; ctx.Err() == nil; {
				n := count.Add(1)
				call := client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, n)),
					EnvelopeID: asap.NewIDSource().NewEnvelopeID(time.Now())}
				for tries := 0; tries < 400 && ctx.Err() == nil; tries++ {
					at++
					if !up[at%3].Load() {
						continue
					}
					result, err := clients[at%3].Task(ctx, call) // the same envelope, whoever is asked
					if err == nil {
						if result.Status == asap.Completed {
							mu.Lock()
							answered[result.TaskID] = n
							mu.Unlock()
							acknowledged.Add(1)
							break
						}
						if result.Status.Terminal() { // lost with its node
							break
						}
						continue
					}
					code := codeOf(err)
					if code == string(asap.CodeDelegationLimitTasks) {
						limited.Add(1)
						break
					}
					if strings.HasPrefix(code, "delegation_") && code != string(asap.CodeDelegationLimitHeld) && code != string(asap.CodeDelegationStateUnavailable) {
						t.Errorf("refused: %s", code)
						break
					}
					pause := time.NewTimer(20 * time.Millisecond)
					select {
					case <-ctx.Done():
					case <-pause.C:
					}
					pause.Stop()
				}
			}
		})
	}
	more := func(what string, n int64) {
		t.Helper()
		from := acknowledged.Load()
		f.until("work goes on "+what, time.Minute, func() (bool, string) {
			return acknowledged.Load() >= from+n, fmt.Sprint(acknowledged.Load() - from)
		})
	}
	for i := range 40 { // breaks the promise of an agent that all nodes host
		if _, err := f.as(i%3, agentB, "").Task(ctx, client.TaskCall{Recipient: failingURN, Skill: "fail", Input: jsontext.Value(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	more("at the beginning", 200)
	up[2].Store(false)
	f.kill[2]()
	more("without a node", 200)
	if err := f.cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := f.cluster.Start(); err != nil {
		t.Fatal(err)
	}
	more("after PostgreSQL was restarted", 200)
	if err := f.cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.cluster.Start(); err != nil {
		t.Fatal(err)
	}
	more("after PostgreSQL was killed", 200)
	f.line.cut()
	tenSeconds := time.NewTimer(10 * time.Second) // what the node is cut off for is the test
	free, _ := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1})
	f.until("the node that is cut off cannot tell what was revoked, and says so", 10*time.Second, func() (bool, string) {
		_, body := f.ask(1, http.MethodPost, "/delegations/verify", agentB, `{"token":"`+free+`","caller":"`+agentB+`","action":"data.read"}`)
		return strings.Contains(body, string(asap.CodeDelegationStateUnavailable)), body
	})
	<-tenSeconds.C
	f.line.mend()
	more("after a node was cut off", 200)
	f.up(2, "sla.webhook_url="+hook.URL)
	more("with the node back", 100)
	cancel()
	group.Wait()

	store := f.open()
	f.settled(store)
	for i, id := range ids {
		b, _, err := store.Budget(t.Context(), ledger.BudgetKey{Issuer: []asap.AgentURN{agentA, agentB}[i], TokenID: id})
		if err != nil || b.HeldTasks != 0 || b.LimitTasks == nil || b.UsedTasks > *b.LimitTasks || b.UsedTasks > 150 {
			t.Errorf("link %d: %+v, %v", i, b, err)
		}
		if limited.Load() > 0 && b.UsedTasks != 150 {
			t.Errorf("link %d: refused while %d of 150 were used", i, b.UsedTasks)
		}
	}
	seen := map[asap.TaskID]bool{}
	lost := 0
	for r, err := range store.ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.TaskID] {
			t.Errorf("task %s is recorded twice", r.TaskID)
		}
		seen[r.TaskID] = true
		n, known := answered[r.TaskID]
		if r.Indeterminate {
			lost++
		}
		if known && (r.Indeterminate || *r.TokensIn != n || r.Outcome != metering.Completed) {
			t.Errorf("task %s was answered with %d and is recorded as %+v", r.TaskID, n, r)
		}
	}
	for id := range answered {
		if !seen[id] {
			t.Errorf("I1: task %s was answered and is not recorded", id)
		}
	}
	f.whole(store)

	// One breach, told by whichever node led then, and known alike to all.
	breaches, _, err := store.Breaches(t.Context(), slawatch.BreachFilter{Agents: []string{failingURN}, Objective: sla.ErrorRate})
	if err != nil || len(breaches) == 0 {
		t.Fatalf("breaches %v, %v", breaches, err)
	}
	told := map[string]bool{}
	f.until("the breaches are told", time.Minute, func() (bool, string) {
		for {
			select {
			case id := <-alerts:
				told[id] = true
				continue
			default:
			}
			break
		}
		n := 0
		for i := range breaches {
			if told["msg_"+breaches[i].ID+"_firing"] {
				n++
			}
		}
		return n == len(breaches), fmt.Sprint(told)
	})
	windows := map[sla.Window]bool{}
	for i := range breaches {
		if windows[breaches[i].Window] {
			t.Errorf("two breaches of one promise: %+v", breaches)
		}
		windows[breaches[i].Window] = true
	}
	changes, err := store.BreachChanges(t.Context(), -1, 1000)
	once := map[string]bool{}
	for i := range changes {
		key := changes[i].Breach.ID + string(changes[i].Kind)
		if once[key] {
			t.Errorf("recorded twice: %+v", changes[i])
		}
		once[key] = true
	}
	if err != nil {
		t.Error(err)
	}
	for i := range f.urls {
		f.until("the nodes answer alike", 10*time.Second, func() (bool, string) {
			want := f.request(0, http.MethodGet, "/agents/"+failingURN+"/sla/history", agentB, "", http.StatusOK)
			got := f.request(i, http.MethodGet, "/agents/"+failingURN+"/sla/history", agentB, "", http.StatusOK)
			return got == want, got
		})
	}
	t.Logf("%d tasks answered, %d lost with their node, %d refused by a limit", len(answered), lost, limited.Load())
}
