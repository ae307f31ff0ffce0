package asap

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// appender is what every model of the protocol can do.
type appender interface{ AppendJSON(dst []byte) []byte }

// readers are the parsers of everything that has a JSON form of its own, by a
// number that the fuzzer picks.
func readers() []func(jsontext.Value) (appender, error) {
	all := []func(jsontext.Value) (appender, error){
		func(v jsontext.Value) (appender, error) { return asAppender(ParseAgent(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseConversation(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseTask(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseMessage(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseArtifact(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseStateSnapshot(v)) },
		func(v jsontext.Value) (appender, error) { return asAppender(ParseSLADefinition(v)) },
		func(v jsontext.Value) (appender, error) {
			p, err := ParsePart(v)
			if err != nil {
				return nil, err
			}
			return p.(appender), nil
		},
	}
	for kind := KindTaskRequest; kind.Type() != ""; kind++ {
		all = append(all, func(v jsontext.Value) (appender, error) { return ParsePayload(kind, v) })
	}
	return all
}

// asAppender keeps a nil pointer from becoming a non-nil interface.
func asAppender[P appender](p P, err error) (appender, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// FuzzPayload: each payload and each entity, read alone: accepted, it is written
// as JSON that reads to the same text again, and never much longer than it came;
// refused, the reasons are JSON themselves.
func FuzzPayload(f *testing.F) {
	all := readers()
	for _, c := range loadEnvelopes(f).Valid {
		e, err := ParseEnvelope([]byte(c.Text))
		if err != nil {
			f.Fatal(err)
		}
		if kind, ok := CanonicalPayloadType(e.PayloadType); ok {
			f.Add(uint8(8+int(kind-KindTaskRequest)), []byte(e.Payload))
		}
	}
	for i, text := range []string{
		`{"id":"urn:asap:agent:a","manifest_uri":"https://a.example/m.json","capabilities":["x"]}`,
		`{"id":"c","participants":["urn:asap:agent:a"],"created_at":"2026-02-20T12:00:00Z","metadata":{"purpose":"x"}}`,
		`{"id":"t","conversation_id":"c","status":"working","progress":{"percent":40},"created_at":"2026-02-20T12:00:00Z","updated_at":"2026-02-20T12:00:00Z"}`,
		`{"id":"m","task_id":"t","sender":"urn:asap:agent:a","role":"user","parts":["p"]}`,
		`{"id":"a","task_id":"t","name":"n","parts":["p"]}`,
		`{"id":"s","task_id":"t","version":1,"data":{"a":[1e400,-0]},"created_at":"2026-02-20T12:00:00Z"}`,
		`{"availability":"99.5%","max_latency_p95_ms":500,"max_error_rate":"1%","support_hours":"24/7"}`,
		`{"type":"data","data":{"a":{"b":[]}},"schema_uri":"https://x/y"}`,
	} {
		f.Add(uint8(i), []byte(text))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		parse := all[int(which)%len(all)]
		m, err := parse(b)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		once := m.AppendJSON(nil)
		if len(once) > 6*len(b)+2048 { // an escape is six bytes, absent members are null
			t.Fatalf("%d bytes are written as %d", len(b), len(once))
		}
		again, err := parse(once)
		if err != nil {
			t.Fatalf("%v in %s", err, once)
		}
		if twice := again.AppendJSON(nil); !bytes.Equal(once, twice) {
			t.Fatalf("\n%s\n%s", once, twice)
		}
	})
}

// FuzzSignedManifest changes a signed manifest: whatever verifies with its key
// says what was signed, and survives a round trip.
func FuzzSignedManifest(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))
	m, err := ParseManifest([]byte(goodManifest))
	if err != nil {
		f.Fatal(err)
	}
	signed, err := SignManifest(m, key)
	if err != nil {
		f.Fatal(err)
	}
	text := string(signed.AppendJSON(nil))
	f.Add([]byte(text))
	f.Add([]byte(strings.Replace(text, "self-signed", "verified", 1)))
	f.Add([]byte(strings.Replace(text, `"ttl_seconds"`, `"ttl_seconds":1,"x"`, 1)))
	want, err := m.SigningBytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSignedManifest(b)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		once := s.AppendJSON(nil)
		again, err := ParseSignedManifest(once)
		if err != nil || !bytes.Equal(again.AppendJSON(nil), once) {
			t.Fatalf("%v in %s", err, once)
		}
		ok := VerifyManifest(s, VerifyOptions{PublicKey: PublicKeyOf(key)}) == nil
		if (VerifyManifest(again, VerifyOptions{PublicKey: PublicKeyOf(key)}) == nil) != ok {
			t.Fatalf("the same document, another verdict: %s", once)
		}
		if !ok {
			return
		}
		if got, err := s.Manifest.verifyingBytes(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("verified, but not what was signed: %s", got)
		}
	})
}

// FuzzKeys: what is read as a key is one of 32 or 64 bytes, and its own spelling
// reads to the same.
func FuzzKeys(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, ed25519.SeedSize))
	pem, err := EncodePrivateKeyPEM(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(pem))
	f.Add("# a comment\n" + string(pem) + "more")
	f.Add(EncodePublicKey(PublicKeyOf(key)))
	f.Add(" " + base64.RawURLEncoding.EncodeToString(PublicKeyOf(key)) + "\n")
	f.Add(strings.Repeat("A", 43) + "=")
	f.Fuzz(func(t *testing.T, text string) {
		private, err := ReadPrivateKeyPEM([]byte(text))
		switch {
		case err != nil && !errors.Is(err, ErrKey):
			t.Fatalf("%T %v", err, err)
		case err == nil:
			again, err := EncodePrivateKeyPEM(private)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ReadPrivateKeyPEM(again); err != nil || !back.Equal(private) {
				t.Fatalf("a key that does not survive: %v", err)
			}
		}
		public, err := ParsePublicKey(text)
		switch {
		case err != nil && !errors.Is(err, ErrKey) && !errors.Is(err, ErrSmallOrderKey):
			t.Fatalf("%T %v", err, err)
		case err == nil:
			if back, err := ParsePublicKey(EncodePublicKey(public)); err != nil || !back.Equal(public) || CheckPublicKey(public) != nil {
				t.Fatalf("%q: %x, %v", text, public, err)
			}
		}
	})
}

