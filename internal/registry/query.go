package registry

import (
	"cmp"
	"slices"
	"strings"

	asap "github.com/asap-protocol/asap-go"
)

// Query selects and orders agents. The zero value of a member selects all.
type Query struct {
	// Text holds words that must all be found in an agent's id, name,
	// description, skills or tools, in any case.
	Text string
	// Skill is the id of a skill the agent must have.
	Skill string
	// Capability is something its manifest must declare: "streaming",
	// "state_persistence", "mcp_tools" (any), a tool's name, or a skill's id.
	Capability string

	MinAvailability, MaxErrorRate *asap.Percentage
	MaxLatencyP95MS               *int64
	MaxPriceNanoUSD               *int64
	// Basis says which figures the filters and the order go by; empty means the
	// index's own. An agent whose figure is not known passes no filter on it.
	Basis Basis
	// Price returns the most that a task of the skill costs, in nano-USD; skill
	// may be empty. Nil knows no price.
	Price func(agent asap.AgentURN, skill string) (nanoUSD int64, known bool)

	Sort  Sort
	After *Position // nil starts at the beginning
	Limit int       // at least 1
}

// Sort is an order of agents.
type Sort struct {
	Key        SortKey
	Descending bool
}

// SortKey is what agents are ordered by. Whichever it is, agents without it come
// last, and equal ones stand in the order of their ids.
type SortKey string

// The sort keys.
const (
	ByRelevance    SortKey = "relevance" // how well the words of Text fit; only descending
	ByScore        SortKey = "sla_score" // equal ones: more promised objectives first
	ByAvailability SortKey = "availability"
	ByLatency      SortKey = "latency"
	ByName         SortKey = "name"
	ByPrice        SortKey = "price"
)

// ParseSort reads a key, with "-" in front for descending. Empty is relevance
// for a search with words, else the score, best first.
func ParseSort(text string, withText bool) (Sort, bool) {
	if text == "" {
		if withText {
			return Sort{ByRelevance, true}, true
		}
		return Sort{ByScore, true}, true
	}
	key, descending := strings.CutPrefix(text, "-")
	s := Sort{SortKey(key), descending}
	if s.Key == ByRelevance {
		s.Descending = true
		return s, withText
	}
	return s, slices.Contains([]SortKey{ByScore, ByAvailability, ByLatency, ByName, ByPrice}, s.Key)
}

// String returns what ParseSort reads.
func (s Sort) String() string {
	if s.Descending {
		return "-" + string(s.Key)
	}
	return string(s.Key)
}

// Position is where an agent stands in an order. It stays good while agents come
// and go: what follows it is what would follow the agent if it were there.
type Position struct {
	Sort       string  `json:"s"`
	Unknown    bool    `json:"u,omitzero"` // the agent has nothing to be ordered by
	Number     float64 `json:"n,omitzero"`
	Text       string  `json:"t,omitzero"`
	Objectives int     `json:"o,omitzero"`
	ID         string  `json:"i"`
}

// compare orders two positions of the order s.
func (s Sort) compare(a, b *Position) int {
	if a.Unknown != b.Unknown {
		return cmp.Compare(rankOf(a.Unknown), rankOf(b.Unknown))
	}
	c := cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Text, b.Text))
	if s.Descending {
		c = -c
	}
	return cmp.Or(c, cmp.Compare(b.Objectives, a.Objectives), strings.Compare(a.ID, b.ID))
}

// Found is an agent as a search shows it.
type Found struct {
	Agent
	// Hosts tells that this node runs the agent, wherever its manifest is from.
	Hosts bool
	// Figures are those of the basis that was asked for, Promised always those of
	// the manifest.
	Figures, Promised Figures
	// PriceNanoUSD is the most a task costs; nil if nobody knows.
	PriceNanoUSD *int64
}

// Page is the answer to a search.
type Page struct {
	Agents []Found
	// Next is where the page after this one begins, or nil.
	Next *Position
	// Total is how many agents match, on all pages.
	Total int
	// Unknown is how many more would match if a figure that is filtered by were
	// known of them.
	Unknown int
	Basis   Basis // of the figures
}
