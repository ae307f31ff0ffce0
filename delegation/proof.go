package delegation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Proof of possession is an RFC 9421 signature of the request with the caller's
// key, tagged ProofTag. It covers the method, the target, the token, and the
// digest of the body if there is one.
const (
	// ProofTag marks the signature that is meant as proof.
	ProofTag = "asap-delegation"
	// ProofWindow is how long a proof may be used after its creation.
	ProofWindow = 5 * time.Minute

	tokenField  = "x-asap-delegation-token"
	digestField = "content-digest"
)

// Request describes an HTTP request as far as a signature may cover it.
type Request struct {
	// Method is GET, POST and so on.
	Method string
	// TargetURI is the absolute URI the client asked for, as the client sees
	// it.
	TargetURI string
	// Header returns the values of a field, in order, by its lower-case name.
	Header func(name string) []string
	// Body is the content as received.
	Body []byte
	// Key is a key the request brought, such as that of its connection. It
	// counts only for a token bound to it; the caller's registered keys are
	// looked up in any case.
	Key ed25519.PublicKey
}

// ContentDigest is the value of the Content-Digest field (RFC 9530) of a body.
func ContentDigest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// CheckContentDigest tells whether a Content-Digest field matches the body: at
// least one digest is of a known algorithm, and all of those are right.
func CheckContentDigest(field string, body []byte) error {
	members, err := parseDictionary(field)
	if err != nil {
		return fmt.Errorf("content-digest: %w", err)
	}
	known := 0
	for _, m := range members {
		var want string
		switch m.key {
		case "sha-256":
			sum := sha256.Sum256(body)
			want = string(sum[:])
		case "sha-512":
			sum := sha512.Sum512(body)
			want = string(sum[:])
		default:
			continue
		}
		if string(m.bytes) != want {
			return errors.New("content-digest does not match the body")
		}
		known++
	}
	if known == 0 {
		return errors.New("content-digest holds no sha-256 or sha-512")
	}
	return nil
}

// ProofTerms are the parameters of a proof.
type ProofTerms struct {
	// Created is cut to whole seconds.
	Created time.Time
	// Nonce is used once, 1 to 128 characters of printable ASCII.
	Nonce string
	// KeyID names the key; empty means its thumbprint.
	KeyID string
}

// SignProof makes the values of the Signature-Input and Signature fields. The
// request's header must already hold the token, and the digest of the body if
// there is one.
func SignProof(req *Request, t ProofTerms, key ed25519.PrivateKey) (signatureInput, signature string, err error) {
	if len(key) != ed25519.PrivateKeySize {
		return "", "", errors.New("sign proof: not an Ed25519 private key")
	}
	if t.KeyID == "" {
		t.KeyID = Thumbprint(key.Public().(ed25519.PublicKey))
	}
	if !visible(t.Nonce, MaxTokenIDBytes) || !visible(t.KeyID, MaxTokenIDBytes) {
		return "", "", errors.New("sign proof: nonce and key id must have 1 to 128 printable ASCII characters")
	}
	names := []string{"@method", "@target-uri"}
	if len(req.Body) > 0 {
		names = append(names, digestField)
	}
	names = append(names, tokenField)
	items := make([]component, len(names))
	quoted := make([]string, len(names))
	for i, name := range names {
		items[i].name, quoted[i] = name, quote(name)
	}
	raw := fmt.Sprintf(`(%s);created=%d;keyid=%s;nonce=%s;alg="ed25519";tag="%s"`, strings.Join(quoted, " "),
		t.Created.Unix(), quote(t.KeyID), quote(t.Nonce), ProofTag)
	base, err := signatureBase(req, items, raw)
	if err != nil {
		return "", "", fmt.Errorf("sign proof: %w", err)
	}
	sum := ed25519.Sign(key, []byte(base))
	return "asap=" + raw, "asap=:" + base64.StdEncoding.EncodeToString(sum) + ":", nil
}

