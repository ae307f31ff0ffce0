package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
)

// report prints one line for each check and counts them.
type report struct {
	out            io.Writer
	passed, failed int
}

// line reports one check: it passed unless err says otherwise.
func (r *report) line(group, name, detail string, err error) {
	word := "pass"
	if err != nil {
		r.failed++
		word, detail = "FAIL", strings.ReplaceAll(err.Error(), "\n", " | ")
	} else {
		r.passed++
	}
	if detail != "" {
		detail = "  (" + detail + ")"
	}
	fmt.Fprintf(r.out, "%s  %s: %s%s\n", word, group, name, detail)
}

// check runs one check.
func (r *report) check(group, name string, f func() (detail string, err error)) {
	detail, err := f()
	r.line(group, name, detail, err)
}

// python runs scripts of the folder python with the interpreter of the virtual
// environment.
type python struct {
	interpreter, dir string
	env              []string
	log              io.Writer // what a script writes to standard error
}

func (p *python) command(ctx context.Context, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.interpreter, append([]string{filepath.Join(p.dir, script)}, args...)...) //nolint:gosec // our own scripts
	cmd.Env = append(append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore"), p.env...)
	cmd.Stderr = p.log
	return cmd
}

// checks runs a script that reports checks (see checks.py) and takes them over.
// A script that does not come to its end is a failed check.
func (p *python) checks(ctx context.Context, r *report, group, script string, args ...string) {
	cmd := p.command(ctx, script, args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.line(group, script, "", err)
		return
	}
	seen := 0
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "CHECK ")
		if !ok {
			continue
		}
		var one struct{ Name, Error, Detail string }
		if err := json.Unmarshal([]byte(text), &one, json.MatchCaseInsensitiveNames(true)); err != nil {
			r.line(group, script, "", err)
			continue
		}
		seen++
		var failure error
		if one.Error != "" {
			failure = errors.New(one.Error)
		}
		r.line(group, one.Name, one.Detail, failure)
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil || seen == 0 {
		r.line(group, script, "", fmt.Errorf("ended early, after %d checks: %w", seen, errors.Join(err, ctx.Err())))
	}
}
