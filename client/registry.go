package client

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

const (
	// DefaultRegistry is the public Lite Registry that v1.3.0 asks.
	DefaultRegistry = "https://asap-protocol.github.io/registry/registry.json"
	// RegistryTTL is how long a Lite Registry document is used before it is
	// fetched again.
	RegistryTTL = 900 * time.Second

	registryTimeout  = 30 * time.Second
	maxRegistryBytes = 32 << 20
	registryPage     = 100
	defaultFound     = 100
)

var (
	// ErrAgentNotFound reports an agent that is not in the registry.
	ErrAgentNotFound = errors.New("agent is not in the registry")
	// ErrQuery reports a search that the registry cannot do: a Lite Registry
	// document knows skills and ids only.
	ErrQuery = errors.New("a Lite Registry can be searched by skill only")
)

// Registry finds agents by what they can do: in the registry of a node, or in a
// Lite Registry document (core.md, section 21). It is safe for concurrent use.
//
// A node is asked each time. A document is used for [RegistryTTL]; several who
// need it at a time cause one request, and a failure is not remembered. Members
// nobody knows are ignored, and entries that cannot be used are left out, where
// v1.3.0 refuses the whole document.
type Registry struct {
	opts      *options
	transport *transport
	discovery *Discovery
	base      string // of a node, else ""
	lite      string // URL of a document, else ""

	busy    chan struct{} // whoever holds its token may touch what follows
	agents  []RegisteredAgent
	etag    string
	expires time.Time
}

// NewRegistry returns a Registry with a connection pool of its own. A URL that
// ends in ".json" is a Lite Registry document, any other a node.
func NewRegistry(at string, opts ...Option) (*Registry, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	base, err := parseBase(at, o.insecure)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	t := newTransport(o)
	r := &Registry{opts: o, transport: t, discovery: newDiscovery(o, t), busy: make(chan struct{}, 1)}
	if strings.HasSuffix(base.Path, ".json") {
		r.lite = base.String()
	} else {
		r.base = below(base, "")
	}
	return r, nil
}

// Close closes the idle connections.
func (r *Registry) Close() { r.transport.closeIdle() }

// AgentQuery selects agents. What is left empty selects all. All members but
// Skill and Limit need the registry of a node.
type AgentQuery struct {
	Text       string // words that must all be found
	Skill      string // id of a skill
	Capability string // "streaming", the name of a tool, ...
	// MinAvailability and MaxErrorRate are percentages such as "99.5".
	MinAvailability, MaxErrorRate string
	MaxLatencyP95MS               int64  // 0: any
	MaxPriceUSD                   string // decimal, such as "0.05"
	// Sort is sla_score, availability, latency, name or price, with "-" in front
	// for descending.
	Sort string
	// Limit is the most agents to return; 0 means 100.
	Limit int
}

// RegisteredAgent is an agent as a registry lists it. What it says, the registry
// says; [Registry.Discover] gets the agent's own word.
type RegisteredAgent struct {
	ID          asap.AgentURN
	Name        string
	Description string
	// HTTP and WS are where it can be called, ManifestURL where its manifest is;
	// each may be empty.
	HTTP, WS, ManifestURL string
	Skills                []string
	ASAPVersion           string
	// Keys are those the registry has pinned for the agent; none in a Lite
	// Registry.
	Keys []ed25519.PublicKey
}

// Find returns the agents that match, in the order of the query: at most Limit,
// from as many pages as it takes.
func (r *Registry) Find(ctx context.Context, q AgentQuery) ([]RegisteredAgent, error) {
	if q.Limit <= 0 {
		q.Limit = defaultFound
	}
	if r.lite != "" {
		if q != (AgentQuery{Skill: q.Skill, Limit: q.Limit}) {
			return nil, ErrQuery
		}
		return r.findLite(ctx, q)
	}
	values := q.values()
	var found []RegisteredAgent
	for {
		values.Set("limit", strconv.Itoa(min(registryPage, q.Limit-len(found))))
		var page struct {
			Data []jsontext.Value `json:"data"`
			Next string           `json:"next_cursor"`
		}
		if err := r.ask(ctx, "/registry/agents", values, &page); err != nil {
			return nil, err
		}
		for _, v := range page.Data {
			if a, err := parseRegistered(v); err == nil {
				found = append(found, a.RegisteredAgent)
			}
		}
		if page.Next == "" || len(page.Data) == 0 || len(found) >= q.Limit {
			return found[:min(len(found), q.Limit)], nil
		}
		values.Set("cursor", page.Next)
	}
}

