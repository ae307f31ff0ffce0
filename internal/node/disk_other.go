//go:build !unix

package node

import "errors"

// readOnly is known on Unix systems only.
func readOnly(string) (bool, error) { return false, errors.ErrUnsupported }

// openFiles is known on Unix systems only.
func openFiles() uint64 { return 0 }

// freeBytes is known on Unix systems only.
func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }
