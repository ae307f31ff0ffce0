package httpapi

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// AgentWriter changes the registry; *ledger.Ledger is one. When a method
// returns, its effect is durable and the index of [RegistryConfig] shows it. All
// are safe for concurrent use, and refuse as the rules of package registry say.
type AgentWriter interface {
	// Register makes a signed manifest what the registry holds of its agent.
	Register(ctx context.Context, r *registry.Registration) (ledger.AgentChanged, error)
	// Unregister takes an agent out.
	Unregister(ctx context.Context, r registry.Removal) (ledger.AgentChanged, error)
	// ImportAgents takes over the entries of a Lite Registry document.
	ImportAgents(ctx context.Context, lite *registry.Lite) (ledger.Imported, error)
}

// RegistryConfig is what the registry's routes need. Without Index the registry
// is empty and nothing can be put into it.
type RegistryConfig struct {
	// Index returns the agents; it is called for each request.
	Index  func(ctx context.Context) (*registry.Index, error)
	Writer AgentWriter
	// Price returns the most a task of an agent costs now. Nil knows no price.
	Price func(agent asap.AgentURN, skill string) (metering.NanoUSD, bool)
	// Compromised tells of keys that prove nothing any more. Nil means none.
	Compromised func(ed25519.PublicKey) bool
}

func (c *RegistryConfig) complete() {
	if c.Index == nil {
		empty := registry.NewIndex(registry.Promised)
		c.Index = func(context.Context) (*registry.Index, error) { return empty, nil }
	}
	if c.Writer == nil {
		c.Writer = noWriter{}
	}
}

// noWriter is the writer of a registry that cannot be changed.
type noWriter struct{}

func (noWriter) Register(context.Context, *registry.Registration) (ledger.AgentChanged, error) {
	return ledger.AgentChanged{}, ledger.ErrUnavailable
}

func (noWriter) Unregister(context.Context, registry.Removal) (ledger.AgentChanged, error) {
	return ledger.AgentChanged{}, ledger.ErrUnavailable
}

func (noWriter) ImportAgents(context.Context, *registry.Lite) (ledger.Imported, error) {
	return ledger.Imported{}, ledger.ErrUnavailable
}

// liteCache is the Lite Registry document of one generation of the index.
type liteCache struct {
	mu         sync.Mutex // guards what follows
	body       []byte
	etag       string
	generation uint64
}

func (a *API) searchAgents(c *call) error {
	q, err := a.agentQuery(c)
	if err != nil {
		return err
	}
	index, err := a.cfg.Registry.Index(c.ctx())
	if err != nil {
		return err
	}
	page := index.Search(q)
	answer := agentPage{Data: make([]AgentAnswer, len(page.Agents)), Count: len(page.Agents), Total: page.Total, Unknown: page.Unknown, Basis: string(page.Basis)}
	for i := range page.Agents {
		answer.Data[i] = newAgentAnswer(&page.Agents[i])
	}
	if page.Next != nil {
		next, err := encodeCursor("registry", page.Next)
		if err != nil {
			return err
		}
		answer.Next = &next
	}
	return writeJSON(c.w, http.StatusOK, answer)
}

