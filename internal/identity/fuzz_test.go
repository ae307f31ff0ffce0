package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"testing"
	"time"
)

// FuzzJWKS feeds any answer of a provider to the reader of key sets: what is read
// are few keys, and only public ones fit an algorithm.
func FuzzJWKS(f *testing.F) {
	x := base64.RawURLEncoding.EncodeToString(public(1))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + x + `"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + x + `","d":"` + x + `"},{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc"}]}`))
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + x + `"}`))
	f.Add([]byte(`{"keys":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseSet(text)
		if err != nil {
			return
		}
		if len(keys) > maxJWKs {
			t.Fatalf("%d keys", len(keys))
		}
		for _, k := range keys {
			for _, alg := range []string{"RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "none"} {
				switch k.raw.(type) {
				case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
					if fits(k.raw, alg) && (alg == "HS256" || alg == "none") {
						t.Fatalf("a public key for %s: %T", alg, k.raw)
					}
				default:
					if fits(k.raw, alg) {
						t.Fatalf("%T for %s", k.raw, alg)
					}
				}
			}
		}
	})
}

// FuzzOperatorToken: only the token itself is the operator's.
func FuzzOperatorToken(f *testing.F) {
	const token = "asap_op_0123456789abcdefghijklmnopqrstuvwxyz"
	o := NewOperatorToken(func() (string, error) { return token, nil })
	f.Add([]byte(token))
	f.Add([]byte(token + "\x00"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		if o.Is(string(text), time.Unix(testNow, 0)) != bytes.Equal(text, []byte(token)) {
			t.Fatalf("%q", text)
		}
	})
}
