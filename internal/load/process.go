package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is a server in a process of its own.
type Process struct {
	URL string

	cmd *exec.Cmd
	out io.ReadCloser
}

// Start starts a server that says on its standard output that it "serves at" a
// URL, as asap serve does. Stop it. Its log goes to log; it gets none of the
// environment that would configure a node.
func Start(ctx context.Context, log io.Writer, binary string, args ...string) (*Process, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = log
	// Settings of the caller's environment are for its own node.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ASAP_") })
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, out: out}
	said := bufio.NewScanner(out)
	for said.Scan() {
		if _, url, ok := strings.Cut(said.Text(), "serves at "); ok {
			p.URL = strings.TrimSpace(url)
			break
		}
	}
	if p.URL == "" {
		return nil, fmt.Errorf("%s did not start: %w", binary, errors.Join(said.Err(), p.Stop()))
	}
	return p, nil
}

// stopTime is how long a server may take to stop before it is killed.
const stopTime = 20 * time.Second

// Stop ends the server and waits for its end.
func (p *Process) Stop() error {
	if runtime.GOOS == "windows" || p.cmd.Process.Signal(os.Interrupt) != nil {
		_ = p.cmd.Process.Kill() // it may have ended by itself
	}
	timer := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, p.out) // what it says to its end is of no interest
	return p.cmd.Wait()
}

// Effort is what a process has used.
type Effort struct {
	CPU         time.Duration
	ResidentMiB float64
}

// Effort returns what the server has used so far; ok is false where the system
// does not tell.
func (p *Process) Effort() (e Effort, ok bool) {
	const clockTicksPerSecond = 100 // of /proc, on every platform of Linux that Go runs on
	dir := "/proc/" + strconv.Itoa(p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return e, false
	}
	_, fields, _ := strings.Cut(string(stat), ") ") // the name may hold blanks
	parts := strings.Fields(fields)
	if len(parts) < 22 {
		return e, false
	}
	user, err1 := strconv.ParseInt(parts[11], 10, 64)
	system, err2 := strconv.ParseInt(parts[12], 10, 64)
	pages, err3 := strconv.ParseInt(parts[21], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return e, false
	}
	e.CPU = time.Duration(user+system) * time.Second / clockTicksPerSecond
	e.ResidentMiB = float64(pages) * float64(os.Getpagesize()) / (1 << 20)
	return e, true
}
