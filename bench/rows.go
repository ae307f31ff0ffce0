package main

import (
	"runtime/debug"
	"strings"
)

// rows are the lines of the table.
func rows() []row {
	all := []row{
		{
			id: "P1", work: "`POST /asap`, an echo task with everything on: caller authenticated, delegation of three links checked and reserved, priced, metered, promise watched, audit log, all of it durable; 64 connections",
			against: "plain `net/http` JSON echo, client and server on the same cores", target: ">= 0.30 × the floor; >= 5 × a2a-go; served = recorded", measure: saturate,
		},
		{
			id: "P2", work: "one task of one caller, economics on", against: "the same agent without a ledger, in turn", target: "adds <= 1 ms + one fsync (p50)", measure: overhead,
		},
		{
			id: "P3", work: "`ledger.Settle`, 64 callers, SQLite, durable", against: "file append + fdatasync + SHA-256 chain of the same bytes in the same batches", target: ">= 15,000 postings/s", measure: settling,
		},
		{
			id: "P4", work: "the same on PostgreSQL, 1 and 3 nodes", against: "inserts of the same rows", target: ">= 10,000 postings/s; 3 nodes >= 1", measure: settlingOnPostgres,
		},
		{
			id: "P5", work: "verify a delegation token, uncached, 1 / 3 / 8 links", against: "n × `crypto/ed25519.Verify`", target: "<= 1.15; <= 8 allocations a link", measure: verifyUncached,
		},
		{
			id: "P6", work: "the same, seen before, 100,000 revocations loaded", against: "-", target: "<= 0.5 µs, no allocations", measure: verifyCached,
		},
		{
			id: "P7", work: "admit + settle on a chain of three links, one hot budget, 64 callers", against: "one transaction with row updates for each call", target: ">= 10 ×; never over a limit", measure: hotBudget,
		},
		{
			id: "P8", work: "latency sketch: record; merge 60 × 100; p95; bytes", against: "DataDog/sketches-go", target: "<= 1", measure: sketches,
		},
		{
			id: "P9", work: "status over a window at 10^6 tasks", against: "at 10^3 tasks", target: "<= 2", measure: windows,
		},
		{
			id: "P10", work: "outcome committed -> WebSocket frame; 10,000 agents, 10 unfiltered and 1,000 filtered subscribers, 20,000 outcomes/s", against: "-", target: "p99 < 100 ms; storm of 10,000 breaches: nothing lost", measure: breachFrames,
		},
		{
			id: "P11", work: "`audit verify` of a million entries", against: "SHA-256 of the same bytes", target: "<= 4; constant memory", measure: verifyAudit,
		},
		{
			id: "P12", work: "usage summary; aggregate by agent; by day; by agent and month", against: "the same at 10,000 records", target: "<= 3; < 20 ms", measure: reports,
		},
		{
			id: "P13", work: "export of a million records as csv, json, ndjson", against: "-", target: "constant memory", measure: exports,
		},
		{
			id: "P14", work: "start to first answer; size of the binary; resident memory idle, and after a million tasks", against: "-", target: "< 1 s; < 40 MB; < 100 MB and flat", measure: process,
		},
	}
	for i := range all {
		all[i].command = `make bench BENCH="-rows ` + all[i].id + `"`
	}
	return all
}

// peerVersions are the peers in go.mod, with their versions.
func peerVersions() []string {
	names := map[string]string{
		"github.com/a2aproject/a2a-go/v2": "a2a-go", "github.com/golang-jwt/jwt/v5": "golang-jwt", "github.com/lestrrat-go/jwx/v3": "jwx",
		"github.com/go-jose/go-jose/v4": "go-jose", "gopkg.in/macaroon.v2": "macaroon",
		"github.com/transparency-dev/tessera": "tessera", "github.com/codenotary/immudb": "immudb",
	}
	out := []string{"sketches-go as in difftest/go.mod"}
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
