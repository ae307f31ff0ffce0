package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptStatus is the script command
//
//	status N program [args...]
//
// which runs program, and fails unless it exits with status N. Its output is
// there for stdout, stderr and cmp like that of exec.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit status %d, want %d", args[1:], got, want)
	}
}

// scriptNode is the script command
//
//	node DIR VARIABLE
//
// which waits until a node started in the background serves from the data
// directory DIR, and puts its URL into the environment variable.
func scriptNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: node DIR VARIABLE")
	}
	file := ts.MkAbs(args[0]) + "/node.url"
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if text, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(text), "\n") {
			ts.Setenv(args[1], strings.TrimSpace(string(text)))
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	ts.Fatalf("no node serves from %s after 30 s", args[0])
}

// scriptExpand is the script command
//
//	expand FILE...
//
// which replaces $NAME in the files by the environment variable NAME.
func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// scriptForge is the script command
//
//	forge FILE COPY LINE
//
// which copies a file with one digit of the id in that line changed.
func scriptForge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: forge FILE COPY LINE")
	}
	number, err := strconv.Atoi(args[2])
	ts.Check(err)
	lines := strings.SplitAfter(ts.ReadFile(args[0]), "\n")
	line := []byte(lines[number])
	at := strings.Index(lines[number], `"timestamp":"20`) + len(`"timestamp":"20`)
	line[at] ^= 1 // 2 and 3
	lines[number] = string(line)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(lines, "")), 0o600))
}

// scriptReceipt is the script command
//
//	receipt FILE VARIABLE
//
// which puts the id of the receipt in an answer into the environment variable.
func scriptReceipt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: receipt FILE VARIABLE")
	}
	r, err := readReceipt(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv(args[1], r.ID)
}
