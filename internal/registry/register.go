package registry

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Caller is who asks for a change: the operator, or an agent that has proven who
// it is.
type Caller struct {
	Operator bool
	Agent    asap.AgentURN // unless Operator
}

// MayChange tells whether the caller may change what is held of that agent. It
// does not look whether there is anything.
func (c Caller) MayChange(id asap.AgentURN) bool { return c.Operator || c.Agent == id && id != "" }

// Change is what became of a request.
type Change int

// The changes.
const (
	Unchanged Change = iota // what was sent is what was there
	Registered
	Updated
	Removed
)

// String returns the word for it.
func (c Change) String() string {
	return [...]string{"unchanged", "registered", "updated", "removed"}[c]
}

// Outcome is what a request does to an agent.
type Outcome struct {
	Change      Change
	Agent       Agent // as it is after it; Seq is still to be filled in unless Unchanged
	KeysAdded   []ed25519.PublicKey
	KeysRemoved []ed25519.PublicKey
}

// refuse is a refusal that tells a person more than its code.
func refuse(code asap.Code, format string, args ...any) error {
	return code.Err(fmt.Sprintf(format, args...))
}

// Registration is a signed manifest that is to become what the registry holds of
// its agent.
type Registration struct {
	By Caller
	// Force lets the operator put an older manifest in the place of a newer one,
	// or another of the same version.
	Force bool
	// ReplaceKeys lets the operator drop every pinned key but the one that signed.
	ReplaceKeys bool
	// Compromised tells of keys that prove nothing any more; nil means none.
	Compromised func(ed25519.PublicKey) bool

	signed  *asap.SignedManifest
	signer  ed25519.PublicKey // nil: one of the pinned keys, if any
	content [32]byte
}

// NewRegistration reads and checks the signed manifest of agent id, as far as
// that needs no registry. Errors are an *asap.ValidationError or an *asap.Error:
// forbidden, request_too_large, validation_failed, signature verification, or
// manifest_key.
//
// The manifest must be signed by the agent itself, so trust levels other than
// self-signed are refused: their key is somebody else's.
func NewRegistration(by Caller, id asap.AgentURN, document []byte) (*Registration, error) {
	if !by.MayChange(id) {
		return nil, asap.CodeForbidden.Err("")
	}
	if len(document) > MaxManifestBytes {
		return nil, refuse(asap.CodeRequestTooLarge, "A signed manifest may have %d bytes.", MaxManifestBytes)
	}
	signed, err := asap.ParseSignedManifest(slices.Clone(document))
	if err != nil {
		return nil, err
	}
	if signed.Manifest.ID != id {
		return nil, refuse(asap.CodeValidation, "The manifest is that of another agent than the address names.")
	}
	if signed.TrustLevel != asap.TrustSelfSigned {
		return nil, refuse(asap.CodeManifestKey, "The manifest must be signed with the agent's own key, trust level self-signed.")
	}
	content, err := signed.Manifest.SigningBytes()
	if err != nil { // a number that a double rounds: v1.3.0 signs those
		content = signed.Manifest.AppendJSON(nil)
	}
	r := &Registration{By: by, signed: signed, content: sha256.Sum256(content)}
	if signed.PublicKey == nil {
		return r, nil
	}
	if r.signer, err = asap.ParsePublicKey(*signed.PublicKey); err != nil {
		return nil, refuse(asap.CodeSignature, "The signed manifest's public_key is unusable.")
	}
	return r, asap.VerifyManifest(signed, asap.VerifyOptions{PublicKey: r.signer})
}

// ID returns the agent.
func (r *Registration) ID() asap.AgentURN { return r.signed.Manifest.ID }

// Signer returns the key that signed, or nil if the document does not say; then
// it must be one that is pinned.
func (r *Registration) Signer() ed25519.PublicKey { return r.signer }

