package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Config is everything an operator can set. It is read from flags, environment
// variables (ASAP_ and the upper-case path, as ASAP_LIMITS_TASK_TIMEOUT), the
// file asap.yaml and the defaults, in this order. An unknown key is an error.
//
// The doc tag is the sentence of the configuration reference; reload:"yes"
// marks what SIGHUP changes in a running node.
type Config struct {
	Listen     string           `yaml:"listen" doc:"address and port to serve on"`
	PublicURL  string           `yaml:"public_url" doc:"URL that others reach the node at, for the manifests of its agents; empty means the listening address"`
	Data       string           `yaml:"data" doc:"directory of the node's key, operator token and, with SQLite, its ledger"`
	Store      string           `yaml:"store" doc:"where the ledger is: sqlite:PATH, postgres://USER@HOST/DATABASE (as env:NAME or file:PATH if it holds a password) or memory: (development); empty means sqlite:asap.db in the data directory"`
	Migrate    bool             `yaml:"migrate" doc:"bring the schema of a PostgreSQL store up to date at start; false leaves that to asap migrate up"`
	URN        string           `yaml:"urn" doc:"the node's own name, an agent URN: it names the audit log, and tokens for this node are issued to it"`
	NodeKey    string           `yaml:"node_key" doc:"the node's private key (PEM), as env:NAME or file:PATH, which nodes of one store share; empty means node.key in the data directory, made there at first"`
	Operator   string           `yaml:"operator_token" doc:"the operator's bearer token, as env:NAME or file:PATH, which nodes of one store share; empty means operator.token in the data directory, made there at first"`
	Insecure   bool             `yaml:"insecure" doc:"serve beyond loopback without TLS; for a trusted network behind a proxy only"`
	Auth       AuthConfig       `yaml:"auth"`
	TLS        TLSConfig        `yaml:"tls"`
	Agents     []AgentConfig    `yaml:"agents" doc:"built-in agents this node hosts; the first one answers what names no hosted agent"`
	Limits     LimitsConfig     `yaml:"limits"`
	Metering   MeteringConfig   `yaml:"metering"`
	SLA        SLAConfig        `yaml:"sla"`
	Delegation DelegationConfig `yaml:"delegation"`
	Audit      AuditConfig      `yaml:"audit"`
	Log        LogConfig        `yaml:"log"`
}

// AuthConfig says who is let in.
type AuthConfig struct {
	Required bool       `yaml:"required" doc:"demand credentials on /asap from this machine too; beyond loopback they always are"`
	Keys     string     `yaml:"keys" doc:"directory of agents' public keys, read again on SIGHUP; empty means keys in the data directory"`
	OIDC     OIDCConfig `yaml:"oidc"`
}

// OIDCConfig says whose OAuth2 access tokens are taken.
type OIDCConfig struct {
	Issuer        string `yaml:"issuer" doc:"iss of the access tokens of an OpenID provider; empty: none are taken"`
	Audience      string `yaml:"audience" doc:"names of which a token's aud must hold one, separated by blanks"`
	JWKSURL       string `yaml:"jwks_url" doc:"where the provider publishes its keys"`
	Algorithms    string `yaml:"algorithms" doc:"signature algorithms of its tokens, separated by blanks; empty means RS256 ES256 EdDSA"`
	AgentClaim    string `yaml:"agent_claim" doc:"claim that holds the agent's URN; empty means sub"`
	RequiredScope string `yaml:"required_scope" doc:"scope that every token must have; asap:admin makes its holder the operator"`
}

// TLSConfig names the files of TLS. They are read again when they change.
type TLSConfig struct {
	Certificate    string `yaml:"certificate" doc:"file of the node's certificate and those between it and its authority, PEM; empty: no TLS"`
	Key            string `yaml:"key" doc:"file of the certificate's private key, PEM"`
	ClientCA       string `yaml:"client_ca" doc:"file of the authorities whose client certificates count; one proves the agent whose URN is a URI in it"`
	ClientRequired bool   `yaml:"client_required" doc:"refuse connections without such a certificate"`
}

// AgentConfig describes one built-in agent.
type AgentConfig struct {
	URN  string `yaml:"urn"`
	Name string `yaml:"name"`
	Kind string `yaml:"kind"` // echo
}

