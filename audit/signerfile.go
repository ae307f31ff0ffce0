package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrSignerState reports that the signer's memory is not what the caller thinks
// it is: another process has signed.
var ErrSignerState = errors.New("the signer's state was changed by somebody else")

// SignerFile keeps a [SignerState] in a file, by custom audit-signer.json in the
// data directory. It is the only part of this package that does I/O. Safe for
// concurrent use within one process; two processes need a lock of their own,
// though Swap notices what another has written before.
type SignerFile struct {
	path string
	mu   sync.Mutex
}

// NewSignerFile names the file; it does not touch it.
func NewSignerFile(path string) *SignerFile { return &SignerFile{path: path} }

// Load reads the state. If there is no file, the error wraps fs.ErrNotExist:
// whether a new state may be created is not for this type to say.
func (f *SignerFile) Load() (SignerState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, s, err := f.load()
	return s, err
}

func (f *SignerFile) load() ([]byte, SignerState, error) {
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, SignerState{}, fmt.Errorf("read signer state: %w", err)
	}
	var s SignerState
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, SignerState{}, fmt.Errorf("%s: %w", f.path, err)
	}
	return b, s, nil
}

// Create writes the first state. If the file exists, the error wraps
// fs.ErrExist.
func (f *SignerFile) Create(s SignerState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("create signer state %s: %w", f.path, err)
	}
	return f.write(s)
}

// Swap replaces old by next, durably, if the file still holds old and the rule
// of transition allows it. Errors wrap ErrSignerState, ErrRolledBack or
// ErrForked; after any error the file holds what it held, unless the disk fails.
func (f *SignerFile) Swap(old, next SignerState) error {
	if err := old.Allows(next); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, have, err := f.load()
	if err != nil {
		return err
	}
	a, err := json.Marshal(have)
	if err != nil {
		return fmt.Errorf("signer state: %w", err)
	}
	b, err := json.Marshal(old)
	if err != nil {
		return fmt.Errorf("signer state: %w", err)
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("%w: %d entries signed, not %d", ErrSignerState, have.State.Head.Size, old.State.Head.Size)
	}
	return f.write(next)
}

// write replaces the file: a temporary one beside it, synced, renamed, and the
// directory synced.
func (f *SignerFile) write(s SignerState) error {
	b, err := json.Marshal(s, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("signer state: %w", err)
	}
	dir := filepath.Dir(f.path)
	tmp, err := os.CreateTemp(dir, filepath.Base(f.path)+".*")
	if err != nil {
		return fmt.Errorf("write signer state: %w", err)
	}
	_, err = tmp.Write(append(b, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write signer state: %w", err), os.Remove(tmp.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write signer state: %w", err)
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write signer state: %w", err)
	}
	return nil
}
