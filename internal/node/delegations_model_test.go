package node

import (
	"context"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// spender is an agent whose tasks wait until they are told how to end: each
// takes one ending from the channel of its name.
type spender struct {
	mu      sync.Mutex
	endings map[string]chan ending // guarded by mu
}

func (s *spender) ending(name string) chan ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endings[name] == nil {
		s.endings[name] = make(chan ending, 1)
	}
	return s.endings[name]
}

type ending struct {
	how    string // completed, failed, panic
	tokens int64
}

const spenderURN = "urn:asap:agent:spender"

// The price: a nano-dollar a token, at most 50 a task.
const spenderPrice, spenderCeiling = `{"usd_per_million_tokens_in":"0.001","max_usd_per_task":"0.00000005"}`, 50

func (s *spender) agent() *agent.Agent {
	a := agent.New(spenderURN, "Spender")
	work := func(ctx context.Context, t *agent.Task) (any, error) {
		var in struct {
			Name string `json:"name"`
		}
		if err := t.Decode(&in); err != nil {
			return nil, err
		}
		t.Usage().AddTokens(7, 0) // what a cancelled or late task has used
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e := <-s.ending(in.Name):
			t.Usage().AddTokens(e.tokens-7, 0)
			switch e.how {
			case "failed":
				return nil, &agent.Failure{Code: "no_luck", Message: "it did not work"}
			case "panic":
				panic("it broke")
			}
			return nil, nil
		}
	}
	a.HandleLong("spend", work)
	a.HandleLong("spend-late", work, agent.Timeout(time.Millisecond))
	return a
}

// modelLink counts one link the naive way.
type modelLink struct {
	tasks, money     *big.Int // limits, nil for none
	usedTasks, spent *big.Int
	heldTasks, held  *big.Int
}

func newModelLink(l limits) *modelLink {
	m := &modelLink{usedTasks: new(big.Int), spent: new(big.Int), heldTasks: new(big.Int), held: new(big.Int)}
	if l.tasks >= 0 {
		m.tasks = big.NewInt(l.tasks)
	}
	if l.nanoUSD >= 0 {
		m.money = big.NewInt(l.nanoUSD)
	}
	return m
}

// verdict is the code a new task gets, by the rules of design: what can never be
// given again before what may yet be, root before leaf, tasks before money.
func modelVerdict(links []*modelLink) asap.Code {
	sum := func(a ...*big.Int) *big.Int {
		total := new(big.Int)
		for _, n := range a {
			total.Add(total, n)
		}
		return total
	}
	one, ceiling := big.NewInt(1), big.NewInt(spenderCeiling)
	held := asap.Code("")
	for _, l := range links {
		if l.tasks != nil {
			if sum(l.usedTasks, one).Cmp(l.tasks) > 0 {
				return asap.CodeDelegationLimitTasks
			}
			if sum(l.usedTasks, l.heldTasks, one).Cmp(l.tasks) > 0 {
				held = asap.CodeDelegationLimitHeld
			}
		}
		if l.money != nil {
			if sum(l.spent, ceiling).Cmp(l.money) > 0 {
				return asap.CodeDelegationLimitCost
			}
			if sum(l.spent, l.held, ceiling).Cmp(l.money) > 0 {
				held = asap.CodeDelegationLimitHeld
			}
		}
	}
	return held
}

