// Package node puts a running node together: configuration, data directory,
// ledger, agents and HTTP interfaces, and the order in which they start and stop.
//
// The model: Open makes everything and serves nothing yet; Run serves until its
// context ends and then stops from the outside in - no new requests, running
// tasks finish and are settled, the ledger commits what is left; Close lets go
// of the files. There are no rules in here.
package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/notify"
	"github.com/asap-protocol/asap-go/internal/prober"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Options are what a program, rather than an operator, decides about a node.
type Options struct {
	// Agents are hosted before those of the configuration.
	Agents []*agent.Agent
	// Log receives the log; nil discards it.
	Log io.Writer
	// Now is the clock; nil for the system's.
	Now func() time.Time

	// checkpoints is how often service levels are stored, and how many agents at
	// once; zero for what is usual.
	checkpoints checkpoints
}

type checkpoints struct {
	every  time.Duration
	agents int
}

// Node is one running process that hosts agents.
type Node struct {
	config        Config
	log           *slog.Logger
	level         *slog.LevelVar
	key           ed25519.PrivateKey
	store         Store
	ledger        *ledger.Ledger
	follower      *notify.Follower
	limits        *notify.Warnings
	limitsLogged  int64 // position of the last warning that needs no line in the log
	registry      *registry.Index
	watch         *slawatch.Watch
	prober        *prober.Prober
	webhookSecret []byte
	// hostedIDs are the agents that the node runs itself. It is set before the
	// ledger runs.
	hostedIDs map[asap.AgentURN]bool
	telling   sync.Mutex // held while the watch is told of agents; taken before its own

	prices *atomic.Pointer[metering.PriceBook]
	keep   *atomic.Pointer[MeteringConfig]

	auditLog  *auditlog.Log
	auditKeys audit.Keys // the node's own
	auditKeep *atomic.Pointer[AuditConfig]
	sealer    *auditlog.Sealer

	checkpoints checkpoints

	hosted   []*agent.Agent
	agents   *agent.Server
	server   *http.Server
	listener net.Listener
	callers  *callers

	keysKnown keyState

	meters  *meters
	judge   *delegations  // nil until the server is open
	certs   *certificates // nil: no TLS
	urlFile string
	now     func() time.Time
}

// Open reads or makes what the data directory holds, recovers the ledger and
// takes the address, so that whatever is wrong is said before anything is
// served. The caller must call Run or Close, and Close after Run.
func Open(ctx context.Context, config Config, o Options) (_ *Node, err error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	book, err := config.priceBook()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Node{
		config: config, level: new(slog.LevelVar), checkpoints: o.checkpoints,
		prices: new(atomic.Pointer[metering.PriceBook]), keep: new(atomic.Pointer[MeteringConfig]), auditKeep: new(atomic.Pointer[AuditConfig]),
		meters: newMeters(),
	}
	n.now = func() time.Time {
		if n.ledger == nil { // it has not told yet what time it is
			return o.Now()
		}
		return n.ledger.Now()
	}
	n.prices.Store(book)
	n.keep.Store(&config.Metering)
	n.auditKeep.Store(&config.Audit)
	n.log = n.logger(o.Log)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.openStore(ctx, o.Now); err != nil {
		return nil, err
	}
	if err := config.ensureOperatorToken(); err != nil {
		return nil, err
	}
	if err := n.openAudit(ctx); err != nil {
		return nil, err
	}
	if err := n.openLedger(ctx, o.Now); err != nil {
		return nil, err
	}
	if err := n.openServer(ctx, o); err != nil {
		return nil, err
	}
	return n, nil
}

// openLedger recovers the ledger.
func (n *Node) openLedger(ctx context.Context, now func() time.Time) (err error) {
	// What is read after this may be newer than its position, never older.
	if err := n.openFollower(ctx); err != nil {
		return err
	}
	if n.registry, err = loadRegistry(ctx, n.store); err != nil {
		return err
	}
	if err := n.openWatch(ctx); err != nil {
		return err
	}
	n.watch.AddHook(slawatch.LogHook{Log: n.log})
	ids := asap.NewIDSource()
	n.ledger, err = ledger.Open(ctx, n.store, ledger.Options{
		Origin: n.Origin(), Operator: asap.AgentURN(n.config.URN), Now: now, Prices: n.prices.Load(),
		LostAnswer:    func(t *ledger.Task) []byte { return lostAnswer(t, ids, n.now()) },
		AgentsChanged: n.agentsChanged,
		Committed:     n.committed, Recovered: n.recovered, Lead: true, Observed: n.meters.observed,
	})
	return err
}