// FuzzRPCMessage: what a client reads as an answer or a notification is JSON
// that a strict reader takes too, and its envelopes are whole.
func FuzzRPCMessage(f *testing.F) {
	e, err := ParseEnvelope([]byte(goodEnvelope))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(AppendRPCResult(nil, RPCID(`"1"`), e))
	f.Add(AppendRPCNotification(nil, MethodAck, []byte(`{"envelope":`+goodEnvelope+`}`)))
	f.Add(AppendRPCError(nil, RPCID("7"), &RPCError{Code: -32600, Message: "Invalid request", Data: []byte(`{"code":"x"}`)}))
	f.Add([]byte(`{"error":{"code":1e3,"message":null},"id":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := ParseRPCMessage(b)
		if err != nil {
			mustBeValidationError(t, err)
			return
		}
		if !jsontext.Value(b).IsValid() {
			t.Fatalf("accepted, but not JSON: %q", b)
		}
		for _, v := range []jsontext.Value{frame.Params, frame.Result} {
			if v != nil && !v.IsValid() {
				t.Fatalf("%q holds %q", b, v)
			}
		}
		for _, open := range []func() (*Envelope, error){frame.Envelope, frame.PushedEnvelope} {
			if e, err := open(); err != nil {
				mustBeValidationError(t, err)
			} else if e.Validate() != nil {
				t.Fatalf("not valid: %s", e.AppendJSON(nil))
			}
		}
	})
}
