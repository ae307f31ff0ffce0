package delegation

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"

	asap "github.com/asap-protocol/asap-go"
)

// MaxAudiences is how many names the aud of an [AgentToken] may hold.
const MaxAudiences = 16

var errAgentToken = errors.New("not an agent's token")

// AgentToken is the bearer token with which an agent says who it is: a compact
// JWS that it signed with its own Ed25519 key, read with the strictness that
// delegation tokens get. It is what it says only after SignedBy, and good only
// where and when its claims say; judging those is the reader's part.
type AgentToken struct {
	// KeyID is the kid of the header, or "".
	KeyID           string
	Issuer, Subject asap.AgentURN
	Audience        []string // one to MaxAudiences
	TokenID         string   // jti, or ""
	// Seconds since 1970; NotBeforeUnix is 0 if there is no nbf.
	IssuedAtUnix, ExpiresAtUnix, NotBeforeUnix int64

	signed    []byte
	signature [ed25519.SignatureSize]byte
}

// ParseAgentToken reads a token without verifying it. It refuses what is not
// exactly a compact JWS of strict base64url and strict JSON, another alg than
// EdDSA or Ed25519, any crit, and a token without iss, sub, aud, iat or exp.
func ParseAgentToken(token string) (*AgentToken, error) {
	if len(token) > MaxLinkBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", errAgentToken, MaxLinkBytes)
	}
	text := []byte(token)
	header, rest, ok1 := bytes.Cut(text, []byte("."))
	payload, signature, ok2 := bytes.Cut(rest, []byte("."))
	if !ok1 || !ok2 || len(signature) != signatureTextLen {
		return nil, fmt.Errorf("%w: it has not three parts, or no signature of 64 bytes", errAgentToken)
	}
	t := &AgentToken{signed: text[:len(header)+1+len(payload)]}
	var buf [MaxLinkBytes]byte
	n, ok := decodeBase64(buf[:], header)
	if !ok {
		return nil, fmt.Errorf("%w: the header is not base64url without padding", errAgentToken)
	}
	var h Link
	if err := h.parseHeader(string(buf[:n])); err != nil {
		return nil, fmt.Errorf("%w: header: %w", errAgentToken, err)
	}
	if h.alg != "EdDSA" && h.alg != "Ed25519" {
		return nil, fmt.Errorf("%w: alg must be EdDSA or Ed25519", errAgentToken)
	}
	if h.isChild {
		return nil, fmt.Errorf("%w: it is a link of a delegation", errAgentToken)
	}
	t.KeyID = h.KeyID
	if n, ok = decodeBase64(buf[:], payload); !ok {
		return nil, fmt.Errorf("%w: the payload is not base64url without padding", errAgentToken)
	}
	if err := t.parseClaims(string(buf[:n])); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", errAgentToken, err)
	}
	if _, ok := decodeBase64(t.signature[:], signature); !ok {
		return nil, fmt.Errorf("%w: the signature is not base64url without padding", errAgentToken)
	}
	return t, nil
}

// SignedBy tells whether the token is signed with key. A key of small order has
// signed nothing.
func (t *AgentToken) SignedBy(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, t.signed, t.signature[:]) && asap.CheckPublicKey(key) == nil
}

var requiredOfAgents = [...]string{"iss", "sub", "aud", "iat", "exp"}

func (t *AgentToken) parseClaims(text string) error {
	r := reader{s: text}
	var has [len(requiredOfAgents)]bool
	err := r.object(func(name string) (err error) {
		for i, required := range requiredOfAgents {
			has[i] = has[i] || name == required
		}
		switch name {
		case "iss":
			t.Issuer, err = r.urn(name)
		case "sub":
			t.Subject, err = r.urn(name)
		case "aud":
			t.Audience, err = r.audiences()
		case "iat":
			t.IssuedAtUnix, err = r.integer(name)
		case "exp":
			t.ExpiresAtUnix, err = r.integer(name)
		case "nbf":
			t.NotBeforeUnix, err = r.integer(name)
		case "jti":
			if t.TokenID, err = r.text(name); err == nil && !visible(t.TokenID, MaxTokenIDBytes) {
				err = fmt.Errorf("jti must have 1 to %d printable ASCII characters", MaxTokenIDBytes)
			}
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return err
	}
	for i, name := range requiredOfAgents {
		if !has[i] {
			return fmt.Errorf("%s is missing", name)
		}
	}
	return nil
}

// audiences reads aud: one text, or a list of texts.
func (r *reader) audiences() ([]string, error) {
	if r.peek() != '[' {
		one, err := r.text("aud")
		return []string{one}, err
	}
	list, err := r.strings("aud", func(s string) bool { return s != "" })
	if err == nil && len(list) > MaxAudiences {
		err = fmt.Errorf("aud holds more than %d names", MaxAudiences)
	}
	return list, err
}
