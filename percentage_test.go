package asap

import (
	"math/big"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// percentageDifferences: docs/compatibility.md explains each row named here.
var percentageDifferences = map[string]difference{
	`"100.1%"`:                  {false, "percentage-range"},
	`"150%"`:                    {false, "percentage-range"},
	`"-1%"`:                     {false, "percentage-range"},
	`"-150"`:                    {false, "percentage-range"},
	`"99.99.9%"`:                {false, "percentage-syntax"},
	`"1.2.3"`:                   {false, "percentage-syntax"},
	`"..."`:                     {false, "percentage-syntax"},
	`"."`:                       {false, "percentage-syntax"},
	`"١٢%"`:                     {false, "percentage-digits"},
	`"９９%"`:                     {false, "percentage-digits"},
	`"99.999999999999999999%"`:  {false, "percentage-precision"},
	quoteName(longOnes() + "%"): {false, "percentage-range"},
}

func longOnes() string { return strings.Repeat("1", 400) }

// slaFieldDifferences: docs/compatibility.md explains each row named here.
var slaFieldDifferences = map[string]difference{
	"max_latency_p95_ms 1000000000000000000000000000000": {false, "integer-64-bit"},
}

func TestPercentages(t *testing.T) {
	var v struct {
		Percentages []struct {
			Input string `json:"input"`
			Parse struct {
				Accepted bool    `json:"accepted"`
				Value    float64 `json:"value"`
			} `json:"parse_percentage"`
			Availability verdict `json:"sla_availability"`
			ErrorRate    verdict `json:"sla_max_error_rate"`
		} `json:"percentages"`
		Other []struct {
			Field  string         `json:"field"`
			Input  jsontext.Value `json:"input"`
			Result struct {
				verdict
				Stored jsontext.Value `json:"stored"`
			} `json:"result"`
		} `json:"other_fields"`
		Unknown []recordedIssue `json:"unknown_field_errors"`
	}
	load(t, "vectors/percentages.json", &v)
	seen := 0
	for _, c := range v.Percentages {
		name := `"` + c.Input + `"`
		t.Run(name, func(t *testing.T) {
			p, err := ParsePercentage(c.Input)
			if differ(t, percentageDifferences, name, c.Availability, err) {
				seen++
				return
			}
			if (err == nil) != c.Availability.Accepted {
				t.Fatalf("%v, want accepted %v", err, c.Availability.Accepted)
			}
			for field, want := range map[string]verdict{"availability": c.Availability, "max_error_rate": c.ErrorRate} {
				sla, err := ParseSLADefinition(withMember(t, `{}`, field, appendString(nil, c.Input)))
				compareVerdict(t, want, err)
				if err == nil && !strings.Contains(string(sla.AppendJSON(nil)), string(appendString(nil, c.Input))) {
					t.Errorf("the text was not kept: %s", sla.AppendJSON(nil))
				}
			}
			if err == nil && c.Parse.Accepted && p.Float64() != c.Parse.Value {
				t.Errorf("%v, want %v", p.Float64(), c.Parse.Value)
			}
		})
	}
	if seen != len(percentageDifferences) {
		t.Errorf("%d of %d listed differences were seen", seen, len(percentageDifferences))
	}
	for _, c := range v.Other {
		name := c.Field + " " + string(c.Input)
		t.Run(name, func(t *testing.T) {
			sla, err := ParseSLADefinition(withMember(t, `{}`, c.Field, c.Input))
			if differ(t, slaFieldDifferences, name, c.Result.verdict, err) {
				return
			}
			compareVerdict(t, c.Result.verdict, err)
			if err == nil && !strings.Contains(string(sla.AppendJSON(nil)), `"`+c.Field+`":`+string(c.Result.Stored)) {
				t.Errorf("%s, want %s", sla.AppendJSON(nil), c.Result.Stored)
			}
		})
	}
	_, err := ParseSLADefinition([]byte(`{"foo":1}`))
	compareVerdict(t, verdict{Errors: v.Unknown}, err)
}

func TestPercentageValues(t *testing.T) {
	parse := func(s string) Percentage {
		p, err := ParsePercentage(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if units, scale := parse("99.50%").Decimal(); units != 995 || scale != 1 {
		t.Errorf("99.50%% = %d / 10^%d", units, scale)
	}
	if !parse("99.5").Equal(parse("99.500%")) || parse("99.49").Compare(parse("99.5")) >= 0 || parse("100").Compare(parse("0.30000000000000004")) <= 0 {
		t.Error("Compare")
	}
	if p := parse("1%"); p.CompareRatio(1, 100) != 0 || p.CompareRatio(1, 99) <= 0 || p.CompareRatio(1, 101) >= 0 {
		t.Error("CompareRatio")
	}
	var zero Percentage
	if b, err := zero.MarshalJSON(); err != nil || string(b) != `"0%"` || zero.CompareRatio(0, 5) != 0 {
		t.Errorf("zero: %s %v", b, err)
	}
}

func TestPercentageRatioIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.IntRange(0, 99).Draw(t, "whole")
		fraction := rapid.StringMatching(`[0-9]{0,17}`).Draw(t, "fraction")
		text := big.NewInt(int64(whole)).String() + "." + fraction
		p, err := ParsePercentage(text + "%")
		if err != nil {
			t.Fatal(err)
		}
		exact, _ := new(big.Rat).SetString(text + "0")
		total := rapid.Int64Range(1, 1<<62).Draw(t, "total")
		part := rapid.Int64Range(0, total).Draw(t, "part")
		ratio := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(part), big.NewInt(100)), big.NewInt(total))
		if got, want := p.CompareRatio(part, total), ratio.Cmp(exact); got != want {
			t.Fatalf("%d/%d against %s: %d, want %d", part, total, text, got, want)
		}
	})
}
