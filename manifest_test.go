package asap

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

const goodManifest = `{"id":"urn:asap:agent:a","name":"A","version":"1.0.0","description":"d","capabilities":{},"endpoints":{"asap":"http://localhost:8000/asap"}}`

// manifestDifferences: docs/compatibility.md explains each row named here.
var manifestDifferences = map[string]difference{
	`id='urn:asap:agent:a\n'`: {false, "urn-line-feed"},
}

type manifestVectors struct {
	Manifests []struct {
		Name      string         `json:"name"`
		Input     jsontext.Value `json:"input"`
		Served    jsontext.Value `json:"served_manifest"`
		Canonical string         `json:"canonical_utf8"`
		Hex       string         `json:"canonical_hex"`
		SHA256    string         `json:"canonical_sha256"`
		Key       string         `json:"key"`
		Signature string         `json:"signature_base64"`
		Signed    jsontext.Value `json:"signed_manifest"`
		Verifies  bool           `json:"verifies"`
	} `json:"manifests"`
	Verification []struct {
		Name     string         `json:"name"`
		Document jsontext.Value `json:"document"`
		Key      *string        `json:"explicit_key"`
		Result   struct {
			verdict
			Stage string `json:"stage"`
			Code  Code   `json:"code"`
		} `json:"result"`
	} `json:"verification"`
	CA []struct {
		Name     string         `json:"name"`
		Document jsontext.Value `json:"document"`
		Known    []string       `json:"known_cas"`
		Result   verdict        `json:"result"`
	} `json:"ca_verification"`
	Schema []struct {
		Name   string         `json:"name"`
		Input  jsontext.Value `json:"input"`
		Result struct {
			verdict
			Served jsontext.Value `json:"served"`
		} `json:"result"`
	} `json:"schema"`
}

func loadManifests(t testing.TB) *manifestVectors {
	t.Helper()
	var v manifestVectors
	load(t, "vectors/manifests.json", &v)
	return &v
}

func TestManifestsAsTheReferenceSignsThem(t *testing.T) {
	keys := testKeys(t)
	for _, c := range loadManifests(t).Manifests {
		t.Run(c.Name, func(t *testing.T) {
			m, err := ParseManifest(c.Input)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := ordered(t, m.AppendJSON(nil)), ordered(t, c.Served); got != want {
				t.Errorf("served\n got %s\nwant %s", got, want)
			}
			message, err := m.SigningBytes()
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(message)
			if string(message) != c.Canonical || hex.EncodeToString(message) != c.Hex || hex.EncodeToString(sum[:]) != c.SHA256 {
				t.Errorf("canonical form\n got %s\nwant %s", message, c.Canonical)
			}
			signed, err := SignManifest(m, keys[c.Key])
			if err != nil {
				t.Fatal(err)
			}
			if signed.Signature != c.Signature {
				t.Errorf("signature %s, want %s", signed.Signature, c.Signature)
			}
			if got, want := ordered(t, signed.AppendJSON(nil)), ordered(t, c.Signed); got != want {
				t.Errorf("signed\n got %s\nwant %s", got, want)
			}
			theirs, err := ParseSignedManifest(c.Signed)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyManifest(theirs, VerifyOptions{}); (err == nil) != c.Verifies {
				t.Errorf("verifies: %v, want %v", err, c.Verifies)
			}
		})
	}
}

func TestManifestVerification(t *testing.T) {
	keys := testKeys(t)
	for _, c := range loadManifests(t).Verification {
		t.Run(c.Name, func(t *testing.T) {
			s, err := ParseSignedManifest(c.Document)
			if c.Result.Stage == "schema" {
				compareVerdict(t, c.Result.verdict, err)
				return
			}
			if err != nil {
				t.Fatalf("refused when parsed: %v", err)
			}
			var opts VerifyOptions
			if c.Key != nil {
				opts.PublicKey = PublicKeyOf(keys[*c.Key])
			}
			err = VerifyManifest(s, opts)
			if (err == nil) != c.Result.Accepted {
				t.Fatalf("%v, want accepted %v", err, c.Result.Accepted)
			}
			if err != nil && refusalOf(t, err).Code != c.Result.Code {
				t.Errorf("%v, want code %s", err, c.Result.Code)
			}
		})
	}
}

