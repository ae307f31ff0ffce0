package main

import (
	"runtime/debug"
	"strings"
)

// rows are the lines of the table.
func rows() []row {
	return []row{
		{
			id: "P1", work: "`POST /asap`, an echo task with everything on: caller authenticated, delegation of three links checked and reserved, priced, metered, promise watched, audit log, all of it durable; 64 connections",
			against: "plain `net/http` JSON echo, client and server on the same cores", target: ">= 0.30 × the floor; >= 5 × a2a-go; served = recorded",
			command: `make bench BENCH="-rows P1"`, measure: saturate,
		},
		{
			id: "P5", work: "verify a delegation token, uncached, 1 / 3 / 8 links", against: "n × `crypto/ed25519.Verify`", target: "<= 1.15; <= 8 allocations a link",
			command: `make bench BENCH="-rows P5"`, measure: verifyUncached,
		},
	}
}

// peerVersions are the peers in go.mod, with their versions.
func peerVersions() []string {
	names := map[string]string{
		"github.com/a2aproject/a2a-go/v2": "a2a-go", "github.com/golang-jwt/jwt/v5": "golang-jwt", "github.com/lestrrat-go/jwx/v3": "jwx",
		"github.com/go-jose/go-jose/v4": "go-jose", "gopkg.in/macaroon.v2": "macaroon", "github.com/DataDog/sketches-go": "sketches-go",
		"github.com/transparency-dev/tessera": "tessera", "github.com/codenotary/immudb": "immudb",
	}
	var out []string
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, m := range info.Deps {
		if name := names[m.Path]; name != "" {
			out = append(out, name+" "+strings.TrimPrefix(m.Version, "v"))
		}
	}
	return out
}