// agentQuery reads the parameters of a search.
func (a *API) agentQuery(c *call) (q registry.Query, err error) {
	var sort, price string
	for _, p := range []struct {
		to   *string
		name string
	}{{&q.Text, "q"}, {&q.Skill, "skill"}, {&q.Capability, "capability"}, {&sort, "sort"}, {&price, "max_price"}} {
		if *p.to, err = c.params.text(p.name); err != nil {
			return q, err
		}
		if len(*p.to) > metering.MaxText {
			return q, refuse(asap.CodeInvalidFilter, p.name, "must have at most %d bytes", metering.MaxText)
		}
	}
	if q.MinAvailability, err = c.params.percentage("min_availability"); err != nil {
		return q, err
	}
	if q.MaxErrorRate, err = c.params.percentage("max_error_rate"); err != nil {
		return q, err
	}
	if _, given := c.params.values["max_latency_p95_ms"]; given {
		ms, err := c.params.integer("max_latency_p95_ms", 0, 0, math.MaxInt32)
		if err != nil {
			return q, err
		}
		q.MaxLatencyP95MS = new(int64(ms))
	}
	if price != "" {
		usd, err := metering.ParseUSD(price)
		if err != nil || usd < 0 {
			return q, refuse(asap.CodeInvalidFilter, "max_price", "must be an amount in US dollars, such as 0.05")
		}
		q.MaxPriceNanoUSD = new(int64(usd))
	}
	if q.Basis, err = c.params.basis(); err != nil {
		return q, err
	}
	var ok bool
	if q.Sort, ok = registry.ParseSort(sort, q.Text != ""); !ok {
		return q, refuse(asap.CodeInvalidFilter, "sort", "must be sla_score, availability, latency, name or price, with - in front for descending, or relevance with q")
	}
	if q.Limit, err = c.params.integer("limit", defaultLimit, 1, maxLimit); err != nil {
		return q, err
	}
	var after registry.Position
	given, err := c.params.cursor("registry", &after)
	if err != nil {
		return q, err
	}
	if given {
		if after.Sort != q.Sort.String() {
			return q, refuse(asap.CodeInvalidCursor, "cursor", "belongs to another order")
		}
		q.After = &after
	}
	if of := a.cfg.Registry.Price; of != nil {
		q.Price = func(agent asap.AgentURN, skill string) (int64, bool) {
			usd, known := of(agent, skill)
			return int64(usd), known
		}
	}
	return q, nil
}

// percentage returns a percentage, with or without its sign, or nil.
func (q query) percentage(name string) (*asap.Percentage, error) {
	text, err := q.text(name)
	if err != nil || text == "" {
		return nil, err
	}
	p, err := asap.ParsePercentage(text)
	if err != nil {
		return nil, refuse(asap.CodeInvalidFilter, name, "%v", err)
	}
	return &p, nil
}

func (q query) basis() (registry.Basis, error) {
	text, err := q.text("availability_basis")
	b := registry.Basis(text)
	if err == nil && b != "" && b != registry.Promised && b != registry.Measured {
		err = refuse(asap.CodeInvalidFilter, "availability_basis", "must be promised or measured")
	}
	return b, err
}

// agentID reads the URN in the path, raw or percent-encoded. The text of the
// refusal is constant.
func agentID(c *call) (asap.AgentURN, error) {
	id, err := asap.ParseAgentURN(c.r.PathValue("id"))
	if err != nil {
		return "", refuse(asap.CodeValidation, "id", "must be an agent URN, such as urn:asap:agent:name")
	}
	return id, nil
}

func (a *API) getAgent(c *call) error {
	id, err := agentID(c)
	if err != nil {
		return err
	}
	basis, err := c.params.basis()
	if err != nil {
		return err
	}
	answer, err := a.agent(c, id, basis)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, answer)
}

// agent returns everything that is known of one agent.
func (a *API) agent(c *call, id asap.AgentURN, basis registry.Basis) (*agentDocument, error) {
	index, err := a.cfg.Registry.Index(c.ctx())
	if err != nil {
		return nil, err
	}
	found, err := index.Get(id, basis)
	if err != nil {
		return nil, err
	}
	if a.cfg.Registry.Price != nil {
		if usd, known := a.cfg.Registry.Price(id, ""); known {
			found.PriceNanoUSD = new(int64(usd))
		}
	}
	document := &agentDocument{AgentAnswer: newAgentAnswer(&found)}
	switch found.Source {
	case registry.Signed:
		document.Signed, document.Manifest = rawJSON(found.Document), rawJSON(found.Manifest.AppendJSON(nil))
	case registry.Hosted:
		document.Manifest = rawJSON(found.Document)
	case registry.Imported:
	}
	return document, nil
}

// asksToChange returns the agent that is to be changed and who asks. That it is
// somebody else's is said before anything is read or looked for.
func asksToChange(c *call) (asap.AgentURN, registry.Caller, error) {
	id, err := agentID(c)
	if err != nil {
		return "", registry.Caller{}, err
	}
	by := registry.Caller{Operator: c.caller.Role == Operator, Agent: c.caller.Agent}
	if !by.MayChange(id) {
		return "", registry.Caller{}, refusal(asap.CodeForbidden)
	}
	return id, by, nil
}

