// Package prober asks agents whether they are up.
//
// The model: each target is asked for its health once per interval, at an offset
// of its own, so that a node with many does not ask them all at once. An answer,
// or that there is none, is up or down; what may be this side's own fault - the
// name service, the network, a canary that fails as well - is unknown, and is
// nobody's downtime. Redirects are not followed, and addresses within the node's
// own network are not asked unless that is allowed.
package prober

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// HealthPath is where agents tell how they are.
const HealthPath = "/.well-known/asap/health"

// Target is one agent to ask.
type Target struct {
	Agent string
	// URL is of its health.
	URL string
	// Expect is the agent_id that the answer must have; empty for any.
	Expect string
	// Own tells that the node hosts the agent itself; see Config.Own.
	Own bool
}

// HealthURL is where the agent tells how it is that is called at endpoint.
func HealthURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", fmt.Errorf("%q is no http URL", endpoint)
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: HealthPath}).String(), nil
}

// Result is what became of one probe.
type Result struct {
	Agent string
	State sla.State
	At    time.Time // when the probe began
	// Why says what was wrong; empty if nothing was.
	Why string
}

// Config is what a Prober is made of. Report is required.
type Config struct {
	// Interval is how often each target is asked; 0 means every 30 s.
	Interval time.Duration
	// Timeout is how long one answer may take; 0 means 5 s, at most Interval.
	Timeout time.Duration
	// Parallel is how many are asked at once; 0 means 64.
	Parallel int
	// AllowPrivate lets loopback, link-local and private addresses be asked.
	AllowPrivate bool
	// Own carries requests to the node's own agents. Nil sends them like others,
	// whatever their address.
	Own http.RoundTripper
	// Canary is a URL that answers with 2xx unless this side is at fault, whatever
	// its address; empty for none.
	Canary string
	// Report is told each result. It is called concurrently and must not block.
	Report func(Result)
	// Now is the clock that results are dated by; nil for the system's.
	Now func() time.Time
}

// Prober asks. Its methods are safe for concurrent use.
type Prober struct {
	cfg    Config
	client *http.Client // to others
	own    *http.Client

	mu      sync.Mutex // guards targets
	targets map[string]Target
	changed chan struct{} // one token
}

// errPrivate reports an address that is not asked.
var errPrivate = errors.New("the address is private, and asking those is not allowed")

// New returns a prober without targets.
func New(c Config) *Prober {
	if c.Interval <= 0 {
		c.Interval = 30 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	c.Timeout = min(c.Timeout, c.Interval)
	if c.Parallel <= 0 {
		c.Parallel = 64
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	p := &Prober{cfg: c, targets: map[string]Target{}, changed: make(chan struct{}, 1)}
	clientTo := func(allowPrivate bool) *http.Client {
		dialer := &net.Dialer{Timeout: c.Timeout, Control: func(_, address string, _ syscall.RawConn) error { return guard(address, allowPrivate) }}
		transport := &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: c.Timeout,
			DisableKeepAlives: true} // each probe makes a new connection, or does not
		return &http.Client{Transport: transport, Timeout: c.Timeout, CheckRedirect: noRedirect}
	}
	p.client, p.own = clientTo(c.AllowPrivate), clientTo(true)
	if c.Own != nil {
		p.own.Transport = c.Own
	}
	return p
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// guard refuses addresses within the node's own network. It sees the address that
// is dialled, after the name was looked up.
func guard(address string, allowed bool) error {
	if allowed {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || sharedSpace.Contains(ip) {
		return fmt.Errorf("%s: %w", ip, errPrivate)
	}
	return nil
}

// sharedSpace is RFC 6598's, private in all but name.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// Set makes t be asked from now on.
func (p *Prober) Set(t Target) {
	p.mu.Lock()
	p.targets[t.Agent] = t
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Remove ends the asking of an agent.
func (p *Prober) Remove(agent string) {
	p.mu.Lock()
	delete(p.targets, agent)
	p.mu.Unlock()
}

// Run asks until ctx ends. A target that is new is asked at once, and then in a
// rhythm of its own.
func (p *Prober) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	slots := make(chan struct{}, p.cfg.Parallel)
	due := map[string]time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next := now.Add(p.cfg.Interval)
		for _, t := range p.current(due) {
			at, known := due[t.Agent]
			if known && at.After(now) {
				if at.Before(next) {
					next = at
				}
				continue
			}
			due[t.Agent] = p.nextAfter(now, t.Agent)
			if due[t.Agent].Before(next) {
				next = due[t.Agent]
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			parts.Go(func() {
				defer func() { <-slots }()
				if r := p.Probe(ctx, t); ctx.Err() == nil {
					p.cfg.Report(r)
				}
			})
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-timer.C:
		}
	}
}

// current returns the targets, and forgets when those are due that are none.
func (p *Prober) current(due map[string]time.Time) []Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Target, 0, len(p.targets))
	for _, t := range p.targets {
		list = append(list, t)
	}
	for agent := range due {
		if _, there := p.targets[agent]; !there {
			delete(due, agent)
		}
	}
	return list
}

// nextAfter is the next instant of the agent's own rhythm: its place within the
// interval comes from its name, so that restarts do not bunch agents together.
func (p *Prober) nextAfter(now time.Time, agent string) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(agent)) // cannot fail
	offset := time.Duration(h.Sum64() % uint64(p.cfg.Interval))
	next := now.Truncate(p.cfg.Interval).Add(offset)
	for !next.After(now) {
		next = next.Add(p.cfg.Interval)
	}
	return next
}

