package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
)

// ErrUnknownAgent reports an agent that is not in the registry, or not any more.
var ErrUnknownAgent = errors.New("agent is not registered")

// Source says where the registry has an agent from.
type Source string

// The sources.
const (
	Signed   Source = "signed"   // a manifest signed with a pinned key
	Imported Source = "imported" // an entry of a Lite Registry document, for which nobody answers
	Hosted   Source = "hosted"   // the node that holds this registry runs the agent
)

const (
	// MaxManifestBytes bounds the document of one agent.
	MaxManifestBytes = 256 << 10
	// MaxKeys is how many keys one agent may have pinned at a time.
	MaxKeys = 8
)

// Key is a public key that signs for an agent.
type Key struct {
	Public  ed25519.PublicKey
	AddedAt time.Time
}

// Agent is what the registry holds of one agent. It is shared: do not change
// what its pointers and slices lead to.
type Agent struct {
	ID     asap.AgentURN
	Source Source
	// Version of the manifest, PEP 440; empty for an imported agent.
	Version string
	// Content is the SHA-256 of what the source says, whoever signed it.
	Content [32]byte
	// Document is what the source said: a signed manifest, an [Entry], or a plain
	// manifest. It is nil for an agent that was removed: what is left then keeps
	// an older manifest and a foreign key from taking its place.
	Document jsontext.Value
	// Keys are the pinned ones, oldest first. Those of a removed agent prove
	// nothing any more.
	Keys []Key
	// RegisteredAt is when it came, UpdatedAt when what is known of it changed
	// last.
	RegisteredAt, UpdatedAt time.Time
	// Seq is the position of the audit entry of the last change; -1 for a hosted
	// agent, which has none.
	Seq int64

	// Manifest is the document's, or nil for an imported agent. Entry is that of
	// an imported one. Parse fills in both.
	Manifest *asap.Manifest
	Entry    *Entry
}

// Removed tells whether the agent was taken out.
func (a *Agent) Removed() bool { return a.Document == nil }

// Parse fills in Manifest or Entry from Document. It does not verify what was
// verified when it came in.
func (a *Agent) Parse() (err error) {
	a.Manifest, a.Entry = nil, nil
	if a.Removed() {
		return nil
	}
	switch a.Source {
	case Signed:
		var signed *asap.SignedManifest
		if signed, err = asap.ParseSignedManifest(a.Document); err == nil {
			a.Manifest = signed.Manifest
		}
	case Hosted:
		a.Manifest, err = asap.ParseManifest(a.Document)
	case Imported:
		a.Entry, err = parseEntry(a.Document)
	default:
		err = fmt.Errorf("source %q is unknown", a.Source)
	}
	if err != nil {
		return fmt.Errorf("agent %s: %w", a.ID, err)
	}
	return nil
}

// hasKey tells whether key is pinned.
func (a *Agent) hasKey(key ed25519.PublicKey) bool {
	return slices.ContainsFunc(a.Keys, func(k Key) bool { return k.Public.Equal(key) })
}

// Lite returns the agent as an entry of a Lite Registry document. The address of
// a manifest is told only if the source told it.
func (a *Agent) Lite() Entry {
	if a.Entry != nil {
		return *a.Entry
	}
	m := a.Manifest
	e := Entry{ID: a.ID, Name: m.Name, Description: m.Description, ASAPVersion: m.Capabilities.ASAPVersion,
		Endpoints: []Address{{"http", m.Endpoints.ASAP}}, Skills: make([]string, len(m.Capabilities.Skills))}
	if m.Endpoints.Events != nil {
		e.Endpoints = append(e.Endpoints, Address{"ws", *m.Endpoints.Events})
	}
	for i := range e.Skills {
		e.Skills[i] = m.Capabilities.Skills[i].ID
	}
	return e
}

// HostedAgent returns what a node's registry holds of an agent that it runs
// itself since at.
func HostedAgent(m *asap.Manifest, at time.Time) Agent {
	return Agent{ID: m.ID, Source: Hosted, Version: m.Version, Document: m.AppendJSON(nil), RegisteredAt: at, UpdatedAt: at, Seq: -1, Manifest: m}
}
