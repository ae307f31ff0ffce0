package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The agents of the demonstration.
const (
	orchestrator = asap.AgentURN("urn:asap:agent:orchestrator")
	researcher   = asap.AgentURN("urn:asap:agent:researcher")
	library      = asap.AgentURN("urn:asap:agent:library")
	stranger     = asap.AgentURN("urn:asap:agent:stranger")
)

// What the library charges, twice: as its operator writes it, and as the claims
// compute with it.
const (
	demoPrices        = `{"usd_per_task":"0.01","usd_per_million_tokens_in":"2.5","usd_per_million_tokens_out":"20","max_usd_per_task":"0.04"}`
	demoTaskNanoUSD   = 10_000_000
	demoInNanoUSD     = 2_500 // a token
	demoOutNanoUSD    = 20_000
	demoMostNanoUSD   = 40_000_000
	demoPromiseMS     = 1000
	demoSlowFor       = 2200 * time.Millisecond // more than twice the promise, so critical at once
	demoResolveAfter  = time.Second
	demoPatience      = 30 * time.Second // for what must come within a second or two
	demoMarker        = "asap-demo.txt"
	demoMarkerText    = "This directory was made by `asap demo`, which makes it anew when it is run again.\nKeep nothing of your own in it: demo refuses to touch a directory that holds other files.\n"
	demoExport        = "export.jsonl"
	demoRewritten     = "rewritten.jsonl"
	forgedDir         = "forged"
	demoSkillAnswer   = "answer"
	demoSkillHours    = "opening-hours"
	demoLoopTasks     = 40
	demoLoopNanoUSD   = 500_000_000
	demoRaceTasks     = 10
	demoRaceRequests  = 40
	demoRevokeTasks   = 20
	demoBeforeRevoke  = 5
	demoAfterRevoke   = 3
	demoQuickBefore   = 30
	demoSlow          = 5
	demoQuickAfter    = 90
	demoParallelQuick = 8
)

// demoFiles are the names that a demo makes, of which those that end in a slash
// are folders.
var demoFiles = []string{
	demoMarker, demoExport, demoRewritten, "orchestrator.key", "researcher.key", "keys/", "keys/orchestrator.pub", "keys/researcher.pub",
	node.KeyFile, node.OperatorTokenFile, node.LedgerFile, node.LedgerFile + "-wal", node.LedgerFile + "-shm", node.LedgerFile + ".lock", node.URLFile,
	"node.vkey", "audit-signer.json", forgedDir + "/",
}

// demo is one run of the demonstration: its stage, and what those on it saw.
type demo struct {
	a      *app
	dir    string
	report demoReport
	act    *demoAct

	node    *node.Node
	stop    context.CancelFunc
	stopped chan error
	keys    map[asap.AgentURN]ed25519.PrivateKey
	slow    atomic.Bool // the library's slow spell
	clients []interface{ Close() }

	grants   map[string]demoGrant // by what they are for
	answered []demoAnswer
	refused  []demoRefusal
	repeated *demoAnswer // the answer to a request that was sent twice
	told     []demoNews

	origin string
	vkey   string
	books  *demoBooks
	forgery
}

// demoGrant is a delegation that the orchestrator signed.
type demoGrant struct {
	id, token string
	tasks     int64
	nanoUSD   *int64
}

// demoAnswer is what a caller got for a task.
type demoAnswer struct {
	call      client.TaskCall
	task      asap.TaskID
	receipt   *client.Receipt
	grant     string // id of the delegation, if there was one
	tokensIn  int64
	tokensOut int64
	act       int
}

// demoRefusal is a no.
type demoRefusal struct {
	code  asap.Code
	grant string
	act   int
}

// demoNews is a notification of a breach.
type demoNews struct {
	Seq    int64  `json:"seq"`
	Event  string `json:"event"`
	Breach struct {
		ID        string `json:"id"`
		Threshold string `json:"threshold"`
	} `json:"breach"`
}

// prepare makes the directory, or empties it if an earlier demo made it.
func (d *demo) prepare(ctx context.Context) error {
	entries, err := os.ReadDir(d.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return &statusError{status: exitState, err: err}
	case len(entries) > 0:
		if err := d.mayClear(ctx); err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(d.dir, e.Name())); err != nil {
				return &statusError{status: exitState, err: err}
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(d.dir, "keys"), 0o700); err != nil {
		return &statusError{status: exitState, err: err}
	}
	// First the marker: an interrupted run can be made anew.
	if err := writeFileAtomic(filepath.Join(d.dir, demoMarker), []byte(demoMarkerText), 0o600, true); err != nil {
		return &statusError{status: exitState, err: err}
	}
	d.keys = map[asap.AgentURN]ed25519.PrivateKey{}
	for _, name := range []string{"orchestrator", "researcher"} {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		pem, err := asap.EncodePrivateKeyPEM(private)
		if err != nil {
			return err
		}
		d.keys[asap.AgentURN("urn:asap:agent:"+name)] = private
		err = errors.Join(writeFileAtomic(filepath.Join(d.dir, name+".key"), pem, 0o600, true),
			writeFileAtomic(filepath.Join(d.dir, "keys", name+".pub"), []byte(asap.EncodePublicKey(public)+"\n"), 0o600, true))
		if err != nil {
			return &statusError{status: exitState, err: err}
		}
	}
	return nil
}

