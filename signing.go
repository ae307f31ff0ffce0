package asap

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

// TrustLevel says who vouches for a signed manifest. It is not covered by the
// signature, so it is a claim: only [VerifyManifestCA] makes "verified" mean
// something, and nothing makes "enterprise" mean anything.
type TrustLevel string

// The trust levels.
const (
	TrustSelfSigned TrustLevel = "self-signed"
	TrustVerified   TrustLevel = "verified"
	TrustEnterprise TrustLevel = "enterprise"
)

// SignatureAlgorithm is the only algorithm there is.
const SignatureAlgorithm = "ed25519"

// A SignedManifest is a manifest with its signature (core.md 19.2).
type SignedManifest struct {
	Manifest *Manifest
	// Alg is SignatureAlgorithm.
	Alg string
	// Signature is base64, as it was written.
	Signature  string
	TrustLevel TrustLevel
	// PublicKey is the signer's key in base64, as it was written, or nil. Anyone
	// can put a key here; it proves no more than that the document is whole.
	PublicKey *string
}

// ParseSignedManifest reads a signed manifest. It does not verify it. The error
// is a *ValidationError.
func ParseSignedManifest(b []byte) (*SignedManifest, error) {
	return read(&signedManifestModel, b, buildSignedManifest)
}

func buildSignedManifest(o *object) *SignedManifest {
	s := &SignedManifest{}
	s.Manifest, _ = nested(o, 0, buildManifest)
	nested(o, 1, func(block *object) bool {
		s.Alg = block.enum(0)
		s.Signature = block.base64Text(1)
		s.TrustLevel = TrustLevel(block.enum(2))
		return true
	})
	if o.value(2) != nil {
		key := o.base64Text(2)
		s.PublicKey = &key
	}
	return s
}

// base64Text reads a string that holds letters of the base64 alphabet only.
func (o *object) base64Text(i int) string {
	before := len(o.issues.list)
	s := o.str(i)
	if o.raw[i] != nil && len(o.issues.list) == before && (s == "" || strings.Trim(s, base64Letters) != "") {
		o.fail(i, "string_pattern_mismatch", "String should match pattern '"+base64Pattern+"'")
	}
	return s
}

const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

