package storetest

import (
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// testHistories runs random histories beside a model that keeps everything in
// maps and adds with math/big, and compares after each of them.
func testHistories(t *testing.T, fresh func(testing.TB) Backend) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{
			rig:    start(t, fresh(t), func(r *rig) { r.prices = prices(t, `{"usd_per_task":"0.000000010","usd_per_api_call":"0.000000007"}`) }),
			states: map[int]ledger.TaskState{}, ceilings: map[int]int64{}, chains: map[int][]ledger.Link{}, answers: map[int]string{},
			budgets: map[ledger.BudgetKey]*model{}, reported: map[string]int64{}, voided: map[string]bool{},
			tasks: new(big.Int), tokens: new(big.Int), cost: new(big.Int),
		}
		defer h.down()
		rt.Repeat(map[string]func(*rapid.T){
			"admit":   h.admitSome,
			"settle":  h.settleSome,
			"release": h.releaseSome,
			"report":  h.reportSome,
			"void":    h.voidSome,
			"expire":  h.expire,
			"restart": h.reopen,
			"":        h.compare,
		})
		h.check(false)
	})
}

// model is the naive counter of one token.
type model struct {
	link            ledger.Link
	used, held      int64
	spent, reserved *big.Int
}

func (m *model) over(n int64) bool {
	if m.link.LimitTasks != nil && m.used+m.held+1 > *m.link.LimitTasks {
		return true
	}
	if m.link.LimitNanoUSD == nil {
		return false
	}
	sum := new(big.Int).Add(m.spent, m.reserved)
	return sum.Add(sum, big.NewInt(n)).Cmp(big.NewInt(int64(*m.link.LimitNanoUSD))) > 0
}

type history struct {
	*rig
	next     int
	states   map[int]ledger.TaskState
	ceilings map[int]int64 // by task, -1 for none
	chains   map[int][]ledger.Link
	answers  map[int]string
	budgets  map[ledger.BudgetKey]*model
	reported map[string]int64 // record id -> tokens
	voided   map[string]bool

	tasks, tokens, cost *big.Int
}

func (h *history) admitSome(rt *rapid.T) {
	n := h.next
	if len(h.states) > 0 && rapid.IntRange(0, 3).Draw(rt, "retry") == 0 {
		n = rapid.IntRange(0, h.next-1).Draw(rt, "task")
	}
	a := admission(n)
	ceiling := rapid.Int64Range(-1, 60).Draw(rt, "ceiling")
	if ceiling >= 0 {
		a.Ceiling = new(metering.NanoUSD(ceiling))
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "links") {
		link := ledger.Link{Issuer: alice, TokenID: fmt.Sprintf("del_%d_%d", i, rapid.IntRange(0, 1).Draw(rt, "token"))}
		if i != 1 {
			link.LimitTasks = new(int64(4 + i))
		}
		if i != 0 {
			link.LimitNanoUSD = new(metering.NanoUSD(150))
		}
		a.Links = append(a.Links, link)
	}
	a.TaskID = asap.TaskID(fmt.Sprintf("task_%d", n))
	if h.states[n] == ledger.Released && n < h.next {
		n = h.next // the envelope may be used again, for a task of another name
		a.TaskID = asap.TaskID(fmt.Sprintf("task_%d", n))
		a.EnvelopeID = asap.EnvelopeID(fmt.Sprintf("env_%d", n))
		a.Digest = admission(n).Digest
	}
	got, err := h.ledger.Admit(h.ctx, a)
	if state, known := h.states[n]; known {
		if err != nil || got.Replay == nil || got.Replay.State != state || string(got.Replay.Answer) != h.answers[n] {
			rt.Fatalf("retry of task %d in state %v: %+v, %v", n, state, got.Replay, err)
		}
		return
	}
	refused, unbounded := false, false
	for _, link := range a.Links {
		m := h.budgets[link.Key()]
		if m == nil {
			m = &model{link: link, spent: new(big.Int), reserved: new(big.Int)}
		}
		if link.LimitNanoUSD != nil && ceiling < 0 {
			unbounded = true
		}
		refused = refused || m.over(max(ceiling, 0))
	}
	switch {
	case err == nil && (refused || unbounded):
		rt.Fatalf("I4: task %d was admitted over a limit", n)
	case err != nil && !refused && !unbounded:
		rt.Fatalf("I6: task %d was refused: %v", n, err)
	case err != nil:
		if !isLimit(err) && !errors.Is(err, ledger.ErrCostUnbounded) {
			rt.Fatal(err)
		}
		return
	}
	h.next++
	h.states[n], h.ceilings[n], h.chains[n] = ledger.Held, ceiling, a.Links
	for _, link := range a.Links {
		if h.budgets[link.Key()] == nil {
			h.budgets[link.Key()] = &model{link: link, spent: new(big.Int), reserved: new(big.Int)}
		}
		m := h.budgets[link.Key()]
		m.held++
		m.reserved.Add(m.reserved, big.NewInt(max(ceiling, 0)))
	}
}

