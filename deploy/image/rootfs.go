package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is the owner of the process and of its data: nobody that exists outside.
const user = 65532

// file is one entry of the root file system. Names are relative to it.
type file struct {
	name    string
	mode    fs.FileMode
	owner   int // user and group
	content []byte
}

func (f *file) isDir() bool { return f.mode.IsDir() }

// rootfs lists everything in the image, parents first: the binary, the
// certificate authorities that it trusts towards identity providers and
// webhooks, and places for its data and for temporary files.
func rootfs(binary []byte) []file {
	const dir = fs.ModeDir
	return []file{
		{name: "data", mode: dir | 0o700, owner: user},
		{name: "etc", mode: dir | 0o755},
		{name: "etc/group", mode: 0o644, content: fmt.Appendf(nil, "asap:x:%d:\n", user)},
		{name: "etc/passwd", mode: 0o644, content: fmt.Appendf(nil, "asap:x:%d:%d:asap:/data:/sbin/nologin\n", user, user)},
		{name: "etc/ssl", mode: dir | 0o755},
		{name: "etc/ssl/certs", mode: dir | 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: authorities()},
		{name: "tmp", mode: dir | fs.ModeSticky | 0o777},
		{name: "usr", mode: dir | 0o755},
		{name: "usr/bin", mode: dir | 0o755},
		{name: "usr/bin/asap", mode: 0o755, content: binary},
	}
}

// authorities is Mozilla's list, PEM. Those that it trusts only under
// conditions are left out.
func authorities() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer takes everything
	}
	return out.Bytes()
}

// writeRootfs makes the file system under dir, for a container build that copies
// it. Owners are kept where whoever runs it may give files away.
func writeRootfs(dir string, files []file) error {
	for i := range files {
		f := &files[i]
		path := filepath.Join(dir, filepath.FromSlash(f.name))
		var err error
		if f.isDir() {
			err = os.MkdirAll(path, f.mode.Perm())
		} else {
			err = os.WriteFile(path, f.content, f.mode.Perm())
		}
		if err == nil && f.owner != 0 {
			err = os.Chown(path, f.owner, f.owner)
		}
		if err == nil {
			err = os.Chmod(path, f.mode) // after the owner, and whatever the umask is
		}
		if err != nil {
			return err
		}
	}
	return nil
}