// mayClear refuses a directory that an earlier demo did not make, that holds
// something else besides, or that a node serves from.
func (d *demo) mayClear(ctx context.Context) error {
	marker, err := os.ReadFile(filepath.Join(d.dir, demoMarker))
	if err != nil || string(marker) != demoMarkerText {
		return refusedErrorf("%s is there already, and no demo made it; name another directory with --data", d.dir)
	}
	err = filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(d.dir, path)
		if err = errors.Join(err, relErr); err != nil || name == "." {
			return err
		}
		name = filepath.ToSlash(name)
		if e.IsDir() {
			name += "/"
		}
		if !slices.Contains(demoFiles, strings.TrimPrefix(name, forgedDir+"/")) && name != forgedDir+"/" {
			return refusedErrorf("%s holds %s, which no demo made; move it away, or name another directory with --data", d.dir, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if at, err := node.ReadURL(d.dir); err == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/healthz", nil)
		if err != nil {
			return nil // what is in the file is no address, so nobody serves there
		}
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		if res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req); err == nil {
			res.Body.Close()
			return refusedErrorf("a node serves from %s at %s; stop it first, or name another directory with --data", d.dir, at)
		}
	}
	return nil
}

// open starts the node with the library on it.
func (d *demo) open(ctx context.Context) (err error) {
	config := node.Defaults()
	config.Listen, config.Data, config.Agents = "127.0.0.1:0", d.dir, nil
	config.Metering.Prices = []node.PriceConfig{{Agent: string(library), List: jsontext.Value(demoPrices)}}
	config.Delegation.Roots = []string{string(orchestrator)}
	config.SLA.Windows, config.SLA.ResolveAfter = "1h", node.Duration(demoResolveAfter)
	a := agent.New(string(library), "Library", agent.Description("answers questions"), agent.SLA(asap.SLADefinition{MaxLatencyP95MS: new(int64(demoPromiseMS))}))
	a.Handle(demoSkillAnswer, answerQuestion)
	a.Handle(demoSkillHours, d.openingHours)
	if d.node, err = node.Open(ctx, config, node.Options{Agents: []*agent.Agent{a}}); err != nil {
		return openFailure(err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // stopped by close, after the callers
	d.stop, d.stopped = stop, make(chan error, 1)
	go func() { d.stopped <- d.node.Run(running) }()
	d.origin, d.grants = d.node.Origin(), map[string]demoGrant{}
	vkey, err := os.ReadFile(filepath.Join(d.dir, "node.vkey"))
	d.vkey = strings.TrimSpace(string(vkey))
	if err != nil {
		return errors.Join(&statusError{status: exitState, err: err}, d.close())
	}
	return nil
}

// close stops the node, and everybody who talks to it; it may be called twice.
func (d *demo) close() error {
	if d.node == nil {
		return nil
	}
	for _, c := range d.clients {
		c.Close()
	}
	d.stop()
	err := errors.Join(<-d.stopped, d.node.Close())
	d.node, d.clients = nil, nil
	return err
}

// answerQuestion is the library's paid skill. What it reads and writes depends on
// the question's number alone, so that every demo costs the same.
func answerQuestion(_ context.Context, t *agent.Task) (any, error) {
	var question struct {
		Number int64 `json:"number"`
	}
	if err := t.Decode(&question); err != nil {
		return nil, err
	}
	in, out := 40*(5+question.Number*3%4), 10*(30+question.Number*37%60)
	t.Usage().AddTokens(in, out)
	return map[string]any{"answer": "It depends.", "tokens_in": in, "tokens_out": out}, nil
}

// openingHours is the skill of the slow spell. It reads and writes no tokens.
func (d *demo) openingHours(ctx context.Context, t *agent.Task) (any, error) {
	t.Usage().AddTokens(0, 0)
	if d.slow.Load() {
		wait := time.NewTimer(demoSlowFor)
		defer wait.Stop()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait.C:
		}
	}
	return map[string]string{"open": "always"}, nil
}

// caller returns a client that acts as an agent, proven by its key if it has one,
// under a delegation if one is given.
func (d *demo) caller(who asap.AgentURN, token string) (*client.Client, error) {
	options, err := d.identity(who)
	if err != nil {
		return nil, err
	}
	if token != "" {
		options = append(options, client.WithDelegation(token))
	}
	c, err := client.New(d.node.URL(), options...)
	if err == nil {
		d.clients = append(d.clients, c)
	}
	return c, err
}

// identity is how an agent says who it is.
func (d *demo) identity(who asap.AgentURN) ([]client.Option, error) {
	options := []client.Option{client.WithSender(who), client.WithRetry(client.RetryPolicy{Attempts: 1}), client.WithTimeout(demoPatience)}
	key, known := d.keys[who]
	if !known {
		return options, nil
	}
	tokens, err := client.NewKeyTokens(key, who, asap.AgentURN(d.origin), 0)
	return append(options, client.WithTokenSource(tokens)), err
}

// ask sends one question and keeps what came of it. A refusal is no error.
func (d *demo) ask(ctx context.Context, c *client.Client, call client.TaskCall, grant string) (*demoAnswer, *demoRefusal, error) {
	got, err := c.Task(ctx, call)
	var no *client.RemoteError
	if errors.As(err, &no) && no.DataCode != "" {
		return nil, &demoRefusal{no.DataCode, grant, d.act.Number}, nil
	}
	if err != nil {
		return nil, nil, stateErrorf("ask the library: %w", err)
	}
	answer := demoAnswer{call: call, task: got.TaskID, receipt: got.Receipt, grant: grant, act: d.act.Number}
	var result struct {
		TokensIn  int64 `json:"tokens_in"`
		TokensOut int64 `json:"tokens_out"`
	}
	if err := json.Unmarshal(got.Result, &result); err != nil {
		return nil, nil, stateErrorf("read the library's answer: %w", err)
	}
	answer.tokensIn, answer.tokensOut = result.TokensIn, result.TokensOut
	return &answer, nil, nil
}

// keep remembers an answer or a refusal, and tells whether it was an answer.
func (d *demo) keep(answer *demoAnswer, refusal *demoRefusal) bool {
	if refusal != nil {
		d.refused = append(d.refused, *refusal)
		return false
	}
	d.answered = append(d.answered, *answer)
	return true
}

// question is the call that asks the library question number n.
func question(skill string, n int64) client.TaskCall {
	return client.TaskCall{Recipient: library, Skill: skill, Input: jsonText("number", n)}
}

// grant lets the orchestrator sign a delegation for the researcher, offline.
func (d *demo) grant(name string, tasks int64, nanoUSD *int64) (demoGrant, error) {
	now := time.Now()
	g := demoGrant{id: delegation.NewTokenID(asap.NewIDSource(), now), tasks: tasks, nanoUSD: nanoUSD}
	token, err := delegation.Issue(delegation.Terms{
		Issuer: orchestrator, Delegate: researcher, TokenID: g.id, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		Scopes: []string{delegation.ScopeTaskExecute}, MaxTasks: &tasks, MaxNanoUSD: nanoUSD,
	}, d.keys[orchestrator])
	g.token = token
	d.grants[name] = g
	return g, err
}

// as is the REST interface of the running node, asked by an agent.
func (d *demo) as(ctx context.Context, who asap.AgentURN) (*nodeAPI, error) {
	tokens, err := client.NewKeyTokens(d.keys[who], who, asap.AgentURN(d.origin), 0)
	if err != nil {
		return nil, err
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{}
	n := &nodeAPI{base: d.node.URL(), token: token, http: &http.Client{Transport: transport}, close: func() error { transport.CloseIdleConnections(); return nil }}
	return n, nil
}

// used is how much of a delegation is used, as the node tells its issuer.
func (d *demo) used(ctx context.Context, g demoGrant) (u demoUsed, err error) {
	n, err := d.as(ctx, orchestrator)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return usedOf(ctx, n, g.id)
}

// demoUsed is the answer to a question about a delegation.
type demoUsed struct {
	Tasks struct {
		Used int64 `json:"used"`
		Held int64 `json:"held"`
	} `json:"tasks"`
	USD struct {
		Used string `json:"used"`
		Held string `json:"held"`
	} `json:"usd"`
	nanoUSD int64
}

func usedOf(ctx context.Context, n *nodeAPI, id string) (u demoUsed, err error) {
	if err := n.get(ctx, "/delegations/"+id+"/usage", nil, &u); err != nil {
		return u, err
	}
	u.nanoUSD, err = nanoUSD(u.USD.Used)
	return u, err
}

// nanoUSD reads an amount of money.
func nanoUSD(text string) (int64, error) {
	v, err := metering.ParseUSD(text)
	return int64(v), err
}

// usd writes an amount of money with four places, which all amounts of the story
// have at most.
func usd(nano int64) string {
	return fmt.Sprintf("%d.%04d", nano/delegation.NanoPerUSD, nano%delegation.NanoPerUSD/100_000)
}
