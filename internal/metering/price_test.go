package metering

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const examplePrices = `{
 "effective_from": "2026-01-01T00:00:00Z",
 "usd_per_task": 0.01, "usd_per_million_tokens_in": "3.00", "max_usd_per_task": "1",
 "models": {"big": {"usd_per_million_tokens_in": "15"}, "odd": {}},
 "skills": {
  "write": {"usd_per_task": "0.5", "max_usd_per_task": "2", "models": {"big": {"usd_per_task": "0.75"}}},
  "read": {}
 }
}`

func TestPriceListIsResolvedFromTheMostSpecificPlace(t *testing.T) {
	list, err := ParsePriceList("urn:asap:agent:a", jsontext.Value(examplePrices))
	if err != nil {
		t.Fatal(err)
	}
	million := int64(1e6)
	for _, c := range []struct{ skill, model, cost, ceiling string }{
		{"", "", "3.01", "1"}, {"", "big", "15.01", "1"}, {"write", "", "3.5", "2"}, {"write", "big", "15.75", "2"},
		{"write", "small", "3.5", "2"}, {"read", "big", "15.01", "1"}, {"unknown", "unknown", "3.01", "1"}, {"", "odd", "3.01", "1"},
	} {
		cost, priced, err := list.Price(&Record{Skill: c.skill, Model: c.model, TokensIn: &million})
		ceiling, ok := list.Ceiling(c.skill, c.model)
		if err != nil || !priced || cost.String() != c.cost || !ok || ceiling.String() != c.ceiling {
			t.Errorf("%s/%s: cost %s (%v), ceiling %s; want %s, %s", c.skill, c.model, cost, err, ceiling, c.cost, c.ceiling)
		}
	}
}

func TestPriceListHashIsThatOfItsContent(t *testing.T) {
	parse := func(agent, text string) *PriceList {
		l, err := ParsePriceList("urn:asap:agent:"+"a", jsontext.Value(text))
		if err != nil {
			t.Fatal(err)
		}
		_ = agent
		return l
	}
	list := parse("a", examplePrices)
	canonical, _ := list.MarshalJSON()
	v := jsontext.Value(bytes.Clone(canonical))
	if err := v.Canonicalize(); err != nil || !bytes.Equal(v, canonical) {
		t.Fatalf("not canonical (%v):\n%s\n%s", err, canonical, v)
	}
	respelt := strings.NewReplacer("0.01", `"0.0100"`, `"3.00"`, "3", `"2026-01-01T00:00:00Z"`, `"2026-01-01T01:00:00+01:00"`).Replace(examplePrices)
	if other := parse("a", respelt); other.Hash() != list.Hash() {
		t.Errorf("the same prices spelt otherwise have another hash:\n%s\n%s", canonical, other.AppendCanonical(nil))
	}
	if other := parse("a", strings.Replace(examplePrices, "0.75", "0.76", 1)); other.Hash() == list.Hash() {
		t.Error("another price has the same hash")
	}
	again := parse("a", strings.Replace(string(canonical), `"agent":"urn:asap:agent:a",`, "", 1))
	if again.Hash() != list.Hash() || len(list.Hash()) != 64 {
		t.Errorf("read back: %s, want %s", again.Hash(), list.Hash())
	}
	if _, ok := parse("a", `{"usd_per_task":1}`).Ceiling("", ""); ok {
		t.Error("a list without a ceiling has one")
	}
}

