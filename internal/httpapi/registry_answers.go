package httpapi

import (
	"math"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

var (
	agentPathParam = parameter{name: "id", in: "path", kind: "string", required: true, pattern: urnPattern, most: asap.MaxURNLength, doc: "URN of the agent; colons may be percent-encoded"}
	basisParam     = parameter{name: "availability_basis", in: "query", kind: "string", enum: []any{"promised", "measured"},
		doc: "which figures of the SLA filters, order and answer go by; the answer says which if left out"}
	forceParam       = parameter{name: "force", in: "query", kind: "string", enum: yesOrNo(), doc: "operator: take an older manifest, or other content of the same version"}
	replaceKeysParam = parameter{name: "replace_keys", in: "query", kind: "string", enum: yesOrNo(), doc: "operator: drop every key of the agent but the one that signed"}
)

func agentFilter() []parameter {
	text := func(name, doc string) parameter {
		return parameter{name: name, in: "query", kind: "string", doc: doc, most: metering.MaxText}
	}
	matching := func(name, pattern, doc string) parameter {
		return parameter{name: name, in: "query", kind: "string", pattern: pattern, doc: doc}
	}
	return []parameter{
		text("q", "words that must all be found in id, name, description, skills or tools"),
		text("skill", "id of a skill the agent has"),
		text("capability", "streaming, state_persistence, mcp_tools, the name of a tool, or the id of a skill"),
		matching("min_availability", percentagePattern, "percentage, such as 99.5"),
		{name: "max_latency_p95_ms", in: "query", kind: "integer", most: math.MaxInt32, doc: "milliseconds"},
		matching("max_error_rate", percentagePattern, "percentage, such as 1"),
		matching("max_price", amountPattern, "US dollars a task may cost at most, of the skill if one is named"),
		basisParam,
		matching("sort", `^-?(sla_score|availability|latency|name|price|relevance)$`, "sla_score, availability, latency, name or price, with - in front for descending, or relevance with q; unknown values come last"),
	}
}

// decimal is the text of a number. The zero decimal is not usable.
type decimal string

// MarshalJSON returns the text.
func (d decimal) MarshalJSON() ([]byte, error) { return []byte(d), nil }

// Schema documents it as the number it is.
func (decimal) Schema(huma.Registry) *huma.Schema { return &huma.Schema{Type: huma.TypeNumber} }

// rawJSON is a JSON object that is written as it is; nil is null.
type rawJSON jsontext.Value

// MarshalJSON returns the object.
func (r rawJSON) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	return r, nil
}

// Schema documents it as an object.
func (rawJSON) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: true}
}

// figure is one figure and what it rests on.
type figure struct {
	Value  decimal `json:"value"`
	Text   string  `json:"text,omitzero" doc:"as the manifest writes it"`
	Basis  string  `json:"basis" enum:"promised,measured"`
	Window *string `json:"window" doc:"name of the measured period; null of a promise"`
	Start  *string `json:"start" format:"date-time" doc:"of the measured period, or since when the promise is registered"`
	End    *string `json:"end" format:"date-time" doc:"null of a promise: it stands"`
}

type agentSLA struct {
	Availability *figure `json:"availability_percent" doc:"null if nobody knows"`
	LatencyP95   *figure `json:"latency_p95_ms" doc:"null if nobody knows"`
	ErrorRate    *figure `json:"error_rate_percent" doc:"null if nobody knows"`
	Score        *figure `json:"sla_score" doc:"0 to 100; null if nothing was measured"`
	SupportHours *string `json:"support_hours" doc:"as the manifest says"`
}

type agentEndpoints struct {
	HTTP     *string `json:"http"`
	WS       *string `json:"ws"`
	Manifest *string `json:"manifest"`
}

type agentCapabilities struct {
	StatePersistence bool     `json:"state_persistence"`
	Streaming        bool     `json:"streaming"`
	MCPTools         []string `json:"mcp_tools"`
}

type agentKey struct {
	PublicKey string `json:"public_key" doc:"Ed25519, base64"`
	AddedAt   string `json:"added_at" format:"date-time"`
}

type agentPrice struct {
	MaxUSDPerTask string `json:"max_usd_per_task" doc:"decimal text"`
	Basis         string `json:"basis" enum:"price_list" doc:"the node's own price list"`
}

// AgentAnswer is an agent in a list. It is exported because it is embedded, see
// Totals.
type AgentAnswer struct {
	ID           string             `json:"id"`
	Name         string             `json:"name"`
	Version      *string            `json:"version" doc:"of the manifest; null if there is none"`
	Description  string             `json:"description"`
	ASAPVersion  string             `json:"asap_version"`
	Source       string             `json:"source" enum:"signed,imported,hosted"`
	Hosted       bool               `json:"hosted" doc:"this node runs the agent"`
	Skills       []string           `json:"skills"`
	Capabilities *agentCapabilities `json:"capabilities" doc:"null if there is no manifest"`
	Endpoints    agentEndpoints     `json:"endpoints"`
	SLA          agentSLA           `json:"sla" doc:"figures of the basis that counts"`
	Promised     agentSLA           `json:"promised_sla" doc:"what the manifest promises, whichever basis counts"`
	Price        *agentPrice        `json:"price" doc:"null if nobody knows"`
	Keys         []agentKey         `json:"keys" doc:"keys pinned for the agent, oldest first"`
	RegisteredAt string             `json:"registered_at" format:"date-time"`
	UpdatedAt    string             `json:"updated_at" format:"date-time"`
	AuditSeq     *int64             `json:"audit_seq" doc:"entry of the last change; null for a hosted agent"`
}

