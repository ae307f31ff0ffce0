//go:build !unix

package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// lock keeps other writers away from a database file. Without flock it is the
// existence of the file, which a killed process leaves behind.
type lock struct{ path string }

// acquire takes the lock of path or says which process holds it.
func acquire(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		holder, _ := os.ReadFile(path)
		return nil, &LockedError{Path: path, Process: strings.TrimSpace(string(holder))}
	}
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	if e := f.Close(); err == nil {
		err = e
	}
	return &lock{path}, err
}

func (l *lock) release() error {
	if l == nil {
		return nil
	}
	return os.Remove(l.path)
}
