package delegation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	asap "github.com/asap-protocol/asap-go"
)

// Names of header parameters and claims that are this protocol's own.
const (
	critChain       = "asap-chain"
	chainVersion    = "1"
	constraintsName = "x-asap-constraints"
)

const (
	rootHeader  = `{"alg":"EdDSA","typ":"JWT"}`
	childHeader = `{"alg":"EdDSA","typ":"JWT","crit":["asap-chain"],"asap-chain":1}`
	// The encoded headers that v1.3.0, and this package, write.
	rootHeaderText   = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9"
	pythonHeaderText = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSJ9"
	childHeaderText  = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsImNyaXQiOlsiYXNhcC1jaGFpbiJdLCJhc2FwLWNoYWluIjoxfQ"
)

const signatureTextLen = 86 // base64url of 64 bytes

var strictBase64 = base64.RawURLEncoding.Strict()

// decodeBase64 is base64url without padding, without white space (which the
// standard library lets through) and without stray bits.
func decodeBase64(dst, src []byte) (int, bool) {
	if bytes.IndexByte(src, '\n') >= 0 || bytes.IndexByte(src, '\r') >= 0 {
		return 0, false
	}
	n, err := strictBase64.Decode(dst, src)
	return n, err == nil
}

// parsed is a token read into its parts, before anything is verified.
type parsed struct {
	chain      Chain
	text       []byte           // the token
	signed     [MaxLinks][]byte // header.payload of each link, within text
	signatures [MaxLinks][ed25519.SignatureSize]byte
}

// Parse reads a token without verifying it, for display and for narrowing. It
// makes the checks of the steps up to StepShape; its error is a *Refusal.
func Parse(token string) (*Chain, error) {
	var p parsed
	if r := p.parse(token, nil); r != nil {
		return nil, r
	}
	return &Chain{links: p.chain.links}, nil
}

// measure makes the checks of size and number of links, and returns the number.
func measure(token string) (int, *Refusal) {
	if len(token) > MaxTokenBytes {
		return 0, refusef(asap.CodeDelegationTooLarge, StepSize, NoLink, "the token has %d bytes, at most %d are allowed", len(token), MaxTokenBytes)
	}
	for i, rest := 0, token; ; i++ {
		link, after, more := strings.Cut(rest, Separator)
		if len(link) > MaxLinkBytes {
			return 0, refusef(asap.CodeDelegationTooLarge, StepSize, i, "the link has %d bytes, at most %d are allowed", len(link), MaxLinkBytes)
		}
		if !more {
			if i >= MaxLinks {
				return 0, refusef(asap.CodeDelegationDepth, StepLinkCount, MaxLinks, "the chain has %d links, at most %d are allowed", i+1, MaxLinks)
			}
			return i + 1, nil
		}
		rest = after
	}
}

// parse fills p from the token. If prefix is given, it is the verified chain of
// the token's first links, and those are taken over.
func (p *parsed) parse(token string, prefix *Chain) *Refusal {
	n, r := measure(token)
	if r != nil {
		return r
	}
	p.text = []byte(token)
	p.chain.links = make([]Link, n)
	known := 0
	if prefix != nil {
		known = copy(p.chain.links, prefix.links)
		for i := range p.chain.links[:known] {
			p.chain.links[i].point()
		}
	}
	rest := p.text
	for i := range n {
		link, after, _ := bytes.Cut(rest, []byte(Separator))
		rest = after
		if i < known {
			continue
		}
		dot := bytes.LastIndexByte(link, '.')
		if dot < 0 {
			dot = 0
		}
		p.signed[i] = link[:dot]
		if code, detail := p.chain.links[i].parse(link, &p.signatures[i]); code != "" {
			return &Refusal{Code: code, Step: StepShape, Link: i, Detail: detail}
		}
		p.chain.links[i].hash = sha256.Sum256(p.signed[i])
	}
	return nil
}

// point lets the limits of a copied link refer to the copy's own storage.
func (l *Link) point() {
	if l.LimitTasks != nil {
		l.LimitTasks = &l.limits[0]
	}
	if l.LimitNanoUSD != nil {
		l.LimitNanoUSD = &l.limits[1]
	}
	if l.MaxDepth != nil {
		l.MaxDepth = &l.limits[2]
	}
}