func (q *AgentQuery) values() url.Values {
	values := url.Values{}
	for name, value := range map[string]string{"q": q.Text, "skill": q.Skill, "capability": q.Capability, "min_availability": q.MinAvailability,
		"max_error_rate": q.MaxErrorRate, "max_price": q.MaxPriceUSD, "sort": q.Sort} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if q.MaxLatencyP95MS > 0 {
		values.Set("max_latency_p95_ms", strconv.FormatInt(q.MaxLatencyP95MS, 10))
	}
	return values
}

func (r *Registry) findLite(ctx context.Context, q AgentQuery) ([]RegisteredAgent, error) {
	agents, err := r.document(ctx)
	var found []RegisteredAgent
	for i := range agents {
		if len(found) < q.Limit && (q.Skill == "" || slices.Contains(agents[i].Skills, q.Skill)) {
			found = append(found, agents[i])
		}
	}
	return found, err
}

// Agent returns one agent, or an error that is [ErrAgentNotFound].
func (r *Registry) Agent(ctx context.Context, id asap.AgentURN) (*RegisteredAgent, error) {
	a, err := r.agent(ctx, id)
	if err != nil {
		return nil, err
	}
	return &a.RegisteredAgent, nil
}

func (r *Registry) agent(ctx context.Context, id asap.AgentURN) (*registered, error) {
	if _, err := asap.ParseAgentURN(string(id)); err != nil {
		return nil, fmt.Errorf("agent %q: %w", id, err)
	}
	if r.lite != "" {
		agents, err := r.document(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range agents {
			if a.ID == id {
				return &registered{RegisteredAgent: a}, nil
			}
		}
		return nil, fmt.Errorf("%w: %s", ErrAgentNotFound, id)
	}
	var v jsontext.Value
	err := r.ask(ctx, "/registry/agents/"+url.PathEscape(string(id)), nil, &v)
	var remote *RemoteError
	if errors.As(err, &remote) && remote.HTTPStatus == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %s", ErrAgentNotFound, id)
	}
	if err != nil {
		return nil, err
	}
	a, err := parseRegistered(v)
	if err == nil && a.ID != id {
		err = errors.New("it is another agent")
	}
	if err != nil {
		return nil, failure("receive", r.base, 1, false, fmt.Errorf("%w: agent: %w", ErrInvalidAnswer, err))
	}
	return a, nil
}