// LimitsConfig bounds what one request, and all of them together, may take.
type LimitsConfig struct {
	RequestBytes     int64    `yaml:"request_bytes" doc:"largest request body, before and after decompression"`
	HeldBytes        int64    `yaml:"held_bytes" doc:"memory that request bodies may hold together, beyond 16 KiB of each; larger ones are refused with Retry-After; 0 means 256 MiB, or four of the largest bodies"`
	Connections      int      `yaml:"connections" doc:"most connections at once; beyond it those that wait longest without work are closed; 0 means 16384, or as many as the open files allow"`
	RunningTasks     int      `yaml:"running_tasks" doc:"most tasks at work at once; more are refused with Retry-After"`
	TaskTimeout      Duration `yaml:"task_timeout" doc:"longest a task may run; what is reserved for it is held this long"`
	WebSocketPerSec  float64  `yaml:"websocket_per_second" doc:"messages a second one WebSocket connection may send; 0 means no limit on loopback and 10 beyond it"`
	RequestsPerSec   float64  `yaml:"requests_per_second" doc:"requests a second per caller; 0 means no limit on loopback and 50 beyond it"`
	RequestsBurst    int      `yaml:"requests_burst" doc:"requests a caller may send at once above the rate"`
	ShutdownDeadline Duration `yaml:"shutdown_deadline" doc:"how long a stopping node lets running tasks finish"`
}

// MeteringConfig says what things cost and how long raw records are kept.
type MeteringConfig struct {
	Retention  Duration      `yaml:"retention" reload:"yes" doc:"how long raw usage records are kept; 0 keeps them; totals are kept always"`
	AnswerKeep Duration      `yaml:"answer_keep" reload:"yes" doc:"how long answers are kept for callers that retry"`
	Prices     []PriceConfig `yaml:"prices" reload:"yes" doc:"price lists, one per agent"`
}

// DelegationConfig says whose delegations are taken and for whom the node signs.
type DelegationConfig struct {
	Roots          []string `yaml:"roots" doc:"agents that may delegate on their own account; none listed: every agent whose key is known"`
	Keys           string   `yaml:"keys" doc:"private keys of the agents for whom the node signs delegations: a directory of NAME.key files, or URN=FILE, several separated by blanks; empty means delegation-keys in the data directory"`
	RequireProof   bool     `yaml:"require_proof" doc:"demand proof of possession (RFC 9421) of everybody who uses a delegation, not only where a token is bound to a key"`
	RequireServers bool     `yaml:"require_servers" doc:"refuse delegations that do not name the servers they are for"`
	PublicURL      string   `yaml:"public_url" doc:"URL under which callers reach the node, where it is behind a proxy: it counts as a name of this server, and proofs of possession cover it"`
}

// SLAConfig says how strictly promises are judged, how agents are probed and who
// hears of breaches.
type SLAConfig struct {
	Windows       string   `yaml:"windows" doc:"windows in which breaches are looked for, separated by blanks: 1h 24h 7d 30d; empty means all"`
	MinTasks      int64    `yaml:"min_tasks" doc:"tasks that a verdict on latency or errors needs"`
	For           Duration `yaml:"for" doc:"how long a promise must have been broken before a breach opens"`
	ResolveAfter  Duration `yaml:"resolve_after" doc:"how long it must have been kept before a breach ends"`
	ProbeInterval Duration `yaml:"probe_interval" doc:"how often agents are asked whether they are up; a result holds three times as long"`
	ProbeTimeout  Duration `yaml:"probe_timeout" doc:"how long an agent may take to say how it is"`
	ProbePrivate  bool     `yaml:"probe_private" doc:"ask agents at loopback and private addresses too, which a node on loopback does in any case"`
	Canary        string   `yaml:"canary" doc:"URL that answers unless this node is cut off itself; while it does not, nobody is called down"`
	WebhookURL    string   `yaml:"webhook_url" doc:"where what happens to breaches is posted; empty: nowhere"`
	WebhookSecret string   `yaml:"webhook_secret" doc:"secret that posts are signed with (HMAC-SHA256), as env:NAME or file:PATH"`
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `yaml:"level" reload:"yes" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// Duration is a length of time in configuration: Go syntax, and d for days
// ("90d", "1h30m").
type Duration time.Duration

// UnmarshalText parses the configuration form.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "0" {
		*d = 0
		return nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int64
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && n >= 0 && n <= 36500 && fmt.Sprint(n) == days {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
		return fmt.Errorf("%q is not a duration such as 90d, 12h or 30s", s)
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90d, 12h or 30s", s)
	}
	*d = Duration(v)
	return nil
}

// String returns the form that UnmarshalText reads.
func (d Duration) String() string {
	v := time.Duration(d)
	if v != 0 && v%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", v/(24*time.Hour))
	}
	return v.String()
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Defaults returns the configuration of a node nobody configured: loopback,
// data in ./asap-data, one echo agent.
func Defaults() Config {
	return Config{
		Listen:  "127.0.0.1:8080",
		Data:    "asap-data",
		URN:     "urn:asap:agent:node",
		Migrate: true,
		Agents:  []AgentConfig{{URN: "urn:asap:agent:echo", Name: "Echo", Kind: "echo"}},
		Limits: LimitsConfig{
			RequestBytes: 10 << 20, RunningTasks: 1024, TaskTimeout: Duration(600 * time.Second),
			RequestsBurst: 200, ShutdownDeadline: Duration(8 * time.Second),
		},
		Metering: MeteringConfig{AnswerKeep: Duration(24 * time.Hour)},
		SLA:      SLAConfig{MinTasks: 20, ResolveAfter: Duration(5 * time.Minute), ProbeInterval: Duration(30 * time.Second), ProbeTimeout: Duration(5 * time.Second)},
		Log:      LogConfig{Level: "info", Format: "text"},
	}
}

// ErrConfig marks an error the operator mends in the configuration.
var ErrConfig = errors.New("configuration")

// Validate checks what a type cannot: each error names the key and says what
// would be right.
func (c *Config) Validate() error {
	fail := func(key, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrConfig, key, fmt.Sprintf(format, args...))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fail("listen", "%q is not HOST:PORT", c.Listen)
	}
	if key, what := c.validateAuth(host); key != "" {
		return fail(key, "%s", what)
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.User != nil) {
		return fail("public_url", "%q is not a URL such as https://agents.example.com", c.PublicURL)
	}
	if c.Data == "" {
		return fail("data", "a directory is needed")
	}
	if _, err := c.StorePath(); err != nil {
		return err
	}
	if _, err := asap.ParseAgentURN(c.URN); err != nil {
		return fail("urn", "%v", err)
	}
	seen := map[string]bool{}
	for i, a := range c.Agents {
		if _, err := asap.ParseAgentURN(a.URN); err != nil {
			return fail(fmt.Sprintf("agents[%d].urn", i), "%v", err)
		}
		if a.Kind != "echo" {
			return fail(fmt.Sprintf("agents[%d].kind", i), "%q is not a built-in agent; there is: echo", a.Kind)
		}
		if seen[a.URN] {
			return fail(fmt.Sprintf("agents[%d].urn", i), "%s is listed twice", a.URN)
		}
		seen[a.URN] = true
	}
	switch {
	case c.Limits.RequestBytes < 1024 || c.Limits.RequestBytes > 1<<30:
		return fail("limits.request_bytes", "%d is outside 1024 … 1073741824", c.Limits.RequestBytes)
	case c.Limits.HeldBytes != 0 && c.Limits.HeldBytes < c.Limits.RequestBytes:
		return fail("limits.held_bytes", "%d is less than one body of limits.request_bytes", c.Limits.HeldBytes)
	case c.Limits.Connections < 0:
		return fail("limits.connections", "not negative")
	case c.Limits.RunningTasks < 1:
		return fail("limits.running_tasks", "at least 1")
	case c.Limits.TaskTimeout <= 0 || time.Duration(c.Limits.TaskTimeout) > 30*24*time.Hour:
		return fail("limits.task_timeout", "between 1ns and 30d")
	case c.Limits.WebSocketPerSec < 0:
		return fail("limits.websocket_per_second", "not negative")
	case c.Limits.RequestsPerSec < 0 || c.Limits.RequestsBurst < 0:
		return fail("limits.requests_per_second", "not negative")
	}
	if _, err := c.SLA.policy(); err != nil {
		return err
	}
	if c.SLA.WebhookURL != "" {
		if err := webhookURL(c.SLA.WebhookURL); err != nil {
			return fail("sla.webhook_url", "%v", err)
		}
	}
	if c.SLA.ProbeInterval < Duration(time.Millisecond) {
		return fail("sla.probe_interval", "at least 1ms")
	}
	if _, err := c.Log.level(); err != nil {
		return err
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fail("log.format", "%q is neither text nor json", c.Log.Format)
	}
	_, err = c.priceBook()
	return err
}

// held is how much memory request bodies may hold together.
func (l *LimitsConfig) held() int64 {
	if l.HeldBytes > 0 {
		return l.HeldBytes
	}
	return max(256<<20, 4*l.RequestBytes)
}

// connections is how many a node takes at once: what is configured, but no more
// than leaves some of the files that the process may open to everything else.
func (l *LimitsConfig) connections(openFiles uint64) int {
	most := l.Connections
	if most == 0 {
		most = 16384
	}
	if openFiles > 0 && openFiles < uint64(most)+sparedFiles {
		most = max(16, int(openFiles)-sparedFiles)
	}
	return most
}

func (l LogConfig) level() (slog.Level, error) {
	var v slog.Level
	if err := v.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, fmt.Errorf("%w: log.level: %q is not debug, info, warn or error", ErrConfig, l.Level)
	}
	return v, nil
}

// Loopback reports whether the node serves only this machine.
func (c *Config) Loopback() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	return err == nil && loopback(host)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
