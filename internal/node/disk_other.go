//go:build !unix

package node

import "errors"

// freeBytes is known on Unix systems only.
func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }
