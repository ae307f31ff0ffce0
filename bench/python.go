package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/asap-protocol/asap-go/internal/load"
)

// python returns how to start the echo server of the Python release, and its
// version; nil if it is not installed (make interop installs it).
func (b *bench) python() (start func(context.Context, string) (*contest, error), version string) {
	interpreter := b.interpreter()
	if interpreter == "" {
		return nil, ""
	}
	out, err := exec.Command(interpreter, "-c", "import importlib.metadata; print(importlib.metadata.version('asap-protocol'))").Output()
	if err != nil {
		return nil, ""
	}
	return func(ctx context.Context, dir string) (*contest, error) {
		process, err := load.Start(ctx, os.Stderr, interpreter, "-W", "ignore", filepath.Join(b.root, "bench/python/server.py"), filepath.Join(dir, "usage.db"))
		if err != nil {
			return nil, err
		}
		do, end := tasksOf(process.URL+"/asap", connections, pythonTask(), func(answer []byte) error {
			if !bytes.Contains(answer, []byte(`"completed"`)) {
				return errors.New(string(answer[:min(200, len(answer))]))
			}
			return nil
		})
		return &contest{process: process, do: do, end: end}, nil
	}, strings.TrimSpace(string(out))
}

// interpreter is the Python of the virtual environment, "" if there is none.
func (b *bench) interpreter() string {
	path := filepath.Join(b.root, ".venv/bin/python")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func pythonTask() func([]byte, int) []byte {
	target := load.Target{Recipient: "urn:asap:agent:python-echo", Skill: "echo", Sender: "urn:asap:agent:bench-3"}
	return target.Task()
}
