package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// algEd25519 is the type byte of Ed25519 keys in signed notes.
const algEd25519 = 1

// FormatVKey writes the public key of the log named origin in the form of a
// signed-note verifier key: origin+hash+base64.
func FormatVKey(origin string, key ed25519.PublicKey) (string, error) {
	if err := CheckOrigin(origin); err != nil {
		return "", err
	}
	return note.NewEd25519VerifierKey(origin, key)
}

// ParseVKey reads what FormatVKey writes, and no other spelling of it.
func ParseVKey(vkey string) (origin string, key ed25519.PublicKey, err error) {
	parts := strings.SplitN(vkey, "+", 3) // base64 has '+' too
	if len(parts) != 3 {
		return "", nil, errors.New("verifier key is not origin+hash+base64")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algEd25519 {
		return "", nil, errors.New("verifier key does not hold an Ed25519 key")
	}
	key = ed25519.PublicKey(raw[1:])
	switch again, err := FormatVKey(parts[0], key); {
	case err != nil:
		return "", nil, fmt.Errorf("verifier key: %w", err)
	case again != vkey:
		return "", nil, errors.New("verifier key contradicts itself: the hash in it is not that of name and key")
	}
	return parts[0], key, nil
}

// FormatSKey writes the private key of the log named origin in the form of a
// signed-note signer key. The result is a secret.
func FormatSKey(origin string, key ed25519.PrivateKey) (string, error) {
	if err := CheckOrigin(origin); err != nil {
		return "", err
	}
	if len(key) != ed25519.PrivateKeySize {
		return "", errors.New("private key does not have 64 bytes")
	}
	public := key.Public().(ed25519.PublicKey)
	h := sha256.New()
	h.Write([]byte(origin + "\n"))
	h.Write([]byte{algEd25519})
	h.Write(public)
	hash := binary.BigEndian.Uint32(h.Sum(nil))
	secret := append([]byte{algEd25519}, key.Seed()...)
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, hash, base64.StdEncoding.EncodeToString(secret)), nil
}

// ParseSKey reads what FormatSKey writes, and no other spelling of it. Errors
// do not repeat the key.
func ParseSKey(skey string) (origin string, key ed25519.PrivateKey, err error) {
	parts := strings.SplitN(skey, "+", 5)
	if len(parts) != 5 {
		return "", nil, errors.New("signer key is not PRIVATE+KEY+origin+hash+base64")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != algEd25519 {
		return "", nil, errors.New("signer key does not hold an Ed25519 key")
	}
	key = ed25519.NewKeyFromSeed(raw[1:])
	switch again, err := FormatSKey(parts[2], key); {
	case err != nil:
		return "", nil, fmt.Errorf("signer key: %w", err)
	case again != skey:
		return "", nil, errors.New("signer key contradicts itself")
	}
	return parts[2], key, nil
}

// NewSigner makes the signer of checkpoints of the log named origin.
func NewSigner(origin string, key ed25519.PrivateKey) (note.Signer, error) {
	skey, err := FormatSKey(origin, key)
	if err != nil {
		return nil, err
	}
	return note.NewSigner(skey)
}

// Keys are the verifier keys somebody trusts. The zero value trusts nobody.
type Keys struct {
	vkeys     []string
	verifiers []note.Verifier
}

// ParseKeys reads verifier keys (vkeys). One log has several while its key is
// being rotated.
func ParseKeys(vkeys ...string) (Keys, error) {
	var k Keys
	for _, text := range vkeys {
		if _, _, err := ParseVKey(text); err != nil {
			return Keys{}, err
		}
		v, err := note.NewVerifier(text)
		if err != nil {
			return Keys{}, fmt.Errorf("verifier key: %w", err)
		}
		if k.holds(text) {
			continue
		}
		k.vkeys, k.verifiers = append(k.vkeys, text), append(k.verifiers, v)
	}
	return k, nil
}

// Empty tells whether nobody is trusted.
func (k Keys) Empty() bool { return len(k.verifiers) == 0 }

func (k Keys) holds(vkey string) bool {
	for _, have := range k.vkeys {
		if have == vkey {
			return true
		}
	}
	return false
}