func (a *API) putAgent(c *call) error {
	id, by, err := asksToChange(c)
	if err != nil {
		return err
	}
	force, err := c.params.flag(c, "force")
	if err != nil {
		return err
	}
	replace, err := c.params.flag(c, "replace_keys")
	if err != nil {
		return err
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, registry.MaxManifestBytes)
	body, err := a.body(c)
	if err != nil {
		return err
	}
	r, err := registry.NewRegistration(by, id, body)
	if err != nil {
		return err
	}
	r.Force, r.ReplaceKeys, r.Compromised = force, replace, a.cfg.Registry.Compromised
	done, err := a.cfg.Registry.Writer.Register(c.ctx(), r)
	if err != nil {
		return err
	}
	answer := changedAnswer{Status: done.Change.String(), ID: string(id)}
	if done.Change != registry.Unchanged {
		answer.Receipt = new(receiptOf(done.Receipt))
	}
	if answer.Agent, err = a.agent(c, id, ""); err != nil && !errors.Is(err, registry.ErrUnknownAgent) { // removed again
		return err
	}
	status := http.StatusOK
	if done.Change == registry.Registered {
		status = http.StatusCreated
	}
	return writeJSON(c.w, status, answer)
}

// flag reads a parameter that the operator alone may set to true.
func (q query) flag(c *call, name string) (bool, error) {
	text, err := q.text(name)
	switch {
	case err != nil:
		return false, err
	case text == "" || text == "false":
		return false, nil
	case text != "true":
		return false, refuse(asap.CodeInvalidFilter, name, "must be true or false")
	case c.caller.Role != Operator:
		return false, refusal(asap.CodeForbidden)
	}
	return true, nil
}

func (a *API) removeAgent(c *call) error {
	id, by, err := asksToChange(c)
	if err != nil {
		return err
	}
	done, err := a.cfg.Registry.Writer.Unregister(c.ctx(), registry.Removal{By: by, ID: id})
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, changedAnswer{Status: done.Change.String(), ID: string(id), Receipt: new(receiptOf(done.Receipt))})
}

func receiptOf(r metering.Receipt) receiptAnswer {
	return receiptAnswer{Seq: r.Seq, ID: r.EntryID, Hash: hex.EncodeToString(r.Hash[:])}
}

func (a *API) importAgents(c *call) error {
	if c.r.Header.Get("Content-Encoding") != "" {
		return refusal(asap.CodeUnsupportedEncoding)
	}
	timed := http.NewResponseController(c.w)
	_ = timed.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every writer can
	defer func() { _ = timed.SetReadDeadline(time.Time{}) }()
	document, err := a.readAll(c)
	if err != nil {
		return err
	}
	lite, err := registry.ParseLite(document)
	if err != nil {
		return err
	}
	done, err := a.cfg.Registry.Writer.ImportAgents(c.ctx(), lite)
	if err != nil {
		return err
	}
	answer := importedAnswer{Status: "imported", Registered: done.Registered, Updated: done.Updated, Unchanged: done.Unchanged, Kept: done.Kept, Skipped: lite.Skipped,
		SkippedFirst: make([]skippedEntry, len(lite.SkippedFirst))}
	for i, s := range lite.SkippedFirst {
		answer.SkippedFirst[i] = skippedEntry(s)
	}
	if done.Registered+done.Updated > 0 {
		answer.Receipt = new(receiptOf(done.Receipt))
	}
	return writeJSON(c.w, http.StatusOK, answer)
}

// liteRegistry serves the registry in the form v1.3.0 reads. It may be kept, but
// must be asked for again before it is used, so that what is registered is found.
func (a *API) liteRegistry(c *call) error {
	index, err := a.cfg.Registry.Index(c.ctx())
	if err != nil {
		return err
	}
	body, etag := a.lite.document(index)
	c.w.Header().Set("ETag", etag)
	c.w.Header().Set("Cache-Control", "public, no-cache")
	if c.r.Header.Get("If-None-Match") == etag {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeBytes(c.w, http.StatusOK, body)
}

func (l *liteCache) document(index *registry.Index) (body []byte, etag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil || l.generation != index.Generation() {
		entries, changedAt, generation := index.Lite()
		l.body, l.generation = registry.AppendLite(nil, changedAt, entries), generation
		sum := sha256.Sum256(l.body)
		l.etag = strconv.Quote(hex.EncodeToString(sum[:]))
	}
	return l.body, l.etag
}
