package asap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
)

type keyVector struct {
	Name      string `json:"name"`
	Seed      string `json:"seed_hex"`
	PublicHex string `json:"public_key_hex"`
	Public    string `json:"public_key_base64"`
	JWK       struct {
		X string `json:"x"`
	} `json:"public_jwk"`
	PKCS8    string `json:"pkcs8_der_base64"`
	SigEmpty string `json:"signature_of_empty_base64"`
	SigABC   string `json:"signature_of_abc_base64"`
}

func loadKeys(t testing.TB) []keyVector {
	t.Helper()
	var v struct {
		Keys []keyVector `json:"keys"`
	}
	load(t, "vectors/keys.json", &v)
	return v.Keys
}

// testKeys returns the recorded test-only keys by name.
func testKeys(t testing.TB) map[string]ed25519.PrivateKey {
	t.Helper()
	keys := map[string]ed25519.PrivateKey{}
	for _, k := range loadKeys(t) {
		seed, err := hex.DecodeString(k.Seed)
		if err != nil {
			t.Fatal(err)
		}
		keys[k.Name] = ed25519.NewKeyFromSeed(seed)
	}
	return keys
}

func TestKeys(t *testing.T) {
	keys := testKeys(t)
	for _, c := range loadKeys(t) {
		der, err := base64.StdEncoding.DecodeString(c.PKCS8)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		key, err := ReadPrivateKeyPEM(text)
		if err != nil {
			t.Fatal(err)
		}
		if !key.Equal(keys[c.Name]) {
			t.Errorf("%s: another key", c.Name)
		}
		if out, err := EncodePrivateKeyPEM(key); err != nil || !bytes.Equal(out, text) {
			t.Errorf("%s: written as %s %v", c.Name, out, err)
		}
		public := PublicKeyOf(key)
		if hex.EncodeToString(public) != c.PublicHex || EncodePublicKey(public) != c.Public {
			t.Errorf("%s: public key %s", c.Name, EncodePublicKey(public))
		}
		for _, spelling := range []string{c.Public, c.JWK.X, " " + c.Public + "\n", strings.TrimRight(c.Public, "=")} {
			if got, err := ParsePublicKey(spelling); err != nil || !got.Equal(public) {
				t.Errorf("%s: ParsePublicKey(%q): %v", c.Name, spelling, err)
			}
		}
		for message, want := range map[string]string{"": c.SigEmpty, "abc": c.SigABC} {
			if got := base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(message))); got != want {
				t.Errorf("%s: signature of %q", c.Name, message)
			}
		}
	}
}

func TestBadKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty":     nil,
		"public":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY"}),
		"encrypted": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY"}),
		"broken":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"ec":        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if _, err := ReadPrivateKeyPEM(text); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := EncodePrivateKeyPEM(nil); !errors.Is(err, ErrKey) {
		t.Errorf("nil: %v", err)
	}
	good := loadKeys(t)[0].Public
	// 43 characters hold 258 bits, two more than a key: they must be zero.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	stray := good[:42] + string(alphabet[strings.IndexByte(alphabet, good[42])+1])
	for _, text := range []string{"", "AAAA", "not base64!", good[:20] + "\n" + good[20:], good + "A", stray} {
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSmallOrderKeys checks the list against the curve: a y coordinate is on it
// exactly if eight times its point is the neutral one.
func TestSmallOrderKeys(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p))
	d.Mod(d, p)
	mul := func(a, b *big.Int) *big.Int { return new(big.Int).Mod(new(big.Int).Mul(a, b), p) }
	inv := func(a *big.Int) *big.Int { return new(big.Int).ModInverse(a, p) }
	one := big.NewInt(1)
	type point struct{ x, y *big.Int }
	double := func(q point) point {
		xx, yy := mul(q.x, q.x), mul(q.y, q.y)
		k := mul(d, mul(xx, yy))
		x := mul(mul(big.NewInt(2), mul(q.x, q.y)), inv(new(big.Int).Mod(new(big.Int).Add(one, k), p)))
		y := mul(new(big.Int).Add(yy, xx), inv(new(big.Int).Mod(new(big.Int).Sub(one, k), p)))
		return point{x, y}
	}
	smallOrderY := func(y *big.Int) bool {
		yy := mul(y, y)
		xx := mul(new(big.Int).Sub(yy, one), inv(new(big.Int).Mod(new(big.Int).Add(mul(d, yy), one), p)))
		x := new(big.Int).ModSqrt(xx, p)
		if x == nil {
			return false
		}
		q := point{x, new(big.Int).Mod(y, p)}
		for range 3 {
			q = double(q)
		}
		return q.x.Sign() == 0 && q.y.Cmp(one) == 0
	}
	for _, text := range smallOrder {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []byte{0, 0x80} {
			key := bytes.Clone(raw)
			key[31] |= sign
			if err := CheckPublicKey(key); !errors.Is(err, ErrSmallOrderKey) {
				t.Errorf("%x: %v", key, err)
			}
		}
		if _, err := ParsePublicKey(base64.StdEncoding.EncodeToString(raw)); !errors.Is(err, ErrSmallOrderKey) {
			t.Errorf("%s: %v", text, err)
		}
		slices.Reverse(raw)
		if !smallOrderY(new(big.Int).SetBytes(raw)) {
			t.Errorf("%s is not of small order", text)
		}
	}
	for _, c := range loadKeys(t) {
		raw, err := hex.DecodeString(c.PublicHex)
		if err != nil {
			t.Fatal(err)
		}
		raw[31] &= 0x7f
		slices.Reverse(raw)
		if smallOrderY(new(big.Int).SetBytes(raw)) {
			t.Errorf("%s is of small order", c.Name)
		}
	}
}
