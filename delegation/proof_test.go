package delegation

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

type fields map[string][]string

func (f fields) get(name string) []string { return f[name] }

// rfc9421 is the example request of RFC 9421, appendix B.2.
func rfc9421() *Request {
	return &Request{
		Method: "POST", TargetURI: "https://example.com/foo?param=Value&Pet=dog",
		Header: fields{
			"date":           {"Tue, 20 Apr 2021 02:07:55 GMT"},
			"content-type":   {"application/json"},
			"content-length": {"18"},
			"content-digest": {"sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"},
			"two-values":     {" a ", "b\t"},
		}.get,
		Body: []byte(`{"hello": "world"}`),
	}
}

// TestRFC9421 checks the Ed25519 example, B.2.6.
func TestRFC9421(t *testing.T) {
	const input = `sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`
	const signature = `sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:`
	const want = `"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`
	members, err := parseDictionary(input)
	if err != nil {
		t.Fatal(err)
	}
	base, err := signatureBase(rfc9421(), members[0].items, members[0].raw)
	if err != nil || base != want {
		t.Fatalf("%v:\n%s", err, base)
	}
	public, err := asap.ParsePublicKey("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs")
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := parseDictionary(signature)
	if err != nil || !ed25519.Verify(public, []byte(base), signatures[0].bytes) {
		t.Errorf("the example's signature does not verify: %v", err)
	}
	if err := CheckContentDigest(rfc9421().Header("content-digest")[0], rfc9421().Body); err != nil {
		t.Error(err)
	}
}

