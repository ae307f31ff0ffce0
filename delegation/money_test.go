package delegation

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseLimitUSD(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "0.0": 0, "0e9999999999999999999": 0, "3": 3e9, "3.0": 3e9, "12.5": 12.5e9, "1.25": 1.25e9,
		"0.000000001": 1, "0.0000000019": 1, "0.0000000009": 0, "1e-9": 1, "1E-10": 0, "25e-1": 2.5e9, "1e2": 100e9, "1e+2": 100e9,
		"9000000000": 9e18, "9e9": 9e18, "9000000000.0000000000": 9e18, "0.0000000000009e22": 9e18,
		"1e-99999999999999999999": 0, "123456789.123456789987": 123456789123456789,
		"0.1": 100_000_000, "0.3": 300_000_000, "2.675": 2_675_000_000, "1.1e0": 1_100_000_000, "9000000000.0000000009": 9e18,
	} {
		if got, err := ParseLimitUSD(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-1", "-0", "-0.0", "x", "1.", ".5", "01", "1e", "1 ", " 1", "+1", "0x1", "1_0", "NaN", "9000000000.000000001",
		"9000000001", "1e10", "1e9999", "1e99999999999999999999", "99999999999999999999", strings.Repeat("9", 4000),
	} {
		if got, err := ParseLimitUSD(text); err == nil {
			t.Errorf("%.40s: got %d, want an error", text, got)
		}
	}
}

// TestParseLimitUSDExactly compares with rational numbers.
func TestParseLimitUSDExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`(0|[1-9][0-9]{0,12})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "text")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatal("not a number")
		}
		exact.Mul(exact, big.NewRat(NanoPerUSD, 1))
		want := new(big.Int).Quo(exact.Num(), exact.Denom())
		got, err := ParseLimitUSD(text)
		if over := want.Cmp(big.NewInt(MaxLimitNanoUSD)) > 0; over != (err != nil) || (!over && got != want.Int64()) {
			t.Fatalf("%s: got %d, %v, want %s", text, got, err, want)
		}
	})
}

func TestFormatUSD(t *testing.T) {
	for nano, want := range map[int64]string{
		0: "0", 1: "0.000000001", 1_250_000_000: "1.25", 3e9: "3", 9e18: "9000000000", -1_500_000_000: "-1.5",
		-1 << 63: "-9223372036.854775808", 100: "0.0000001",
	} {
		if got := FormatUSD(nano); got != want {
			t.Errorf("%d: got %s, want %s", nano, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		nano := rapid.Int64Range(0, MaxLimitNanoUSD).Draw(t, "nano")
		if got, err := ParseLimitUSD(FormatUSD(nano)); err != nil || got != nano {
			t.Fatalf("%d came back as %d, %v", nano, got, err)
		}
	})
}
