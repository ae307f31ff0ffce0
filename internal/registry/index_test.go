package registry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
)

func percent(t testing.TB, text string) *asap.Percentage {
	t.Helper()
	if text == "" {
		return nil
	}
	p, err := asap.ParsePercentage(text)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// agent makes a registered agent; change may amend its manifest.
func agent(name string, seq int64, change func(*asap.Manifest)) Agent {
	m := manifest(asap.AgentURN("urn:asap:agent:"+name), "1.0", "")
	m.Name, m.Capabilities.Skills = strings.ToUpper(name[:1])+name[1:], nil
	if change != nil {
		change(m)
	}
	return Agent{ID: m.ID, Source: Signed, Version: m.Version, Document: m.AppendJSON(nil), Manifest: m, Seq: seq, RegisteredAt: noon, UpdatedAt: noon.Add(time.Duration(seq) * time.Second),
		Keys: []Key{{Public: public(1), AddedAt: noon}}}
}

func ids(p Page) string {
	var all []string
	for _, a := range p.Agents {
		all = append(all, strings.TrimPrefix(string(a.ID), "urn:asap:agent:"))
	}
	return strings.Join(all, " ")
}

// market is an index of five agents.
func market(t testing.TB) *Index {
	promise := func(availability, errors string, ms int64) func(*asap.Manifest) {
		return func(m *asap.Manifest) {
			m.SLA = &asap.SLADefinition{Availability: percent(t, availability), MaxErrorRate: percent(t, errors)}
			if ms > 0 {
				m.SLA.MaxLatencyP95MS = &ms
			}
		}
	}
	x := NewIndex(Promised)
	x.Put(
		agent("gold", 1, func(m *asap.Manifest) {
			promise("99.99%", "0.1%", 200)(m)
			m.Description = "Reviews code, thoroughly"
			m.Capabilities.Skills = []asap.Skill{{ID: "code_review", Description: "finds Mistakes"}, {ID: "Übersetzen"}}
			m.Capabilities.Streaming, m.Capabilities.MCPTools = true, []string{"browser"}
		}),
		agent("silver", 2, func(m *asap.Manifest) {
			promise("99.5%", "1%", 500)(m)
			m.Capabilities.Skills = []asap.Skill{{ID: "code_review"}, {ID: "echo"}}
			m.Capabilities.StatePersistence = true
		}),
		agent("bronze", 3, func(m *asap.Manifest) { promise("99.50", "", 0)(m); m.Description = "cheap code" }),
		agent("mute", 4, nil),
		Agent{ID: "urn:asap:agent:elsewhere", Source: Imported, Document: []byte(`{}`), Seq: 5, UpdatedAt: noon,
			Entry: &Entry{ID: "urn:asap:agent:elsewhere", Name: "Code elsewhere", Description: "from a list", Skills: []string{"echo"}}},
	)
	return x
}

func prices(id asap.AgentURN, skill string) (int64, bool) {
	usd, ok := map[asap.AgentURN]int64{"urn:asap:agent:gold": 50, "urn:asap:agent:silver": 10, "urn:asap:agent:bronze": 1}[id]
	if skill == "code_review" {
		usd *= 10
	}
	return usd, ok
}

func TestSearch(t *testing.T) {
	x := market(t)
	ms := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		query   Query
		sort    string
		want    string
		unknown int
	}{
		"all, by promises":        {Query{}, "", "gold silver bronze elsewhere mute", 0},
		"text":                    {Query{Text: " CODE "}, "", "elsewhere gold silver bronze", 0},
		"two words":               {Query{Text: "code cheap"}, "", "bronze", 0},
		"exact name":              {Query{Text: "silver"}, "", "silver", 0},
		"exact id":                {Query{Text: "urn:asap:agent:mute"}, "", "mute", 0},
		"part of the id":          {Query{Text: "elsew"}, "", "elsewhere", 0},
		"skill's words":           {Query{Text: "mistakes"}, "", "gold", 0},
		"skill as text":           {Query{Text: "echo"}, "", "elsewhere silver", 0},
		"other letters":           {Query{Text: "übersetzen"}, "", "gold", 0},
		"tool":                    {Query{Text: "browser"}, "", "gold", 0},
		"text by name":            {Query{Text: "code"}, "name", "bronze elsewhere gold silver", 0},
		"scheme is no text":       {Query{Text: "asap"}, "", "", 0},
		"nothing":                 {Query{Text: "code nowhere"}, "", "", 0},
		"skill":                   {Query{Skill: "code_review"}, "", "gold silver", 0},
		"skill, case":             {Query{Skill: "CODE_REVIEW"}, "", "", 0},
		"imported skill":          {Query{Skill: "echo"}, "name", "elsewhere silver", 0},
		"streaming":               {Query{Capability: "streaming"}, "", "gold", 0},
		"state":                   {Query{Capability: "state_persistence"}, "", "silver", 0},
		"tools":                   {Query{Capability: "mcp_tools"}, "", "gold", 0},
		"the tool":                {Query{Capability: "browser"}, "", "gold", 0},
		"skill as capability":     {Query{Capability: "echo"}, "name", "elsewhere silver", 0},
		"availability, exactly":   {Query{MinAvailability: percent(t, "99.5")}, "", "gold silver bronze", 2},
		"availability, above":     {Query{MinAvailability: percent(t, "99.50001")}, "", "gold", 2},
		"latency":                 {Query{MaxLatencyP95MS: ms(500)}, "", "gold silver", 3},
		"latency 0":               {Query{MaxLatencyP95MS: ms(0)}, "", "", 3},
		"errors":                  {Query{MaxErrorRate: percent(t, "1%")}, "", "gold silver", 3},
		"errors, below":           {Query{MaxErrorRate: percent(t, "0.99")}, "", "gold", 3},
		"several":                 {Query{MinAvailability: percent(t, "99.9"), MaxLatencyP95MS: ms(500)}, "", "gold", 2},
		"price":                   {Query{MaxPriceNanoUSD: ms(10)}, "price", "bronze silver", 2},
		"price of the skill":      {Query{MaxPriceNanoUSD: ms(100), Skill: "code_review"}, "", "silver", 0},
		"by price":                {Query{}, "price", "bronze silver gold elsewhere mute", 0},
		"by price, dear first":    {Query{}, "-price", "gold silver bronze elsewhere mute", 0},
		"by availability":         {Query{}, "-availability", "gold bronze silver elsewhere mute", 0},
		"by availability, rising": {Query{}, "availability", "bronze silver gold elsewhere mute", 0},
		"by latency":              {Query{}, "latency", "gold silver bronze elsewhere mute", 0},
		"by latency, slow first":  {Query{}, "-latency", "silver gold bronze elsewhere mute", 0},
		"by name":                 {Query{}, "name", "bronze elsewhere gold mute silver", 0},
		"by name, back":           {Query{}, "-name", "silver mute gold elsewhere bronze", 0},
		"measured: nothing is":    {Query{Basis: Measured, MinAvailability: percent(t, "1")}, "", "", 5},
		"measured, unfiltered":    {Query{Basis: Measured}, "-availability", "bronze elsewhere gold mute silver", 0},
	} {
		q := c.query
		q.Limit, q.Price = 10, prices
		var ok bool
		if q.Sort, ok = ParseSort(c.sort, q.Text != ""); !ok {
			t.Fatal(c.sort)
		}
		p := x.Search(q)
		if got := ids(p); got != c.want || p.Unknown != c.unknown || p.Total != len(p.Agents) || p.Next != nil {
			t.Errorf("%s: %q, %d unknown, %d in all; want %q, %d", name, got, p.Unknown, p.Total, c.want, c.unknown)
		}
	}
	// Nobody's price is known.
	if p := x.Search(Query{MaxPriceNanoUSD: ms(math.MaxInt64), Limit: 10}); len(p.Agents) != 0 || p.Unknown != 5 {
		t.Errorf("without prices: %s", ids(p))
	}
}