func TestComponents(t *testing.T) {
	request := func(target string) *Request { r := rfc9421(); r.TargetURI = target; return r }
	for _, c := range []struct{ target, name, want string }{
		{"https://example.com/foo?param=Value&Pet=dog", "@target-uri", "https://example.com/foo?param=Value&Pet=dog"},
		{"https://example.com/foo?param=Value&Pet=dog", "@query", "?param=Value&Pet=dog"},
		{"https://example.com/foo?param=Value&Pet=dog", "@request-target", "/foo?param=Value&Pet=dog"},
		{"https://Example.COM:443", "@authority", "example.com"},
		{"http://[::1]:80/", "@authority", "[::1]"},
		{"https://example.com:8443/", "@authority", "example.com:8443"},
		{"https://example.com", "@path", "/"},
		{"https://example.com/a%20b", "@path", "/a%20b"},
		{"https://example.com/x", "@query", "?"},
		{"https://example.com/x?", "@request-target", "/x?"},
		{"https://example.com/x", "@scheme", "https"},
		{"https://example.com/x", "two-values", "a, b"},
	} {
		if got, err := componentValue(request(c.target), c.name); err != nil || got != c.want {
			t.Errorf("%s of %s: %q, %v, want %q", c.name, c.target, got, err, c.want)
		}
	}
	broken := rfc9421()
	broken.Header = fields{"x": {"a\nb"}}.get
	for name, r := range map[string]*Request{
		"@path": request("/relative"), "@status": rfc9421(), "Date": rfc9421(), "": rfc9421(), "absent": rfc9421(), "x": broken, "date": {},
	} {
		if got, err := componentValue(r, name); err == nil {
			t.Errorf("%s: %q, want an error", name, got)
		}
	}
	for _, c := range [][]component{{{name: "date", params: ";sf"}}, {{name: "date"}, {name: "date"}}} {
		if _, err := signatureBase(rfc9421(), c, ""); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}

func TestParseDictionaryRefuses(t *testing.T) {
	for _, text := range []string{
		"a", "a=", "A=()", "a=(", `a=("x"`, `a=("x"  "y")`, `a=( "x")`, `a=("x" )`, `a=(x)`, `a=("x\y")`, `a=("x`, "a=(\"\x01\")", `a=("é")`,
		`a=:x:`, `a=:AA==`, "a=:A\nA==:", `a=1`, `a=();`, `a=();x=`, `a=();x=1;x=2`, `a=() b=()`, `a=(),`, `a=(),a=()`, `1=()`, `a=("x";)`, `a=();x="`, `a=() ;x`,
	} {
		if got, err := parseDictionary(text); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
	got, err := parseDictionary(`  a=("x";sf "y\\\"");created=1;alg="e";flag;t=tok/en , b-1.x_*=:AAAA:;p `)
	if err != nil || len(got) != 2 || got[0].items[1].name != `y\"` || got[0].raw != `("x";sf "y\\\"");created=1;alg="e";flag;t=tok/en` || len(got[1].bytes) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseDictionary(""); err != nil || got != nil {
		t.Errorf("empty: %v, %v", got, err)
	}
}

// proofCase is a request of b with a bound token, signed.
type proofCase struct {
	token   string
	header  fields
	request *Request
	policy  *Policy
	query   Query
	used    map[string]time.Time
}

func newProof(t *testing.T, edit func(*Terms, *ProofTerms)) *proofCase {
	t.Helper()
	own := terms(agentA, agentB, "del_root")
	own.ConfirmJKT = Thumbprint(publicOf(agentB))
	proof := ProofTerms{Created: at(testNow), Nonce: "n-1"}
	if edit != nil {
		edit(&own, &proof)
	}
	c := &proofCase{token: mustIssue(t, own), policy: testPolicy(t), query: ask(agentB, ScopeTaskExecute), used: map[string]time.Time{}}
	c.policy.Remember = func(key, nonce string, until time.Time) (bool, error) {
		_, had := c.used[key+nonce]
		c.used[key+nonce] = until
		return !had, nil
	}
	c.header = fields{tokenField: {c.token}}
	c.request = &Request{Method: "POST", TargetURI: "https://node.example/asap", Header: c.header.get, Body: []byte(`{"x":1}`)}
	c.header[digestField] = []string{ContentDigest(c.request.Body)}
	c.query.Proof = c.request
	c.sign(t, proof, keyOf(agentB))
	return c
}

func (c *proofCase) sign(t *testing.T, p ProofTerms, key ed25519.PrivateKey) {
	t.Helper()
	input, signature, err := SignProof(c.request, p, key)
	if err != nil {
		t.Fatal(err)
	}
	c.header["signature-input"], c.header["signature"] = []string{input}, []string{signature}
}

// resign signs any value of Signature-Input with b's key.
func (c *proofCase) resign(t *testing.T, raw string) {
	t.Helper()
	members, err := parseDictionary("asap=" + raw)
	if err != nil {
		t.Fatal(err)
	}
	base, err := signatureBase(c.request, members[0].items, raw)
	if err != nil {
		t.Fatal(err)
	}
	c.header["signature-input"] = []string{"asap=" + raw}
	c.header["signature"] = []string{"asap=:" + base64.StdEncoding.EncodeToString(ed25519.Sign(keyOf(agentB), []byte(base))) + ":"}
}

func (c *proofCase) verify() error {
	_, err := Verify(c.token, c.policy, c.query)
	return err
}

func TestProofAccepted(t *testing.T) {
	c := newProof(t, nil)
	wantCode(t, c.verify(), "", NoLink)
	if until := c.used[Thumbprint(publicOf(agentB))+"n-1"]; !until.Equal(at(testNow).Add(ProofWindow + ClockSkew)) {
		t.Errorf("remembered until %s", until)
	}
	wantCode(t, c.verify(), asap.CodeDelegationProofInvalid, 0) // the nonce is used

	c = newProof(t, nil) // among other signatures, and in several fields
	c.header["signature-input"] = []string{`other=("@method";req);tag="web"`, c.header["signature-input"][0]}
	c.header["signature"] = []string{"other=:AAAA:", c.header["signature"][0]}
	wantCode(t, c.verify(), "", NoLink)

	c = newProof(t, nil) // without a body
	c.request.Body = nil
	delete(c.header, digestField)
	c.sign(t, ProofTerms{Created: at(testNow + 30), Nonce: "n"}, keyOf(agentB))
	wantCode(t, c.verify(), "", NoLink)

	c = newProof(t, func(l *Terms, _ *ProofTerms) { l.ConfirmJKT = "" }) // demanded, not bound
	c.policy.RequireProof = true
	wantCode(t, c.verify(), "", NoLink)

	c = newProof(t, func(l *Terms, _ *ProofTerms) { l.ConfirmJKT = Thumbprint(publicOf(agentM)) }) // a key of its own
	c.sign(t, ProofTerms{Created: at(testNow), Nonce: "n"}, keyOf(agentM))
	c.request.Key = publicOf(agentM)
	wantCode(t, c.verify(), "", NoLink)

	c = newProof(t, nil) // named by kid
	if err := c.policy.Keys.(*KeyRing).Add(agentB, Key{ID: "k", Public: publicOf(agentB)}); err != nil {
		t.Fatal(err)
	}
	c.sign(t, ProofTerms{Created: at(testNow), Nonce: "n", KeyID: "k"}, keyOf(agentB))
	wantCode(t, c.verify(), "", NoLink)
}

func TestProofRefused(t *testing.T) {
	const good = `("@method" "@target-uri" "content-digest" "x-asap-delegation-token");created=1800000000;keyid="KEY";nonce="n";tag="asap-delegation"`
	resigned := func(pairs ...string) func(*testing.T, *proofCase) {
		return func(t *testing.T, c *proofCase) {
			c.resign(t, strings.NewReplacer("KEY", Thumbprint(publicOf(agentB))).Replace(strings.NewReplacer(pairs...).Replace(good)))
		}
	}
	for name, edit := range map[string]func(*testing.T, *proofCase){
		"another method": func(_ *testing.T, c *proofCase) { c.request.Method = "GET" },
		"another target": func(_ *testing.T, c *proofCase) { c.request.TargetURI += "?" },
		"another body":   func(_ *testing.T, c *proofCase) { c.request.Body = []byte(`{"x":2}`) },
		"another body and digest": func(_ *testing.T, c *proofCase) {
			c.request.Body = nil
			c.header[digestField] = []string{ContentDigest(nil)}
		},
		"digest gone":             func(_ *testing.T, c *proofCase) { delete(c.header, digestField) },
		"digest of nothing known": func(_ *testing.T, c *proofCase) { c.header[digestField] = []string{"md5=:AAAA:"} },
		"another token signed":    func(_ *testing.T, c *proofCase) { c.header[tokenField] = []string{"x"} },
		"token twice":             func(_ *testing.T, c *proofCase) { c.header[tokenField] = []string{c.token, c.token} },
		"signature gone":          func(_ *testing.T, c *proofCase) { delete(c.header, "signature") },
		"signature unreadable":    func(_ *testing.T, c *proofCase) { c.header["signature"] = []string{"x"} },
		"signature short":         func(_ *testing.T, c *proofCase) { c.header["signature"] = []string{"asap=:AAAA:"} },
		"input unreadable":        func(_ *testing.T, c *proofCase) { c.header["signature-input"] = []string{"x"} },
		"two proofs": func(_ *testing.T, c *proofCase) {
			c.header["signature-input"] = append(c.header["signature-input"], `b=();tag="asap-delegation"`)
		},
		"signed by another": func(t *testing.T, c *proofCase) {
			c.sign(t, ProofTerms{Created: at(testNow), Nonce: "n"}, keyOf(agentM))
		},
		"another's key brought": func(t *testing.T, c *proofCase) {
			c.sign(t, ProofTerms{Created: at(testNow), Nonce: "n"}, keyOf(agentM))
			c.request.Key = publicOf(agentM)
		},
		"too old":            func(_ *testing.T, c *proofCase) { c.query.Now = at(testNow + 301) },
		"from the future":    func(_ *testing.T, c *proofCase) { c.query.Now = at(testNow - 31) },
		"method not covered": resigned(`"@method" `, ``),
		"target not covered": resigned(`"@target-uri" `, ``),
		"token not covered":  resigned(` "x-asap-delegation-token"`, ``),
		"body not covered":   resigned(` "content-digest"`, ``),
		"expired":            resigned(`;nonce`, `;expires=1800000000;nonce`),
		"no nonce":           resigned(`;nonce="n"`, ``),
		"no keyid":           resigned(`;keyid="KEY"`, ``),
		"no created":         resigned(`;created=1800000000`, ``),
		"created as text":    resigned(`=1800000000`, `="1800000000"`),
		"created no number":  resigned(`=1800000000`, `=now`),
		"another key named":  resigned(`KEY`, `x`),
		"another algorithm":  resigned(`;nonce`, `;alg="hmac-sha256";nonce`),
		"unknown parameter":  resigned(`;nonce`, `;x="1";nonce`),
		"component not in request": func(_ *testing.T, c *proofCase) {
			c.header["signature-input"][0] = strings.Replace(c.header["signature-input"][0], `("`, `("x-none" "`, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newProof(t, nil)
			edit(t, c)
			wantCode(t, c.verify(), asap.CodeDelegationProofInvalid, 0)
			if len(c.used) != 0 {
				t.Error("a refused proof used its nonce up")
			}
		})
	}
	c := newProof(t, nil)
	c.header["signature-input"][0] = strings.Replace(c.header["signature-input"][0], `tag="`, `tag="x`, 1)
	wantCode(t, c.verify(), asap.CodeDelegationProofRequired, 0)

	c = newProof(t, func(l *Terms, _ *ProofTerms) { l.ConfirmJKT = "" }) // an unknown key proves nothing
	c.policy.RequireProof = true
	c.sign(t, ProofTerms{Created: at(testNow), Nonce: "n"}, keyOf(agentM))
	c.request.Key = publicOf(agentM)
	wantCode(t, c.verify(), asap.CodeDelegationProofInvalid, 0)
}

func TestProofNeedsItsStore(t *testing.T) {
	c := newProof(t, nil)
	c.policy.Remember = nil
	wantCode(t, c.verify(), asap.CodeDelegationStateUnavailable, NoLink)

	c = newProof(t, nil)
	c.policy.Remember = func(string, string, time.Time) (bool, error) { return true, errors.New("down") }
	wantCode(t, c.verify(), asap.CodeDelegationStateUnavailable, NoLink)

	c = newProof(t, nil)
	c.policy.Revoked = nil
	wantCode(t, c.verify(), asap.CodeDelegationStateUnavailable, NoLink)
	if len(c.used) != 0 {
		t.Error("the nonce is used up by a request that was refused anyway")
	}
}

func TestSignProofRefuses(t *testing.T) {
	request := rfc9421()
	request.Header = fields{tokenField: {"t"}}.get
	for name, err := range map[string]error{
		"no key":    second(SignProof(request, ProofTerms{Nonce: "n"}, nil)),
		"no nonce":  second(SignProof(request, ProofTerms{}, keyOf(agentB))),
		"no digest": second(SignProof(request, ProofTerms{Nonce: "n"}, keyOf(agentB))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_, _ string, err error) error { return err }

func TestContentDigest(t *testing.T) {
	for _, field := range []string{"", "x", "sha-256=:AAAA:", ContentDigest(nil) + ", sha-512=:AAAA:", "sha-256=()"} {
		if err := CheckContentDigest(field, nil); err == nil {
			t.Errorf("%q: no error", field)
		}
	}
	if err := CheckContentDigest("unixsum=:AAAA:, "+ContentDigest([]byte("x")), []byte("x")); err != nil {
		t.Error(err)
	}
}
