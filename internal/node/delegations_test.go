package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/coder/websocket"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The agents of these tests; each has a key of one repeated byte. a delegates to
// b, b to c, c to d.
const (
	agentA = "urn:asap:agent:a"
	agentB = "urn:asap:agent:b"
	agentC = "urn:asap:agent:c"
	agentD = "urn:asap:agent:d"
	agentM = "urn:asap:agent:m"
)

func keyBytes() map[asap.AgentURN]byte {
	return map[asap.AgentURN]byte{agentA: 1, agentB: 2, agentC: 3, agentD: 4, agentM: 9}
}

func keyOf(urn asap.AgentURN) ed25519.PrivateKey { return agentKey(keyBytes()[urn]) }

// know puts the public keys of the agents where a node with data in dir looks.
func know(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for urn := range maps.Keys(keyBytes()) {
		name := strings.TrimPrefix(string(urn), "urn:asap:agent:") + ".pub"
		text := asap.EncodePublicKey(asap.PublicKeyOf(keyOf(urn))) + "\n"
		if err := os.WriteFile(filepath.Join(dir, "keys", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// delegating is a configuration with the agents' keys.
func delegating(t testing.TB) Config {
	t.Helper()
	c := testConfig(t.TempDir())
	know(t, c.Data)
	return c
}

// limits of one link; a negative one is left out.
type limits struct{ tasks, nanoUSD int64 }

// chainOf makes a token a -> b -> ... with one link for each of the limits.
func chainOf(t testing.TB, now time.Time, scopes []string, each ...limits) (token string, ids []string) {
	t.Helper()
	order := []asap.AgentURN{agentA, agentB, agentC, agentD}
	source := asap.NewIDSource()
	for i, l := range each {
		terms := delegation.Terms{Issuer: order[i], Delegate: order[i+1], TokenID: delegation.NewTokenID(source, now), IssuedAt: now, ExpiresAt: now.Add(time.Hour), Scopes: scopes}
		if l.tasks >= 0 {
			terms.MaxTasks = &l.tasks
		}
		if l.nanoUSD >= 0 {
			terms.MaxNanoUSD = &l.nanoUSD
		}
		var err error
		if i == 0 {
			token, err = delegation.Issue(terms, keyOf(order[i]))
		} else {
			token, err = delegation.Attenuate(token, terms, keyOf(order[i]))
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, terms.TokenID)
	}
	return token, ids
}

// as returns a client that is that agent, under a delegation if one is given.
func as(t testing.TB, url, nodeURN string, who asap.AgentURN, token string, more ...client.Option) *client.Client {
	t.Helper()
	tokens, err := client.NewKeyTokens(keyOf(who), who, asap.AgentURN(nodeURN), 0)
	if err != nil {
		t.Fatal(err)
	}
	options := append([]client.Option{client.WithSender(who), client.WithTokenSource(tokens), client.WithRetry(client.RetryPolicy{Attempts: 1})}, more...)
	if token != "" {
		options = append(options, client.WithDelegation(token))
	}
	c, err := client.New(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// bearerOf is the Authorization of an agent at a time.
func bearerOf(who asap.AgentURN, nodeURN string, now time.Time) string {
	return signedBearer(who, keyBytes()[who], nodeURN, now)
}

func signedBearer(who asap.AgentURN, key byte, nodeURN string, now time.Time) string {
	b64 := base64.RawURLEncoding
	text := b64.EncodeToString([]byte(`{"alg":"EdDSA"}`)) + "." + b64.EncodeToString(fmt.Appendf(nil, `{"iss":%q,"sub":%q,"aud":%q,"iat":%d,"exp":%d}`, who, who, nodeURN, now.Unix(), now.Unix()+600))
	return "Bearer " + text + "." + b64.EncodeToString(ed25519.Sign(agentKey(key), []byte(text)))
}

// startWith is start with options.
func startWith(t testing.TB, c Config, o Options) (n *Node, stop func()) {
	t.Helper()
	n, err := Open(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return n, stop
}

// call sends a request; who is an agent, "operator", or "".
func call(t testing.TB, n *Node, who, method, path, body string, header ...string) (status int, head http.Header, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	switch who {
	case "":
	case "operator":
		token, err := ReadOperatorToken(n.config.Data)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	default:
		req.Header.Set("Authorization", bearerOf(asap.AgentURN(who), n.config.URN, n.now()))
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req) // redirects are not followed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, answer
}

// codeOf is the stable code a remote error carries.
func codeOf(err error) string {
	var remote *client.RemoteError
	if errors.As(err, &remote) {
		return string(remote.DataCode)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// standing is the answer of /usage for a token.
type standing struct {
	Tasks struct {
		Limit, Remaining *int64
		Used, Held       int64
	} `json:"tasks"`
	USD struct {
		Limit, Remaining *string
		Used, Held       string
	} `json:"usd"`
}

func standingOf(t testing.TB, n *Node, id string) standing {
	t.Helper()
	status, _, body := call(t, n, "operator", "GET", "/delegations/"+id+"/usage", "")
	if status != http.StatusOK {
		t.Fatalf("usage of %s: %d %s", id, status, body)
	}
	var s standing
	if err := json.Unmarshal(body, &s, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	return s
}

// Sixty-four workers share a chain of three links with limits of 100, 99 and 98
// tasks: 98 run, and the others are told that the limit is used up.
func TestSixtyFourWorkersOnOneChain(t *testing.T) {
	var runs atomic.Int64
	n, _ := start(t, delegating(t), counter(&runs))
	token, ids := chainOf(t, time.Now(), []string{"task.execute"}, limits{100, -1}, limits{99, -1}, limits{98, -1})
	var done atomic.Int64
	var workers sync.WaitGroup
	for range 64 {
		c := as(t, n.URL(), n.config.URN, agentD, token)
		workers.Go(func() {
			for {
				_, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
				switch code := codeOf(err); code {
				case "":
					done.Add(1)
				case string(asap.CodeDelegationLimitHeld): // somebody may yet give a task back
				case string(asap.CodeDelegationLimitTasks):
					return
				default:
					t.Errorf("refused with %s", code)
					return
				}
			}
		})
	}
	workers.Wait()
	if runs.Load() != 98 || done.Load() != 98 {
		t.Errorf("%d ran, %d were answered, want 98", runs.Load(), done.Load())
	}
	for i, left := range []int64{2, 1, 0} {
		if s := standingOf(t, n, ids[i]); s.Tasks.Used != 98 || s.Tasks.Held != 0 || *s.Tasks.Remaining != left {
			t.Errorf("link %d: %+v", i, s)
		}
	}
	records := decode[struct {
		Data []struct {
			Consumer   string `json:"consumer"`
			Delegation struct {
				TokenID    string `json:"token_id"`
				RootIssuer string `json:"root_issuer"`
				RootID     string `json:"root_id"`
			} `json:"delegation"`
		} `json:"data"`
	}](t, get(t, n, "/usage?limit=1000"))
	for _, r := range records.Data {
		if r.Consumer != agentD || r.Delegation.TokenID != ids[2] || r.Delegation.RootID != ids[0] || r.Delegation.RootIssuer != agentA {
			t.Fatalf("a record says %+v", r)
		}
	}
	if len(records.Data) != 98 {
		t.Errorf("%d records", len(records.Data))
	}
}

// The middle of a chain is revoked under load: no task starts once the DELETE
// has returned, whoever is in the middle of what.
func TestNoTaskStartsOnceRevoked(t *testing.T) {
	var runs atomic.Int64
	n, _ := start(t, delegating(t), counter(&runs))
	for round := range 12 {
		token, ids := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1}, limits{-1, -1}, limits{-1, -1})
		begun := runs.Load()
		var workers sync.WaitGroup
		for range 24 {
			c := as(t, n.URL(), n.config.URN, agentD, token)
			workers.Go(func() {
				for {
					_, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
					if code := codeOf(err); code == string(asap.CodeDelegationRevoked) {
						return
					} else if code != "" {
						t.Errorf("refused with %s", code)
						return
					}
				}
			})
		}
		for runs.Load() < begun+20 {
			if t.Failed() {
				workers.Wait()
				t.FailNow()
			}
		}
		status, _, body := call(t, n, agentB, "DELETE", "/delegations/"+ids[1]+"?reason=enough", "")
		started := runs.Load()
		workers.Wait()
		if status != http.StatusNoContent {
			t.Fatalf("round %d: %d %s", round, status, body)
		}
		if late := runs.Load() - started; late != 0 {
			t.Errorf("round %d: %d tasks started after the DELETE had returned", round, late)
		}
		for i, id := range ids {
			_, _, body := call(t, n, "operator", "GET", "/delegations/"+id, "")
			if active := decode[struct{ Active bool }](t, bytes.ReplaceAll(body, []byte(`"active":`), []byte(`"Active":`))).Active; active != (i == 0) {
				t.Errorf("link %d is active: %t", i, active)
			}
		}
	}
}

// A revocation, the counters and the registry outlive the node.
func TestDelegationsOutliveTheNode(t *testing.T) {
	c := delegating(t)
	n, stop := start(t, c, counter(new(atomic.Int64)))
	token, ids := chainOf(t, time.Now(), []string{"*"}, limits{5, -1}, limits{4, -1})
	task := func(n *Node) string {
		_, err := as(t, n.URL(), n.config.URN, agentC, token).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		return codeOf(err)
	}
	if code := task(n); code != "" {
		t.Fatal(code)
	}
	stop()
	n, stop = start(t, c, counter(new(atomic.Int64)))
	if s := standingOf(t, n, ids[1]); s.Tasks.Used != 1 || *s.Tasks.Remaining != 3 {
		t.Errorf("%+v", s)
	}
	if status, _, body := call(t, n, agentC, "DELETE", "/delegations/"+ids[1]+"?reason=surrendered", ""); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, body := call(t, n, agentA, "DELETE", "/delegations/"+ids[1]+"?reason=second", ""); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	stop()
	n, _ = start(t, c, counter(new(atomic.Int64)))
	if code := task(n); code != string(asap.CodeDelegationRevoked) {
		t.Errorf("after a restart: %s", code)
	}
	_, _, body := call(t, n, agentA, "GET", "/delegations/"+ids[1], "")
	if !bytes.Contains(body, []byte(`"revocation_reason":"surrendered"`)) {
		t.Errorf("the first reason is kept: %s", body)
	}
	entries, _, err := n.store.ListAudit(t.Context(), audit.Filter{Type: audit.DelegationRevoked}, 0, 10)
	if err != nil || len(entries) != 1 || entries[0].Actor != agentC || entries[0].Subject != ids[1] {
		t.Errorf("%+v, %v", entries, err)
	}
}

// A node that is killed under a delegated load forgets nothing it has answered,
// holds nothing, and has charged every task that may have run.
func TestDelegationsAfterKills(t *testing.T) {
	dir := t.TempDir()
	know(t, dir)
	token, ids := chainOf(t, time.Now(), []string{"*"}, limits{400, 600e6}, limits{300, -1}, limits{250, 500e6})
	var answered atomic.Int64
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		url, kill := startChild(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		before := answered.Load()
		for range 16 {
			c := as(t, url, Defaults().URN, agentD, token)
			workers.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Task(ctx, client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
						return // killed, or used up
					}
					answered.Add(1)
				}
			})
		}
		done := make(chan struct{})
		go func() { workers.Wait(); close(done) }()
		for answered.Load() < before+int64(3+round) {
			select {
			case <-done:
			default:
				continue
			}
			break
		}
		kill()
		cancel()
		<-done
	}
	n, _ := start(t, testConfig(dir), counter(new(atomic.Int64)))
	var recorded int64
	var cost metering.NanoUSD
	for r, err := range n.store.ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Delegation == nil || r.Delegation.TokenID != ids[2] {
			t.Errorf("a record without its delegation: %+v", r)
		}
		recorded++
		cost += *r.CostNanoUSD // a lost task costs its ceiling
	}
	for i, limit := range []int64{400, 300, 250} {
		s := standingOf(t, n, ids[i])
		if s.Tasks.Used != recorded || s.Tasks.Held != 0 || s.Tasks.Used > limit {
			t.Errorf("link %d: used %d, held %d of %d; %d recorded", i, s.Tasks.Used, s.Tasks.Held, limit, recorded)
		}
		if s.USD.Limit != nil && (s.USD.Used != cost.String() || s.USD.Held != "0") {
			t.Errorf("link %d: %s dollars used, %s held; the records cost %s", i, s.USD.Used, s.USD.Held, cost)
		}
	}
	if recorded < answered.Load() || answered.Load() == 0 {
		t.Errorf("%d answered, %d recorded", answered.Load(), recorded)
	}
}

// Limits near their end are told once at each percentage: in the log, and over
// WebSocket to those whose token it is.
func TestWarnings(t *testing.T) {
	var log syncBuffer
	c := delegating(t)
	n, _ := startWith(t, c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}, Log: &log})
	token, ids := chainOf(t, time.Now(), []string{"*"}, limits{10, -1})
	subscribe := func(who asap.AgentURN, params string) *websocket.Conn {
		t.Helper()
		tokens, err := client.NewKeyTokens(keyOf(who), who, asap.AgentURN(c.URN), 0)
		if err != nil {
			t.Fatal(err)
		}
		bearer, err := tokens.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(n.URL(), "http")+"/asap/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + bearer}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","method":"delegation.subscribe","params":`+params+`,"id":1}`)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	hear := func(conn *websocket.Conn) string {
		t.Helper()
		_, frame, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(frame)
	}
	issuer, holder, stranger := subscribe(agentA, "{}"), subscribe(agentB, "{}"), subscribe(agentC, "{}")
	for _, conn := range []*websocket.Conn{issuer, holder, stranger} {
		if got := hear(conn); !strings.Contains(got, `"subscribed":true,"seq":-1`) {
			t.Error(got)
		}
	}
	caller := as(t, n.URL(), c.URN, agentB, token)
	for range 12 {
		_, err := caller.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		if code := codeOf(err); code != "" && code != string(asap.CodeDelegationLimitTasks) {
			t.Error(code)
		}
	}
	late := subscribe(agentB, `{"since_seq":-1}`)
	hear(late)
	for _, used := range []string{`"percent":80,"limit":10,"used":8}`, `"percent":90,"limit":10,"used":9}`, `"percent":100,"limit":10,"used":10}`} {
		for _, conn := range []*websocket.Conn{issuer, holder, late} {
			if got := hear(conn); !strings.Contains(got, `"method":"delegation.limit"`) || !strings.Contains(got, `"id":"`+ids[0]+`","issuer":"`+agentA+`","delegate":"`+agentB+`","unit":"tasks",`+used) {
				t.Errorf("got %s, want %s", got, used)
			}
		}
	}
	// What is not hers she does not hear of: the next frame is the answer to this.
	if err := stranger.Write(t.Context(), websocket.MessageText, []byte(`{"method":"delegation.unsubscribe","id":2}`)); err != nil {
		t.Fatal(err)
	}
	if got := hear(stranger); !strings.Contains(got, `"unsubscribed":true`) {
		t.Error(got)
	}
	for _, percent := range []string{"80", "90", "100"} {
		line := "token=" + ids[0] + " unit=tasks percent=" + percent + " "
		for !strings.Contains(log.String(), line) { // it is on its way
			if t.Context().Err() != nil {
				t.Fatal(log.String())
			}
			runtime.Gosched()
		}
		if got := strings.Count(log.String(), line); got != 1 {
			t.Errorf("%s %%: told %d times\n%s", percent, got, log.String())
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