// Random histories of tasks that cost at random, fail, panic, are cancelled or
// run out of time, on chains with random limits: after every step each link's
// counters are those of a naive model (I4), nothing is refused that the model
// would allow (I6), and at the end nothing is held (I5).
func TestLimitsBesideAModel(t *testing.T) {
	s := &spender{endings: map[string]chan ending{}}
	c := delegating(t)
	c.Store = "memory:"
	c.Metering.Prices = []PriceConfig{{Agent: spenderURN, List: jsontext.Value(spenderPrice)}}
	n, _ := start(t, c, s.agent())
	auth := bearerOf(agentD, c.URN, time.Now())
	serial := 0
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Custom(func(rt *rapid.T) limits {
			l := limits{-1, -1}
			if rapid.Bool().Draw(rt, "tasks limited") {
				l.tasks = rapid.Int64Range(1, 6).Draw(rt, "tasks")
			}
			if rapid.Bool().Draw(rt, "money limited") {
				l.nanoUSD = rapid.Int64Range(0, 400).Draw(rt, "nano-dollars")
			}
			return l
		})
		each := []limits{limit.Draw(rt, "root")}
		for i := range 2 { // a child may not exceed its parents
			l := limit.Draw(rt, fmt.Sprint("link", i+1))
			for _, above := range each {
				l.tasks, l.nanoUSD = narrowed(l.tasks, above.tasks), narrowed(l.nanoUSD, above.nanoUSD)
			}
			each = append(each, l)
		}
		token, ids := chainOf(t, time.Now(), []string{"*"}, each...)
		model := make([]*modelLink, len(each))
		for i, l := range each {
			model[i] = newModelLink(l)
		}
		ask := func(kind, payload string) (code string, task string) {
			_, _, body := call(t, n, "", "POST", "/asap", strings.Replace(send(agentD, kind, payload, ""), counterURN, spenderURN, 1),
				"Authorization", auth, "X-ASAP-Delegation-Token", token)
			code, _ = rpcCode(t, body)
			var v struct {
				Result struct {
					Envelope struct {
						Payload struct {
							TaskID string `json:"task_id"`
						} `json:"payload"`
					} `json:"envelope"`
				} `json:"result"`
			}
			if err := json.Unmarshal(body, &v); err != nil {
				rt.Fatal(err)
			}
			return code, v.Result.Envelope.Payload.TaskID
		}
		type open struct{ id, name string }
		var running []open
		begin := func(rt *rapid.T, skill string) {
			serial++
			name := fmt.Sprint("task", serial)
			want := modelVerdict(model)
			code, id := ask("task.request", fmt.Sprintf(`{"conversation_id":"c","skill_id":%q,"input":{"name":%q}}`, skill, name))
			if code != string(want) {
				rt.Fatalf("a new task: %q, the model says %q", code, want)
			}
			if code != "" {
				return
			}
			running = append(running, open{id, name})
			for _, l := range model {
				l.heldTasks.Add(l.heldTasks, big.NewInt(1))
				l.held.Add(l.held, big.NewInt(spenderCeiling))
			}
		}
		ended := func(cost int64) {
			for _, l := range model {
				l.heldTasks.Sub(l.heldTasks, big.NewInt(1))
				l.held.Sub(l.held, big.NewInt(spenderCeiling))
				l.usedTasks.Add(l.usedTasks, big.NewInt(1))
				l.spent.Add(l.spent, big.NewInt(cost))
			}
		}
		settled := func(rt *rapid.T, task string) {
			for {
				known, _, err := n.store.Task(t.Context(), asap.TaskID(task))
				if err != nil {
					rt.Fatal(err)
				}
				if known.State != ledger.Held {
					return
				}
			}
		}
		pick := func(rt *rapid.T) open {
			if len(running) == 0 {
				rt.Skip("nothing runs")
			}
			i := rapid.IntRange(0, len(running)-1).Draw(rt, "which")
			chosen := running[i]
			running = append(running[:i:i], running[i+1:]...)
			return chosen
		}
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) { begin(rt, "spend") },
			"end": func(rt *rapid.T) {
				task := pick(rt)
				e := ending{rapid.SampledFrom([]string{"completed", "failed", "panic"}).Draw(rt, "how"), rapid.Int64Range(7, 60).Draw(rt, "tokens")}
				s.ending(task.name) <- e
				settled(rt, task.id)
				ended(e.tokens)
			},
			"cancel": func(rt *rapid.T) {
				task := pick(rt)
				if code, _ := ask("task.cancel", fmt.Sprintf(`{"task_id":%q,"reason":"enough"}`, task.id)); code != "" {
					rt.Fatalf("cancel: %s", code)
				}
				ended(7)
			},
			"late": func(rt *rapid.T) {
				before := len(running)
				begin(rt, "spend-late")
				if len(running) > before {
					task := running[before]
					settled(rt, task.id)
					running = running[:before]
					// A handler may be late before it has used anything.
					records, err := n.store.ListUsage(t.Context(), metering.Filter{TaskID: asap.TaskID(task.id)}, metering.Page{Limit: 2})
					if err != nil || len(records) != 1 || records[0].Outcome != metering.TimedOut {
						rt.Fatalf("%+v, %v", records, err)
					}
					cost := int64(spenderCeiling) // of one that is not priced
					if known := records[0].CostNanoUSD; known != nil {
						cost = int64(*known)
					}
					ended(cost)
				}
			},
			"": func(rt *rapid.T) {
				for i, l := range model {
					b, found, err := n.store.Budget(t.Context(), key([]asap.AgentURN{agentA, agentB, agentC}[i], ids[i]))
					if err != nil {
						rt.Fatal(err)
					}
					if !found {
						continue
					}
					spent := int64(b.UsedNanoUSD) + int64(b.OverrunNanoUSD)
					if b.UsedTasks != l.usedTasks.Int64() || b.HeldTasks != l.heldTasks.Int64() || int64(b.HeldNanoUSD) != l.held.Int64() || spent != l.spent.Int64() {
						rt.Fatalf("link %d: %+v, the model says used %v, held %v, spent %v, reserved %v", i, b, l.usedTasks, l.heldTasks, l.spent, l.held)
					}
					if l.tasks != nil && b.UsedTasks+b.HeldTasks > l.tasks.Int64() || l.money != nil && int64(b.UsedNanoUSD+b.HeldNanoUSD) > l.money.Int64() {
						rt.Fatalf("link %d is beyond its limit: %+v", i, b)
					}
				}
			},
		})
		for _, task := range running {
			s.ending(task.name) <- ending{"completed", 7}
			settled(rt, task.id)
			ended(7)
		}
		for i, l := range model {
			if l.heldTasks.Sign() != 0 || l.held.Sign() != 0 {
				rt.Fatalf("link %d: held at the end", i)
			}
			if b, found, err := n.store.Budget(t.Context(), key([]asap.AgentURN{agentA, agentB, agentC}[i], ids[i])); err != nil || found && (b.HeldTasks != 0 || b.HeldNanoUSD != 0) {
				rt.Fatalf("link %d: %+v, %v", i, b, err)
			}
		}
	})
}