// Apply decides what the manifest does to what is held of its agent; have is nil
// if that is nothing. The rules:
//
//   - The first manifest pins its key. A later one must be signed with a pinned
//     key; one of another key is the operator's to bring, whose key is then
//     pinned beside the others, or in their place (ReplaceKeys). This holds after
//     a removal too.
//   - A manifest has no time, so its version keeps an older one from being
//     replayed: a lower version (PEP 440) is refused, and so is other content of
//     the same version unless the operator brings it. Force lets the operator do
//     both.
//   - What was imported gives way to any signed manifest.
//
// Errors are *asap.Error: manifest_key, manifest_outdated, manifest_conflict,
// too_many_keys, or signature verification.
func (r *Registration) Apply(have *Agent, now time.Time) (Outcome, error) {
	before := Agent{ID: r.ID()}
	if have != nil {
		before = *have
	}
	signer, err := r.authorised(&before)
	if err != nil {
		return Outcome{}, err
	}
	if err := r.inOrder(&before); err != nil {
		return Outcome{}, err
	}
	out := Outcome{Change: Updated, Agent: Agent{ID: before.ID, Source: Signed, Version: r.signed.Manifest.Version, Content: r.content,
		Document: r.signed.AppendJSON(nil), Manifest: r.signed.Manifest, RegisteredAt: before.RegisteredAt, UpdatedAt: now}}
	if before.Removed() || before.Source != Signed {
		out.Change, out.Agent.RegisteredAt = Registered, now
	}
	for _, k := range before.Keys {
		if r.ReplaceKeys && r.By.Operator && !k.Public.Equal(signer) {
			out.KeysRemoved = append(out.KeysRemoved, k.Public)
		} else {
			out.Agent.Keys = append(out.Agent.Keys, k)
		}
	}
	if !before.hasKey(signer) {
		out.KeysAdded = append(out.KeysAdded, signer)
		out.Agent.Keys = append(out.Agent.Keys, Key{Public: signer, AddedAt: now})
	}
	if len(out.Agent.Keys) > MaxKeys {
		return Outcome{}, refuse(asap.CodeTooManyKeys, "An agent may have %d keys; the operator can replace them.", MaxKeys)
	}
	same := out.Change == Updated && before.Version == out.Agent.Version && before.Content == r.content
	if same && len(out.KeysAdded)+len(out.KeysRemoved) == 0 {
		return Outcome{Change: Unchanged, Agent: before}, nil
	}
	return out, nil
}

// authorised returns the key that signed, if that entitles to the change.
func (r *Registration) authorised(before *Agent) (ed25519.PublicKey, error) {
	good := func(key ed25519.PublicKey) bool { return r.Compromised == nil || !r.Compromised(key) }
	if r.signer == nil {
		for _, k := range before.Keys {
			if good(k.Public) && asap.VerifyManifest(r.signed, asap.VerifyOptions{PublicKey: k.Public}) == nil {
				return k.Public, nil
			}
		}
		if len(before.Keys) == 0 {
			return nil, refuse(asap.CodeManifestKey, "The first manifest of an agent must say its public_key.")
		}
		return nil, asap.CodeManifestKey.Err("")
	}
	if !good(r.signer) || len(before.Keys) > 0 && !before.hasKey(r.signer) && !r.By.Operator {
		return nil, asap.CodeManifestKey.Err("")
	}
	return r.signer, nil
}

// inOrder refuses what is older than what is there, or was before a removal.
func (r *Registration) inOrder(before *Agent) error {
	if before.Source != Signed || r.By.Operator && r.Force {
		return nil
	}
	switch c := CompareVersions(r.signed.Manifest.Version, before.Version); {
	case c < 0:
		return asap.CodeManifestOutdated.Err("")
	case c == 0 && before.Content != r.content && !r.By.Operator:
		return asap.CodeManifestConflict.Err("")
	}
	return nil
}

// Removal takes an agent out of the registry.
type Removal struct {
	By Caller
	ID asap.AgentURN
}

// Apply decides what the removal does. The error is asap.CodeForbidden's without
// a look at what is there, else ErrUnknownAgent.
func (r *Removal) Apply(have *Agent, now time.Time) (Outcome, error) {
	if !r.By.MayChange(r.ID) {
		return Outcome{}, asap.CodeForbidden.Err("")
	}
	if have == nil || have.Removed() {
		return Outcome{}, ErrUnknownAgent
	}
	out := Outcome{Change: Removed, Agent: *have}
	out.Agent.Document, out.Agent.Manifest, out.Agent.Entry, out.Agent.UpdatedAt = nil, nil, nil, now
	return out, nil
}
