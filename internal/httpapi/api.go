package httpapi

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

const (
	defaultMaxBody = 16 << 20
	maxGroups      = 100_000 // of one aggregate, in memory
	ndjson         = "application/x-ndjson"
	openAPIMedia   = "application/openapi+json"
)

// UsageWriter is the way into the ledger; *ledger.Ledger is one. Every method
// returns after its effect is durable, is safe for concurrent use, and tells a
// refusal that changed nothing from a lost answer as the errors of package
// ledger say.
type UsageWriter interface {
	// Record stores reports; see [ledger.Ledger.Record].
	Record(ctx context.Context, reports []ledger.Report, mode ledger.Mode) ([]ledger.Recorded, error)
	// Correct voids or adjusts a record; see [ledger.Ledger.Correct].
	Correct(ctx context.Context, c ledger.Correction) (ledger.Recorded, error)
	// Purge removes records older than before; see [ledger.Ledger.Purge].
	Purge(ctx context.Context, before time.Time) (ledger.Purged, error)
}

// Config is what the interface is plugged together from. Usage, Ledger, Audit,
// Authenticate, Now and Logger are required.
type Config struct {
	Usage  UsageReader
	Ledger UsageWriter
	Audit  AuditReader
	// AuditLog may be left out; AuditVKey is its verifier key, if it is known,
	// and AuditKeys are trusted where a verification names no key.
	AuditLog  AuditLog
	AuditVKey string
	AuditKeys audit.Keys
	// Registry may be left out.
	Registry RegistryConfig
	// DelegationReader is required, Delegations is nil where nothing is written.
	DelegationReader DelegationReader
	Delegations      Delegations

	// Authenticate says who sent a request. An error means that credentials
	// were presented and are not good: 401, or what the code of an *asap.Error
	// says. No credentials is Anonymous.
	Authenticate func(*http.Request) (Caller, error)
	// Limit takes a request off the rate of its caller. If there is none left it
	// returns false and the seconds after which there will be. Nil means no limit.
	Limit func(*http.Request, Caller) (retryAfterSeconds int, ok bool)
	// AgentKeys returns the keys of an agent that are good now, against which
	// reports it signed itself are checked. Nil means that no agent has one.
	AgentKeys func(asap.AgentURN) []ed25519.PublicKey

	// SLA returns what the node measures; it is called for each request. Nil knows
	// no agent.
	SLA func(context.Context) (SLAReader, error)
	// SLAPlanner plans maintenance. Nil: none can be planned.
	SLAPlanner SLAPlanner

	Now    func() time.Time
	Logger *slog.Logger // of what strangers are not told

	// Bounds of the time of reports; zero means metering.DefaultBounds.
	Bounds metering.Bounds
	// Retention tells how long records are kept at present; 0 means for ever,
	// and a purge removes nothing. Nil: always 0.
	Retention func() time.Duration
	// MaxBodyBytes bounds a request body; 0 means 16 MiB.
	MaxBodyBytes int64
	// Room is asked for the memory of bodies beyond 16 KiB of each; nil: there is
	// no bound.
	Room Room
	// Version of the software, for the OpenAPI document; empty means asap.Version.
	Version string
}

// Room bounds the memory of request bodies at hand together. It is safe for
// concurrent use.
type Room interface {
	// Take takes n bytes, or nothing and returns false if there are not so many.
	Take(n int64) bool
	// Give gives n bytes back.
	Give(n int64)
}

// API is the REST interface. It is safe for concurrent use.
type API struct {
	cfg  Config
	doc  []byte
	lite liteCache
	// audits holds a place for each verification of the audit log at once, proofs
	// one for each proof, which reads a bounded number of rows.
	audits, proofs chan struct{}
}

// New returns the interface of cfg.
func New(cfg Config) *API {
	if cfg.Bounds == (metering.Bounds{}) {
		cfg.Bounds = metering.DefaultBounds()
	}
	if cfg.Retention == nil {
		cfg.Retention = func() time.Duration { return 0 }
	}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = defaultMaxBody
	}
	if cfg.Version == "" {
		cfg.Version = asap.Version
	}
	cfg.Registry.complete()
	return &API{cfg: cfg, audits: make(chan struct{}, 2), proofs: make(chan struct{}, 16)}
}

// access says who may call a route.
type access int

const (
	anyone    access = iota // the handler looks at the content
	agents                  // an agent sees its own side, an operator everything
	operators               // the operator alone
	itself                  // an agent, for itself alone
)

// route is one row of the table that is both the interface and its document.
type route struct {
	method, path string
	id, summary  string
	access       access
	params       []parameter
	body         any // a value of the documented type of the body, or nil
	answers      map[int]any
	media        []string // what 200 answers with besides JSON
	handle       func(*API, *call) error
}