// maxHealthBytes bounds an answer.
const maxHealthBytes = 64 << 10

// Probe asks one agent, now.
func (p *Prober) Probe(ctx context.Context, t Target) Result {
	r := Result{Agent: t.Agent, At: p.cfg.Now()}
	client := p.client
	if t.Own {
		client = p.own
	}
	res, err := get(ctx, client, t.URL)
	if err != nil {
		r.State, r.Why = sla.StateDown, err.Error()
		if ownFault(err) || !p.canaryLives(ctx) {
			r.State = sla.StateUnknown
		}
		return r
	}
	defer func() { _ = res.Body.Close() }() // only read
	r.State, r.Why = judge(res, t.Expect)
	return r
}

func get(ctx context.Context, client *http.Client, target string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "asap-prober")
	return client.Do(req)
}

// judge says what an answer means.
func judge(res *http.Response, expect string) (sla.State, string) {
	switch {
	case res.StatusCode == http.StatusTooManyRequests:
		return sla.StateUp, "" // reachable: load is not downtime
	case res.StatusCode < 200 || res.StatusCode > 299:
		return sla.StateDown, res.Status
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxHealthBytes+1))
	if err != nil {
		return sla.StateDown, err.Error()
	}
	var health struct {
		Status  string `json:"status"`
		AgentID string `json:"agent_id"`
	}
	switch {
	case len(body) > maxHealthBytes:
		return sla.StateDown, "the answer is too long"
	case json.Unmarshal(body, &health) != nil:
		return sla.StateDown, "the answer is not what an agent says of its health"
	case health.Status != "healthy":
		return sla.StateDown, fmt.Sprintf("status %.40q", health.Status)
	case expect != "" && health.AgentID != expect:
		return sla.StateDown, fmt.Sprintf("agent_id %.200q", health.AgentID)
	}
	return sla.StateUp, ""
}

// ownFault tells errors that say more of this side than of the other. A name that
// does not exist is the other's.
func ownFault(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return !dns.IsNotFound
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, errPrivate) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ENETDOWN) ||
		errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// canaryLives tells whether this side can reach anything at all.
func (p *Prober) canaryLives(ctx context.Context) bool {
	if p.cfg.Canary == "" {
		return true
	}
	res, err := get(ctx, p.own, p.cfg.Canary)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode >= 200 && res.StatusCode <= 299
}
