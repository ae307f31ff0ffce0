package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxInputBytes bounds every file that a command reads whole.
const maxInputBytes = 64 << 20

// readInput reads the file name whole, or standard input for "-". what names it
// in errors ("Manifest file"); a file that is not there is a usage error.
func (a *app) readInput(what, name string) ([]byte, error) {
	if name == "-" {
		return readAll(a.in, "standard input")
	}
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, badValuef("%s not found: %s", what, name)
	case err != nil:
		return nil, badValuef("%s cannot be read: %w", what, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	data, err := readAll(f, name)
	if err != nil {
		return nil, badValuef("%s cannot be read: %w", what, err)
	}
	return data, nil
}

func readAll(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxInputBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInputBytes {
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxInputBytes>>20)
	}
	return data, nil
}

// errExists reports a file that was to be new.
var errExists = errors.New("file exists")

// writeFileAtomic puts data at name with the given mode, so that a reader, or a
// crash at any instant, finds the old file or the whole new one, and the data is
// never readable under a wider mode. Missing folders above it are made. Without
// replace, an existing file is left as it is and the error is errExists.
func writeFileAtomic(name string, data []byte, mode fs.FileMode, replace bool) (err error) {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".asap-new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The first error is the one to tell; the rest is tidying up.
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !replace {
		if err := os.Link(f.Name(), name); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return errExists
			}
			return err
		}
		return os.Remove(f.Name())
	}
	return os.Rename(f.Name(), name)
}

// isDirectory tells whether name is a folder.
func isDirectory(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