// Discover returns the agent's manifest, checked. If the registry holds a signed
// one, that is it: it must verify, with one of the keys that are trusted
// ([WithTrustedKeys]) if there are any, and with one that the registry has pinned.
// Else it is read from the agent ([Discovery.Discover]). It must be the manifest of
// that agent.
func (r *Registry) Discover(ctx context.Context, id asap.AgentURN) (*Discovered, error) {
	a, err := r.agent(ctx, id)
	if err != nil {
		return nil, err
	}
	var found *Discovered
	switch at := cmp.Or(a.ManifestURL, a.HTTP); {
	case a.signed != nil:
		found, err = r.pinned(a)
	case a.manifest != nil:
		found, err = r.discovery.read(r.base, a.manifest)
	case at == "":
		err = fmt.Errorf("%w: the registry does not say where %s is", ErrInvalidAnswer, id)
	default:
		found, err = r.discovery.Discover(ctx, at)
	}
	if err == nil && found.Manifest.ID != id {
		err = fmt.Errorf("%w: the manifest is that of %s", ErrInvalidAnswer, found.Manifest.ID)
	}
	var transport *TransportError
	var remote *RemoteError
	if err != nil && !errors.As(err, &transport) && !errors.As(err, &remote) {
		err = failure("receive", cmp.Or(r.base, r.lite), 1, false, err)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// pinned checks the signed manifest that the registry holds.
func (r *Registry) pinned(a *registered) (*Discovered, error) {
	found, err := r.discovery.read(r.base, a.signed)
	if err != nil {
		return nil, err
	}
	for _, key := range a.Keys {
		if asap.VerifyManifest(found.Signed, asap.VerifyOptions{PublicKey: key}) == nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%w: by none of the keys pinned for %s", ErrUntrusted, a.ID)
}

// ask gets a JSON answer of the node.
func (r *Registry) ask(ctx context.Context, path string, query url.Values, to any) error {
	header, err := r.opts.header(ctx)
	if err != nil {
		return err
	}
	header.Del(DelegationHeader)
	header.Set("Accept", "application/json")
	target := r.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	ans, err := r.transport.get(ctx, target, header, maxRegistryBytes)
	if err != nil {
		return err
	}
	if ans.status != http.StatusOK {
		return statusError(ans, time.Now())
	}
	if err := json.Unmarshal(ans.body, to); err != nil {
		return failure("receive", r.base+path, 1, false, fmt.Errorf("%w: %w", ErrInvalidAnswer, err))
	}
	return nil
}

// document returns the agents of the Lite Registry.
func (r *Registry) document(ctx context.Context) ([]RegisteredAgent, error) {
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return nil, failure("wait", r.lite, 0, false, ctx.Err())
	}
	if time.Now().Before(r.expires) {
		return r.agents, nil
	}
	header := http.Header{"User-Agent": {r.opts.userAgent}, "Accept": {"application/json"}} // a public file: no credentials
	if r.etag != "" {
		header.Set("If-None-Match", r.etag)
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	once := RetryPolicy{Attempts: 1, Jitter: func() float64 { return 0 }}
	ans, err := r.transport.do(ctx, request{method: http.MethodGet, url: r.lite, header: header, maxAnswer: maxRegistryBytes}, once)
	if err != nil {
		return nil, err
	}
	switch {
	case ans.status == http.StatusNotModified && r.etag != "":
	case ans.status == http.StatusOK:
		agents, err := parseLite(ans.body)
		if err != nil {
			return nil, failure("receive", r.lite, 1, false, err)
		}
		r.agents, r.etag = agents, ans.header.Get("ETag")
	default:
		return nil, statusError(ans, time.Now())
	}
	r.expires = time.Now().Add(RegistryTTL)
	return r.agents, nil
}

// parseLite reads a Lite Registry document.
func parseLite(body []byte) ([]RegisteredAgent, error) {
	var root struct {
		Agents *[]jsontext.Value `json:"agents"`
	}
	if err := json.Unmarshal(body, &root, jsontext.AllowDuplicateNames(true)); err != nil {
		return nil, fmt.Errorf("%w: registry: %w", ErrInvalidAnswer, err)
	}
	if root.Agents == nil {
		return nil, fmt.Errorf("%w: registry: it has no list of agents", ErrInvalidAnswer)
	}
	var agents []RegisteredAgent
	seen := map[asap.AgentURN]bool{}
	for _, v := range *root.Agents {
		if a, err := parseRegistered(v); err == nil && !seen[a.ID] {
			seen[a.ID] = true
			agents = append(agents, a.RegisteredAgent)
		}
	}
	return agents, nil
}

// registered is an agent with what a node's registry holds of it.
type registered struct {
	RegisteredAgent
	manifest, signed jsontext.Value // nil if there is none
}

// parseRegistered reads an agent of either kind of registry: their members have
// the same names.
func parseRegistered(v jsontext.Value) (*registered, error) {
	var in struct {
		ID          string             `json:"id"`
		Name        *string            `json:"name"`
		Description string             `json:"description"`
		Endpoints   map[string]*string `json:"endpoints"`
		Skills      []string           `json:"skills"`
		ASAPVersion string             `json:"asap_version"`
		Keys        []struct {
			PublicKey string `json:"public_key"`
		} `json:"keys"`
		Manifest jsontext.Value `json:"manifest"`
		Signed   jsontext.Value `json:"signed_manifest"`
	}
	if err := json.Unmarshal(v, &in); err != nil {
		return nil, err
	}
	id, err := asap.ParseAgentURN(in.ID)
	if err != nil {
		return nil, err
	}
	if in.Name == nil || in.Endpoints == nil {
		return nil, errors.New("name and endpoints are needed")
	}
	endpoint := func(name string) string {
		if at := in.Endpoints[name]; at != nil {
			return *at
		}
		return ""
	}
	a := &registered{RegisteredAgent: RegisteredAgent{ID: id, Name: *in.Name, Description: in.Description, HTTP: endpoint("http"), WS: endpoint("ws"),
		ManifestURL: endpoint("manifest"), Skills: in.Skills, ASAPVersion: in.ASAPVersion}}
	for _, k := range in.Keys {
		key, err := asap.ParsePublicKey(k.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		a.Keys = append(a.Keys, key)
	}
	if in.Manifest.Kind() == '{' {
		a.manifest = in.Manifest
	}
	if in.Signed.Kind() == '{' {
		a.signed = in.Signed
	}
	return a, nil
}
