//go:build unix

package node

import "golang.org/x/sys/unix"

// readOnly tells whether the file system of path takes no writes.
func readOnly(path string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return false, err
	}
	return s.Flags&1 != 0, nil // ST_RDONLY, on Linux and the BSDs alike
}

// openFiles returns how many files this process may have open; 0 if nobody knows.
func openFiles() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return uint64(limit.Cur) //nolint:unconvert // types differ by system, never negative
}

// freeBytes returns how much an ordinary user may still write where path is.
func freeBytes(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil //nolint:unconvert // types differ by system, never negative
}
