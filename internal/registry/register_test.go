package registry

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
)

const alpha asap.AgentURN = "urn:asap:agent:alpha"

var (
	noon     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	operator = Caller{Operator: true}
	itself   = Caller{Agent: alpha}
)

func key(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{n})
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(n byte) ed25519.PublicKey { return asap.PublicKeyOf(key(n)) }

func manifest(id asap.AgentURN, version, description string) *asap.Manifest {
	return &asap.Manifest{ID: id, Name: "Agent", Version: version, Description: description, TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: "0.1", Skills: []asap.Skill{{ID: "echo", Description: "says it again"}}},
		Endpoints:    asap.Endpoint{ASAP: "https://agent.example.com/asap"}}
}

func sign(t testing.TB, m *asap.Manifest, n byte) []byte {
	t.Helper()
	s, err := asap.SignManifest(m, key(n))
	if err != nil {
		t.Fatal(err)
	}
	return s.AppendJSON(nil)
}

// attempt is one manifest that somebody brings.
type attempt struct {
	by                   Caller
	version, description string
	key                  byte
	force, replace       bool
	anonymous            bool // the document does not say its key
	compromised          []byte
}

func (a attempt) on(t testing.TB, have *Agent, now time.Time) (Outcome, error) {
	t.Helper()
	document := sign(t, manifest(alpha, a.version, a.description), a.key)
	if a.anonymous {
		document = []byte(strings.Replace(string(document), `"public_key":"`+asap.EncodePublicKey(public(a.key))+`"`, `"public_key":null`, 1))
	}
	r, err := NewRegistration(a.by, alpha, document)
	if err != nil {
		return Outcome{}, err
	}
	if r.ID() != alpha || a.anonymous != (r.Signer() == nil) {
		t.Fatalf("registration of %s by key %x", r.ID(), r.Signer())
	}
	r.Force, r.ReplaceKeys = a.force, a.replace
	r.Compromised = func(k ed25519.PublicKey) bool {
		for _, n := range a.compromised {
			if k.Equal(public(n)) {
				return true
			}
		}
		return false
	}
	return r.Apply(have, now)
}

func code(err error) asap.Code {
	var coded *asap.Error
	if errors.As(err, &coded) {
		return coded.Code
	}
	var invalid *asap.ValidationError
	if errors.As(err, &invalid) {
		return asap.CodeValidation
	}
	return ""
}