// parse reads one compact JWS. A code of "" means that all is well.
func (l *Link) parse(text []byte, signature *[ed25519.SignatureSize]byte) (asap.Code, string) {
	header, rest, ok1 := bytes.Cut(text, []byte("."))
	payload, sig, ok2 := bytes.Cut(rest, []byte("."))
	if !ok1 || !ok2 || bytes.IndexByte(sig, '.') >= 0 {
		return asap.CodeDelegationMalformed, "a link has three parts, joined by dots"
	}
	var buf [MaxLinkBytes]byte
	switch {
	case string(header) == rootHeaderText, string(header) == pythonHeaderText:
		l.alg = "EdDSA"
	case string(header) == childHeaderText:
		l.alg, l.isChild = "EdDSA", true
	default:
		n, ok := decodeBase64(buf[:], header)
		if !ok {
			return asap.CodeDelegationMalformed, "the header is not base64url without padding"
		}
		if err := l.parseHeader(string(buf[:n])); err != nil {
			return asap.CodeDelegationMalformed, "header: " + err.Error()
		}
		if l.alg != "EdDSA" && l.alg != "Ed25519" {
			return asap.CodeDelegationUnsupportedAlg, "alg must be EdDSA or Ed25519"
		}
	}
	n, ok := decodeBase64(buf[:], payload)
	if !ok {
		return asap.CodeDelegationMalformed, "the payload is not base64url without padding"
	}
	if err := l.parseClaims(string(buf[:n])); err != nil {
		return asap.CodeDelegationMalformed, "claims: " + err.Error()
	}
	if len(sig) != signatureTextLen {
		return asap.CodeDelegationMalformed, "the signature is not 64 bytes"
	}
	if _, ok := decodeBase64(signature[:], sig); !ok {
		return asap.CodeDelegationMalformed, "the signature is not base64url without padding"
	}
	return "", ""
}

