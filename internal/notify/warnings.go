package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

const (
	// warningsPage is how many warnings are read at once.
	warningsPage = 200
	// Patience is how long a subscriber may have no room for a frame.
	Patience = 5 * time.Second
)

// WarningLog is where warnings of limits are kept.
type WarningLog interface {
	// LimitWarnings returns the warnings after a position, in order: at most limit,
	// and what has the same position as the last of them.
	LimitWarnings(ctx context.Context, after int64, limit int) ([]ledger.Warning, error)
	// LastLimitWarning is the position of the newest; -1 if there is none.
	LastLimitWarning(ctx context.Context) (int64, error)
}

// Warnings tells subscribers which limits of delegations come to their end, in
// the order of the log. Each subscriber reads at its own pace: there is no queue
// that could run over. Its methods are safe for concurrent use.
type Warnings struct {
	log WarningLog

	mu    sync.Mutex // guards what follows
	moved chan struct{}
	ended bool
	parts sync.WaitGroup
}

// NewWarnings returns a feed of the warnings in a log.
func NewWarnings(log WarningLog) *Warnings { return &Warnings{log: log, moved: make(chan struct{})} }

// Wake says that there may be new warnings. It does not block.
func (w *Warnings) Wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		close(w.moved)
		w.moved = make(chan struct{})
	}
}

// next returns a channel that is closed at the next Wake, and whether the feed has
// ended.
func (w *Warnings) next() (moved <-chan struct{}, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved, w.ended
}

// Close ends all subscriptions and waits for them.
func (w *Warnings) Close() {
	w.mu.Lock()
	if !w.ended {
		w.ended = true
		close(w.moved)
	}
	w.mu.Unlock()
	w.parts.Wait()
}

// Each calls f for every warning after a position until ctx ends or the feed is
// closed.
func (w *Warnings) Each(ctx context.Context, after int64, f func(ledger.Warning)) {
	w.follow(ctx, after, func(v *ledger.Warning) bool { f(*v); return true })
}

// readAgain is the pause after a reading that went wrong.
const readAgain = time.Second

// follow hands on what comes after a position until f wants no more. It returns
// the position of what it has handed on.
func (w *Warnings) follow(ctx context.Context, after int64, f func(*ledger.Warning) bool) int64 {
	for {
		moved, ended := w.next()
		if ended || ctx.Err() != nil {
			return after
		}
		page, err := w.log.LimitWarnings(ctx, after, warningsPage)
		for i := range page {
			if !f(&page[i]) {
				return after
			}
			if i+1 == len(page) || page[i+1].Seq > page[i].Seq {
				after = page[i].Seq
			}
		}
		if len(page) > 0 {
			continue
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(readAgain)
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-again:
		}
	}
}

var (
	// ErrParams is wrapped by refusals of what a subscriber asks for.
	ErrParams = errors.New("params refused")
	// ErrEnded reports a feed that is closed.
	ErrEnded = errors.New("the node is stopping")
)

// Position is that of the newest warning; -1 if there is none or nobody knows.
func (w *Warnings) Position(ctx context.Context) int64 {
	last, err := w.log.LastLimitWarning(ctx)
	if err != nil {
		return -1
	}
	return last
}

// Subscribe hands the warnings that allowed lets through to push, each as a
// JSON-RPC notification delegation.limit: those after the position in params, an
// object with since_seq, or else the new ones. push waits for room until its
// context ends. A subscriber that has none for too long gets delegation.lagged with
// the position from which to resume, and nothing more. The subscription ends with
// ctx, the feed, or end, which waits for it.
func (w *Warnings) Subscribe(ctx context.Context, params jsontext.Value, allowed func(*ledger.Warning) bool, push func(context.Context, []byte) bool) (end func(), err error) {
	var from struct {
		SinceSeq *int64 `json:"since_seq"`
	}
	if params.Kind() == '{' {
		if err := json.Unmarshal(params, &from); err != nil {
			return nil, fmt.Errorf("%w: params must be {since_seq}", ErrParams)
		}
	}
	var after int64
	if from.SinceSeq != nil {
		after = *from.SinceSeq
	} else if after, err = w.log.LastLimitWarning(ctx); err != nil {
		return nil, fmt.Errorf("find the newest warning of a limit: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil, ErrEnded
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.parts.Go(func() {
		defer close(done)
		defer cancel()
		hand := func(frame []byte) bool {
			patient, stop := context.WithTimeout(ctx, Patience)
			defer stop()
			return push(patient, frame)
		}
		after := w.follow(ctx, after, func(v *ledger.Warning) bool { return !allowed(v) || hand(AppendWarning(nil, v)) })
		if _, ended := w.next(); !ended && ctx.Err() == nil {
			hand(appendNotification(nil, "delegation.lagged", map[string]int64{"since_seq": after}))
		}
	})
	return func() { cancel(); <-done }, nil
}

// AppendWarning appends the notification of a warning to dst.
func AppendWarning(dst []byte, v *ledger.Warning) []byte {
	params := struct {
		Seq      int64          `json:"seq"`
		At       string         `json:"at"`
		ID       string         `json:"id"`
		Issuer   string         `json:"issuer"`
		Delegate string         `json:"delegate,omitempty"`
		Unit     string         `json:"unit"`
		Percent  int            `json:"percent"`
		Limit    jsontext.Value `json:"limit"`
		Used     jsontext.Value `json:"used"`
	}{v.Seq, v.At.UTC().Format(time.RFC3339Nano), v.TokenID, string(v.Issuer), string(v.Delegate), "tasks", v.Percent, amount(v.Unit, v.Limit), amount(v.Unit, v.Used)}
	if v.Unit == ledger.UnitCost {
		params.Unit = "usd"
	}
	return appendNotification(dst, "delegation.limit", &params)
}

// amount is a number of tasks, or money as a decimal string.
func amount(unit ledger.Unit, n int64) jsontext.Value {
	if unit == ledger.UnitCost {
		return append(metering.NanoUSD(n).Append([]byte{'"'}), '"')
	}
	return fmt.Append(nil, n)
}

func appendNotification(dst []byte, method string, params any) []byte {
	frame, err := json.Marshal(struct {
		Version string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{"2.0", method, params}, json.Deterministic(true))
	if err != nil {
		panic("notify: a notification does not marshal: " + err.Error()) // texts are valid UTF-8, the ledger checks them
	}
	return append(dst, frame...)
}
