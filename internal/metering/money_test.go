package metering

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func TestParseUSD(t *testing.T) {
	for _, c := range []struct {
		text string
		want NanoUSD
		err  error
	}{
		{"0", 0, nil}, {"-0", 0, nil}, {"12", 12e9, nil}, {"0.002150000", 2150000, nil}, {"-3.5", -35e8, nil},
		{"0.000000001", 1, nil}, {"1.0000000000000", 1e9, nil}, {"0000000000000000012.5", 125e8, nil},
		{"9223372036.854775807", math.MaxInt64, nil}, {"-9223372036.854775808", math.MinInt64, nil},
		{"9223372036.854775808", 0, ErrOverflow}, {"-9223372036.854775809", 0, ErrOverflow}, {"99999999999", 0, ErrOverflow},
		{"0.0000000001", 0, ErrTooPrecise},
		{"", 0, ErrNotDecimal}, {".5", 0, ErrNotDecimal}, {"1.", 0, ErrNotDecimal}, {"+1", 0, ErrNotDecimal}, {"1e3", 0, ErrNotDecimal},
		{" 1", 0, ErrNotDecimal}, {"1,5", 0, ErrNotDecimal}, {"--1", 0, ErrNotDecimal}, {"1.2.3", 0, ErrNotDecimal}, {"٣", 0, ErrNotDecimal},
	} {
		got, err := ParseUSD(c.text)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseUSD(%q) = %d, %v; want %d, %v", c.text, got, err, c.want, c.err)
		}
	}
}

func TestLimitsRoundDownAndChargesUp(t *testing.T) {
	for _, c := range []struct {
		text          string
		limit, charge NanoUSD
		err           error
	}{
		{"0.0000000019", 1, 2, nil}, {"0.0000000010", 1, 1, nil}, {"1", 1e9, 1e9, nil}, {"0.00000000000001", 0, 1, nil},
		{"-1", 0, 0, ErrNotDecimal}, {"x", 0, 0, ErrNotDecimal}, {"10000000000", 0, 0, ErrOverflow},
	} {
		limit, err1 := ParseLimitUSD(c.text)
		charge, err2 := ParseChargeUSD(c.text)
		if limit != c.limit || charge != c.charge || !errors.Is(err1, c.err) || !errors.Is(err2, c.err) {
			t.Errorf("%q: limit %d (%v), charge %d (%v); want %d, %d, %v", c.text, limit, err1, charge, err2, c.limit, c.charge, c.err)
		}
	}
	if _, err := ParseChargeUSD("9223372036.8547758071"); !errors.Is(err, ErrOverflow) {
		t.Errorf("a charge that rounds up beyond the end: %v", err)
	}
}

func TestMoneyIsExact(t *testing.T) {
	amount := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt64 / 2}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := NanoUSD(amount.Draw(t, "a")), amount.Draw(t, "b")
		x, y := big.NewInt(int64(a)), big.NewInt(b)
		check := func(name string, got NanoUSD, err error, want *big.Int) {
			if !want.IsInt64() {
				if !errors.Is(err, ErrOverflow) {
					t.Fatalf("%d %s %d = %d, %v; want overflow", a, name, b, got, err)
				}
			} else if err != nil || int64(got) != want.Int64() {
				t.Fatalf("%d %s %d = %d, %v; want %s", a, name, b, got, err, want)
			}
		}
		sum, err := a.Add(NanoUSD(b))
		check("+", sum, err, new(big.Int).Add(x, y))
		diff, err := a.Sub(NanoUSD(b))
		check("-", diff, err, new(big.Int).Sub(x, y))
		product, err := a.Mul(b)
		check("*", product, err, new(big.Int).Mul(x, y))

		back, err := ParseUSD(a.String())
		if err != nil || back != a {
			t.Fatalf("ParseUSD(%q) = %d, %v; want %d", a.String(), back, err, a)
		}
		exact, _ := new(big.Rat).SetString(a.String())
		if exact.Cmp(big.NewRat(int64(a), nanosPerUSD)) != 0 {
			t.Fatalf("%d prints as %s", a, a)
		}
	})
}

