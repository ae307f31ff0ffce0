// Command image builds the container image of asap from an empty base, without
// a container engine: an OCI image layout for linux/amd64 and linux/arm64 that
// registries' own tools push (skopeo copy oci:DIR docker://…), or the root file
// system alone, for the Dockerfile. The same binaries and time give the same
// digests.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run() error {
	amd64 := flag.String("amd64", "", "binary for linux/amd64")
	arm64 := flag.String("arm64", "", "binary for linux/arm64")
	out := flag.String("out", "", "directory of the image layout; what is there is replaced")
	root := flag.String("rootfs", "", "write only the root file system into this directory, with the binary -binary")
	binary := flag.String("binary", "", "binary for -rootfs")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("what is %q?", flag.Arg(0))
	case *root != "":
		content, err := os.ReadFile(*binary)
		if err != nil {
			return err
		}
		return writeRootfs(*root, rootfs(content))
	case *out == "" || *amd64 == "" && *arm64 == "":
		return errors.New("needs -out and a binary, or -rootfs")
	}
	created, err := sourceDate()
	if err != nil {
		return err
	}
	idx, err := index(map[string]string{"amd64": *amd64, "arm64": *arm64}, created)
	if err != nil {
		return err
	}
	if err := writeLayout(*out, idx); err != nil {
		return err
	}
	digest, err := idx.Digest()
	if err != nil {
		return err
	}
	fmt.Println(digest)
	return nil
}

// sourceDate is when the source was: SOURCE_DATE_EPOCH (reproducible-builds.org),
// or 1970.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
