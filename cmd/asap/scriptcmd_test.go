package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// scriptTutorial is the script command
//
//	tutorial PAGE FIRST LAST
//
// which runs the shell blocks of a page of docs, counted from 1, one after the
// other. The address of the page's node is replaced by $NODE_ADDRESS, an
// address or URL. What they
// print is there for stdout and stderr.
func scriptTutorial(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: tutorial PAGE FIRST LAST")
	}
	page, err := os.ReadFile(filepath.Join(ts.Getenv("DOCS"), args[0]))
	ts.Check(err)
	first, err := strconv.Atoi(args[1])
	ts.Check(err)
	last, err := strconv.Atoi(args[2])
	ts.Check(err)
	blocks := shellBlock.FindAllSubmatch(page, -1)
	if first < 1 || last > len(blocks) {
		ts.Fatalf("%s has %d shell blocks", args[0], len(blocks))
	}
	var script strings.Builder
	for _, block := range blocks[first-1 : last] {
		script.Write(block[1])
	}
	text := strings.ReplaceAll(script.String(), "127.0.0.1:8080", strings.TrimPrefix(ts.Getenv("NODE_ADDRESS"), "http://"))
	ts.Check(ts.Exec("sh", "-eu", "-c", text))
}

var shellBlock = regexp.MustCompile("(?s)\n```sh\n(.*?)```")
