//go:build unix

package node

import "golang.org/x/sys/unix"

// freeBytes returns how much an ordinary user may still write where path is.
func freeBytes(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil //nolint:unconvert // types differ by system, never negative
}
