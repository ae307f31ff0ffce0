package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
)

// Caller is who sent a request. The zero Caller is nobody known.
type Caller struct {
	URN      asap.AgentURN
	Verified bool // the credentials prove URN
}

var (
	// ErrNoCredentials is what Authenticate returns for a request without any.
	ErrNoCredentials = errors.New("authentication required")
	// ErrBadCredentials is what Authenticate returns, wrapped or not, for
	// credentials that prove nothing.
	ErrBadCredentials = errors.New("invalid authentication token")
)

// Notifications is where WebSocket clients subscribe to news of the node. It
// is safe for concurrent use.
type Notifications interface {
	// Subscribe starts to hand frames, each one JSON-RPC notification, to push
	// and returns what ends it. push waits until there is room for the frame;
	// false says that its ctx, or the connection, ended before. The subscription
	// also ends with ctx. An error refuses it; a *[Refusal] says why.
	Subscribe(ctx context.Context, caller Caller, params jsontext.Value, push func(ctx context.Context, frame []byte) bool) (unsubscribe func(), err error)
}

// Positioned is what [Notifications] may be besides: the answer to sla.subscribe
// then tells where in the log of notifications the subscription begins.
type Positioned interface {
	// Position is that of the newest notification; -1 if there is none.
	Position() int64
}

// Config is what a [Server] is made of. Agents and Ledger are required.
type Config struct {
	// Agents are the hosted ones. An envelope goes to the one it names as
	// recipient, else to the first, whose manifest the server shows.
	Agents []*Agent
	Ledger Ledger

	// Delegations judges delegation tokens. Nil: none are taken, unless the ledger
	// does.
	Delegations Delegations

	// Authenticate tells who sends a request, or a WebSocket upgrade. It
	// returns ErrNoCredentials when there are none; every other error refuses
	// the request. An *asap.Error gives its code; others are ErrBadCredentials.
	// It is asked again for each message of a WebSocket connection and between
	// them: when the credentials are good no more, the connection ends. Nil:
	// nobody can be authenticated.
	Authenticate func(*http.Request) (Caller, error)
	// AuthStatus makes POST /asap answer credentials that are missing or no good
	// with HTTP 401, 403 or 503, as v1.3.0 does with OAuth2. Otherwise the answer
	// is a JSON-RPC error under HTTP 200, as v1.3.0 gives it without.
	AuthStatus bool
	// AllowUnverified says whether a request without credentials may be taken.
	// Its sender is then believed and recorded as unverified. Nil: never. For
	// development there is [FromLoopback].
	AllowUnverified func(*http.Request) bool
	// AllowMetrics says who may read /metrics. Nil: everybody.
	AllowMetrics func(*http.Request) bool
	// AllowedOrigins are the hosts, as path.Match patterns, whose web pages may
	// open a WebSocket besides the server's own.
	AllowedOrigins []string
	// CheckNonces turns on the check of extensions.nonce: one that is there
	// must be new for its sender.
	CheckNonces bool

	// Refused is told of every task request that is refused although its sender is
	// known by credentials, before the answer leaves. Nil: nobody.
	Refused func(context.Context, RefusedTask)

	// Ready tells why the server should get no requests at the moment; nil:
	// always ready. It is asked by /ready and /readyz.
	Ready func(context.Context) error
	// Notifications serves sla.subscribe. Nil: it is answered and nothing comes.
	Notifications Notifications
	// LimitNotifications serves delegation.subscribe in the same way.
	LimitNotifications Notifications

	Logger   *slog.Logger         // nil: silent
	Clock    func() time.Time     // nil: time.Now
	IDs      *asap.IDSource       // nil: a new one
	Registry *prometheus.Registry // nil: a new one
	// Outbound carries the calls of [Task.HTTPClient]. Nil: a transport of its
	// own with the usual settings.
	Outbound http.RoundTripper

	// Limiter bounds the requests of each caller over HTTP, and the WebSocket
	// connections it opens; it may be shared with other routes. Nil: one made of
	// Limits.
	Limiter *RateLimiter

	// Room bounds the memory of request bodies; it may be shared with other
	// routes. Nil: one made of Limits.
	Room *Room

	Limits Limits
}

