package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrUnknownKey reports a checkpoint that no trusted key has signed.
	ErrUnknownKey = errors.New("checkpoint is signed by no trusted key")
	// ErrSignature reports a checkpoint with a wrong signature of a trusted key.
	ErrSignature = errors.New("checkpoint has a wrong signature")
	// ErrCheckpoint reports a note that is not a checkpoint.
	ErrCheckpoint = errors.New("not a checkpoint")
)

// maxNote is the longest checkpoint read, in bytes.
const maxNote = 32 << 10

// Checkpoint is a statement about a log: with Size entries its tree has Root.
// Its text is a C2SP tlog-checkpoint, its signed form a C2SP signed note.
type Checkpoint struct {
	Origin     string
	Size       int64
	Root       Hash
	Extensions []string // further lines, signed too; none are in use
}

// Text is the body that is signed.
func (c Checkpoint) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
	for _, x := range c.Extensions {
		b.WriteString(x)
		b.WriteByte('\n')
	}
	return b.String()
}

// Sign returns the signed note of the checkpoint. All signers sign; each must
// carry the log's origin as its name unless it is a witness.
func (c Checkpoint) Sign(signers ...note.Signer) ([]byte, error) {
	if err := CheckOrigin(c.Origin); err != nil {
		return nil, err
	}
	if c.Size < 0 {
		return nil, fmt.Errorf("checkpoint of size %d", c.Size)
	}
	if len(signers) == 0 {
		return nil, errors.New("checkpoint without a signer")
	}
	return note.Sign(&note.Note{Text: c.Text()}, signers...)
}

// ParseCheckpoint reads a signed note without checking who signed it. It
// accepts one spelling only, also of the base64 of the signatures, and at most
// one signature of a key, so that no byte of a note is without meaning. Errors
// wrap ErrCheckpoint.
func ParseCheckpoint(signed []byte) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes", ErrCheckpoint, len(signed))
	}
	var unverified *note.UnverifiedNoteError
	_, err := note.Open(signed, nil)
	if !errors.As(err, &unverified) {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	n := unverified.Note
	c, err := parseText(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	// Written again, it must be the same: this finds dropped repetitions and
	// slack bits of base64.
	var again bytes.Buffer
	again.WriteString(n.Text + "\n")
	for i, s := range n.UnverifiedSigs {
		for _, other := range n.UnverifiedSigs[:i] {
			if other.Name == s.Name && other.Hash == s.Hash {
				return Checkpoint{}, fmt.Errorf("%w: two signatures of %s", ErrCheckpoint, s.Name)
			}
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
		if err != nil || len(raw) < 5 || binary.BigEndian.Uint32(raw) != s.Hash {
			return Checkpoint{}, fmt.Errorf("%w: signature of %s is not base64", ErrCheckpoint, s.Name)
		}
		again.WriteString("— " + s.Name + " " + base64.StdEncoding.EncodeToString(raw) + "\n")
	}
	if !bytes.Equal(again.Bytes(), signed) {
		return Checkpoint{}, fmt.Errorf("%w: another spelling of a signed note", ErrCheckpoint)
	}
	return c, nil
}

func parseText(text string) (Checkpoint, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 {
		return Checkpoint{}, fmt.Errorf("%w: %d lines", ErrCheckpoint, len(lines))
	}
	if err := CheckOrigin(lines[0]); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxSafeInteger {
		return Checkpoint{}, fmt.Errorf("%w: size %.40q", ErrCheckpoint, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: root %.60q", ErrCheckpoint, lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root, Extensions: lines[3:]}
	if len(c.Extensions) == 0 {
		c.Extensions = nil
	}
	for _, x := range c.Extensions {
		if x == "" {
			return Checkpoint{}, fmt.Errorf("%w: empty extension line", ErrCheckpoint)
		}
	}
	if c.Text() != text {
		return Checkpoint{}, fmt.Errorf("%w: another spelling of size or root", ErrCheckpoint)
	}
	return c, nil
}

// Open checks that a trusted key whose name is the checkpoint's origin has
// signed, and returns the checkpoint. Errors wrap ErrCheckpoint, ErrUnknownKey
// or ErrSignature. Signatures of others are ignored.
func (k Keys) Open(signed []byte) (Checkpoint, error) {
	c, err := ParseCheckpoint(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	n, err := note.Open(signed, note.VerifierList(k.verifiers...))
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &unverified):
		return Checkpoint{}, fmt.Errorf("%w: %s", ErrUnknownKey, c.Origin)
	case err != nil:
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("%w: %s", ErrUnknownKey, c.Origin)
}
