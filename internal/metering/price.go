package metering

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
)

// Rates are the components of a price. A nil component is not set: it is
// inherited, and if nobody sets it, it costs nothing. A price of nothing but
// unset components is no price: the task is unpriced.
type Rates struct {
	PerTask                    *NanoUSD
	PerMillionTokensIn         *NanoUSD
	PerMillionTokensOut        *NanoUSD
	PerMillionTokensCacheRead  *NanoUSD // of tokens_in; else PerMillionTokensIn
	PerMillionTokensCacheWrite *NanoUSD // of tokens_in; else PerMillionTokensIn
	PerAPICall                 *NanoUSD
	PerSecond                  *NanoUSD
	// MaxPerTask is the ceiling that is held for a task before it starts. It is
	// not part of the price and does not cap a cost.
	MaxPerTask *NanoUSD
}

// PriceList says what an agent's tasks cost from a time on. It is immutable:
// a changed list is another list with another Hash.
type PriceList struct {
	Agent         asap.AgentURN
	EffectiveFrom time.Time
	base          Rates
	models        map[string]Rates
	skills        map[string]skillRates
	hash          string
}

type skillRates struct {
	base   Rates
	models map[string]Rates
}

// rateFields gives the members of a rate their names, ordered by name.
func rateFields(r *Rates) []struct {
	name string
	at   **NanoUSD
} {
	return []struct {
		name string
		at   **NanoUSD
	}{
		{"max_usd_per_task", &r.MaxPerTask},
		{"usd_per_api_call", &r.PerAPICall},
		{"usd_per_million_tokens_cache_read", &r.PerMillionTokensCacheRead},
		{"usd_per_million_tokens_cache_write", &r.PerMillionTokensCacheWrite},
		{"usd_per_million_tokens_in", &r.PerMillionTokensIn},
		{"usd_per_million_tokens_out", &r.PerMillionTokensOut},
		{"usd_per_second", &r.PerSecond},
		{"usd_per_task", &r.PerTask},
	}
}

// ParsePriceList reads the price list of one agent:
//
//	{"effective_from": "2026-01-01T00:00:00Z",
//	 "usd_per_task": "0.01", "usd_per_million_tokens_in": "3", …,
//	 "models": {"MODEL": {rates}},
//	 "skills": {"SKILL": {rates, "models": {"MODEL": {rates}}}}}
//
// Prices are decimal texts or JSON numbers without exponent, taken digit by
// digit. effective_from may be left out: from the beginning. Unknown members,
// negative prices and more than nine decimals are refused with an *Error of
// CodeInvalidPrice.
func ParsePriceList(agent asap.AgentURN, v jsontext.Value) (*PriceList, error) {
	p := priceReader{}
	list := &PriceList{Agent: agent}
	p.object("", v, func(name string, v jsontext.Value) bool {
		switch name {
		case "effective_from":
			s, err := jsontext.AppendUnquote(nil, v)
			t, bad := asap.ParseTimestamp(string(s))
			if err != nil || bad != nil || asap.Zoneless(t) {
				p.add(name, "datetime_parsing", "must be an RFC 3339 time with its zone")
			}
			list.EffectiveFrom = t.UTC()
		case "models":
			list.models = p.models("models.", v)
		case "skills":
			list.skills = map[string]skillRates{}
			p.object("skills", v, func(skill string, v jsontext.Value) bool {
				s := skillRates{}
				path := "skills." + skill + "."
				p.object(strings.TrimSuffix(path, "."), v, func(name string, v jsontext.Value) bool {
					if name == "models" {
						s.models = p.models(path+"models.", v)
						return true
					}
					return p.rate(path, &s.base, name, v)
				})
				list.skills[skill] = s
				return true
			})
		default:
			return p.rate("", &list.base, name, v)
		}
		return true
	})
	if len(p.issues) > 0 {
		return nil, &Error{Code: CodeInvalidPrice, Issues: p.issues}
	}
	sum := sha256.Sum256(list.AppendCanonical(nil))
	list.hash = hex.EncodeToString(sum[:])
	return list, nil
}

type priceReader struct{ validation }

// object hands each member of v to take, which says whether it knows the name.
func (p *priceReader) object(path string, v jsontext.Value, take func(string, jsontext.Value) bool) {
	members, order, err := readObject(v)
	if err != nil {
		p.add(path, "dict_type", "must be a JSON object without duplicate members")
		return
	}
	for _, name := range order {
		if !take(name, members[name]) {
			p.add(strings.TrimPrefix(path+"."+name, "."), "extra_forbidden", "is not part of a price list")
		}
	}
}