// routes is the table of everything this package serves. Who may do what stands
// in its access column and nowhere else.
func routes() []route {
	usage := func(method, path, id string, who access, handle func(*API, *call) error, summary string) route {
		return route{method: method, path: "/usage" + path, id: id, access: who, handle: handle, summary: summary}
	}
	table := []route{
		usage("GET", "", "listUsage", agents, (*API).listUsage, "Usage records, oldest first, in pages").
			with(recordFilter(), paging(), offset()).answering(200, recordPage{}),
		usage("GET", "/aggregate", "aggregateUsage", agents, (*API).aggregate, "Totals by agent, consumer, calendar period, skill, outcome or delegation").
			with([]parameter{groupByParam, zoneParam}, recordFilter(), groupPaging()).answering(200, groupPage{}),
		usage("GET", "/summary", "summarizeUsage", agents, (*API).summary, "The total of a selection").
			with(recordFilter()).answering(200, summaryAnswer{}),
		usage("GET", "/agents", "usageByAgent", agents, (*API).byAgent, "Totals by agent").
			with(recordFilter(), groupPaging()).answering(200, groupPage{}),
		usage("GET", "/consumers", "usageByConsumer", agents, (*API).byConsumer, "Totals by consumer").
			with(recordFilter(), groupPaging()).answering(200, groupPage{}),
		usage("GET", "/stats", "usageStats", operators, (*API).stats, "What the store holds").answering(200, statsAnswer{}),
		usage("GET", "/export", "exportUsage", agents, (*API).export, "Every selected record as JSON, CSV or NDJSON, closed by a count and a hash").
			with([]parameter{formatParam, formatAlias}, recordFilter(), []parameter{exportLimitParam}).answering(200, exportDocument{}).or("text/csv", ndjson),
		usage("GET", "/{task_id}", "usageOfTask", agents, (*API).taskUsage, "The records of one task").
			with([]parameter{taskPathParam}).answering(200, taskRecords{}),
		usage("POST", "", "recordUsage", anyone, (*API).record, "Report the usage of one task, or (operator) correct a record").
			with([]parameter{idempotencyHeader}).taking(usageReport{}).answering(201, recordedAnswer{}).answering(200, recordedAnswer{}),
		usage("POST", "/batch", "recordUsageBatch", anyone, (*API).batch, "Report up to 10,000 tasks, all or nothing unless mode=per_item").
			with([]parameter{modeParam, idempotencyHeader}).taking(batchReport{}).answering(201, batchAnswer{}).answering(200, batchAnswer{}),
		usage("POST", "/validate", "validateUsage", agents, (*API).validate, "Check a report without storing it").
			taking(usageReport{}).answering(200, validateAnswer{}),
		usage("POST", "/purge", "purgeUsage", operators, (*API).purge, "Remove records older than the retention").answering(200, purgeAnswer{}),
		{method: "GET", path: "/audit/logs", id: "listAudit", access: agents, handle: (*API).listAudit, summary: "Audit entries in the order of the log, in pages",
			params: auditFilter(), answers: map[int]any{200: auditPage{}}},
		{method: "GET", path: "/audit/logs/{id}", id: "getAuditEntry", access: agents, handle: (*API).auditEntry, summary: "One audit entry with its exact octets",
			params: []parameter{entryPathParam, proofFlagParam}, answers: map[int]any{200: auditEntryAnswer{}}},
		{method: "GET", path: "/audit/verify", id: "verifyAudit", access: operators, handle: (*API).verifyAudit,
			summary: "Verify the log or a part of it; with Accept: application/x-ndjson, lines of progress come before the verdict",
			params:  verifyParams(), answers: map[int]any{200: verdictAnswer{}}, media: []string{ndjson}},
		{method: "GET", path: "/audit/export", id: "exportAudit", access: operators, handle: (*API).exportAudit,
			summary: "The whole log with header, checkpoints and trailer, to be verified elsewhere", params: []parameter{auditFormatParam}, answers: map[int]any{200: auditExport{}},
			media: []string{"text/csv", ndjson}},
		{method: "GET", path: "/audit/checkpoint", id: "auditCheckpoint", access: anyone, handle: (*API).auditCheckpoint,
			summary: "The newest signed checkpoint, a C2SP signed note; as JSON with the verifier key if application/json is asked for",
			answers: map[int]any{200: checkpointAnswer{}}, media: []string{"text/plain"}},
		{method: "GET", path: "/audit/proof/inclusion", id: "proveInclusion", access: agents, handle: (*API).proveInclusion,
			summary: "Proof that an entry is in the tree of a size", params: inclusionParams(), answers: map[int]any{200: inclusionAnswer{}}},
		{method: "GET", path: "/audit/proof/consistency", id: "proveConsistency", access: agents, handle: (*API).proveConsistency,
			summary: "Proof that the tree of one size is a prefix of that of another", params: consistencyParams(), answers: map[int]any{200: consistencyAnswer{}}},
		{method: "GET", path: "/registry/agents", id: "searchAgents", access: anyone, handle: (*API).searchAgents, summary: "Agents by text, skill, capability, promise or price, in pages",
			params: slices.Concat(agentFilter(), paging()), answers: map[int]any{200: agentPage{}}},
		{method: "GET", path: "/registry/agents/{id}", id: "getAgent", access: anyone, handle: (*API).getAgent, summary: "Everything the registry holds of one agent",
			params: []parameter{agentPathParam, basisParam}, answers: map[int]any{200: agentDocument{}}},
		{method: "PUT", path: "/registry/agents/{id}", id: "putAgent", access: agents, handle: (*API).putAgent, summary: "Register an agent by its signed manifest, or bring that up to date",
			params: []parameter{agentPathParam, forceParam, replaceKeysParam}, body: signedManifestBody{}, answers: map[int]any{200: changedAnswer{}, 201: changedAnswer{}}},
		{method: "DELETE", path: "/registry/agents/{id}", id: "removeAgent", access: agents, handle: (*API).removeAgent, summary: "Take an agent out of the registry",
			params: []parameter{agentPathParam}, answers: map[int]any{200: changedAnswer{}}},
		{method: "GET", path: "/registry.json", id: "liteRegistry", access: anyone, handle: (*API).liteRegistry, summary: "The registry as a Lite Registry document",
			answers: map[int]any{200: liteDocument{}}},
		{method: "POST", path: "/registry/import", id: "importAgents", access: operators, handle: (*API).importAgents, summary: "Take over the agents of a Lite Registry document",
			body: liteImport{}, answers: map[int]any{200: importedAnswer{}}},
		{method: "GET", path: "/openapi.json", id: "getOpenAPI", access: anyone, handle: (*API).openAPI, summary: "This document"},
	}
	return slices.Concat(table, delegationRoutes(), slaRoutes(), maintenanceRoutes())
}

