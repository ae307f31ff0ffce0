package asap

import (
	"bytes"
	"regexp"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// DefaultTTLSeconds is how long a manifest may be cached unless it says
// otherwise.
const DefaultTTLSeconds = 300

// A Manifest describes an agent (core.md 9.1). The free-form JSON in it keeps
// the bytes it was parsed from: do not write to them.
type Manifest struct {
	ID   AgentURN
	Name string
	// Version is a PEP 440 version: 1.2.3, 1.0.0-rc.1, 2024.1; not every
	// semantic version is one.
	Version      string
	Description  string
	Capabilities Capability
	Endpoints    Endpoint
	Auth         *AuthScheme
	// Signature is a relic; the signed form is [SignedManifest].
	Signature *string
	SLA       *SLADefinition
	// TTLSeconds is at least 1; 0 is written as DefaultTTLSeconds.
	TTLSeconds int64
}

// Capability is what an agent can do.
type Capability struct {
	// ASAPVersion is DefaultASAPVersion if a parsed manifest does not say.
	ASAPVersion      string
	Skills           []Skill
	StatePersistence bool
	Streaming        bool
	MCPTools         []string
}

// Skill is one thing an agent can do. The schemas are JSON objects or nil.
type Skill struct {
	ID           string
	Description  string
	InputSchema  jsontext.Value
	OutputSchema jsontext.Value
}

// Endpoint is where an agent can be reached; the addresses are free text.
type Endpoint struct {
	ASAP   string
	Events *string
}

// AuthScheme says how callers authenticate. Each scheme is bearer or basic, in
// any case; OAuth2 is a free-form JSON object or nil.
type AuthScheme struct {
	Schemes []string
	OAuth2  jsontext.Value
}

// SLADefinition is what an agent promises; nil promises nothing. SupportHours is
// free text.
type SLADefinition struct {
	Availability    *Percentage
	MaxLatencyP95MS *int64
	MaxErrorRate    *Percentage
	SupportHours    *string
}

// ParseManifest reads a manifest and checks everything in it, the SLA included.
// The error is a *ValidationError. Defaults are filled in.
func ParseManifest(b []byte) (*Manifest, error) { return read(&manifestModel, b, buildManifest) }

// ParseSLADefinition reads an SLA definition by itself.
func ParseSLADefinition(b []byte) (*SLADefinition, error) {
	return read(&slaDefinitionModel, b, buildSLADefinition)
}

func buildManifest(o *object) *Manifest {
	m := &Manifest{ID: o.urn(0), Name: o.str(1), Version: o.version(2), Description: o.str(3)}
	m.Capabilities, _ = nested(o, 4, buildCapability)
	m.Endpoints, _ = nested(o, 5, buildEndpoint)
	m.Auth, _ = nested(o, 6, buildAuthScheme)
	m.Signature = o.optStr(7)
	m.SLA, _ = nested(o, 8, buildSLADefinition)
	m.TTLSeconds = deref(o.integer(9))
	return m
}

func buildCapability(o *object) Capability {
	return Capability{
		ASAPVersion:      o.str(0),
		Skills:           nestedList(o, 1, buildSkill),
		StatePersistence: o.boolean(2),
		Streaming:        o.boolean(3),
		MCPTools:         o.strs(4),
	}
}

func buildSkill(o *object) Skill {
	return Skill{ID: o.str(0), Description: o.str(1), InputSchema: o.obj(2), OutputSchema: o.obj(3)}
}

func buildEndpoint(o *object) Endpoint { return Endpoint{ASAP: o.str(0), Events: o.optStr(1)} }

func buildAuthScheme(o *object) *AuthScheme {
	a := &AuthScheme{Schemes: o.strs(0), OAuth2: o.obj(1)}
	for i, scheme := range a.Schemes {
		if s := lowerASCII(scheme); s != "bearer" && s != "basic" {
			o.issues.add(&path{o.at, "schemes"}, strconv.Itoa(i), "unsupported_scheme", "Unsupported authentication scheme. Supported schemes: basic, bearer")
		}
	}
	return a
}

func buildSLADefinition(o *object) *SLADefinition {
	return &SLADefinition{
		Availability:    o.percentage(0),
		MaxLatencyP95MS: o.integer(1),
		MaxErrorRate:    o.percentage(2),
		SupportHours:    o.optStr(3),
	}
}

// pep440 is the version pattern of PEP 440, appendix B, on lower-cased text
// without blanks around it.
var pep440 = regexp.MustCompile(`^v?(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*` +
	`(?:[-_.]?(?:alpha|a|beta|b|preview|pre|c|rc)[-_.]?[0-9]*)?` +
	`(?:-[0-9]+|[-_.]?(?:post|rev|r)[-_.]?[0-9]*)?` +
	`(?:[-_.]?dev[-_.]?[0-9]*)?` +
	`(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?$`)

// ValidVersion reports whether s is a PEP 440 version, as v1.3.0 demands of a
// manifest. Blanks around it and capitals are allowed.
func ValidVersion(s string) bool { return pep440.MatchString(lowerASCII(trimBlanks(s))) }

func (o *object) version(i int) string {
	before := len(o.issues.list)
	s := o.str(i)
	if o.raw[i] != nil && len(o.issues.list) == before && !ValidVersion(s) {
		o.fail(i, "value_error", "Value error, Invalid semantic version (PEP 440)")
	}
	return s
}

// Skill returns the skill with this id.
func (m *Manifest) Skill(id string) (*Skill, bool) {
	for i := range m.Capabilities.Skills {
		if m.Capabilities.Skills[i].ID == id {
			return &m.Capabilities.Skills[i], true
		}
	}
	return nil, false
}

// AppendJSON appends the manifest with every member, null for what is absent.
func (m *Manifest) AppendJSON(dst []byte) []byte { return m.append(dst, true) }

func (m *Manifest) append(dst []byte, signature bool) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, string(m.ID))
	dst = append(dst, `,"name":`...)
	dst = appendString(dst, m.Name)
	dst = append(dst, `,"version":`...)
	dst = appendString(dst, m.Version)
	dst = append(dst, `,"description":`...)
	dst = appendString(dst, m.Description)
	dst = append(dst, `,"capabilities":`...)
	dst = m.Capabilities.appendJSON(dst)
	dst = append(dst, `,"endpoints":{"asap":`...)
	dst = appendString(dst, m.Endpoints.ASAP)
	dst = append(dst, `,"events":`...)
	dst = appendOptString(dst, m.Endpoints.Events)
	dst = append(dst, `},"auth":`...)
	if m.Auth == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, `{"schemes":`...)
		dst = appendStrings(dst, m.Auth.Schemes)
		dst = append(dst, `,"oauth2":`...)
		dst = appendOptObject(dst, m.Auth.OAuth2)
		dst = append(dst, '}')
	}
	if signature {
		dst = append(dst, `,"signature":`...)
		dst = appendOptString(dst, m.Signature)
	}
	dst = append(dst, `,"sla":`...)
	if m.SLA == nil {
		dst = append(dst, "null"...)
	} else {
		dst = m.SLA.AppendJSON(dst)
	}
	dst = append(dst, `,"ttl_seconds":`...)
	ttl := m.TTLSeconds
	if ttl == 0 {
		ttl = DefaultTTLSeconds
	}
	dst = strconv.AppendInt(dst, ttl, 10)
	return append(dst, '}')
}