func TestPriceListRefusals(t *testing.T) {
	for _, c := range []struct{ text, field string }{
		{`[]`, ""},
		{`{"usd_per_tasks":1}`, "usd_per_tasks"},
		{`{"usd_per_task":-1}`, "usd_per_task"},
		{`{"usd_per_task":1e3}`, "usd_per_task"},
		{`{"usd_per_task":null}`, "usd_per_task"},
		{`{"usd_per_task":"0.0000000001"}`, "usd_per_task"},
		{`{"usd_per_task":1,"usd_per_task":2}`, ""},
		{`{"effective_from":"2026-01-01T00:00:00"}`, "effective_from"},
		{`{"effective_from":1}`, "effective_from"},
		{`{"models":[]}`, "models"},
		{`{"models":{"m":{"usd_per_call":1}}}`, "models.m.usd_per_call"},
		{`{"skills":{"s":{"models":{"m":1}}}}`, "skills.s.models.m"},
		{`{"skills":{"s":{"skills":{}}}}`, "skills.s.skills"},
	} {
		_, err := ParsePriceList("urn:asap:agent:a", jsontext.Value(c.text))
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Code != CodeInvalidPrice || refusal.Issues[0].Field != c.field {
			t.Errorf("%s: %v; want a refusal of %q", c.text, err, c.field)
		}
	}
}

func TestPriceBookFindsTheListInForce(t *testing.T) {
	list := func(from, price string) *PriceList {
		text := `{"usd_per_task":"` + price + `"`
		if from != "" {
			text += `,"effective_from":"` + from + `"`
		}
		l, err := ParsePriceList("urn:asap:agent:a", jsontext.Value(text+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first, second := list("2026-01-01T00:00:00Z", "1"), list("2026-02-01T00:00:00Z", "2")
	book, err := NewPriceBook(second, first)
	if err != nil {
		t.Fatal(err)
	}
	price := func(agent string, at time.Time) *Record {
		r := &Record{Agent: "urn:asap:agent:a", Timestamp: at, PriceList: "stale"}
		if agent != "a" {
			r.Agent = "urn:asap:agent:b"
		}
		if err := book.Price(r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	feb := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	if r := price("a", feb); r.CostNanoUSD.String() != "2" || r.PriceList != second.Hash() {
		t.Errorf("on the day: %v", r)
	}
	if r := price("a", feb.Add(-1)); r.CostNanoUSD.String() != "1" || r.PriceList != first.Hash() {
		t.Errorf("just before: %v", r)
	}
	if r := price("a", feb.AddDate(-1, 0, 0)); r.CostNanoUSD != nil || r.PriceList != "" {
		t.Errorf("before the first list: %v", r)
	}
	if r := price("b", feb); r.CostNanoUSD != nil {
		t.Errorf("another agent: %v", r)
	}
	if (*PriceBook)(nil).At("urn:asap:agent:a", feb) != nil {
		t.Error("no book has a list")
	}
	var refusal *Error
	if _, err := NewPriceBook(first, list("2026-01-01T00:00:00Z", "3")); !errors.As(err, &refusal) {
		t.Errorf("two lists at the same time: %v", err)
	}
	huge := list("", "9223372036")
	over, _ := NewPriceBook(huge)
	if err := over.Price(&Record{Agent: "urn:asap:agent:a", Timestamp: feb}); !errors.Is(err, ErrOverflow) {
		t.Errorf("a cost beyond the bound: %v", err)
	}
}

func TestMostATaskCosts(t *testing.T) {
	for text, want := range map[string]string{
		`{"usd_per_task":"0.02"}`:                                                      "0.02 0.02",
		`{"usd_per_task":"0.02","max_usd_per_task":"0.01"}`:                            "0.01 0.01",
		`{"usd_per_task":"0.02","usd_per_second":"1"}`:                                 "- -",
		`{"usd_per_second":"1"}`:                                                       "- -",
		`{"usd_per_task":"0.02","models":{"m":{"usd_per_task":"1"}}}`:                  "- -",
		`{"usd_per_task":"0.02","skills":{"s":{"usd_per_task":"0.03"}}}`:               "0.02 0.03",
		`{"usd_per_task":"0.02","skills":{"s":{"models":{"m":{"usd_per_task":"1"}}}}}`: "0.02 -",
	} {
		list, err := ParsePriceList("urn:asap:agent:a", jsontext.Value(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, skill := range []string{"", "s"} {
			if most, ok := list.Most(skill); ok {
				got = append(got, most.String())
			} else {
				got = append(got, "-")
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
}