func TestParseSort(t *testing.T) {
	for text, want := range map[string]bool{"": true, "sla_score": true, "-sla_score": true, "availability": true, "latency": true, "-name": true, "price": true,
		"relevance": false, "--name": false, "size": false, "-": false, "name,price": false} {
		if s, ok := ParseSort(text, false); ok != want || ok && text != "" && s.String() != text {
			t.Errorf("%q: %v, %v", text, s, ok)
		}
	}
	if s, ok := ParseSort("relevance", true); !ok || s.String() != "-relevance" {
		t.Errorf("relevance: %v, %v", s, ok)
	}
}

// Figures say what they rest on; what is unknown is nil.
func TestFigures(t *testing.T) {
	x := market(t)
	get := func(name string, b Basis) Figures {
		t.Helper()
		f, err := x.Get(asap.AgentURN("urn:asap:agent:"+name), b)
		if err != nil {
			t.Fatal(err)
		}
		return f.Figures
	}
	f := get("silver", "")
	if f.Basis != Promised || f.Availability.Text() != "99.5%" || string(f.Availability.AppendValue(nil)) != "99.5" || *f.LatencyP95MS != 500 ||
		string(f.ErrorRate.AppendValue(nil)) != "1" || f.Score != nil || f.Window != "" || !f.Start.Equal(noon.Add(2*time.Second)) || !f.End.IsZero() {
		t.Errorf("promised: %+v", f)
	}
	for _, f := range []Figures{get("mute", ""), get("elsewhere", Promised), get("gold", Measured)} {
		if f.Availability != nil || f.LatencyP95MS != nil || f.ErrorRate != nil || f.Score != nil {
			t.Errorf("unknown: %+v", f)
		}
	}
	score := 97.2
	x.Measure("urn:asap:agent:silver", Figures{Availability: MeasuredShare(1999, 2000), ErrorRate: MeasuredShare(1, 3), Score: &score, Window: "30d", Start: noon, End: noon.Add(time.Hour)})
	x.Measure("urn:asap:agent:later", Figures{Availability: MeasuredShare(1, 1)})
	f = get("silver", Measured)
	if f.Basis != Measured || f.Availability.Text() != "" || string(f.Availability.AppendValue(nil)) != "99.95" || f.Window != "30d" || f.LatencyP95MS != nil {
		t.Errorf("measured: %+v", f)
	}
	x.Put(agent("later", 9, nil))
	if f := get("later", Measured); f.Availability == nil || get("silver", "").Basis != Promised {
		t.Error("measured before it was registered, and lost")
	}
	for asked, want := range map[string]string{"99.95": "later silver", "99.951": "later"} {
		p := x.Search(Query{Basis: Measured, MinAvailability: percent(t, asked), Sort: Sort{ByName, false}, Limit: 5})
		if ids(p) != want || p.Basis != Measured {
			t.Errorf("measured availability of %s: %q", asked, ids(p))
		}
	}
	// The score comes first where there is one; then who promises more.
	if p := x.Search(Query{Basis: Measured, Sort: Sort{ByScore, true}, Limit: 9}); ids(p) != "silver gold bronze elsewhere later mute" {
		t.Error(ids(p))
	}
	if MeasuredShare(0, 0) != nil || MeasuredShare(5, 2).Percent() != 100 || MeasuredShare(-1, 2).Percent() != 0 {
		t.Error("shares outside 0 to 100")
	}
	for text, want := range map[string]string{"0.05": "0.05", "100": "100", ".5%": "0.5", "0": "0", "12.250": "12.25"} {
		if got := PromisedShare(*percent(t, text)).AppendValue(nil); string(got) != want {
			t.Errorf("%s is written %s", text, got)
		}
	}
}