func (c *Capability) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"asap_version":`...)
	dst = appendString(dst, c.ASAPVersion)
	dst = append(dst, `,"skills":[`...)
	for i := range c.Skills {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":`...)
		dst = appendString(dst, c.Skills[i].ID)
		dst = append(dst, `,"description":`...)
		dst = appendString(dst, c.Skills[i].Description)
		dst = append(dst, `,"input_schema":`...)
		dst = appendOptObject(dst, c.Skills[i].InputSchema)
		dst = append(dst, `,"output_schema":`...)
		dst = appendOptObject(dst, c.Skills[i].OutputSchema)
		dst = append(dst, '}')
	}
	dst = append(dst, `],"state_persistence":`...)
	dst = appendBool(dst, c.StatePersistence)
	dst = append(dst, `,"streaming":`...)
	dst = appendBool(dst, c.Streaming)
	dst = append(dst, `,"mcp_tools":`...)
	dst = appendStrings(dst, c.MCPTools)
	return append(dst, '}')
}

// AppendJSON appends the definition with every member, null for what is absent.
func (s *SLADefinition) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"availability":`...)
	dst = appendPercentage(dst, s.Availability)
	dst = append(dst, `,"max_latency_p95_ms":`...)
	dst = appendOptInt(dst, s.MaxLatencyP95MS)
	dst = append(dst, `,"max_error_rate":`...)
	dst = appendPercentage(dst, s.MaxErrorRate)
	dst = append(dst, `,"support_hours":`...)
	dst = appendOptString(dst, s.SupportHours)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (s *SLADefinition) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// MarshalJSON is AppendJSON for json.Marshal.
func (m *Manifest) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// UnmarshalJSON is ParseManifest for json.Unmarshal; it copies b.
func (m *Manifest) UnmarshalJSON(b []byte) error {
	parsed, err := ParseManifest(bytes.Clone(b))
	if err != nil {
		return err
	}
	*m = *parsed
	return nil
}

// Validate reports whether the manifest, which may have been put together by
// hand, is one that ParseManifest accepts.
func (m *Manifest) Validate() error {
	_, err := ParseManifest(m.AppendJSON(nil))
	return err
}