func (p *priceReader) models(path string, v jsontext.Value) map[string]Rates {
	all := map[string]Rates{}
	p.object(strings.TrimSuffix(path, "."), v, func(model string, v jsontext.Value) bool {
		r := Rates{}
		p.object(path+model, v, func(name string, v jsontext.Value) bool {
			return p.rate(path+model+".", &r, name, v)
		})
		all[model] = r
		return true
	})
	return all
}

func (p *priceReader) rate(path string, r *Rates, name string, v jsontext.Value) bool {
	for _, f := range rateFields(r) {
		if f.name != name {
			continue
		}
		text := string(v)
		if v.Kind() == '"' {
			s, _ := jsontext.AppendUnquote(nil, v)
			text = string(s)
		}
		amount, err := ParseUSD(text)
		switch {
		case err != nil:
			p.add(path+name, "value_error", "%s", err)
		case amount < 0:
			p.add(path+name, "greater_than_equal", "must not be negative")
		default:
			*f.at = &amount
		}
		return true
	}
	return false
}

// Hash returns the content hash of the list in lower-case hex: the SHA-256 of
// its canonical JSON, in which amounts are trimmed decimal texts.
func (l *PriceList) Hash() string { return l.hash }

// MarshalJSON returns the canonical JSON that Hash is taken of. ParsePriceList
// reads it back, given the agent, after removing the member "agent".
func (l *PriceList) MarshalJSON() ([]byte, error) { return l.AppendCanonical(nil), nil }

// AppendCanonical appends the bytes of [PriceList.MarshalJSON] to dst.
func (l *PriceList) AppendCanonical(dst []byte) []byte {
	dst = appendText(append(dst, `{"agent":`...), string(l.Agent))
	if !l.EffectiveFrom.IsZero() {
		dst = appendTime(append(dst, `,"effective_from":`...), l.EffectiveFrom)
	}
	dst = l.base.appendRange(dst, "", "models")
	dst = appendModels(dst, l.models)
	if len(l.skills) > 0 {
		dst = append(dst, `,"skills":{`...)
		for i, name := range sortedKeys(l.skills) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, name), ':')
			start := len(dst)
			s := l.skills[name]
			dst = s.base.appendRange(dst, "", "models")
			dst = appendModels(dst, s.models)
			dst = s.base.appendRange(dst, "models", "~")
			dst = braced(dst, start)
		}
		dst = append(dst, '}')
	}
	dst = l.base.appendRange(dst, "skills", "~")
	return append(dst, '}')
}

// appendRange writes the set components whose names lie between two names.
func (r Rates) appendRange(dst []byte, after, before string) []byte {
	for _, f := range rateFields(&r) {
		if *f.at != nil && f.name > after && f.name < before {
			dst = memberText(dst, f.name, (*f.at).String())
		}
	}
	return dst
}

func appendModels(dst []byte, models map[string]Rates) []byte {
	if len(models) == 0 {
		return dst
	}
	dst = append(dst, `,"models":{`...)
	for i, name := range sortedKeys(models) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, name), ':')
		start := len(dst)
		dst = braced(models[name].appendRange(dst, "", "~"), start)
	}
	return append(dst, '}')
}

// braced turns members that each begin with a comma into an object.
func braced(dst []byte, start int) []byte {
	if len(dst) == start {
		return append(dst, "{}"...)
	}
	dst[start] = '{'
	return append(dst, '}')
}

// sortedKeys orders names by code point; the names of one list are ASCII in
// practice, where this is the order of RFC 8785.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// rates resolves skill and model, each component from the most specific place
// that sets it: the skill's model, the skill, the model, the agent.
func (l *PriceList) rates(skill, model string) Rates {
	r := l.base
	r.override(l.models[model])
	if s, ok := l.skills[skill]; ok {
		r.override(s.base)
		r.override(s.models[model])
	}
	return r
}

func (r *Rates) override(by Rates) {
	to := rateFields(r)
	for i, f := range rateFields(&by) {
		if *f.at != nil {
			*to[i].at = *f.at
		}
	}
}

