package delegation

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

// FuzzProof changes the fields of a signed request: whatever is accepted as
// proof of possession signs this method, target, token and body, with the key
// that the token is bound to.
func FuzzProof(f *testing.F) {
	own := terms(agentA, agentB, "del_root")
	own.ConfirmJKT = Thumbprint(publicOf(agentB))
	token := mustIssue(f, own)
	policy := testPolicy(f)
	body := []byte(`{"x":1}`)
	ask := func(method, target, digest, input, signature string) *Request {
		h := fields{tokenField: {token}, digestField: {digest}, "signature-input": {input}, "signature": {signature}}
		return &Request{Method: method, TargetURI: target, Header: h.get, Body: body}
	}
	const method, target = "POST", "https://node.example/asap?a=b"
	good := ContentDigest(body)
	input, signature, err := SignProof(ask(method, target, good, "", ""), ProofTerms{Created: at(testNow), Nonce: "n"}, keyOf(agentB))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(method, target, good, input, signature)
	f.Add("GET", target, good, input, signature)
	f.Add(method, target+"&", good, input, signature)
	f.Add(method, target, good+", md5=:AAAA:", input, signature)
	f.Add(method, target, good, input+`, b=("@path");tag="web"`, signature+", b=:AAAA:")
	f.Add(method, target, good, strings.Replace(input, ";created", ";expires=1;created", 1), signature)
	f.Fuzz(func(t *testing.T, m, u, digest, in, sig string) {
		policy.Remember = nil // a proof that is accepted asks for it
		q := Query{Caller: agentB, Action: ScopeTaskExecute, Now: at(testNow), Proof: ask(m, u, digest, in, sig)}
		_, err := Verify(token, policy, q)
		refusal := AsRefusal(err)
		if refusal == nil {
			t.Fatalf("%v", err)
		}
		switch refusal.Code {
		case asap.CodeDelegationProofInvalid, asap.CodeDelegationProofRequired:
			return
		case asap.CodeDelegationStateUnavailable: // all that is missing is the memory of nonces
		default:
			t.Fatalf("%v", err)
		}
		if m != method || u != target {
			t.Fatalf("a proof for %s %s is taken for %s %s", method, target, m, u)
		}
		if err := CheckContentDigest(digest, body); err != nil {
			t.Fatalf("the body is not covered: %v", err)
		}
	})
}

// FuzzContentDigest: a field that is accepted for a body holds its digest, and is
// refused for another body.
func FuzzContentDigest(f *testing.F) {
	f.Add(ContentDigest([]byte("x")), []byte("x"))
	f.Add("sha-512=:AAAA:, "+ContentDigest(nil), []byte(nil))
	f.Add("unixsum=:AAAA:", []byte("x"))
	f.Fuzz(func(t *testing.T, field string, body []byte) {
		if err := CheckContentDigest(field, body); err != nil {
			if err := CheckContentDigest(ContentDigest(body), body); err != nil {
				t.Fatal(err)
			}
			return
		}
		if CheckContentDigest(field, append(bytes.Clone(body), 'x')) == nil {
			t.Fatalf("%q fits two bodies", field)
		}
	})
}

// FuzzRevocations: a list is read as a set of as many lines at most, and each
// line that is there is revoked.
func FuzzRevocations(f *testing.F) {
	f.Add("urn:asap:agent:a|del_1\n\n urn:asap:agent:a|del_1 \r\nurn:asap:agent:b|x|y")
	f.Add("urn:asap:agent:a|")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := ParseRevocations(strings.NewReader(text))
		if err != nil {
			return
		}
		lines := 0
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			lines++
			issuer, id, _ := strings.Cut(line, "|")
			if revoked, err := set.Revoked(asap.AgentURN(issuer), id); err != nil || !revoked {
				t.Fatalf("%q is not revoked: %v", line, err)
			}
		}
		if set.Len() > lines {
			t.Fatalf("%d links of %d lines", set.Len(), lines)
		}
	})
}

// FuzzKeyFile: every key that is read from a file is a usable one, of an agent.
func FuzzKeyFile(f *testing.F) {
	public := base64.RawURLEncoding.EncodeToString(publicOf(agentA))
	f.Add([]byte(`{"keys":[{"agent":"urn:asap:agent:a","public_key":"` + public + `","kid":"k"},{"agent":"urn:asap:agent:a","public_key":"` + public + `"}]}`))
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"agent":"urn:asap:agent:a","public_key":"` + strings.Repeat("A", 43) + `"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		ring, err := ParseKeyFile(text)
		if err != nil {
			return
		}
		if len(ring.issuers) == 0 {
			t.Fatalf("accepted without a key: %q", text)
		}
		for _, k := range ring.Keys(agentA, "") {
			if CheckKey(k.Public) != nil {
				t.Fatalf("%x", k.Public)
			}
		}
	})
}