// Limits bound what a server does at once. Zero members have the default given.
type Limits struct {
	BodyBytes      int64         // of a body, before and after inflating, and of a frame; 10 MiB
	BodyTimeout    time.Duration // for a body to arrive; 60 s
	HeldBytes      int64         // of the bodies and frames at hand together, beyond 16 KiB of each; 256 MiB, at least 4 x BodyBytes
	RunningTasks   int           // at once; 1024. More are answered with 503
	TaskTimeout    time.Duration // of a task whose skill and request say nothing; 600 s
	MaxTaskTimeout time.Duration // the most a request may ask for; 3600 s
	CancelGrace    time.Duration // between the end of a task's context and giving its handler up; 5 s
	DrainTimeout   time.Duration // how long a stopping server lets tasks run on; 10 s
	LedgerTimeout  time.Duration // of one call of the ledger; 30 s

	RequestsPerSecond float64 // of one caller over HTTP; 0: no limit
	RequestBurst      int     // 4 x RequestsPerSecond

	MessagesPerSecond float64       // of one WebSocket connection, which is also the burst; 10. Negative: no limit
	Sockets           int           // connections at once; 1024
	SocketsPerAgent   int           // of these, those of one agent that proved its name; a quarter of Sockets, at least 16
	HeartbeatEvery    time.Duration // 30 s
	StaleAfter        time.Duration // without any frame; 90 s

	RetainedTasks    int   // finished ones kept for questions and retries; 1024
	RetainedBytes    int64 // that these may hold; 16 MiB
	SnapshotsPerTask int   // 16
	SnapshotBytes    int   // of one; 1 MiB
}

func (l Limits) withDefaults() Limits {
	def(&l.BodyBytes, 10<<20)
	def(&l.BodyTimeout, 60*time.Second)
	def(&l.HeldBytes, max(256<<20, 4*l.BodyBytes))
	def(&l.RunningTasks, 1024)
	def(&l.TaskTimeout, 600*time.Second)
	def(&l.MaxTaskTimeout, 3600*time.Second)
	def(&l.CancelGrace, 5*time.Second)
	def(&l.DrainTimeout, 10*time.Second)
	def(&l.LedgerTimeout, 30*time.Second)
	def(&l.RequestBurst, max(1, int(4*l.RequestsPerSecond)))
	def(&l.MessagesPerSecond, 10)
	def(&l.Sockets, 1024)
	def(&l.SocketsPerAgent, max(16, l.Sockets/4))
	def(&l.HeartbeatEvery, 30*time.Second)
	def(&l.StaleAfter, 90*time.Second)
	def(&l.RetainedTasks, 1024)
	def(&l.RetainedBytes, 16<<20)
	def(&l.SnapshotsPerTask, 16)
	def(&l.SnapshotBytes, 1<<20)
	return l
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Server hosts agents. Its routes are safe for concurrent use. A server that
// is no longer wanted must be stopped with [Server.Run] or [Server.Shutdown].
type Server struct {
	agents   map[asap.AgentURN]*Agent
	first    *Agent
	ledger   Ledger
	cfg      Config
	limits   Limits
	log      *slog.Logger
	now      func() time.Time
	ids      *asap.IDSource
	outbound http.RoundTripper
	registry *prometheus.Registry
	metrics  *metrics
	started  time.Time
	manifest document
	bodies   bodyReader
	nonces   nonces
	peers    *RateLimiter // nil: no limit

	// base is the parent of every task's context; it ends with the server.
	base    context.Context
	endBase context.CancelCauseFunc

	// starts is held for reading between the admission of a task under a
	// delegation and its handler.
	starts sync.RWMutex

	mu       sync.Mutex
	stopping bool
	byKey    map[requestKey]*run
	byID     map[asap.TaskID]*run
	running  int // handlers that have not returned
	open     int // runs that are not settled
	retained retained
	sockets  map[*session]struct{}
	moved    chan struct{} // closed and renewed when running, open or sockets go down while stopping
}

// requestKey is what makes two requests the same one.
type requestKey struct {
	consumer asap.AgentURN
	envelope asap.EnvelopeID
}

// NewServer checks cfg and returns a server for it. It starts nothing.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Ledger == nil {
		return nil, errors.New("agent: Config.Ledger is required; use agent.Unmetered() to keep no records")
	}
	if len(cfg.Agents) == 0 {
		return nil, errors.New("agent: Config.Agents is empty")
	}
	for _, pattern := range cfg.AllowedOrigins {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("agent: Config.AllowedOrigins: %q: %w", pattern, err)
		}
	}
	s := &Server{
		agents: make(map[asap.AgentURN]*Agent), first: cfg.Agents[0], ledger: cfg.Ledger, cfg: cfg,
		limits: cfg.Limits.withDefaults(), log: cfg.Logger, now: cfg.Clock, ids: cfg.IDs, outbound: cfg.Outbound, registry: cfg.Registry,
		byKey: make(map[requestKey]*run), byID: make(map[asap.TaskID]*run), sockets: make(map[*session]struct{}), moved: make(chan struct{}),
	}
	for _, a := range cfg.Agents {
		if err := a.check(); err != nil {
			return nil, err
		}
		if s.agents[a.URN()] != nil {
			return nil, fmt.Errorf("agent: %s is hosted twice", a.URN())
		}
		s.agents[a.URN()] = a
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.ids == nil {
		s.ids = asap.NewIDSource()
	}
	if s.registry == nil {
		s.registry = prometheus.NewRegistry()
	}
	if s.outbound == nil {
		s.outbound = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 100,
			IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second}
	}
	s.started = s.now()
	var err error
	if s.metrics, err = newMetrics(s.registry, s.started, s.now); err != nil {
		return nil, fmt.Errorf("agent: register metrics: %w", err)
	}
	if s.manifest, err = newDocument(&s.first.manifest); err != nil {
		return nil, err
	}
	if s.bodies.room = cfg.Room; s.bodies.room == nil {
		s.bodies.room = NewRoom(s.limits.HeldBytes)
	}
	s.bodies.limit = s.limits.BodyBytes
	s.bodies.decoders = make(chan struct{}, max(4, runtime.GOMAXPROCS(0)))
	s.retained.maxRuns, s.retained.maxBytes = s.limits.RetainedTasks, s.limits.RetainedBytes
	s.peers = cfg.Limiter
	if s.peers == nil && s.limits.RequestsPerSecond > 0 {
		s.peers = NewRateLimiter(s.limits.RequestsPerSecond, s.limits.RequestBurst)
	}
	s.base, s.endBase = context.WithCancelCause(context.Background())
	return s, nil
}