// forgetKeys lets a change of keys be seen by whoever verifies delegations.
func (n *Node) forgetKeys() {
	if n.judge != nil {
		n.judge.keys.forget()
	}
}

// Origin names the node's audit log: its URN, bound into the first entry.
func (n *Node) Origin() string { return n.config.URN }

// openServer takes the address and mounts every route.
func (n *Node) openServer(ctx context.Context, o Options) error {
	if n.config.TLS.Certificate != "" {
		var err error
		if n.certs, err = openCertificates(n.config.TLS); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	registered := prometheus.NewRegistry()
	for _, c := range n.metrics() {
		if err := registered.Register(c); err != nil {
			return err
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", n.config.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", n.config.Listen, err)
	}
	n.listener = listener
	hosted := o.Agents
	for _, a := range n.config.Agents {
		hosted = append(hosted, agent.Echo(a.URN, a.Name))
	}
	public := cmp.Or(strings.TrimRight(n.config.PublicURL, "/"), n.URL())
	for _, a := range hosted {
		a.Announce(public+"/asap", "ws"+strings.TrimPrefix(public, "http")+"/asap/ws")
	}
	if len(hosted) == 0 {
		return fmt.Errorf("%w: agents: a node hosts at least one", ErrConfig)
	}
	n.hosted = hosted
	private, err := n.config.readSigners(n.log)
	if err != nil {
		return err
	}
	if n.callers, err = newCallers(&n.config, hosted, n.now, n.log, registeredKeys{n.registry}, private); err != nil {
		return err
	}
	n.keysKnown.files = n.callers.keys.Fingerprint()
	judge, err := n.openDelegations(ctx, private)
	if err != nil {
		return err
	}
	hostAgents(n.registry, hosted, n.now())
	n.openProber()
	if err := n.watchAgents(ctx, hosted); err != nil {
		return err
	}
	limits := n.config.Limits
	perSecond := limits.WebSocketPerSec
	switch {
	case perSecond == 0 && n.config.Loopback():
		perSecond = -1 // none
	case perSecond == 0:
		perSecond = 10
	}
	room := agent.NewRoom(limits.held())
	n.agents, err = agent.NewServer(agent.Config{
		Agents:          hosted,
		Ledger:          tasks{ledger: n.ledger, store: n.store, prices: n.prices, now: n.now, follower: n.follower},
		Delegations:     judge,
		Authenticate:    n.callers.agent,
		AuthStatus:      n.callers.auth.OIDC != nil,
		AllowUnverified: n.callers.unverified,
		AllowMetrics:    n.callers.metrics,
		Limiter:         n.callers.limiter,
		Refused:         n.recordRefusal,
		Ready:           n.ready,
		Notifications:   news{n.watch, n.store}, LimitNotifications: limitNews{n.limits},
		Logger:   n.log,
		Clock:    n.now,
		Registry: registered,
		Room:     room,
		Limits: agent.Limits{
			BodyBytes: limits.RequestBytes, RunningTasks: limits.RunningTasks, TaskTimeout: time.Duration(limits.TaskTimeout),
			MaxTaskTimeout: time.Duration(limits.TaskTimeout), DrainTimeout: time.Duration(limits.ShutdownDeadline),
			MessagesPerSecond: perSecond,
		},
	})
	if err != nil {
		return err
	}
	n.judge = judge
	judge.awaitStarts = n.agents.AwaitStarts
	mux := http.NewServeMux()
	n.agents.Routes(mux)
	httpapi.New(httpapi.Config{
		Usage: n.store, Ledger: n.ledger, Audit: n.store, AuditLog: n.auditLog, AuditVKey: n.auditLog.VKey(), AuditKeys: n.auditKeys, DelegationReader: n.store, Delegations: judge, Authenticate: n.callers.rest, Limit: n.callers.limit, AgentKeys: n.callers.keys.AgentKeys, Now: n.now, Logger: n.log,
		Retention: func() time.Duration { return time.Duration(n.keep.Load().Retention) }, MaxBodyBytes: limits.RequestBytes, Room: room,
		SLA: func(context.Context) (httpapi.SLAReader, error) { return n.watch, nil }, SLAPlanner: planner{n},
		Registry: httpapi.RegistryConfig{
			Index:  func(context.Context) (*registry.Index, error) { return n.registry, nil },
			Writer: n.ledger, Price: n.priceOf, Compromised: n.callers.keys.Compromised,
		},
	}).Routes(mux)
	n.server = &http.Server{
		Handler:           boundReads(boundWrites(mux, writeTimeout), restTimeout),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	if n.certs != nil {
		n.server.TLSConfig = n.certs.server()
	}
	newConnections(limits.connections(openFiles())).watch(n.server)
	n.urlFile = filepath.Join(n.config.Data, URLFile)
	return os.WriteFile(n.urlFile, []byte(n.URL()+"\n"), 0o600)
}

// URLFile is the file in the data directory that holds the URL of the node that
// serves from it, while it does.
const URLFile = "node.url"

// URL returns the node's base URL.
func (n *Node) URL() string {
	address := n.listener.Addr().String()
	if host, port, err := net.SplitHostPort(address); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() { // every address, and so this one
			address = net.JoinHostPort("localhost", port)
		}
	}
	if n.certs != nil {
		return "https://" + address
	}
	return "http://" + address
}

// serve takes connections until the server is shut down.
func (n *Node) serve() error {
	if n.certs != nil {
		return n.server.ServeTLS(n.listener, "", "")
	}
	return n.server.Serve(n.listener)
}

func (n *Node) logger(w io.Writer) *slog.Logger {
	level, err := n.config.Log.level()
	if err != nil { // validated
		level = slog.LevelInfo
	}
	n.level.Set(level)
	options := &slog.HandlerOptions{Level: n.level}
	if n.config.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// ledgerFile is the path of the ledger, empty if it is in memory.
func (n *Node) ledgerFile() string {
	path, err := n.config.StorePath()
	if err != nil { // validated
		return ""
	}
	return path
}

// Greeting is what a person who starts a node is told.
func (n *Node) Greeting() string {
	var b strings.Builder
	first := n.hosted[0]
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s  %s\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "asap %s serves at %s\n", asap.Version, n.URL())
	read := "--data " + n.config.Data
	if n.ledgerFile() != "" {
		line("data", "%s (ledger, node key, operator token)", n.config.Data)
	} else {
		line("data", "the ledger is in memory: it is forgotten when the node stops")
		read += " --node " + n.URL()
	}
	line("agent", "%s", first.URN())
	if skills := first.Skills(); len(skills) > 0 {
		line("call it", "asap send --to %s --skill %s --input '{\"text\":\"hello\"}'", n.URL(), skills[0])
	}
	line("who used what", "asap usage summary %s", read)
	line("HTTP interface", "%s/openapi.json", n.URL())
	return b.String()
}

// Run serves until ctx ends or something fails, and stops in order. It returns
// nil after a clean stop.
func (n *Node) Run(ctx context.Context) error {
	// The ledger outlives the requests that wait for it.
	ledgerCtx, stopLedger := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLedger()
	ledgerDone := make(chan error, 1)
	go func() { ledgerDone <- n.ledger.Run(ledgerCtx) }()

	// The sealer outlives them too: what they left is sealed at the end.
	sealing, stopSealer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSealer()
	sealed := make(chan struct{})
	go func() {
		defer close(sealed)
		_ = n.whileLeading(sealing, func(ctx context.Context) error { n.sealer.Run(ctx); return nil }) // never an error
	}()

	var stopping time.Time // set before the group ends
	serving, stop := context.WithCancel(ctx)
	defer stop()
	group, gctx := errgroup.WithContext(serving)
	group.Go(func() error {
		if err := n.serve(); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	group.Go(func() error { return n.housekeeping(gctx) })
	group.Go(func() error { return n.follower.Run(gctx) })
	group.Go(func() error { n.listen(gctx); return nil })
	group.Go(func() error {
		defer n.limits.Close()
		n.logLimits(gctx)
		return nil
	})
	group.Go(func() error { return n.watch.Run(gctx, n.ledger) })
	group.Go(func() error { return n.keepMeasuring(gctx) })
	group.Go(func() error { return n.whileLeading(gctx, n.prober.Run) })
	if n.config.SLA.WebhookURL != "" {
		group.Go(func() error { return n.whileLeading(gctx, n.deliver) })
	}
	if n.certs != nil {
		group.Go(func() error { return n.followCertificates(gctx) })
	}
	group.Go(func() error {
		select {
		case <-gctx.Done():
		case err := <-ledgerDone: // only a fatal error ends it while we serve
			ledgerDone <- err
		}
		n.log.Info("stopping")
		stopping = time.Now()
		return n.shutdown(context.WithoutCancel(ctx))
	})
	err := group.Wait()
	stopSealer()
	<-sealed
	stopLedger()
	err = errors.Join(err, <-ledgerDone)
	n.log.Info("stopped", "after", time.Since(stopping).Round(time.Millisecond))
	return err
}

// shutdown stops taking requests, lets running tasks end, and closes what is
// left of the connections.
func (n *Node) shutdown(ctx context.Context) error {
	deadline := time.Duration(n.config.Limits.ShutdownDeadline)
	ctx, cancel := context.WithTimeout(ctx, deadline+5*time.Second)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- n.server.Shutdown(ctx) }()
	err := n.agents.Shutdown(ctx)
	if serverErr := <-closed; serverErr != nil {
		err = errors.Join(err, n.server.Close())
	}
	return err
}

// housekeepingEvery is how often a node looks for what is due to be forgotten.
const housekeepingEvery = time.Minute

// housekeeping applies retention until ctx ends.
func (n *Node) housekeeping(ctx context.Context) error {
	ticker := time.NewTicker(housekeepingEvery)
	defer ticker.Stop()
	for {
		if !n.ledger.Leads() {
			// one node is enough
		} else if err := n.forget(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("retention", "error", err)
		}
		if err := n.recordKeys(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("a change of keys is not in the audit log yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// certificatesEvery is how often the files of TLS are looked at.
const certificatesEvery = 10 * time.Second

// followCertificates serves renewed certificates until ctx ends.
func (n *Node) followCertificates(ctx context.Context) error {
	ticker := time.NewTicker(certificatesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			n.reloadCertificates(false)
		}
	}
}

func (n *Node) reloadCertificates(always bool) {
	changed, err := n.certs.reload(always)
	if err != nil {
		n.log.Error("certificate not reloaded, the last good one stays in use", "error", err)
	} else if changed {
		n.log.Info("certificate reloaded", "file", n.config.TLS.Certificate)
	}
}

// Reload applies what may change in a running node: prices, retention and the
// log level. It reads the keys of agents, the operator token and the
// certificates again in any case; what is wrong with one leaves it as it was. If loading the configuration failed, loadErr says why and the one
// in force stays.
func (n *Node) Reload(ctx context.Context, config Config, loadErr error) {
	if err := n.callers.reload(); err != nil {
		n.log.Error("keys not reloaded, the last good ones stay in force", "error", err)
	}
	if err := n.recordKeys(ctx); err != nil {
		n.log.Error("a change of keys is not in the audit log yet", "error", err)
	}
	n.forgetKeys()
	if n.certs != nil {
		n.reloadCertificates(true)
	}
	if loadErr != nil {
		n.log.Error("configuration not reloaded, the last good one stays in force", "error", loadErr)
		return
	}
	book, err := config.priceBook()
	if err != nil {
		n.log.Error("configuration not reloaded, the last good one stays in force", "error", err)
		return
	}
	if err := n.recordReload(ctx, &config); err != nil {
		n.log.Error("configuration not reloaded, it cannot be logged", "error", err)
		return
	}
	n.setPrices(book)
	n.keep.Store(&config.Metering)
	n.auditKeep.Store(&config.Audit)
	if level, err := config.Log.level(); err == nil {
		n.level.Set(level)
	}
	n.log.Info("configuration reloaded")
}

// ready reports why the node should get no requests.
func (n *Node) ready(ctx context.Context) error {
	if err := n.ledger.Healthy(); err != nil {
		return err
	}
	if err := n.sealer.Alarm(); err != nil {
		return err
	}
	return n.storeReady(ctx)
}

// fullDiskBytes is where commits begin to fail for want of room.
const fullDiskBytes = 256 << 10

// Close lets go of the store and the address. It is safe to call twice.
func (n *Node) Close() error {
	var errs []error
	if n.listener != nil {
		if err := n.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.callers != nil {
		n.callers.close()
	}
	if n.urlFile != "" {
		errs = append(errs, ignoreNotExist(os.Remove(n.urlFile)))
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
		n.store = nil
	}
	return errors.Join(errs...)
}
