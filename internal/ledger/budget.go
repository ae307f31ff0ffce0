package ledger

import (
	"math"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// BudgetKey names the counter of one delegation token.
type BudgetKey struct {
	Issuer  asap.AgentURN
	TokenID string
}

// Key returns the key of the link's counter.
func (l Link) Key() BudgetKey { return BudgetKey{l.Issuer, l.TokenID} }

// RemainingTasks returns how many tasks may still be admitted; false for no limit.
func (b Budget) RemainingTasks() (int64, bool) {
	if b.LimitTasks == nil {
		return 0, false
	}
	return max(0, *b.LimitTasks-b.UsedTasks-b.HeldTasks), true
}

// RemainingNanoUSD returns what may still be reserved; false for no limit.
func (b Budget) RemainingNanoUSD() (metering.NanoUSD, bool) {
	if b.LimitNanoUSD == nil {
		return 0, false
	}
	return max(0, *b.LimitNanoUSD-saturate(b.UsedNanoUSD, b.OverrunNanoUSD)-b.HeldNanoUSD), true
}

// sameLimits tells whether a token presents the limits it had before.
func (b Budget) sameLimits(l Link) bool {
	return equal(b.LimitTasks, l.LimitTasks) && equal(b.LimitNanoUSD, l.LimitNanoUSD)
}

func equal[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// reserve holds one task and the ceiling, or says why not; of two reasons the
// one that decides, see [weightier]. It is pure: the receiver is not changed.
func (b Budget) reserve(link int, ceiling *metering.NanoUSD) (Budget, error) {
	var tasks error
	if short := b.ShortOfTasks(link); short != nil {
		tasks = short
	}
	if err := weightier(tasks, b.shortOfMoney(link, ceiling)); err != nil {
		return b, err
	}
	if ceiling != nil {
		held, err := b.HeldNanoUSD.Add(*ceiling)
		if err != nil {
			return b, err
		}
		b.HeldNanoUSD = held
	}
	b.HeldTasks++
	return b, nil
}

// ShortOfTasks returns the refusal of one more task by the limit of the link at
// that position, or nil.
func (b Budget) ShortOfTasks(link int) *LimitError {
	if b.LimitTasks == nil || b.UsedTasks+b.HeldTasks+1 <= *b.LimitTasks {
		return nil
	}
	remaining, _ := b.RemainingTasks()
	return &LimitError{Link: link, Issuer: b.Issuer, TokenID: b.TokenID, Unit: UnitTasks, Limit: *b.LimitTasks,
		Used: b.UsedTasks, Held: b.HeldTasks, Remaining: remaining, Needed: 1}
}

func (b Budget) shortOfMoney(link int, ceiling *metering.NanoUSD) error {
	if b.LimitNanoUSD == nil {
		return nil
	}
	if ceiling == nil {
		return &CostUnboundedError{Link: link, TokenID: b.TokenID}
	}
	used := saturate(b.UsedNanoUSD, b.OverrunNanoUSD)
	if saturate(saturate(used, b.HeldNanoUSD), *ceiling) <= *b.LimitNanoUSD {
		return nil
	}
	remaining, _ := b.RemainingNanoUSD()
	return &LimitError{Link: link, Issuer: b.Issuer, TokenID: b.TokenID, Unit: UnitCost, Limit: int64(*b.LimitNanoUSD),
		Used: int64(used), Held: int64(b.HeldNanoUSD), Remaining: int64(remaining), Needed: int64(*ceiling)}
}

// release gives a hold back without a charge.
func (b Budget) release(ceiling *metering.NanoUSD) Budget {
	b.HeldTasks--
	if ceiling != nil {
		b.HeldNanoUSD -= *ceiling
	}
	return b
}

// settle replaces a hold by what the task cost: within the ceiling it is used,
// beyond it overrun. Without a ceiling nothing bounds the cost, and all is used.
// A counter that is full stays at its maximum, which only ever refuses more.
func (b Budget) settle(ceiling *metering.NanoUSD, cost metering.NanoUSD) Budget {
	b = b.release(ceiling)
	b.UsedTasks++
	within := cost
	if ceiling != nil {
		within = min(cost, *ceiling)
	}
	b.UsedNanoUSD = saturate(b.UsedNanoUSD, within)
	b.OverrunNanoUSD = saturate(b.OverrunNanoUSD, cost-within)
	return b
}

// saturate adds two amounts that are not negative.
func saturate(a, b metering.NanoUSD) metering.NanoUSD {
	if sum, err := a.Add(b); err == nil {
		return sum
	}
	return math.MaxInt64
}