// signatureBase is the text of RFC 9421, section 2.5. raw is the value of the
// member of Signature-Input.
func signatureBase(req *Request, items []component, raw string) (string, error) {
	var b strings.Builder
	seen := make(map[string]bool, len(items))
	for _, c := range items {
		if c.params != "" {
			return "", fmt.Errorf("parameters of component %s are not supported", c.name)
		}
		if seen[c.name] {
			return "", fmt.Errorf("component %s is covered twice", c.name)
		}
		seen[c.name] = true
		value, err := componentValue(req, c.name)
		if err != nil {
			return "", err
		}
		b.WriteString(quote(c.name) + ": " + value + "\n")
	}
	b.WriteString(`"@signature-params": ` + raw)
	return b.String(), nil
}

func componentValue(req *Request, name string) (string, error) {
	switch name {
	case "@method":
		return req.Method, nil
	case "@target-uri":
		return req.TargetURI, nil
	case "@authority", "@scheme", "@path", "@query", "@request-target":
		return targetPart(req.TargetURI, name)
	}
	if name == "" || name[0] == '@' || strings.ToLower(name) != name {
		return "", fmt.Errorf("component %q is not supported", name)
	}
	var values []string
	if req.Header != nil {
		values = req.Header(name)
	}
	if len(values) == 0 {
		return "", fmt.Errorf("field %s is covered but not there", name)
	}
	trimmed := make([]string, len(values))
	for i, v := range values {
		if trimmed[i] = strings.Trim(v, " \t"); strings.ContainsAny(v, "\r\n") {
			return "", fmt.Errorf("field %s holds a line break", name)
		}
	}
	return strings.Join(trimmed, ", "), nil
}

func targetPart(target, name string) (string, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return "", errors.New("the target is not an absolute URI")
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	query := ""
	if u.RawQuery != "" || u.ForceQuery {
		query = "?" + u.RawQuery
	}
	switch name {
	case "@scheme":
		return u.Scheme, nil
	case "@path":
		return path, nil
	case "@query":
		if query == "" {
			query = "?"
		}
		return query, nil
	case "@request-target":
		return path + query, nil
	default: // @authority
		host := strings.ToLower(u.Host)
		if (u.Scheme == "https" && u.Port() == "443") || (u.Scheme == "http" && u.Port() == "80") {
			host = host[:strings.LastIndexByte(host, ':')]
		}
		return host, nil
	}
}

// proof is what a Signature-Input and a Signature say.
type proof struct {
	items            []component
	raw              string
	signature        []byte
	keyID, nonce     string
	created, expires int64 // expires is 0 if absent
}

// readProof finds the signature tagged as proof. It returns nil without error
// if there is none.
func readProof(req *Request) (*proof, error) {
	if req == nil || req.Header == nil {
		return nil, nil
	}
	inputs, err := parseDictionary(strings.Join(req.Header("signature-input"), ", "))
	if err != nil {
		return nil, fmt.Errorf("signature-input: %w", err)
	}
	var input *member
	for i := range inputs {
		if tag, ok := inputs[i].param("tag"); ok && tag.isString && tag.value == ProofTag {
			if input != nil {
				return nil, errors.New("more than one signature is tagged as proof")
			}
			input = &inputs[i]
		}
	}
	if input == nil {
		return nil, nil
	}
	signatures, err := parseDictionary(strings.Join(req.Header("signature"), ", "))
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	p := &proof{items: input.items, raw: input.raw}
	for _, m := range signatures {
		if m.key == input.key {
			p.signature = m.bytes
		}
	}
	if len(p.signature) != ed25519.SignatureSize {
		return nil, errors.New("the signature is not 64 bytes")
	}
	return p, p.readParams(input)
}

func (p *proof) readParams(input *member) error {
	for _, q := range input.params {
		var err error
		switch q.key {
		case "created":
			p.created, err = strconv.ParseInt(q.value, 10, 64)
		case "expires":
			p.expires, err = strconv.ParseInt(q.value, 10, 64)
		case "keyid":
			p.keyID = q.value
		case "nonce":
			p.nonce = q.value
		case "alg":
			if q.value != "ed25519" {
				err = errors.New("not ed25519")
			}
		case "tag":
		default:
			err = errors.New("unknown")
		}
		if wantString := q.key != "created" && q.key != "expires"; err == nil && q.isString != wantString {
			err = errors.New("of the wrong type")
		}
		if err != nil {
			return fmt.Errorf("parameter %s: %w", q.key, err)
		}
	}
	if p.created <= 0 || p.keyID == "" || !visible(p.nonce, MaxTokenIDBytes) {
		return errors.New("created, keyid and nonce are required")
	}
	return nil
}