// AppendJSON appends the signed manifest with every member.
func (s *SignedManifest) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"manifest":`...)
	dst = s.Manifest.AppendJSON(dst)
	dst = append(dst, `,"signature":{"alg":`...)
	dst = appendString(dst, s.Alg)
	dst = append(dst, `,"signature":`...)
	dst = appendString(dst, s.Signature)
	dst = append(dst, `,"trust_level":`...)
	dst = appendString(dst, string(s.TrustLevel))
	dst = append(dst, `},"public_key":`...)
	dst = appendOptString(dst, s.PublicKey)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (s *SignedManifest) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// SigningBytes returns the bytes a signature covers (core.md 19.3): RFC 8785 of
// the manifest with its defaults and without its member signature. Numbers that
// a double rounds are refused.
func (m *Manifest) SigningBytes() ([]byte, error) {
	return canonicaljson.Canonical(m.append(nil, false), canonicaljson.Options{MaxDepth: MaxJSONDepth})
}

// verifyingBytes is SigningBytes as v1.3.0 makes them: large integers rounded.
func (m *Manifest) verifyingBytes() ([]byte, error) {
	return canonicaljson.Canonical(m.append(nil, false), canonicaljson.Options{MaxDepth: MaxJSONDepth, LossyNumbers: true})
}

// SignManifest validates and signs a manifest as its own agent, with the public
// key embedded.
func SignManifest(m *Manifest, key ed25519.PrivateKey) (*SignedManifest, error) {
	return SignManifestAs(m, key, TrustSelfSigned)
}

// SignManifestAs is SignManifest with a trust level: TrustVerified for a
// certificate authority that vouches for somebody else's manifest.
func SignManifestAs(m *Manifest, key ed25519.PrivateKey, level TrustLevel) (*SignedManifest, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("signing manifest: %w", ErrKey)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("signing manifest: %w", err)
	}
	message, err := m.SigningBytes()
	if err != nil {
		return nil, fmt.Errorf("signing manifest: %w", err)
	}
	public := EncodePublicKey(PublicKeyOf(key))
	return &SignedManifest{
		Manifest:   m,
		Alg:        SignatureAlgorithm,
		Signature:  base64.StdEncoding.EncodeToString(ed25519.Sign(key, message)),
		TrustLevel: level,
		PublicKey:  &public,
	}, nil
}

// VerifyOptions say which key must have signed.
type VerifyOptions struct {
	// PublicKey is the key to verify with. Without one the embedded key is used,
	// which shows that the document is whole, but not who made it.
	PublicKey ed25519.PublicKey
}

// VerifyManifest checks the signature of a parsed signed manifest, in v1.3.0's
// order: algorithm, key, encoding, length, signature. Keys of small order are
// refused. The error is an *Error of CodeSignature. The trust level is not
// looked at.
func VerifyManifest(s *SignedManifest, opts VerifyOptions) error {
	if s.Alg != SignatureAlgorithm {
		return signatureError("unsupported signature algorithm; only ed25519 is")
	}
	key := opts.PublicKey
	if key == nil {
		if s.PublicKey == nil {
			return signatureError("cannot verify: no public key given, and the signed manifest has none")
		}
		var err error
		if key, err = embeddedKey(*s.PublicKey); err != nil {
			return signatureError("the signed manifest's public_key is unusable: " + err.Error())
		}
	} else if err := CheckPublicKey(key); err != nil {
		return signatureError("the given public key is unusable: " + err.Error())
	}
	signature, err := decodeLenientBase64(s.Signature)
	if err != nil {
		return signatureError("the signature is not base64: " + err.Error())
	}
	if len(signature) != ed25519.SignatureSize {
		return signatureError(fmt.Sprintf("an Ed25519 signature has 64 bytes, this one %d", len(signature)))
	}
	message, err := s.Manifest.verifyingBytes()
	if err != nil {
		return signatureError("the manifest has no canonical form: " + err.Error())
	}
	if !ed25519.Verify(key, message, signature) {
		return signatureError("the signature does not fit: the manifest was changed, or another key signed it")
	}
	return nil
}

// VerifyManifestCA checks that one of the known certificate authorities vouches
// for the manifest: trust level "verified", its key embedded, its signature. The
// error is an *Error of CodeSignature.
func VerifyManifestCA(s *SignedManifest, known []ed25519.PublicKey) error {
	if s.TrustLevel != TrustVerified {
		return signatureError("the trust level is not verified, so no certificate authority vouches for it")
	}
	if s.PublicKey == nil {
		return signatureError("the signed manifest has no public_key")
	}
	key, err := embeddedKey(*s.PublicKey)
	if err != nil {
		return signatureError("the signed manifest's public_key is unusable: " + err.Error())
	}
	if !slices.ContainsFunc(known, func(ca ed25519.PublicKey) bool { return bytes.Equal(ca, key) }) {
		return signatureError("the signed manifest's public_key is none of the known certificate authorities")
	}
	return VerifyManifest(s, VerifyOptions{PublicKey: key})
}

func signatureError(message string) error { return &Error{Code: CodeSignature, Message: message} }

func embeddedKey(text string) (ed25519.PublicKey, error) {
	raw, err := decodeLenientBase64(text)
	if err != nil {
		return nil, err
	}
	if err := CheckPublicKey(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

var errBase64 = errors.New("wrong padding or length")

// decodeLenientBase64 decodes standard base64 as Python's b64decode does:
// characters outside the alphabet and padding in the wrong place are skipped,
// and what follows complete padding is ignored.
func decodeLenientBase64(s string) ([]byte, error) {
	clean := make([]byte, 0, len(s))
	pads := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '=' {
			pads++
			if quad := len(clean) % 4; quad >= 2 && quad+pads >= 4 {
				return base64.RawStdEncoding.DecodeString(string(clean))
			}
			continue
		}
		if strings.IndexByte(base64Letters, c) < 0 {
			continue
		}
		clean, pads = append(clean, c), 0
	}
	if len(clean)%4 != 0 {
		return nil, errBase64
	}
	return base64.RawStdEncoding.DecodeString(string(clean))
}