func TestRegistration(t *testing.T) {
	agent := itself
	steps := []struct {
		name string
		attempt
		want    Change
		refused asap.Code
		keys    []byte // pinned afterwards
	}{
		{"first", attempt{by: agent, version: "1.2", description: "a", key: 1}, Registered, "", []byte{1}},
		{"the same again", attempt{by: agent, version: "1.2", description: "a", key: 1}, Unchanged, "", []byte{1}},
		{"another key", attempt{by: agent, version: "1.3", description: "a", key: 2}, 0, asap.CodeManifestKey, nil},
		{"another key, unnamed", attempt{by: agent, version: "1.3", description: "a", key: 2, anonymous: true}, 0, asap.CodeManifestKey, nil},
		{"same version, other content", attempt{by: agent, version: "1.2", description: "b", key: 1}, 0, asap.CodeManifestConflict, nil},
		{"same version written otherwise, other content", attempt{by: agent, version: "1.2.0", description: "a", key: 1}, 0, asap.CodeManifestConflict, nil},
		{"newer", attempt{by: agent, version: "1.10", description: "b", key: 1}, Updated, "", []byte{1}},
		{"replayed", attempt{by: agent, version: "1.2", description: "a", key: 1}, 0, asap.CodeManifestOutdated, nil},
		{"replayed by the operator", attempt{by: operator, version: "1.2", description: "a", key: 1}, 0, asap.CodeManifestOutdated, nil},
		{"force of the agent", attempt{by: agent, version: "1.2", description: "a", key: 1, force: true}, 0, asap.CodeManifestOutdated, nil},
		{"newer, key unnamed", attempt{by: agent, version: "1.11", description: "b", key: 1, anonymous: true}, Updated, "", []byte{1}},
		{"other content by the operator", attempt{by: operator, version: "1.11", description: "c", key: 1}, Updated, "", []byte{1}},
		{"forced back", attempt{by: operator, version: "1.0", description: "a", key: 1, force: true}, Updated, "", []byte{1}},
		{"second key by the operator", attempt{by: operator, version: "1.0", description: "a", key: 2}, Updated, "", []byte{1, 2}},
		{"with the second key", attempt{by: agent, version: "2.0", description: "a", key: 2}, Updated, "", []byte{1, 2}},
		{"with the first", attempt{by: agent, version: "2.1", description: "a", key: 1, anonymous: true}, Updated, "", []byte{1, 2}},
		{"with a compromised one", attempt{by: agent, version: "2.2", description: "a", key: 1, compromised: []byte{1}}, 0, asap.CodeManifestKey, nil},
		{"with a compromised one, unnamed", attempt{by: agent, version: "2.2", description: "a", key: 1, compromised: []byte{1}, anonymous: true}, 0, asap.CodeManifestKey, nil},
		{"compromised, by the operator", attempt{by: operator, version: "2.2", description: "a", key: 3, compromised: []byte{3}}, 0, asap.CodeManifestKey, nil},
		{"replacing keys as the agent", attempt{by: agent, version: "2.2", description: "a", key: 2, replace: true}, Updated, "", []byte{1, 2}},
		{"replacing keys as the operator", attempt{by: operator, version: "2.2", description: "a", key: 2, replace: true}, Updated, "", []byte{2}},
		{"with the dropped key", attempt{by: agent, version: "2.3", description: "a", key: 1}, 0, asap.CodeManifestKey, nil},
	}
	var have *Agent
	now := noon
	for _, s := range steps {
		now = now.Add(time.Hour)
		before := have
		got, err := s.on(t, have, now)
		if code(err) != s.refused || err == nil && got.Change != s.want {
			t.Fatalf("%s: %v, %v; want %v, %q", s.name, got.Change, err, s.want, s.refused)
		}
		if err != nil {
			continue
		}
		a := got.Agent
		if len(a.Keys) != len(s.keys) {
			t.Fatalf("%s: %d keys, want %v", s.name, len(a.Keys), s.keys)
		}
		for i, n := range s.keys {
			if !a.Keys[i].Public.Equal(public(n)) {
				t.Errorf("%s: key %d is another", s.name, i)
			}
		}
		if got.Change != Unchanged {
			if a.Version != s.version || a.Source != Signed || !a.UpdatedAt.Equal(now) || !a.RegisteredAt.Equal(noon.Add(time.Hour)) {
				t.Errorf("%s: %+v", s.name, a)
			}
			parsed := a
			if err := parsed.Parse(); err != nil || parsed.Manifest.Version != s.version {
				t.Errorf("%s: what is kept does not read: %v", s.name, err)
			}
		} else if a.UpdatedAt != before.UpdatedAt {
			t.Errorf("%s: changed the time", s.name)
		}
		have = &a
	}
	if got, _ := (attempt{by: operator, version: "2.2", description: "a", key: 2, replace: true}).on(t, have, now); got.Change != Unchanged || got.KeysRemoved != nil {
		t.Errorf("again: %+v", got)
	}

	// What was removed is not taken over.
	if _, err := (&Removal{By: Caller{Agent: "urn:asap:agent:other"}, ID: alpha}).Apply(nil, now); code(err) != asap.CodeForbidden {
		t.Errorf("by another: %v", err)
	}
	gone, err := (&Removal{By: itself, ID: alpha}).Apply(have, now)
	if err != nil || gone.Change != Removed || !gone.Agent.Removed() || gone.Agent.Parse() != nil || gone.Agent.Manifest != nil {
		t.Fatalf("%+v, %v", gone, err)
	}
	for _, nothing := range []*Agent{nil, &gone.Agent} {
		if _, err := (&Removal{By: operator, ID: alpha}).Apply(nothing, now); !errors.Is(err, ErrUnknownAgent) {
			t.Errorf("nothing to remove: %v", err)
		}
	}
	for what, s := range map[string]struct {
		attempt
		refused asap.Code
	}{
		"an older one":   {attempt{by: agent, version: "2.1", description: "a", key: 2}, asap.CodeManifestOutdated},
		"a foreign key":  {attempt{by: agent, version: "3.0", description: "a", key: 1}, asap.CodeManifestKey},
		"the last again": {attempt{by: agent, version: "2.2", description: "a", key: 2}, ""},
	} {
		got, err := s.on(t, &gone.Agent, now)
		if code(err) != s.refused || err == nil && got.Change != Registered {
			t.Errorf("after the removal, %s: %v, %v", what, got.Change, err)
		}
	}
}