// end moves what a task held, in the model; cost is nil for a release.
func (h *history) end(n int, state ledger.TaskState, cost *big.Int) {
	h.states[n] = state
	for _, link := range h.chains[n] {
		m := h.budgets[link.Key()]
		m.held--
		m.reserved.Sub(m.reserved, big.NewInt(max(h.ceilings[n], 0)))
		if cost != nil {
			m.used++
			m.spent.Add(m.spent, cost)
		}
	}
}

func (h *history) some(rt *rapid.T) (int, bool) {
	if h.next == 0 {
		return 0, false
	}
	return rapid.IntRange(0, h.next-1).Draw(rt, "task"), true
}

func (h *history) settleSome(rt *rapid.T) {
	n, ok := h.some(rt)
	if !ok {
		return
	}
	s := settlement(n)
	calls := int64(n % 9)
	s.Record.APICalls = &calls
	_, err := h.ledger.Settle(h.ctx, s)
	switch h.states[n] {
	case ledger.Held:
		if err != nil {
			rt.Fatalf("settle task %d: %v", n, err)
		}
		cost := big.NewInt(10 + 7*calls)
		h.end(n, ledger.Settled, cost)
		h.answers[n] = string(s.Answer)
		h.tasks.Add(h.tasks, big.NewInt(1))
		h.tokens.Add(h.tokens, big.NewInt(*s.Record.TokensIn))
		h.cost.Add(h.cost, cost)
	case ledger.Settled:
		if err != nil {
			rt.Fatalf("settle task %d again: %v", n, err)
		}
	default:
		if !errors.Is(err, ledger.ErrTaskEnded) {
			rt.Fatalf("settle task %d in state %v: %v", n, h.states[n], err)
		}
	}
}

func (h *history) releaseSome(rt *rapid.T) {
	n, ok := h.some(rt)
	if !ok {
		return
	}
	_, err := h.ledger.Release(h.ctx, asap.TaskID(fmt.Sprintf("task_%d", n)), "test")
	switch h.states[n] {
	case ledger.Held:
		if err != nil {
			rt.Fatal(err)
		}
		h.end(n, ledger.Released, nil)
	case ledger.Released:
		if err != nil {
			rt.Fatal(err)
		}
	default:
		if !errors.Is(err, ledger.ErrTaskEnded) {
			rt.Fatal(err)
		}
	}
}