func (r route) with(params ...[]parameter) route {
	r.params = slices.Concat(append([][]parameter{r.params}, params...)...)
	return r
}

// or adds media types of the answer 200.
func (r route) or(media ...string) route { r.media = media; return r }

func (r route) taking(body any) route { r.body = body; return r }

func (r route) answering(status int, body any) route {
	answers := map[int]any{status: body}
	for s, b := range r.answers {
		answers[s] = b
	}
	r.answers = answers
	return r
}

// Routes registers everything on mux and builds the OpenAPI document. Every
// path answers other methods than its own with a 405 problem. Call it once.
func (a *API) Routes(mux *http.ServeMux) {
	config := huma.DefaultConfig("ASAP node", a.cfg.Version)
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", "" // served below; no other pages
	config.CreateHooks = nil                                             // no $schema in answers
	api := humago.New(mux, config)
	paths := map[string]map[string]*route{}
	for _, r := range routes() {
		api.OpenAPI().AddOperation(operation(api, r))
		if paths[r.path] == nil {
			paths[r.path] = map[string]*route{}
		}
		paths[r.path][r.method] = &r
	}
	for _, d := range agentRoutes() {
		d.describe(api)
	}
	for path, methods := range paths {
		mux.Handle(path, a.oneOf(methods))
	}
	mux.HandleFunc("GET /usage/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/usage", http.StatusTemporaryRedirect) // as v1.3.0 does
	})
	for _, path := range []string{"/delegations", "/asap/delegations"} {
		mux.HandleFunc("GET "+path+"/{$}", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, path, http.StatusTemporaryRedirect) // as v1.3.0 does
		})
	}
	mux.HandleFunc("GET /sla/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/sla", http.StatusTemporaryRedirect)
	})
	refine(api.OpenAPI().Components.Schemas)
	doc, err := api.OpenAPI().MarshalJSON()
	if err != nil {
		panic("httpapi: the OpenAPI document: " + err.Error()) // the table above is wrong
	}
	a.doc = doc
}

// oneOf serves the methods of one path. HEAD is served wherever GET is; every
// other method is answered with a 405 problem.
func (a *API) oneOf(methods map[string]*route) http.Handler {
	allow := slices.Sorted(maps.Keys(methods))
	if methods[http.MethodGet] != nil {
		allow = append(allow, http.MethodHead)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		if to := methods[method]; to != nil {
			a.serve(w, r, to)
			return
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		writeProblem(w, problemOf(asap.CodeMethodNotAllowed, "Method Not Allowed"))
	})
}

func (a *API) openAPI(c *call) error {
	c.w.Header().Set("Content-Type", openAPIMedia)
	_, _ = c.w.Write(a.doc) // the client went away
	return nil
}

// call is one request on its way through a handler.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	caller Caller
	params query
	held   int64 // taken of the room for its body
}

func (c *call) ctx() context.Context { return c.r.Context() }

func (a *API) serve(w http.ResponseWriter, r *http.Request, to *route) {
	c := &call{w: w, r: r}
	body := r.Body // a handler may bound it
	defer a.giveBack(c)
	err := a.admit(c, to.access)
	if err == nil {
		c.params, err = newQuery(r.URL.RawQuery)
	}
	if err == nil {
		err = to.handle(a, c)
	}
	if err != nil {
		a.fail(w, r, err)
		a.giveBack(c)
		discardRest(w, r, body)
	}
}