func TestTooManyKeys(t *testing.T) {
	var have *Agent
	for n := range byte(MaxKeys) {
		got, err := attempt{by: operator, version: "1.0", key: n}.on(t, have, noon)
		if err != nil {
			t.Fatal(err)
		}
		have = &got.Agent
	}
	if _, err := (attempt{by: operator, version: "1.0", key: MaxKeys}).on(t, have, noon); code(err) != asap.CodeTooManyKeys {
		t.Errorf("one key more: %v", err)
	}
	got, err := attempt{by: operator, version: "1.0", key: MaxKeys, replace: true}.on(t, have, noon)
	if err != nil || len(got.Agent.Keys) != 1 || len(got.KeysRemoved) != MaxKeys || len(got.KeysAdded) != 1 {
		t.Errorf("in their place: %d keys, %v", len(got.Agent.Keys), err)
	}
}

func TestRefusedDocuments(t *testing.T) {
	good := string(sign(t, manifest(alpha, "1.0", "a"), 1))
	verified, err := asap.SignManifestAs(manifest(alpha, "1.0", "a"), key(9), asap.TrustVerified)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(good, `"description":"a"`, `"description":"b"`, 1)
	weak := base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))
	for name, c := range map[string]struct {
		by       Caller
		document string
		want     asap.Code
	}{
		"good":            {itself, good, ""},
		"by another":      {Caller{Agent: "urn:asap:agent:other"}, good, asap.CodeForbidden},
		"by nobody":       {Caller{}, good, asap.CodeForbidden},
		"edited":          {itself, edited, asap.CodeSignature},
		"of another":      {itself, string(sign(t, manifest("urn:asap:agent:other", "1.0", "a"), 1)), asap.CodeValidation},
		"line feed in id": {itself, strings.Replace(good, `agent:alpha"`, `agent:alpha\n"`, 1), asap.CodeValidation},
		"plain":           {itself, string(manifest(alpha, "1.0", "a").AppendJSON(nil)), asap.CodeValidation},
		"no JSON":         {itself, "{", asap.CodeValidation},
		"by an authority": {itself, string(verified.AppendJSON(nil)), asap.CodeManifestKey},
		"small order":     {itself, strings.Replace(good, asap.EncodePublicKey(public(1)), weak, 1), asap.CodeSignature},
		"huge":            {itself, string(sign(t, manifest(alpha, "1.0", strings.Repeat("a", MaxManifestBytes)), 1)), asap.CodeRequestTooLarge},
	} {
		if _, err := NewRegistration(c.by, alpha, []byte(c.document)); code(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := (attempt{by: itself, version: "1.0", key: 1, anonymous: true}).on(t, nil, noon); code(err) != asap.CodeManifestKey {
		t.Errorf("the first one, key unnamed: %v", err)
	}
	// A number that a double rounds is signed by v1.3.0 as the rounded one. Here
	// nothing else signs so, hence by hand.
	m := manifest(alpha, "1.0", "a")
	m.Capabilities.Skills[0].InputSchema = jsontext.Value(`{"maximum":1e22}`)
	canonical, err := m.SigningBytes()
	if err != nil {
		t.Fatal(err)
	}
	m.Capabilities.Skills[0].InputSchema = jsontext.Value(`{"maximum":10000000000000000000001}`)
	name := asap.EncodePublicKey(public(1))
	lossy := asap.SignedManifest{Manifest: m, Alg: "ed25519", TrustLevel: asap.TrustSelfSigned, PublicKey: &name,
		Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(key(1), canonical))}
	if _, err := NewRegistration(itself, alpha, lossy.AppendJSON(nil)); err != nil {
		t.Errorf("a manifest that v1.3.0 signs: %v", err)
	}
}

func TestParseRefusesDamage(t *testing.T) {
	for _, a := range []Agent{
		{ID: alpha, Source: "other", Document: jsontext.Value(`{}`)},
		{ID: alpha, Source: Signed, Document: jsontext.Value(`{}`)},
		{ID: alpha, Source: Hosted, Document: jsontext.Value(`{}`)},
		{ID: alpha, Source: Imported, Document: jsontext.Value(`{}`)},
	} {
		if err := a.Parse(); err == nil || !strings.Contains(err.Error(), string(alpha)) {
			t.Errorf("%s: %v", a.Source, err)
		}
	}
	hosted := HostedAgent(manifest(alpha, "1.0", "a"), noon)
	if err := hosted.Parse(); err != nil {
		t.Error(err)
	}
}

func ExampleCompareVersions() {
	fmt.Println(CompareVersions("1.9", "1.10"), CompareVersions("1.0rc1", "1.0"), CompareVersions("1.0", "1"))
	// Output: -1 -1 0
}
