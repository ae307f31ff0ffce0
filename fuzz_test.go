package asap

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"regexp"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzEnvelope: an accepted envelope is written as JSON that parses to the same
// text again, and its payload parses or is refused without a panic.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(goodEnvelope))
	v := loadEnvelopes(f)
	for _, c := range v.Valid {
		f.Add([]byte(c.Text))
	}
	for _, c := range v.EnvelopeCases {
		f.Add([]byte(c.Input))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		once := e.AppendJSON(nil)
		again, err := ParseEnvelope(once)
		if err != nil {
			t.Fatalf("%v in %s", err, once)
		}
		if twice := again.AppendJSON(nil); !bytes.Equal(once, twice) {
			t.Fatalf("\n%s\n%s", once, twice)
		}
		kind, ok := CanonicalPayloadType(e.PayloadType)
		if !ok {
			return
		}
		p, err := ParsePayload(kind, e.Payload)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		text := p.AppendJSON(nil)
		q, err := ParsePayload(kind, text)
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if second := q.AppendJSON(nil); !bytes.Equal(text, second) {
			t.Fatalf("\n%s\n%s", text, second)
		}
	})
}

func mustBeValidationError(t *testing.T, err error) {
	t.Helper()
	var invalid *ValidationError
	if !errors.As(err, &invalid) || len(invalid.Issues) == 0 || !jsontext.Value(invalid.AppendJSON(nil)).IsValid() {
		t.Fatalf("%T %v", err, err)
	}
}

// FuzzManifest: an accepted manifest is written so that it parses to the same
// text, and what we sign, we verify, also after a round trip.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(goodManifest))
	v := loadManifests(f)
	for _, c := range v.Manifests {
		f.Add([]byte(c.Input))
	}
	for _, c := range v.Schema {
		f.Add([]byte(c.Input))
	}
	for _, c := range v.Verification {
		f.Add([]byte(c.Document))
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSignedManifest(b); err == nil {
			_ = VerifyManifest(s, VerifyOptions{})
			_ = VerifyManifestCA(s, nil)
		}
		m, err := ParseManifest(b)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		once := m.AppendJSON(nil)
		again, err := ParseManifest(once)
		if err != nil {
			t.Fatalf("%v in %s", err, once)
		}
		if twice := again.AppendJSON(nil); !bytes.Equal(once, twice) {
			t.Fatalf("\n%s\n%s", once, twice)
		}
		signed, err := SignManifest(m, key)
		if err != nil {
			return // a number that does not survive
		}
		back, err := ParseSignedManifest(signed.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyManifest(back, VerifyOptions{PublicKey: PublicKeyOf(key)}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRPCRequest: every body gets either a request or an answer that is itself
// valid JSON-RPC with the id of the request.
func FuzzRPCRequest(f *testing.F) {
	var v struct {
		Exchanges []struct {
			Body string `json:"body"`
		} `json:"exchanges"`
	}
	load(f, "vectors/jsonrpc.json", &v)
	for _, c := range v.Exchanges {
		f.Add([]byte(c.Body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, refusal := ParseRPCRequest(b)
		if refusal == nil {
			var e *Envelope
			if e, refusal = r.Envelope(); refusal == nil {
				if e.Validate() != nil {
					t.Fatalf("not valid: %s", e.AppendJSON(nil))
				}
				return
			}
		}
		answer := AppendRPCError(nil, r.ID, refusal)
		frame, err := ParseRPCMessage(answer)
		if err != nil || frame.ID != r.ID || frame.Error == nil || frame.Error.Code != refusal.Code {
			t.Fatalf("%v in %s", err, answer)
		}
	})
}

// FuzzTimestamp: what is accepted is written in a form that reads the same.
func FuzzTimestamp(f *testing.F) {
	for _, seed := range []string{"2026-02-20T12:00:00Z", "2026-02-20", "1771588800.5", "2026-02-20t12:00,5+0530", "-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := ParseTimestamp(text)
		if err != nil {
			return
		}
		once := FormatTimestamp(at)
		again, err := ParseTimestamp(once)
		if err != nil || !again.Equal(at) || FormatTimestamp(again) != once {
			t.Fatalf("%q is written as %q, read as %v %v", text, once, again, err)
		}
	})
}

// FuzzPercentage: what is accepted lies within 0 to 100 and equals itself.
func FuzzPercentage(f *testing.F) {
	for _, seed := range []string{"99.5%", " 2.5 % ", ".5", "100", "-0", "0.00000000000000001"} {
		f.Add(seed)
	}
	hundred, err := ParsePercentage("100")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePercentage(text)
		if err != nil {
			return
		}
		if p.Compare(hundred) > 0 || p.Compare(Percentage{}) < 0 || p.Compare(p) != 0 || p.String() != text {
			t.Fatalf("%q: %+v", text, p)
		}
	})
}

var urnPattern = regexp.MustCompile(`^urn:asap:agent:[a-z0-9-]+(?::[a-z0-9-]+)?$`)

// FuzzAgentURN: ParseAgentURN is the pattern of core.md section 3 with its
// length limit.
func FuzzAgentURN(f *testing.F) {
	for _, seed := range []string{"urn:asap:agent:a", "urn:asap:agent:a:b", "urn:asap:agent:a:", "urn:asap:agent::", "urn:asap:agent:a\n", "urn:asap:agent:é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseAgentURN(s)
		want := utf8.RuneCountInString(s) <= MaxURNLength && urnPattern.MatchString(s)
		if (err == nil) != want || (err == nil && u.String() != s) {
			t.Fatalf("%q: %q %v, pattern %v", s, u, err, want)
		}
	})
}
