package metering

import (
	"bytes"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzRecord: stored bytes come back as a record in their one spelling, or not.
func FuzzRecord(f *testing.F) {
	for _, more := range []string{"", `,"tokens_in":5,"tokens_out":0,"model":"m"`, `,"id":"x","outcome":"failed","api_calls":3,"duration_ms":10`} {
		r, err := ParseReport([]byte(report(more)), noon)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(r.AppendCanonical(nil))
	}
	f.Add([]byte(`{"agent":"urn:asap:agent:a","cost_usd":"0.1","timestamp":"2026-02-20T11:59:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.AppendCanonical(nil), b) || r.Validate() != nil {
			t.Fatalf("%s", b)
		}
		if !jsontext.Value(r.AppendJSON(nil)).IsValid() {
			t.Fatalf("%s", r.AppendJSON(nil))
		}
	})
}

// FuzzPriceList: an accepted list is written so that it reads to the same one,
// with the same hash.
func FuzzPriceList(f *testing.F) {
	f.Add([]byte(`{"effective_from":"2026-01-01T00:00:00Z","usd_per_task":"0.01","models":{"m":{"usd_per_million_tokens_in":3.5}},"skills":{"s":{"usd_per_second":"0.000000001","models":{"x":{}}}}}`))
	f.Add([]byte(`{"usd_per_task":0,"max_usd_per_task":"9223372036.854775807"}`))
	f.Add([]byte(`{"skills":{"":{"models":null}}}`))
	const agent = "urn:asap:agent:a"
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParsePriceList(agent, b)
		if err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) || len(refusal.Issues) == 0 {
				t.Fatalf("a refusal without a reason: %v", err)
			}
			return
		}
		text := string(list.AppendCanonical(nil))
		bare := strings.Replace(text, `"agent":"`+agent+`",`, "", 1)
		if bare == text {
			bare = strings.Replace(text, `"agent":"`+agent+`"`, "", 1)
		}
		again, err := ParsePriceList(agent, jsontext.Value(bare))
		if err != nil || again.Hash() != list.Hash() || string(again.AppendCanonical(nil)) != text {
			t.Fatalf("%v\n%s\n%s", err, b, text)
		}
	})
}

// FuzzMoney: amounts are those of exact arithmetic: a limit is rounded down, a
// charge up, and what is written reads the same.
func FuzzMoney(f *testing.F) {
	for _, seed := range []string{"0.002150000", "-12", "9223372036.854775807", "-9223372036.854775808", "0.0000000001", "00", "1.", "99999999999", "0.9999999999"} {
		f.Add(seed)
	}
	billion := big.NewRat(1_000_000_000, 1)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 {
			return
		}
		exact, isNumber := new(big.Rat).SetString(text)
		if isNumber {
			exact.Mul(exact, billion)
		}
		if n, err := ParseUSD(text); err == nil {
			if !isNumber || exact.Cmp(big.NewRat(int64(n), 1)) != 0 {
				t.Fatalf("%q is %d", text, n)
			}
			if back, err := ParseUSD(n.String()); err != nil || back != n {
				t.Fatalf("%q is written as %q: %v", text, n, err)
			}
		}
		limit, limitErr := ParseLimitUSD(text)
		charge, chargeErr := ParseChargeUSD(text)
		if limitErr == nil && chargeErr == nil {
			low, high := big.NewRat(int64(limit), 1), big.NewRat(int64(charge), 1)
			if !isNumber || low.Cmp(exact) > 0 || high.Cmp(exact) < 0 || charge-limit > 1 || limit < 0 {
				t.Fatalf("%q: limit %d, charge %d", text, limit, charge)
			}
		}
	})
}

// FuzzGroupBy: what is accepted is written as a list that reads the same.
func FuzzGroupBy(f *testing.F) {
	for _, seed := range []string{"agent", "hour, consumer", "day,week", "skill,outcome,delegation,agent,month", ","} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ParseGroupBy(text, time.UTC)
		if err != nil {
			return
		}
		if again, err := ParseGroupBy(g.String(), time.UTC); err != nil || again.String() != g.String() || len(g.Dimensions) > 9 {
			t.Fatalf("%q: %q, %v", text, g, err)
		}
	})
}
