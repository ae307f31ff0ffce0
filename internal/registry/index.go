package registry

import (
	"container/heap"
	"slices"
	"strings"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Index holds the agents of a registry in memory and answers searches. It is
// safe for concurrent use; a search sees one state.
type Index struct {
	basis Basis

	mu sync.RWMutex // guards what follows
	// stored and hosted are what was put in; items is what is shown of them.
	stored, hosted map[asap.AgentURN]*Agent
	measured       map[asap.AgentURN]Figures
	items          []*item
	at             map[asap.AgentURN]int // position in items
	generation     uint64
	changedAt      time.Time
}

// item is an agent that is shown, with what a search looks at.
type item struct {
	agent    *Agent
	hosts    bool
	promised Figures
	measured *Figures
	name     string // of the agent, lower case
	id       string
	skills   []string // lower case
	text     string   // the rest, lower case
}

// NewIndex returns an empty index. basis is that of searches which name none.
func NewIndex(basis Basis) *Index {
	return &Index{basis: basis, stored: map[asap.AgentURN]*Agent{}, hosted: map[asap.AgentURN]*Agent{},
		measured: map[asap.AgentURN]Figures{}, at: map[asap.AgentURN]int{}}
}

// Put makes agents what is held of them; a removed one goes. They must have been
// parsed. Of one agent the change with the greatest Seq stays, whichever comes
// last; hosted agents are kept beside the others.
func (x *Index) Put(agents ...Agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, a := range agents {
		if have := x.stored[a.ID]; a.Source != Hosted && have != nil && have.Seq > a.Seq {
			continue
		}
		if a.Source == Hosted {
			x.hosted[a.ID] = &a
		} else {
			x.stored[a.ID] = &a
		}
		if a.UpdatedAt.After(x.changedAt) {
			x.changedAt = a.UpdatedAt
		}
		x.show(a.ID)
	}
	x.generation++
}

// Measure sets what was measured of an agent. Its figures are not checked; their
// Basis becomes Measured.
func (x *Index) Measure(id asap.AgentURN, f Figures) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f.Basis = Measured
	x.measured[id] = f
	if i, ok := x.at[id]; ok {
		shown := *x.items[i]
		shown.measured = &f
		x.items[i] = &shown
	}
}

// show brings what is shown of an agent up to date: a signed manifest before the
// hosted agent's own, and that before an imported entry. mu is held.
func (x *Index) show(id asap.AgentURN) {
	a, hosted := x.stored[id], x.hosted[id]
	if a != nil && a.Removed() {
		a = nil
	}
	if hosted != nil && (a == nil || a.Source == Imported) {
		a = hosted
	}
	i, shown := x.at[id]
	switch {
	case a != nil && shown:
		x.items[i] = x.newItem(a)
	case a != nil:
		x.at[id] = len(x.items)
		x.items = append(x.items, x.newItem(a))
	case shown:
		last := len(x.items) - 1
		x.items[i] = x.items[last]
		x.at[x.items[i].agent.ID] = i
		x.items[last] = nil
		x.items = x.items[:last]
		delete(x.at, id)
	}
}

// maxSearched bounds how much of one agent's text is searched.
const maxSearched = 16 << 10

func (x *Index) newItem(a *Agent) *item {
	it := &item{agent: a, hosts: x.hosted[a.ID] != nil, promised: a.promised(), id: string(a.ID)}
	if f, ok := x.measured[a.ID]; ok {
		it.measured = &f
	}
	var text strings.Builder
	add := func(s string) {
		if text.Len() < maxSearched {
			text.WriteString(s[:min(len(s), maxSearched)])
			text.WriteByte('\n')
		}
	}
	if a.Entry != nil {
		it.name = a.Entry.Name
		add(a.Entry.Description)
		it.skills = slices.Clone(a.Entry.Skills)
	} else {
		it.name = a.Manifest.Name
		add(a.Manifest.Description)
		for _, s := range a.Manifest.Capabilities.Skills {
			it.skills = append(it.skills, s.ID)
			add(s.Description)
		}
		for _, tool := range a.Manifest.Capabilities.MCPTools {
			add(tool)
		}
	}
	for i, s := range it.skills {
		it.skills[i] = strings.ToLower(s)
	}
	it.name, it.text = strings.ToLower(it.name), strings.ToLower(text.String())
	return it
}