func TestPriceIsExactAndRoundedOnce(t *testing.T) {
	quantity := rapid.OneOf(rapid.Int64Range(0, 50), rapid.Int64Range(0, MaxQuantity))
	rate := rapid.OneOf(rapid.Int64Range(0, 100), rapid.Int64Range(0, 1e10), rapid.Just(int64(math.MaxInt64)))
	names := []string{
		"usd_per_task", "usd_per_million_tokens_in", "usd_per_million_tokens_out", "usd_per_million_tokens_cache_read",
		"usd_per_million_tokens_cache_write", "usd_per_api_call", "usd_per_second",
	}
	rapid.Check(t, func(t *rapid.T) {
		in, out, calls, ms := quantity.Draw(t, "in"), quantity.Draw(t, "out"), quantity.Draw(t, "calls"), quantity.Draw(t, "ms")
		read := rapid.Int64Range(0, in).Draw(t, "read")
		write := rapid.Int64Range(0, in-read).Draw(t, "write")
		rates := map[string]int64{}
		members := []byte{'{'}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID[string]).Draw(t, "set") {
			rates[name] = rate.Draw(t, name)
			members = memberText(members, name, NanoUSD(rates[name]).String())
		}
		members = append(members, '}')
		if len(rates) > 0 {
			members = append([]byte{'{'}, members[2:]...)
		}
		list, err := ParsePriceList("urn:asap:agent:a", members)
		if err != nil {
			t.Fatalf("%s: %v", members, err)
		}
		uncached := in - read - write
		r := Record{TokensIn: &in, TokensOut: &out, APICalls: &calls, DurationMS: &ms, Tokens: Tokens{InputUncached: &uncached, InputCacheRead: &read, InputCacheWrite: &write}}

		// The naive model: rational dollars.
		want := new(big.Rat)
		add := func(name string, n int64, per int64) {
			x := new(big.Rat).Mul(big.NewRat(rates[name], 1), big.NewRat(n, per))
			want.Add(want, x)
		}
		if _, ok := rates[names[3]]; ok {
			add(names[3], read, 1e6)
		} else {
			add(names[1], read, 1e6)
		}
		if _, ok := rates[names[4]]; ok {
			add(names[4], write, 1e6)
		} else {
			add(names[1], write, 1e6)
		}
		add(names[0], 1, 1)
		add(names[1], uncached, 1e6)
		add(names[2], out, 1e6)
		add(names[5], calls, 1)
		add(names[6], ms, 1000)
		want.Add(want, big.NewRat(1, 2))
		nanos := new(big.Int).Div(want.Num(), want.Denom()) // floor of x + 1/2

		cost, priced, err := list.Price(&r)
		switch {
		case len(rates) == 0:
			if priced || err != nil || cost != 0 {
				t.Fatalf("an empty list priced %d, %v", cost, err)
			}
		case nanos.Cmp(big.NewInt(int64(MaxCost))) > 0:
			if !errors.Is(err, ErrOverflow) || priced {
				t.Fatalf("%s: cost %d, %v; want overflow of %s", members, cost, err, nanos)
			}
		case err != nil || !priced || int64(cost) != nanos.Int64():
			t.Fatalf("%s: cost %d, %t, %v; want %s", members, cost, priced, err, nanos)
		}
	})
}

func TestPriceOfTheUnknownIsUnknown(t *testing.T) {
	n := int64(5)
	list := func(text string) *PriceList {
		l, err := ParsePriceList("urn:asap:agent:a", jsontext.Value(text))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, c := range []struct {
		name, list string
		record     Record
		priced     bool
		want       string
	}{
		{"no price", `{}`, Record{TokensIn: &n}, false, "0"},
		{"only a ceiling", `{"max_usd_per_task":"1"}`, Record{TokensIn: &n}, false, "0"},
		{"free", `{"usd_per_task":"0"}`, Record{}, true, "0"},
		{"tokens not reported", `{"usd_per_task":"1","usd_per_million_tokens_out":"1"}`, Record{TokensIn: &n}, false, "0"},
		{"tokens not reported but free", `{"usd_per_task":"1","usd_per_million_tokens_out":"0"}`, Record{TokensIn: &n}, true, "1"},
		{"input not reported", `{"usd_per_million_tokens_cache_read":"1"}`, Record{}, false, "0"},
		{"half a nano-dollar rounds up", `{"usd_per_million_tokens_in":"0.0001"}`, Record{TokensIn: &n}, true, "0.000000001"},
		{"less rounds down", `{"usd_per_million_tokens_in":"0.00009"}`, Record{TokensIn: &n}, true, "0"},
		{"time", `{"usd_per_second":"0.001"}`, Record{DurationMS: new(int64(1500))}, true, "0.0015"},
		{"time that nobody measured", `{"usd_per_second":"0.001"}`, Record{}, false, "0"},
	} {
		cost, priced, err := list(c.list).Price(&c.record)
		if err != nil || priced != c.priced || cost.String() != c.want {
			t.Errorf("%s: %s, %t, %v; want %s, %t", c.name, cost, priced, err, c.want, c.priced)
		}
	}
	negative := int64(-1)
	if _, _, err := list(`{"usd_per_api_call":1}`).Price(&Record{APICalls: &negative}); err == nil {
		t.Error("a negative quantity was priced")
	}
}
