package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	asap "github.com/asap-protocol/asap-go"
)

func testBinaries(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		out[arch] = filepath.Join(t.TempDir(), arch)
		if err := os.WriteFile(out[arch], []byte("binary for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestLayout(t *testing.T) {
	binaries, created := testBinaries(t), time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "image")
	var digests []v1.Hash
	for range 2 { // the second replaces the first
		idx, err := index(binaries, created)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeLayout(dir, idx); err != nil {
			t.Fatal(err)
		}
		digest, err := idx.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	if digests[0] != digests[1] {
		t.Error("the same source gave two images", digests)
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != digests[0] ||
		manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != asap.Version {
		t.Fatal(manifest, err)
	}
	idx, err := top.ImageIndex(digests[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	platforms, err := idx.IndexManifest()
	if err != nil || len(platforms.Manifests) != 2 {
		t.Fatal(platforms, err)
	}
	for _, m := range platforms.Manifests {
		image, err := idx.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS != "linux" || config.Architecture != m.Platform.Architecture || config.Config.User != "65532:65532" {
			t.Errorf("%+v", config)
		}
		if got := contents(t, image)["usr/bin/asap"]; string(got) != "binary for "+m.Platform.Architecture {
			t.Errorf("%s has the binary %q", m.Platform, got)
		}
	}
}

// contents reads the files of an image, and checks what all entries share.
func contents(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	body, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode&0o6000 != 0 || h.Mode&0o022 != 0 && h.Name != "tmp/" {
			t.Errorf("%s has the mode %#o", h.Name, h.Mode)
		}
		if owner := h.Uid; owner != 0 && h.Name != "data/" || h.Gid != owner {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// The Dockerfile copies the same files.
func TestRootfs(t *testing.T) {
	files := rootfs([]byte("binary"))
	if os.Geteuid() != 0 { // others cannot give files away
		for i := range files {
			files[i].owner = 0
		}
	}
	dir := t.TempDir()
	if err := writeRootfs(dir, files); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		f := &files[i]
		info, err := os.Stat(filepath.Join(dir, f.name))
		if err != nil || info.Mode() != f.mode {
			t.Errorf("%s: %v, %v; want %v", f.name, info.Mode(), err, f.mode)
		}
		if f.isDir() {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(dir, f.name)); err != nil || !bytes.Equal(got, f.content) {
			t.Error(f.name, "has other contents", err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities()) {
		t.Error("no authorities")
	}
}

func TestSourceDate(t *testing.T) {
	for text, want := range map[string]string{"": "1970-01-01 00:00:00 +0000 UTC", "86400": "1970-01-02 00:00:00 +0000 UTC"} {
		t.Setenv("SOURCE_DATE_EPOCH", text)
		got, err := sourceDate()
		if fmt.Sprint(got) != want || err != nil {
			t.Error(got, err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := sourceDate(); err == nil {
		t.Error("taken")
	}
}