func (r *reader) object(member func(name string) error) error {
	if r.peek() != '{' {
		return errJSONObject
	}
	if err := r.open(); err != nil {
		return err
	}
	var seen nameSet
	for n := 0; ; n++ {
		more, err := r.more(n, '}')
		if err != nil || !more {
			return err
		}
		name, err := r.name(&seen)
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
}

// strings reads an array of 1 to MaxScopes strings, each of which check passes.
func (r *reader) strings(name string, check func(string) bool) ([]string, error) {
	if r.peek() != '[' {
		return nil, fmt.Errorf("%s must be a list of texts", name)
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	var few [8]string
	out := few[:0]
	for n := 0; ; n++ {
		more, err := r.more(n, ']')
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		s, err := r.text(name)
		if err != nil {
			return nil, err
		}
		if n == MaxScopes {
			return nil, fmt.Errorf("%s holds more than %d texts", name, MaxScopes)
		}
		if !check(s) {
			return nil, fmt.Errorf("%s holds a text that is not allowed there", name)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return append(make([]string, 0, len(out)), out...), nil
}

// text reads a string value, with an error that names the member.
func (r *reader) text(name string) (string, error) {
	if r.peek() != '"' {
		return "", fmt.Errorf("%s must be a text", name)
	}
	return r.str()
}

// integer reads a whole number from 0 to the largest int64, written with digits
// alone.
func (r *reader) integer(name string) (int64, error) {
	if c := r.peek(); c != '-' && (c < '0' || c > '9') {
		return 0, fmt.Errorf("%s must be a whole number", name)
	}
	text, err := r.number()
	if err != nil {
		return 0, err
	}
	var v int64
	for i := range len(text) {
		c := text[i] - '0'
		if c > 9 || v > (1<<63-1-int64(c))/10 {
			return 0, fmt.Errorf("%s must be a whole number, zero or more, written with digits alone", name)
		}
		v = v*10 + int64(c)
	}
	return v, nil
}

func (r *reader) urn(name string) (asap.AgentURN, error) {
	s, err := r.text(name)
	if err != nil {
		return "", err
	}
	if len(s) > asap.MaxURNLength {
		return "", fmt.Errorf("%s is longer than %d bytes", name, asap.MaxURNLength)
	}
	urn, err := asap.ParseAgentURN(s)
	if err != nil {
		return "", fmt.Errorf("%s is no agent URN", name)
	}
	return urn, nil
}

// digest reads base64url of 32 bytes.
func (r *reader) digest(name string, out *[sha256.Size]byte) (string, error) {
	s, err := r.text(name)
	if err != nil {
		return "", err
	}
	var buf [sha256.Size + 1]byte
	if len(s) == 43 {
		if n, ok := decodeBase64(buf[:], []byte(s)); ok && n == sha256.Size {
			*out = [sha256.Size]byte(buf[:sha256.Size])
			return s, nil
		}
	}
	return "", fmt.Errorf("%s is not base64url of 32 bytes", name)
}

// parseHeader reads a JOSE header. As the reference does, it refuses parameters
// that no JOSE registry knows, and ignores keys and addresses of keys: the only
// key that counts is the one known for iss.
func (l *Link) parseHeader(text string) error {
	r := reader{s: text}
	var crit []string
	version := false
	err := r.object(func(name string) (err error) {
		switch name {
		case "alg":
			l.alg, err = r.text(name)
		case "typ":
			var typ string
			if typ, err = r.text(name); err == nil && !strings.EqualFold(typ, "JWT") {
				err = errors.New("typ must be JWT")
			}
		case "kid":
			if l.KeyID, err = r.text(name); err == nil && (l.KeyID == "" || len(l.KeyID) > MaxTokenIDBytes) {
				err = fmt.Errorf("kid must have 1 to %d bytes", MaxTokenIDBytes)
			}
		case "crit":
			crit, err = r.strings(name, func(s string) bool { return s == critChain })
		case critChain:
			if v, err := r.number(); err != nil || v != chainVersion {
				return errors.New("asap-chain must be 1")
			}
			version = true
		case "jku", "x5u", "x5t", "x5t#S256", "cty":
			_, err = r.text(name)
		case "jwk":
			if r.peek() != '{' {
				return errors.New("jwk must be an object")
			}
			err = r.skip()
		case "x5c":
			if r.peek() != '[' {
				return errors.New("x5c must be a list")
			}
			err = r.skip()
		default:
			err = errors.New("unknown header parameter")
		}
		return err
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return err
	}
	if len(crit) > 1 {
		return errors.New("crit names a parameter twice")
	}
	if len(crit) == 1 && !version {
		return errors.New("crit names a parameter that is not there")
	}
	l.isChild = len(crit) == 1
	return nil
}

const (
	hasIss = 1 << iota
	hasAud
	hasJti
	hasIat
	hasExp
	hasScp
	hasAll = 1<<iota - 1
)

var requiredClaims = [...]string{"iss", "aud", "jti", "iat", "exp", "scp"}

func (l *Link) parseClaims(text string) error {
	r := reader{s: text}
	has := 0
	err := r.object(func(name string) (err error) {
		switch name {
		case "iss":
			has |= hasIss
			l.Issuer, err = r.urn(name)
		case "aud":
			has |= hasAud
			l.Delegate, err = r.audience()
		case "jti":
			has |= hasJti
			if l.TokenID, err = r.text(name); err == nil && !visible(l.TokenID, MaxTokenIDBytes) {
				err = fmt.Errorf("jti must have 1 to %d printable ASCII characters", MaxTokenIDBytes)
			}
		case "iat":
			has |= hasIat
			l.IssuedAtUnix, err = r.integer(name)
		case "exp":
			has |= hasExp
			l.ExpiresAtUnix, err = r.integer(name)
		case "nbf":
			l.NotBeforeUnix, err = r.integer(name)
		case "scp":
			has |= hasScp
			if l.Scopes, err = r.strings(name, validScope); err == nil {
				for _, s := range l.Scopes {
					if l.mask |= scopeMask(s); s == ScopeAll {
						l.mask = maskAll
					}
				}
			}
		case constraintsName:
			err = l.parseConstraints(&r)
		case "par_hash":
			l.hasHash = true
			_, err = r.digest(name, &l.parent)
		case "del_depth":
			l.hasDepth = true
			l.depth, err = r.integer(name)
		case "del_max_depth":
			l.limits[2], err = r.integer(name)
			l.MaxDepth = &l.limits[2]
		case "res":
			l.Resources, err = r.strings(name, func(s string) bool { return visible(s, MaxResourceBytes) })
		case "cnf":
			err = l.parseConfirmation(&r)
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
	for i, name := range requiredClaims {
		if has&(1<<i) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
	}
	if l.ExpiresAtUnix <= l.IssuedAtUnix {
		return errors.New("exp must be after iat")
	}
	if l.ExpiresAtUnix-l.IssuedAtUnix > int64(MaxLifetime.Seconds()) {
		return errors.New("a lifetime of more than 366 days")
	}
	return nil
}

// audience reads aud: one URN, or a list of exactly one.
func (r *reader) audience() (asap.AgentURN, error) {
	if r.peek() != '[' {
		return r.urn("aud")
	}
	if err := r.open(); err != nil {
		return "", err
	}
	var urn asap.AgentURN
	for n := 0; ; n++ {
		more, err := r.more(n, ']')
		if err != nil {
			return "", err
		}
		if !more && n == 1 {
			return urn, nil
		}
		if !more || n == 1 {
			return "", errors.New("aud must name one agent")
		}
		if urn, err = r.urn("aud"); err != nil {
			return "", err
		}
	}
}

// parseConstraints reads the limits. A constraint this package does not know
// cannot be enforced, so it is refused.
func (l *Link) parseConstraints(r *reader) error {
	if r.peek() != '{' {
		return errors.New(constraintsName + " must be an object")
	}
	return r.object(func(name string) (err error) {
		switch name {
		case "max_tasks":
			l.limits[0], err = r.integer(name)
			l.LimitTasks = &l.limits[0]
		case "max_cost_usd":
			if c := r.peek(); c != '-' && (c < '0' || c > '9') {
				return errors.New("max_cost_usd must be a number")
			}
			text, err := r.number()
			if err != nil {
				return err
			}
			if l.limits[1], err = ParseLimitUSD(text); err != nil {
				return fmt.Errorf("max_cost_usd: %w", err)
			}
			l.LimitNanoUSD = &l.limits[1]
		default:
			err = errors.New("unknown constraint")
		}
		return err
	})
}

// parseConfirmation reads cnf. The only method known is jkt, and a method that
// is not known would bind the token to something nobody checks.
func (l *Link) parseConfirmation(r *reader) error {
	if r.peek() != '{' {
		return errors.New("cnf must be an object")
	}
	var digest [sha256.Size]byte
	err := r.object(func(name string) (err error) {
		if name != "jkt" {
			return errors.New("cnf knows only jkt")
		}
		l.ConfirmJKT, err = r.digest("cnf.jkt", &digest)
		return err
	})
	if err == nil && l.ConfirmJKT == "" {
		err = errors.New("cnf holds no jkt")
	}
	return err
}