func TestPutAndRemove(t *testing.T) {
	x := market(t)
	gold := asap.AgentURN("urn:asap:agent:gold")
	generation := x.Generation()
	removed := agent("gold", 7, nil)
	removed.Document, removed.Manifest = nil, nil
	if len(x.Keys(gold)) != 1 {
		t.Error("no keys")
	}
	x.Put(removed)
	if _, err := x.Get(gold, ""); !errors.Is(err, ErrUnknownAgent) || x.Keys(gold) != nil || x.Generation() == generation || x.Len() != 4 {
		t.Errorf("removed: %v, %d agents", err, x.Len())
	}
	x.Put(agent("gold", 6, nil)) // older news that comes late
	if _, err := x.Get(gold, ""); err == nil {
		t.Error("an older change undid a newer one")
	}
	x.Put(agent("gold", 8, nil))
	if _, err := x.Get(gold, ""); err != nil {
		t.Error(err)
	}
	// A hosted agent shows its own manifest unless a signed one is registered.
	x.Put(HostedAgent(manifest(gold, "9.0", "hosted"), noon), HostedAgent(manifest("urn:asap:agent:elsewhere", "9.0", "hosted"), noon))
	if f, _ := x.Get(gold, ""); f.Version != "1.0" || !f.Hosts || f.Source != Signed {
		t.Errorf("%+v", f)
	}
	if f, _ := x.Get("urn:asap:agent:elsewhere", ""); f.Version != "9.0" || f.Source != Hosted {
		t.Errorf("%+v", f)
	}
	removed.Seq = 9
	x.Put(removed)
	if f, _ := x.Get(gold, ""); f.Version != "9.0" || f.Source != Hosted {
		t.Errorf("%+v", f)
	}
	entries, changedAt, _ := x.Lite()
	if len(entries) != 5 || entries[0].ID != "urn:asap:agent:bronze" || !changedAt.Equal(noon.Add(8*time.Second)) && !changedAt.Equal(noon.Add(7*time.Second)) {
		t.Errorf("%d entries, changed at %v", len(entries), changedAt)
	}
	events := "wss://a.example/ws"
	e := agent("eve", 1, func(m *asap.Manifest) {
		m.Endpoints.Events, m.Capabilities.Skills = &events, []asap.Skill{{ID: "a"}}
		m.Description = strings.Repeat("x", 2*maxSearched)
	})
	if lite := e.Lite(); lite.Address("ws") != events || lite.Skills[0] != "a" {
		t.Errorf("%+v", lite)
	}
	x.Put(e)
	if n := len(x.items[x.at[e.ID]].text); n > maxSearched+1 {
		t.Errorf("%d bytes are searched", n)
	}
}