// Run waits for ctx to end and then stops the server as [Server.Shutdown] does,
// within the bounds of [Limits].
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	bound := s.limits.DrainTimeout + s.limits.CancelGrace + s.limits.LedgerTimeout
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	return s.Shutdown(stop)
}

// Shutdown takes no new tasks, lets running ones finish for DrainTimeout, then
// cancels them, settles every one, closes the WebSocket connections and
// returns. It returns an error if, when ctx ends, a task is not settled or a
// handler has not returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	patience, cancel := context.WithTimeout(ctx, s.limits.DrainTimeout)
	defer cancel()
	drained := s.await(patience, func() bool { return s.running == 0 && s.open == 0 })
	s.endBase(errStopping)
	if !drained {
		s.abandonAll()
		grace, cancel := context.WithTimeout(ctx, s.limits.CancelGrace+s.limits.LedgerTimeout)
		defer cancel()
		s.await(grace, func() bool { return s.open == 0 })
		late, cancel := context.WithTimeout(ctx, s.limits.CancelGrace)
		defer cancel()
		s.await(late, func() bool { return s.running == 0 })
	}
	s.mu.Lock()
	for w := range s.sockets {
		w.stop()
	}
	s.mu.Unlock()
	s.await(ctx, func() bool { return len(s.sockets) == 0 })
	if idle, ok := s.outbound.(*http.Transport); ok && s.cfg.Outbound == nil {
		idle.CloseIdleConnections()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.open > 0:
		return fmt.Errorf("agent: stopped with %d tasks not settled", s.open)
	case s.running > 0:
		return fmt.Errorf("agent: stopped with %d handlers still running", s.running)
	case len(s.sockets) > 0:
		return fmt.Errorf("agent: stopped with %d WebSocket connections open", len(s.sockets))
	}
	return nil
}

// await waits until cond, which is called with s.mu held, or until ctx ends.
func (s *Server) await(ctx context.Context, cond func() bool) bool {
	for {
		s.mu.Lock()
		ok, moved := cond(), s.moved
		s.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// move wakes await. s.mu is held.
func (s *Server) move() {
	if s.stopping {
		close(s.moved)
		s.moved = make(chan struct{})
	}
}

// recipient returns the agent an envelope is for.
func (s *Server) recipient(e *asap.Envelope) *Agent {
	if a := s.agents[e.Recipient]; a != nil {
		return a
	}
	return s.first
}
