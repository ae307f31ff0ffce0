package notify

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// warned is a log of warnings in memory.
type warned struct {
	mu   sync.Mutex
	list []ledger.Warning
}

func (l *warned) LimitWarnings(_ context.Context, after int64, limit int) (page []ledger.Warning, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.list {
		if w.Seq > after && (len(page) < limit || w.Seq == page[len(page)-1].Seq) {
			page = append(page, w)
		}
	}
	return page, nil
}

func (l *warned) LastLimitWarning(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) == 0 {
		return -1, nil
	}
	return l.list[len(l.list)-1].Seq, nil
}

func (l *warned) add(w ...ledger.Warning) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, w...)
}

func warning(seq int64, token string, unit ledger.Unit, percent int) ledger.Warning {
	return ledger.Warning{Seq: seq, At: time.Unix(1_700_000_000, 0), BudgetKey: ledger.BudgetKey{Issuer: "urn:asap:agent:alice", TokenID: token},
		Delegate: "urn:asap:agent:bob", Unit: unit, Percent: percent, Limit: 1_500_000_000, Used: 1_200_000_000}
}

// reader gathers frames; it has no room while it is full.
type reader struct {
	mu     sync.Mutex
	frames []string
	room   int // -1: always
}

func (r *reader) push(ctx context.Context, frame []byte) bool {
	r.mu.Lock()
	room := r.room
	r.mu.Unlock()
	if room == 0 {
		<-ctx.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.room = -1 // for what comes next
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room--
	r.frames = append(r.frames, string(frame))
	return true
}

func (r *reader) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.frames...)
}

func TestWarningsAreToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &warned{}
		log.add(warning(1, "del_old", ledger.UnitTasks, 80))
		w := NewWarnings(log)
		live, since, own := &reader{room: -1}, &reader{room: -1}, &reader{room: -1}
		all := func(*ledger.Warning) bool { return true }
		subscribe := func(r *reader, params string, allowed func(*ledger.Warning) bool) func() {
			end, err := w.Subscribe(t.Context(), jsontext.Value(params), allowed, r.push)
			if err != nil {
				t.Fatal(err)
			}
			return end
		}
		end := subscribe(live, `null`, all)
		subscribe(since, `{"since_seq":-1}`, all)
		subscribe(own, ``, func(v *ledger.Warning) bool { return v.TokenID == "del_mine" })
		synctest.Wait()
		log.add(warning(5, "del_mine", ledger.UnitTasks, 80), warning(5, "del_root", ledger.UnitCost, 80))
		w.Wake()
		synctest.Wait()
		mine := `{"jsonrpc":"2.0","method":"delegation.limit","params":{"seq":5,"at":"2023-11-14T22:13:20Z","id":"del_mine","issuer":"urn:asap:agent:alice","delegate":"urn:asap:agent:bob","unit":"tasks","percent":80,"limit":1500000000,"used":1200000000}}`
		root := `{"jsonrpc":"2.0","method":"delegation.limit","params":{"seq":5,"at":"2023-11-14T22:13:20Z","id":"del_root","issuer":"urn:asap:agent:alice","delegate":"urn:asap:agent:bob","unit":"usd","percent":80,"limit":"1.5","used":"1.2"}}`
		if diff := cmp.Diff([]string{mine, root}, live.got()); diff != "" {
			t.Error(diff)
		}
		if got := since.got(); len(got) != 3 || got[1] != mine || got[2] != root {
			t.Errorf("since the beginning: %q", got)
		}
		if diff := cmp.Diff([]string{mine}, own.got()); diff != "" {
			t.Error(diff)
		}
		end()
		log.add(warning(9, "del_mine", ledger.UnitTasks, 90))
		w.Wake()
		w.Close()
		if len(live.got()) != 2 {
			t.Errorf("after the end: %q", live.got())
		}
		if _, err := w.Subscribe(t.Context(), nil, all, live.push); err == nil {
			t.Error("subscribed to a feed that is closed")
		}
	})
}

// Who has no room is told where to resume, and loses nothing by it.
func TestSlowSubscriberResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &warned{}
		w := NewWarnings(log)
		defer w.Close()
		slow := &reader{room: 2}
		if _, err := w.Subscribe(t.Context(), jsontext.Value(`{"since_seq":-1}`), func(*ledger.Warning) bool { return true }, slow.push); err != nil {
			t.Fatal(err)
		}
		log.add(warning(1, "a", ledger.UnitTasks, 80), warning(2, "a", ledger.UnitTasks, 90), warning(2, "b", ledger.UnitTasks, 80))
		w.Wake()
		time.Sleep(Patience + time.Second)
		got := slow.got()
		if len(got) != 3 || got[2] != `{"jsonrpc":"2.0","method":"delegation.lagged","params":{"since_seq":1}}` {
			t.Errorf("%q", got)
		}
		log.add(warning(3, "a", ledger.UnitTasks, 100))
		w.Wake()
		synctest.Wait()
		if len(slow.got()) != 3 {
			t.Errorf("told more: %q", slow.got())
		}
		if _, err := w.Subscribe(t.Context(), jsontext.Value(`{"since_seq":"x"}`), nil, nil); err == nil {
			t.Error("params of the wrong form")
		}
	})
}
