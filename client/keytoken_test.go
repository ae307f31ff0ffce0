package client

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
)

func TestKeyTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, err := NewKeyTokens(key(1), sender, recipient, 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var tokens []string
		for _, pause := range []time.Duration{0, 8*time.Minute - 1, 1} {
			time.Sleep(pause)
			token, err := source.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, token)
		}
		if tokens[0] != tokens[1] || tokens[1] == tokens[2] {
			t.Errorf("tokens are not renewed when a fifth of their life is left: %q", tokens)
		}
		parts := strings.Split(tokens[0], ".")
		decode := func(s string) []byte {
			b, err := base64.RawURLEncoding.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if !ed25519.Verify(public(1), []byte(parts[0]+"."+parts[1]), decode(parts[2])) {
			t.Error("the signature does not verify")
		}
		var claims struct {
			Iss, Sub, Aud, Jti string
			Iat, Exp           int64
		}
		if err := json.Unmarshal(decode(parts[1]), &claims, json.MatchCaseInsensitiveNames(true), json.RejectUnknownMembers(true)); err != nil {
			t.Fatal(err)
		}
		if claims.Iss != string(sender) || claims.Sub != string(sender) || claims.Aud != string(recipient) || len(claims.Jti) != 26 ||
			claims.Iat != epoch().Unix() || claims.Exp != claims.Iat+600 || string(decode(parts[0])) != `{"alg":"EdDSA","typ":"JWT"}` {
			t.Errorf("claims %+v", claims)
		}
	})
	if _, err := NewKeyTokens(key(1), sender, recipient, 0); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]func() (*KeyTokens, error){
		"key":      func() (*KeyTokens, error) { return NewKeyTokens(nil, sender, recipient, 0) },
		"agent":    func() (*KeyTokens, error) { return NewKeyTokens(key(1), "me", recipient, 0) },
		"audience": func() (*KeyTokens, error) { return NewKeyTokens(key(1), sender, "", 0) },
		"lifetime": func() (*KeyTokens, error) { return NewKeyTokens(key(1), sender, recipient, 2*time.Hour) },
		"moment":   func() (*KeyTokens, error) { return NewKeyTokens(key(1), sender, recipient, time.Millisecond) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