func key(issuer asap.AgentURN, id string) ledger.BudgetKey {
	return ledger.BudgetKey{Issuer: issuer, TokenID: id}
}

// narrowed is the lower of two limits of which a negative one is none.
func narrowed(own, above int64) int64 {
	if own >= 0 && above >= 0 {
		return min(own, above)
	}
	return own
}

// A cost-limited token is refused where nothing bounds the cost of a task.
func TestCostWithoutBound(t *testing.T) {
	n, _ := start(t, delegating(t), counter(new(atomic.Int64)))
	token, _ := chainOf(t, time.Now(), []string{"*"}, limits{-1, 1_000_000_000})
	status, _, body := call(t, n, agentB, "POST", "/asap", send(agentB, "task.request", countOne, ""), "X-ASAP-Delegation-Token", token)
	code, number := rpcCode(t, body)
	if status != http.StatusOK || code != string(asap.CodeDelegationCostUnbounded) || number != asap.RPCDelegationLimit {
		t.Errorf("%d %s", status, body)
	}
}

// What a limit refuses is told in figures, in the answer and in its header.
func TestWhatARefusalTells(t *testing.T) {
	c := delegating(t)
	c.Metering.Prices = []PriceConfig{{Agent: counterURN, List: jsontext.Value(`{"usd_per_task":"0.25","max_usd_per_task":"0.5"}`)}}
	n, _ := start(t, c, counter(new(atomic.Int64)))
	token, _ := chainOf(t, time.Now(), []string{"*"}, limits{5, 1_000_000_000}, limits{4, 900_000_000})
	ask := func() (http.Header, []byte) {
		_, head, body := call(t, n, agentC, "POST", "/asap", send(agentC, "task.request", countOne, ""), "X-ASAP-Delegation-Token", token)
		return head, body
	}
	for _, want := range []string{"remaining-tasks=3, remaining-usd=0.65, reserved-usd=0.0", "remaining-tasks=2, remaining-usd=0.4, reserved-usd=0.0"} {
		head, body := ask()
		if got := head.Get("ASAP-Delegation-Budget"); got != want {
			t.Errorf("%q, want %q: %s", got, want, body)
		}
	}
	head, body := ask()
	if got, want := head.Get("ASAP-Delegation-Budget"), "remaining-tasks=2, remaining-usd=0.4, reserved-usd=0.0, required-usd=0.5"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, part := range []string{`"code":-32041`, `"code":"delegation_limit_cost"`, `"link":1`, `"limit":"0.9"`, `"used":"0.5"`, `"held":"0"`, `"remaining":"0.4"`, `"needed":"0.5"`} {
		if !strings.Contains(string(body), part) {
			t.Errorf("%s is missing in %s", part, body)
		}
	}
}