// Get returns one agent on the basis of the index, or ErrUnknownAgent.
func (x *Index) Get(id asap.AgentURN, basis Basis) (Found, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	i, ok := x.at[id]
	if !ok {
		return Found{}, ErrUnknownAgent
	}
	return x.items[i].found(x.orOwn(basis)), nil
}

// Keys returns the pinned keys of an agent that is registered by a signed
// manifest.
func (x *Index) Keys(id asap.AgentURN) []Key {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if a := x.stored[id]; a != nil && !a.Removed() {
		return a.Keys
	}
	return nil
}

// Len returns how many agents are shown.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.items)
}

// Generation changes whenever an agent does.
func (x *Index) Generation() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.generation
}

// Lite returns every agent as a Lite Registry entry, in the order of ids, when
// any of them changed last, and the generation they are of.
func (x *Index) Lite() (entries []Entry, changedAt time.Time, generation uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	entries = make([]Entry, len(x.items))
	for i, it := range x.items {
		entries[i] = it.agent.Lite()
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return entries, x.changedAt, x.generation
}

func (x *Index) orOwn(b Basis) Basis {
	if b == "" {
		return x.basis
	}
	return b
}

func (it *item) found(b Basis) Found {
	return Found{Agent: *it.agent, Hosts: it.hosts, Figures: *it.figures(b), Promised: it.promised}
}

// figures returns what is known on that basis.
func (it *item) figures(b Basis) *Figures {
	switch {
	case b == Promised:
		return &it.promised
	case it.measured != nil:
		return it.measured
	}
	return &nothingMeasured
}

// nothingMeasured is never changed.
var nothingMeasured = Figures{Basis: Measured}

// Search returns one page of the agents that match.
func (x *Index) Search(q Query) Page {
	q.Basis = x.orOwn(q.Basis)
	words := strings.Fields(strings.ToLower(q.Text))
	page := Page{Basis: q.Basis}
	best := &firsts{sort: q.Sort, limit: max(1, q.Limit) + 1}
	x.mu.RLock()
	for _, it := range x.items {
		relevance := it.relevance(words)
		if relevance < 0 || !it.able(&q) {
			continue
		}
		passes, known := it.passes(&q)
		if !known {
			page.Unknown++
		}
		if !passes {
			continue
		}
		page.Total++
		position := it.position(&q, relevance)
		if q.After == nil || q.Sort.compare(&position, q.After) > 0 {
			best.offer(position, it)
		}
	}
	x.mu.RUnlock()
	for _, c := range best.sorted() {
		found := c.it.found(q.Basis)
		if price, known := q.price(&found.Agent); known {
			found.PriceNanoUSD = &price
		}
		page.Agents = append(page.Agents, found)
	}
	if len(best.found) == best.limit {
		page.Agents = page.Agents[:best.limit-1]
		page.Next = &best.found[best.limit-2].position
		page.Next.Sort = q.Sort.String()
	}
	return page
}

func (q *Query) price(a *Agent) (int64, bool) {
	if q.Price == nil {
		return 0, false
	}
	return q.Price(a.ID, q.Skill)
}

// able tells whether the agent has the skill and the capability.
func (it *item) able(q *Query) bool {
	return (q.Skill == "" || it.hasSkill(q.Skill)) && (q.Capability == "" || it.declares(q.Capability))
}

func (it *item) hasSkill(id string) bool {
	if it.agent.Entry != nil {
		return slices.Contains(it.agent.Entry.Skills, id)
	}
	_, ok := it.agent.Manifest.Skill(id)
	return ok
}

func (it *item) declares(capability string) bool {
	if it.hasSkill(capability) {
		return true
	}
	if it.agent.Manifest == nil {
		return false
	}
	c := &it.agent.Manifest.Capabilities
	switch {
	case capability == "streaming" && c.Streaming,
		capability == "state_persistence" && c.StatePersistence,
		capability == "mcp_tools" && len(c.MCPTools) > 0:
		return true
	}
	return slices.Contains(c.MCPTools, capability)
}

// passes tells whether the figures are within the filters. known is false if the
// only ones that are not are those nobody knows.
func (it *item) passes(q *Query) (passes, known bool) {
	f := it.figures(q.Basis)
	missing, failed := false, false
	check := func(asked, have bool, good func() bool) {
		switch {
		case !asked:
		case !have:
			missing = true
		case !good():
			failed = true
		}
	}
	check(q.MinAvailability != nil, f.Availability != nil, func() bool { return f.Availability.Compare(*q.MinAvailability) >= 0 })
	check(q.MaxErrorRate != nil, f.ErrorRate != nil, func() bool { return f.ErrorRate.Compare(*q.MaxErrorRate) <= 0 })
	check(q.MaxLatencyP95MS != nil, f.LatencyP95MS != nil, func() bool { return *f.LatencyP95MS <= *q.MaxLatencyP95MS })
	if q.MaxPriceNanoUSD != nil {
		price, have := q.price(it.agent)
		check(true, have, func() bool { return price <= *q.MaxPriceNanoUSD })
	}
	return !missing && !failed, !missing || failed
}

// position returns where the agent stands in the order of the query.
func (it *item) position(q *Query, relevance int) Position {
	p := Position{ID: it.id}
	f := it.figures(q.Basis)
	number := func(known bool, value func() float64) {
		if p.Unknown = !known; known {
			p.Number = value()
		}
	}
	switch q.Sort.Key {
	case ByRelevance:
		p.Number = float64(relevance)
	case ByName:
		p.Text = it.name
	case ByAvailability:
		number(f.Availability != nil, func() float64 { return f.Availability.Percent() })
	case ByLatency:
		number(f.LatencyP95MS != nil, func() float64 { return float64(*f.LatencyP95MS) })
	case ByPrice:
		price, known := q.price(it.agent)
		number(known, func() float64 { return float64(price) })
	default:
		number(f.Score != nil, func() float64 { return *f.Score })
		p.Objectives = it.promised.objectives()
	}
	return p
}

// relevance says how well the agent fits the words, or -1 if one of them is
// nowhere in it. A word counts where it is found first.
func (it *item) relevance(words []string) int {
	sum := 0
	for _, w := range words {
		switch {
		case it.name == w || it.id == w:
			sum += 100
		case slices.Contains(it.skills, w):
			sum += 60
		case strings.Contains(it.name, w):
			sum += 40
		case slices.ContainsFunc(it.skills, func(s string) bool { return strings.Contains(s, w) }):
			sum += 30
		case strings.Contains(it.id[len("urn:asap:agent:"):], w):
			sum += 20
		case strings.Contains(it.text, w):
			sum += 10
		default:
			return -1
		}
	}
	return sum
}

// firsts keeps the first candidates of an order, as many as the limit: a heap
// with the last of them on top, until sorted makes it a list.
type firsts struct {
	sort  Sort
	limit int
	found []candidate
}

type candidate struct {
	position Position
	it       *item
}

// offer takes a candidate if it is one of the first.
func (f *firsts) offer(p Position, it *item) {
	switch {
	case len(f.found) < f.limit:
		heap.Push(f, candidate{p, it})
	case f.sort.compare(&p, &f.found[0].position) < 0:
		f.found[0] = candidate{p, it}
		heap.Fix(f, 0)
	}
}

func (f *firsts) sorted() []candidate {
	slices.SortFunc(f.found, func(a, b candidate) int { return f.sort.compare(&a.position, &b.position) })
	return f.found
}

// Len implements heap.Interface, as do the methods below.
func (f *firsts) Len() int { return len(f.found) }
func (f *firsts) Less(i, j int) bool {
	return f.sort.compare(&f.found[i].position, &f.found[j].position) > 0
}
func (f *firsts) Swap(i, j int) { f.found[i], f.found[j] = f.found[j], f.found[i] }
func (f *firsts) Push(c any)    { f.found = append(f.found, c.(candidate)) }
func (f *firsts) Pop() any {
	last := f.found[len(f.found)-1]
	f.found = f.found[:len(f.found)-1]
	return last
}

var _ heap.Interface = (*firsts)(nil)