// Pages joined are the whole list, whatever the order, and agents that come and
// go between them move no other out of it.
func TestPages(t *testing.T) {
	keys := []string{"", "name", "-name", "latency", "-latency", "availability", "-availability", "price", "-price", "sla_score"}
	rapid.Check(t, func(rt *rapid.T) {
		x := NewIndex(Promised)
		n := rapid.IntRange(0, 40).Draw(rt, "agents")
		price := map[asap.AgentURN]int64{}
		for i := range n {
			a := agent(fmt.Sprintf("a%d", i), int64(i), func(m *asap.Manifest) {
				m.Name = rapid.SampledFrom([]string{"A", "B", "C"}).Draw(rt, "name")
				if rapid.Bool().Draw(rt, "promises") {
					ms := rapid.Int64Range(1, 4).Draw(rt, "ms")
					m.SLA = &asap.SLADefinition{MaxLatencyP95MS: &ms, Availability: percent(t, rapid.SampledFrom([]string{"", "99", "99.0", "98"}).Draw(rt, "availability"))}
				}
			})
			if rapid.Bool().Draw(rt, "priced") {
				price[a.ID] = rapid.Int64Range(0, 3).Draw(rt, "price")
			}
			x.Put(a)
		}
		sort, _ := ParseSort(rapid.SampledFrom(keys).Draw(rt, "sort"), false)
		q := Query{Sort: sort, Limit: 1000, Price: func(id asap.AgentURN, _ string) (int64, bool) { p, ok := price[id]; return p, ok }}
		whole := ids(x.Search(q))
		q.Limit = rapid.IntRange(1, 7).Draw(rt, "limit")
		var pages []string
		gone := 0
		for {
			p := x.Search(q)
			if s := ids(p); s != "" {
				pages = append(pages, s)
			}
			if p.Next == nil {
				break
			}
			if p.Total != n-gone || p.Next.Sort != sort.String() {
				rt.Fatalf("%d in all of %d, %q", p.Total, n-gone, p.Next.Sort)
			}
			// What was shown goes; what follows stays where it is.
			last := p.Agents[len(p.Agents)-1].Agent
			last.Document, last.Manifest, last.Seq = nil, nil, 1000
			x.Put(last)
			gone++
			q.After = p.Next
		}
		if got := strings.Join(pages, " "); got != whole {
			rt.Fatalf("%s:\n got %s\nwant %s", sort, got, whole)
		}
	})
}

func TestSearchWhileRegistering(t *testing.T) {
	x := NewIndex(Promised)
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("w%d-%d", w, i)
				x.Put(agent(name, int64(i), nil))
				x.Measure(asap.AgentURN("urn:asap:agent:"+name), Figures{})
				p := x.Search(Query{Text: name, Limit: 1, Sort: Sort{ByRelevance, true}})
				if len(p.Agents) != 1 || string(p.Agents[0].ID) != "urn:asap:agent:"+name {
					t.Errorf("%s was registered and is not found first", name)
				}
			}
		})
	}
	group.Wait()
	if entries, _, _ := x.Lite(); len(entries) != 400 || !slices.IsSortedFunc(entries, func(a, b Entry) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		t.Errorf("%d entries", len(entries))
	}
}