// Price returns the cost of what the record used, computed exactly and rounded
// once, half up, to the nano-dollar. priced is false if the list has no price
// for it, or the price needs a quantity that was not reported: unknown is not
// free. The error is ErrOverflow: the cost is beyond MaxCost. The record must be
// a valid one of kind Usage.
func (l *PriceList) Price(r *Record) (cost NanoUSD, priced bool, err error) {
	p := l.rates(r.Skill, r.Model)
	uncached, read, write, known := r.inputByPrice(p)
	terms := []struct {
		rate  *NanoUSD
		count Count
		scale uint64 // to 10^-6 nano-dollars
	}{
		{p.PerTask, new(int64(1)), 1e6},
		{p.PerMillionTokensIn, uncached, 1},
		{p.PerMillionTokensCacheRead, read, 1},
		{p.PerMillionTokensCacheWrite, write, 1},
		{p.PerMillionTokensOut, r.TokensOut, 1},
		{p.PerAPICall, r.APICalls, 1e6},
		{p.PerSecond, r.DurationMS, 1e3},
	}
	var sum product128
	any := false
	for _, t := range terms {
		if t.rate == nil {
			continue
		}
		any = true
		switch {
		case *t.rate == 0:
		case t.count == nil:
			return 0, false, nil
		case *t.count < 0:
			return 0, false, fmt.Errorf("price a record: %w", refuse(CodeInvalid, "", "value_error", "quantities are negative"))
		default:
			sum.add(uint64(*t.rate), uint64(*t.count), t.scale)
		}
	}
	if !any || !known {
		return 0, false, nil
	}
	cost, err = sum.roundHalfUp(1e6)
	return cost, err == nil, err
}

// inputByPrice splits tokens_in into what each input price applies to. known is
// false if a cache price is set but the report says less than it needs.
func (r *Record) inputByPrice(p Rates) (uncached, read, write Count, known bool) {
	if r.TokensIn == nil {
		return nil, nil, nil, true // fatal only to a price that needs it
	}
	rest := *r.TokensIn
	zero := int64(0)
	read, write = &zero, &zero // a report without buckets had no cache
	if p.PerMillionTokensCacheRead != nil && r.Tokens.InputCacheRead != nil {
		read, rest = r.Tokens.InputCacheRead, rest-*r.Tokens.InputCacheRead
	}
	if p.PerMillionTokensCacheWrite != nil && r.Tokens.InputCacheWrite != nil {
		write, rest = r.Tokens.InputCacheWrite, rest-*r.Tokens.InputCacheWrite
	}
	return &rest, read, write, rest >= 0
}

// Ceiling returns the most a task of that skill and model may be expected to
// cost, max_usd_per_task; ok is false if the list does not say.
func (l *PriceList) Ceiling(skill, model string) (ceiling NanoUSD, ok bool) {
	if c := l.rates(skill, model).MaxPerTask; c != nil {
		return *c, true
	}
	return 0, false
}

// Most returns the most a task of that skill may be expected to cost: its ceiling,
// or its price where nothing but the task itself is charged for. ok is false if
// the list does not say.
func (l *PriceList) Most(skill string) (most NanoUSD, ok bool) {
	p := l.rates(skill, "")
	if p.MaxPerTask != nil {
		return *p.MaxPerTask, true
	}
	flat := Rates{PerTask: p.PerTask}
	if p.PerTask == nil || p != flat || len(l.models)+len(l.skills[skill].models) > 0 {
		return 0, false
	}
	return *p.PerTask, true
}

// PriceBook holds every list of a node and finds the one in force. It is safe
// for concurrent use, as it never changes.
type PriceBook struct {
	lists map[asap.AgentURN][]*PriceList
}

// NewPriceBook returns a book of the lists. Two lists of one agent must not
// take effect at the same time.
func NewPriceBook(lists ...*PriceList) (*PriceBook, error) {
	b := &PriceBook{lists: map[asap.AgentURN][]*PriceList{}}
	for _, l := range lists {
		b.lists[l.Agent] = append(b.lists[l.Agent], l)
	}
	for agent, of := range b.lists {
		slices.SortFunc(of, func(x, y *PriceList) int { return x.EffectiveFrom.Compare(y.EffectiveFrom) })
		for i := range of[1:] {
			if of[i].EffectiveFrom.Equal(of[i+1].EffectiveFrom) {
				return nil, refuse(CodeInvalidPrice, "effective_from", "value_error", "two price lists of %s take effect at the same time", agent)
			}
		}
	}
	return b, nil
}

// At returns the list of the agent that is in force at t, or nil. A nil book
// has no lists.
func (b *PriceBook) At(agent asap.AgentURN, t time.Time) *PriceList {
	if b == nil {
		return nil
	}
	var found *PriceList
	for _, l := range b.lists[agent] {
		if l.EffectiveFrom.After(t) {
			break
		}
		found = l
	}
	return found
}

// Price fills in the cost of a usage record by the list in force at its
// Timestamp, or leaves it unpriced. The error is ErrOverflow.
func (b *PriceBook) Price(r *Record) error {
	r.CostNanoUSD, r.PriceList = nil, ""
	l := b.At(r.Agent, r.Timestamp)
	if l == nil {
		return nil
	}
	cost, priced, err := l.Price(r)
	if err != nil || !priced {
		return err
	}
	r.CostNanoUSD, r.PriceList = &cost, l.Hash()
	return nil
}