func (h *history) reportSome(rt *rapid.T) {
	n := rapid.IntRange(0, 20).Draw(rt, "report")
	rep := report(n)
	rep.Record.TokensIn = new(rapid.Int64Range(1, 3).Draw(rt, "tokens"))
	rep.Record.APICalls = new(int64(0))
	rep.Record.Timestamp = epoch.Add(-time.Duration(n) * 37 * time.Minute) // late ones
	_, err := h.ledger.Record(h.ctx, []ledger.Report{rep}, ledger.Atomic)
	tokens, known := h.reported[rep.Record.ID]
	switch {
	case known && tokens != *rep.Record.TokensIn:
		if !errors.Is(err, metering.ErrConflict) {
			rt.Fatalf("I2: other content under a known id: %v", err)
		}
	case err != nil:
		rt.Fatal(err)
	case !known:
		h.reported[rep.Record.ID] = *rep.Record.TokensIn
		h.tasks.Add(h.tasks, big.NewInt(1))
		h.tokens.Add(h.tokens, big.NewInt(*rep.Record.TokensIn))
		h.cost.Add(h.cost, big.NewInt(10))
	}
}

func (h *history) voidSome(rt *rapid.T) {
	id := report(rapid.IntRange(0, 20).Draw(rt, "report")).Record.ID
	_, err := h.ledger.Correct(h.ctx, ledger.Correction{Correction: metering.Correction{Kind: metering.Void, Ref: id}})
	tokens, known := h.reported[id]
	switch {
	case !known:
		if !errors.Is(err, ledger.ErrUnknownRecord) {
			rt.Fatal(err)
		}
	case h.voided[id]:
		if !errors.Is(err, metering.ErrAlreadyVoided) {
			rt.Fatal(err)
		}
	case err != nil:
		rt.Fatal(err)
	default:
		h.voided[id] = true
		h.tasks.Sub(h.tasks, big.NewInt(1))
		h.tokens.Sub(h.tokens, big.NewInt(tokens))
		h.cost.Sub(h.cost, big.NewInt(10))
	}
}

// lost is what expiry and recovery do to every task that is held.
func (h *history) lost() {
	for n, state := range h.states {
		if state != ledger.Held {
			continue
		}
		cost := big.NewInt(max(h.ceilings[n], 0))
		h.end(n, ledger.Expired, cost)
		h.answers[n] = fmt.Sprintf("lost task_%d", n)
		h.tasks.Add(h.tasks, big.NewInt(1))
		h.cost.Add(h.cost, cost)
	}
}

func (h *history) expire(rt *rapid.T) {
	h.clock.advance(time.Duration(rapid.IntRange(1, 90).Draw(rt, "minutes")) * time.Minute)
	if n, err := h.ledger.ExpireDue(h.ctx); err != nil || n != 0 {
		rt.Fatalf("%d tasks expired that had all the time: %v", n, err)
	}
}

func (h *history) reopen(*rapid.T) {
	if h.backend.Forgets {
		return
	}
	h.restart()
	h.lost()
}

func (h *history) compare(rt *rapid.T) {
	total := h.sums(metering.Filter{}, 0)[metering.RollupRow{}]
	for _, v := range []struct {
		name string
		got  int64
		want *big.Int
	}{{"tasks", total.Tasks, h.tasks}, {"tokens", total.TokensIn, h.tokens}, {"cost", int64(total.CostNanoUSD), h.cost}} {
		if big.NewInt(v.got).Cmp(v.want) != 0 {
			rt.Fatalf("I3: %s are %d, the model says %v", v.name, v.got, v.want)
		}
	}
	for key, m := range h.budgets {
		b, found, err := h.store.Budget(h.ctx, key)
		if err != nil || !found {
			rt.Fatalf("budget of %s: %v, %v", key.TokenID, found, err)
		}
		spent := big.NewInt(int64(b.UsedNanoUSD) + int64(b.OverrunNanoUSD))
		if b.UsedTasks != m.used || b.HeldTasks != m.held || spent.Cmp(m.spent) != 0 || big.NewInt(int64(b.HeldNanoUSD)).Cmp(m.reserved) != 0 {
			rt.Fatalf("budget of %s is %+v, the model says %d used, %d held, %v spent, %v reserved", key.TokenID, b, m.used, m.held, m.spent, m.reserved)
		}
	}
}