// covers tells whether the component is signed.
func (p *proof) covers(name string) bool {
	for _, c := range p.items {
		if c.name == name {
			return true
		}
	}
	return false
}

// judgeProof makes the step of proof of possession. Unreadable nonces go into
// state.
func (v *verdict) judgeProof(token string, p *Policy, q *Query, state *error) *Refusal {
	leaf := len(v.grant.links) - 1
	given, err := readProof(q.Proof)
	if err == nil && given == nil {
		return refusef(asap.CodeDelegationProofRequired, StepProof, leaf, "a request signature tagged %s is required", ProofTag)
	}
	var signer string
	if err == nil {
		signer, err = given.verify(token, v.proofKeys(p, q), q)
	}
	if err != nil {
		return refusef(asap.CodeDelegationProofInvalid, StepProof, leaf, "%s", err)
	}
	if *state != nil {
		return nil // refused in any case: the nonce stays usable
	}
	if p.Remember == nil {
		*state = errNoNonces
		return nil
	}
	fresh, err := p.Remember(signer, given.nonce, time.Unix(given.created, 0).UTC().Add(ProofWindow+ClockSkew))
	if err != nil {
		*state = err
	} else if !fresh {
		return refusef(asap.CodeDelegationProofInvalid, StepProof, leaf, "the nonce has been used")
	}
	return nil
}

var (
	errNoRevocations = errors.New("no source of revocations is configured")
	errNoNonces      = errors.New("no store of nonces is configured")
)

// proofKeys are the caller's keys that the proof may be made with: those
// registered, and the one the request brought, or, for a bound leaf, the one
// among them it is bound to.
func (v *verdict) proofKeys(p *Policy, q *Query) []Key {
	all := append([]Key(nil), p.Keys.Keys(q.Caller, "")...)
	if v.bound && q.Proof.Key != nil { // an unregistered key proves nothing unless the token names it
		all = append(all, Key{Public: q.Proof.Key})
	}
	var out []Key
	for _, k := range all {
		if !v.bound || Thumbprint(k.Public) == v.grant.Leaf().ConfirmJKT {
			out = append(out, k)
		}
	}
	return out
}

// verify checks a proof against the request and returns the thumbprint of the
// key that made it.
func (p *proof) verify(token string, keys []Key, q *Query) (string, error) {
	for _, name := range []string{"@method", "@target-uri", tokenField} {
		if !p.covers(name) {
			return "", fmt.Errorf("the signature does not cover %s", name)
		}
	}
	if len(q.Proof.Body) > 0 && !p.covers(digestField) {
		return "", errors.New("the signature does not cover content-digest")
	}
	if p.covers(digestField) {
		if err := CheckContentDigest(strings.Join(q.Proof.Header(digestField), ", "), q.Proof.Body); err != nil {
			return "", err
		}
	}
	if sent := q.Proof.Header(tokenField); len(sent) != 1 || sent[0] != token {
		return "", errors.New("the signed header is not this token")
	}
	switch now := q.Now.Unix(); {
	case p.created > now+int64(ClockSkew/time.Second):
		return "", errors.New("the signature is from the future")
	case p.created < now-int64(ProofWindow/time.Second), p.expires != 0 && now >= p.expires:
		return "", errors.New("the signature is too old")
	}
	base, err := signatureBase(q.Proof, p.items, p.raw)
	if err != nil {
		return "", err
	}
	for i, k := range keys {
		thumbprint := Thumbprint(k.Public)
		if (p.keyID == thumbprint || p.keyID == k.ID) && signer(keys[i:i+1], []byte(base), p.signature) != nil {
			return thumbprint, nil
		}
	}
	return "", errors.New("the signature does not verify with a key of the caller")
}