func TestManifestCAVerification(t *testing.T) {
	for _, c := range loadManifests(t).CA {
		t.Run(c.Name, func(t *testing.T) {
			s, err := ParseSignedManifest(c.Document)
			if err != nil {
				t.Fatal(err)
			}
			var known []ed25519.PublicKey
			for _, text := range c.Known {
				key, err := ParsePublicKey(text)
				if err != nil {
					t.Fatal(err)
				}
				known = append(known, key)
			}
			if err := VerifyManifestCA(s, known); (err == nil) != c.Result.Accepted {
				t.Errorf("%v, want accepted %v", err, c.Result.Accepted)
			}
		})
	}
}

func TestManifestVerdicts(t *testing.T) {
	for _, c := range loadManifests(t).Schema {
		t.Run(c.Name, func(t *testing.T) {
			m, err := ParseManifest(c.Input)
			if differ(t, manifestDifferences, c.Name, c.Result.verdict, err) {
				return
			}
			compareVerdict(t, c.Result.verdict, err)
			if err != nil || c.Result.Served == nil {
				return
			}
			if got, want := ordered(t, m.AppendJSON(nil)), ordered(t, c.Result.Served); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
	var v struct {
		Versions []struct {
			Value string `json:"value"`
			Valid bool   `json:"valid"`
		} `json:"manifest_version"`
		SLA []struct {
			Input      jsontext.Value `json:"input"`
			Accepted   bool           `json:"accepted"`
			Normalized jsontext.Value `json:"normalized"`
		} `json:"sla_definition"`
	}
	load(t, "fixtures/vectors.json", &v)
	for _, c := range v.Versions {
		if ValidVersion(c.Value) != c.Valid {
			t.Errorf("version %q: want %v", c.Value, c.Valid)
		}
	}
	for _, c := range v.SLA {
		sla, err := ParseSLADefinition(c.Input)
		if (err == nil) != c.Accepted {
			t.Errorf("%s: %v, want accepted %v", c.Input, err, c.Accepted)
		}
		if err == nil {
			if b, _ := sla.MarshalJSON(); ordered(t, b) != ordered(t, c.Normalized) {
				t.Errorf("%s, want %s", b, c.Normalized)
			}
		}
	}
}

func TestManifestFixtures(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/fixtures/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := ParseManifest(read("manifest_with_sla.json")); err != nil {
		t.Error(err)
	}
	ca, err := ParsePublicKey(string(read("ca_public_b64.txt")))
	if err != nil {
		t.Fatal(err)
	}
	for name, vouched := range map[string]bool{"self_signed_manifest.json": false, "verified_manifest.json": true} {
		s, err := ParseSignedManifest(read(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyManifest(s, VerifyOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := VerifyManifestCA(s, []ed25519.PublicKey{ca}); (err == nil) != vouched {
			t.Errorf("%s: CA: %v, want %v", name, err, vouched)
		}
		message, err := s.Manifest.SigningBytes()
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(message)
		if len(message) != 400 || hex.EncodeToString(sum[:]) != "9bf6fc4eac24211242dedc7f76e07e2611b168ea4e5cb96a36d8f848fb213590" {
			t.Errorf("%s: canonical form of %d bytes, %x", name, len(message), sum)
		}
	}
	var v struct {
		Signed []struct {
			Signed    jsontext.Value `json:"signed"`
			Canonical string         `json:"canonical_utf8_base64"`
			Case      string         `json:"case"`
			Verifies  *bool          `json:"verifies"`
		} `json:"signed_manifest"`
	}
	load(t, "fixtures/vectors.json", &v)
	for i, c := range v.Signed {
		s, err := ParseSignedManifest(c.Signed)
		if err == nil {
			err = VerifyManifest(s, VerifyOptions{})
		}
		want := c.Verifies == nil || *c.Verifies
		if (err == nil) != want {
			t.Errorf("%d %s: %v, want %v", i, c.Case, err, want)
		}
		if c.Canonical == "" {
			continue
		}
		message, err := s.Manifest.verifyingBytes()
		if err != nil {
			t.Fatal(err)
		}
		if base64.StdEncoding.EncodeToString(message) != c.Canonical {
			t.Errorf("%d: canonical form %s", i, message)
		}
	}
}

func TestManifestByHand(t *testing.T) {
	p, err := ParsePercentage("99.5%")
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{
		ID: "urn:asap:agent:a", Version: "1.0", Capabilities: Capability{ASAPVersion: DefaultASAPVersion, Skills: []Skill{{ID: "echo"}, {ID: "two"}}},
		Auth: &AuthScheme{Schemes: []string{"Bearer"}}, SLA: &SLADefinition{Availability: &p},
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if s, ok := m.Skill("two"); !ok || s.ID != "two" {
		t.Error("Skill(two)")
	}
	if _, ok := m.Skill("three"); ok {
		t.Error("Skill(three)")
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back Manifest
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if again := back.AppendJSON(nil); !bytes.Equal(again, b) || back.TTLSeconds != DefaultTTLSeconds {
		t.Errorf("came back as %s", again)
	}
	if err := json.Unmarshal([]byte(`{}`), &back); err == nil {
		t.Error("an empty manifest was unmarshalled")
	}
}

func TestSigningRefusals(t *testing.T) {
	keys := testKeys(t)
	key := keys["test-only-a"]
	big, err := ParseManifest(withMember(t, goodManifest, "auth", jsontext.Value(`{"schemes":[],"oauth2":{"n":9007199254740993}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SignManifest(big, key); err == nil {
		t.Error("signed a number that does not survive a double")
	}
	message, err := big.verifyingBytes()
	if err != nil {
		t.Fatal(err)
	}
	public := EncodePublicKey(PublicKeyOf(key))
	theirs := &SignedManifest{Manifest: big, Alg: SignatureAlgorithm, Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(key, message)), PublicKey: &public}
	if err := VerifyManifest(theirs, VerifyOptions{}); err != nil {
		t.Errorf("v1.3.0 signs it with the rounded number: %v", err)
	}
	endless, err := ParseManifest(withMember(t, goodManifest, "auth", jsontext.Value(`{"schemes":[],"oauth2":{"n":1e999}}`)))
	if err != nil {
		t.Fatal(err)
	}
	theirs.Manifest = endless
	if err := VerifyManifest(theirs, VerifyOptions{}); err == nil {
		t.Error("verified a number without canonical form")
	}
	if _, err := SignManifest(&Manifest{}, key); err == nil {
		t.Error("signed an invalid manifest")
	}
	if _, err := SignManifest(big, key[:5]); !errors.Is(err, ErrKey) {
		t.Errorf("signed with half a key: %v", err)
	}
	theirs.Alg = "rsa"
	if err := VerifyManifest(theirs, VerifyOptions{}); err == nil {
		t.Error("verified another algorithm")
	}
	theirs.Alg = SignatureAlgorithm
	if err := VerifyManifest(theirs, VerifyOptions{PublicKey: make(ed25519.PublicKey, 32)}); err == nil {
		t.Error("verified with a key of small order")
	}
	zero := EncodePublicKey(make(ed25519.PublicKey, 32))
	verified := &SignedManifest{Manifest: big, Alg: SignatureAlgorithm, TrustLevel: TrustVerified}
	for _, s := range []*string{nil, &zero, new("A")} {
		verified.PublicKey = s
		if err := VerifyManifestCA(verified, []ed25519.PublicKey{make(ed25519.PublicKey, 32)}); err == nil {
			t.Errorf("CA verification with key %v", s)
		}
		if err := VerifyManifest(verified, VerifyOptions{}); err == nil {
			t.Errorf("verification with key %v", s)
		}
	}
}

func TestSignatureSurvivesReserialisation(t *testing.T) {
	key := testKeys(t)["test-only-b"]
	rapid.Check(t, func(t *rapid.T) {
		m := &Manifest{
			ID: "urn:asap:agent:a", Name: rapid.String().Draw(t, "name"), Version: "1.0", Description: rapid.String().Draw(t, "description"),
			Capabilities: Capability{Skills: []Skill{{ID: rapid.String().Draw(t, "skill"), InputSchema: drawObject(t)}}, Streaming: rapid.Bool().Draw(t, "streaming")},
			TTLSeconds:   rapid.Int64Range(1, 1<<40).Draw(t, "ttl"),
		}
		signed, err := SignManifest(m, key)
		if err != nil {
			t.Fatal(err)
		}
		wire := jsontext.Value(signed.AppendJSON(nil))
		if rapid.Bool().Draw(t, "rewrite") {
			if err := wire.Format(jsontext.Multiline(true), jsontext.ReorderRawObjects(true), jsontext.EscapeForJS(true)); err != nil {
				t.Fatal(err)
			}
		}
		back, err := ParseSignedManifest(wire)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyManifest(back, VerifyOptions{PublicKey: PublicKeyOf(key)}); err != nil {
			t.Fatal(err)
		}
		back.Manifest.Name += "x"
		if err := VerifyManifest(back, VerifyOptions{}); err == nil {
			t.Fatal("a changed manifest verifies")
		}
	})
}

// drawObject draws a JSON object without numbers that a double rounds.
func drawObject(t *rapid.T) jsontext.Value {
	names := rapid.SliceOfNDistinct(rapid.String(), 0, 4, func(s string) string { return s }).Draw(t, "names")
	b := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, strings.ToValidUTF8(name, "?"))
		b = append(b, ':')
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			b = appendString(b, rapid.String().Draw(t, "text"))
		case 1:
			b = jsontext.AppendFloat(b, rapid.Float64Range(-1e15, 1e15).Draw(t, "number"), 64)
		case 2:
			b = append(b, `[null,true,{"a":[]}]`...)
		default:
			b = appendBool(b, rapid.Bool().Draw(t, "bool"))
		}
	}
	return append(b, '}')
}

func TestLenientBase64(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "YQ==": "a", "YWI=": "ab", "YWJj": "abc", "=YQ==": "a", "Y=Q==": "a", "YQ==YWI=": "a", "Y.Q.==": "a",
	} {
		got, err := decodeLenientBase64(text)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
	for _, text := range []string{"Y", "YQ", "YQ=", "YWJjY", "YWI"} {
		if got, err := decodeLenientBase64(text); err == nil {
			t.Errorf("%q decoded to %q", text, got)
		}
	}
}

// The name of an unknown member is cut between two characters.
func TestUnknownMemberIsCutBetweenCharacters(t *testing.T) {
	for _, name := range []string{strings.Repeat("é", 80), "x" + strings.Repeat("é", 80), "0" + strings.Repeat("\U00010000", 30)} {
		_, err := ParseManifest([]byte(`{"` + name + `":1}`))
		var invalid *ValidationError
		if !errors.As(err, &invalid) {
			t.Fatal(err)
		}
		for _, issue := range invalid.Issues {
			for _, part := range issue.Loc {
				if !utf8.ValidString(part) || len(part) > 64 {
					t.Errorf("location %q", part)
				}
			}
		}
		if text := string(invalid.AppendJSON(nil)); strings.ContainsRune(text, '\ufffd') {
			t.Errorf("%s", text)
		}
	}
	e := &Envelope{ID: "e"}
	if refusal := e.DuplicateNonce("x" + strings.Repeat("é", 80)); strings.ContainsRune(string(refusal.Details), '\ufffd') {
		t.Errorf("%s", refusal.Details)
	}
}