type agentDocument struct {
	AgentAnswer
	Manifest rawJSON `json:"manifest" doc:"null of an imported agent"`
	Signed   rawJSON `json:"signed_manifest" doc:"null unless the agent signed it"`
}

type agentPage struct {
	Data    []AgentAnswer `json:"data"`
	Count   int           `json:"count"`
	Total   int           `json:"total" doc:"agents that match, on all pages"`
	Unknown int           `json:"unknown" doc:"agents that would match if a figure that is filtered by were known"`
	Basis   string        `json:"availability_basis" enum:"promised,measured"`
	Next    *string       `json:"next_cursor"`
}

type changedAnswer struct {
	Status  string         `json:"status" enum:"registered,updated,unchanged,removed"`
	ID      string         `json:"id"`
	Agent   *agentDocument `json:"agent,omitzero"`
	Receipt *receiptAnswer `json:"receipt" doc:"null if nothing changed"`
}

type skippedEntry struct {
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}

type importedAnswer struct {
	Status       string         `json:"status" enum:"imported"`
	Registered   int            `json:"registered"`
	Updated      int            `json:"updated"`
	Unchanged    int            `json:"unchanged"`
	Kept         int            `json:"kept" doc:"registered by the agents themselves, or removed, and so left alone"`
	Skipped      int            `json:"skipped" doc:"entries that cannot be used"`
	SkippedFirst []skippedEntry `json:"skipped_entries" doc:"the first hundred of them"`
	Receipt      *receiptAnswer `json:"receipt" doc:"null if nothing changed"`
}

// liteDocument documents registry.AppendLite.
type liteDocument struct {
	Version   string      `json:"version"`
	UpdatedAt string      `json:"updated_at" format:"date-time"`
	Agents    []liteEntry `json:"agents"`
}

// liteImport is what of such a document is needed to take its agents over.
// Other members are ignored, and entries that cannot be used are left out.
type liteImport struct {
	_      struct{} `additionalProperties:"true"`
	Agents []any    `json:"agents"`
}

type liteEntry struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Endpoints   map[string]string `json:"endpoints"`
	Skills      []string          `json:"skills"`
	ASAPVersion string            `json:"asap_version"`
}

// signedManifestBody documents asap.SignedManifest.
type signedManifestBody struct {
	Manifest  map[string]any `json:"manifest"`
	Signature struct {
		Alg        string `json:"alg" enum:"ed25519"`
		Signature  string `json:"signature" doc:"base64"`
		TrustLevel string `json:"trust_level,omitempty" enum:"self-signed"`
	} `json:"signature"`
	PublicKey *string `json:"public_key,omitempty" doc:"base64; needed the first time"`
}

func newAgentAnswer(f *registry.Found) AgentAnswer {
	entry := f.Lite()
	answer := AgentAnswer{ID: string(f.ID), Name: entry.Name, Description: entry.Description, ASAPVersion: entry.ASAPVersion, Source: string(f.Source),
		Hosted: f.Hosts, Skills: append([]string{}, entry.Skills...), RegisteredAt: moment(f.RegisteredAt), UpdatedAt: moment(f.UpdatedAt),
		Endpoints: agentEndpoints{HTTP: optional(entry.Address("http")), WS: optional(entry.Address("ws")), Manifest: optional(entry.Address("manifest"))},
		Keys:      make([]agentKey, len(f.Keys)), Version: optional(f.Version)}
	if f.Source != registry.Hosted {
		answer.AuditSeq = &f.Seq
	}
	for i, k := range f.Keys {
		answer.Keys[i] = agentKey{asap.EncodePublicKey(k.Public), moment(k.AddedAt)}
	}
	if m := f.Manifest; m != nil {
		answer.Capabilities = &agentCapabilities{m.Capabilities.StatePersistence, m.Capabilities.Streaming, append([]string{}, m.Capabilities.MCPTools...)}
		if m.SLA != nil {
			answer.SLA.SupportHours, answer.Promised.SupportHours = m.SLA.SupportHours, m.SLA.SupportHours
		}
	}
	if f.PriceNanoUSD != nil {
		answer.Price = &agentPrice{metering.NanoUSD(*f.PriceNanoUSD).String(), "price_list"}
	}
	answer.SLA.fill(&f.Figures)
	answer.Promised.fill(&f.Promised)
	return answer
}

// fill gives each figure that is known its basis and its time.
func (s *agentSLA) fill(f *registry.Figures) {
	of := func(value []byte, text string) *figure {
		v := &figure{Value: decimal(value), Text: text, Basis: string(f.Basis), Window: optional(f.Window)}
		if !f.Start.IsZero() {
			v.Start = new(moment(f.Start))
		}
		if !f.End.IsZero() {
			v.End = new(moment(f.End))
		}
		return v
	}
	if f.Availability != nil {
		s.Availability = of(f.Availability.AppendValue(nil), f.Availability.Text())
	}
	if f.LatencyP95MS != nil {
		s.LatencyP95 = of(strconv.AppendInt(nil, *f.LatencyP95MS, 10), "")
	}
	if f.ErrorRate != nil {
		s.ErrorRate = of(f.ErrorRate.AppendValue(nil), f.ErrorRate.Text())
	}
	if f.Score != nil {
		s.Score = of(strconv.AppendFloat(nil, *f.Score, 'f', -1, 64), "")
	}
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
