package asap

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrKey reports bytes or a text that are not an Ed25519 key of the expected
	// kind.
	ErrKey = errors.New("not an Ed25519 key")
	// ErrSmallOrderKey reports a public key under which one signature fits every
	// message.
	ErrSmallOrderKey = errors.New("public key of small order")
)

// ReadPrivateKeyPEM reads an unencrypted PKCS#8 private key, the form the
// command keys generate writes. Other key types, encrypted keys and public keys
// are refused with ErrKey.
func ReadPrivateKeyPEM(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%w: no PEM block", ErrKey)
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, fmt.Errorf("%w: the key is encrypted; an unencrypted PKCS#8 key is needed", ErrKey)
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("%w: a PEM block PRIVATE KEY is needed", ErrKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: the PEM block holds another type of key", ErrKey)
	}
	return private, nil
}

// EncodePrivateKeyPEM writes key as an unencrypted PKCS#8 PEM block, which
// v1.3.0 reads.
func EncodePrivateKeyPEM(key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, ErrKey
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PublicKeyOf returns the public half of key.
func PublicKeyOf(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(bytes.Clone(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:]))
}

// ParsePublicKey reads the 32 raw bytes of a public key in base64: standard or
// URL alphabet, with or without padding, blanks around it allowed, stray bits at its
// end not. Keys of small order are refused with ErrSmallOrderKey, everything else
// that is no key with ErrKey.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	s := strings.TrimRight(strings.TrimSpace(text), "=")
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	if strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%w: not base64", ErrKey)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", ErrKey)
	}
	if err := CheckPublicKey(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// EncodePublicKey writes key in standard base64, the form of the JSON members.
func EncodePublicKey(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

// CheckPublicKey refuses keys of the wrong length (ErrKey) and of small order
// (ErrSmallOrderKey).
func CheckPublicKey(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: an Ed25519 public key has 32 bytes, this one %d", ErrKey, len(key))
	}
	unsigned := bytes.Clone(key)
	unsigned[31] &= 0x7f // the sign of x
	text := hex.EncodeToString(unsigned)
	for _, y := range smallOrder {
		if text == y {
			return ErrSmallOrderKey
		}
	}
	return nil
}

// smallOrder holds the y coordinates, little-endian, of the eight points whose
// order divides 8, with the encodings that exceed the field's prime. Never
// changed.
var smallOrder = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000", // 0: order 4
	"0100000000000000000000000000000000000000000000000000000000000000", // 1: the neutral point
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p-1: order 2
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p, read as 0
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1, read as 1
}
