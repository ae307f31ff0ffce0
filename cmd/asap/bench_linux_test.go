package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/client"
)

// BenchmarkProcess is P14: the size of the binary, the time from its start to
// the first answer of a task, and its resident memory idle and after
// ASAP_BENCH_TASKS (10,000) tasks by 64 callers.
func BenchmarkProcess(b *testing.B) {
	tasks := 10_000
	if text := os.Getenv("ASAP_BENCH_TASKS"); text != "" {
		var err error
		if tasks, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	binary := filepath.Join(b.TempDir(), "asap")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(binary)
	if err != nil {
		b.Fatal(err)
	}
	var first time.Duration
	var idle, after float64
	for b.Loop() {
		begin := time.Now()
		cmd := exec.CommandContext(b.Context(), binary, "serve", "--listen", "127.0.0.1:0", "--data", b.TempDir())
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		url := strings.TrimSpace(line[strings.Index(line, "http://"):])
		c, err := client.New(url, client.WithSender("urn:asap:agent:bench"))
		if err != nil {
			b.Fatal(err)
		}
		call := client.TaskCall{Recipient: "urn:asap:agent:echo", Skill: "echo", Input: jsontext.Value(`{"n":1}`)}
		if _, err := c.Task(b.Context(), call); err != nil {
			b.Fatal(err)
		}
		first = time.Since(begin)
		idle = residentMiB(b, cmd.Process.Pid)
		inParallel(b.Context(), tasks, 64, func(ctx context.Context) {
			if _, err := c.Task(ctx, call); err != nil {
				b.Error(err)
			}
		})
		after = residentMiB(b, cmd.Process.Pid)
		c.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	b.ReportMetric(float64(first.Milliseconds()), "ms-first-answer")
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB-binary")
	b.ReportMetric(idle, "MiB-idle")
	b.ReportMetric(after, "MiB-after")
	b.ReportMetric(0, "ns/op")
}

func inParallel(ctx context.Context, n, callers int, do func(context.Context)) {
	jobs := make(chan struct{})
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for range jobs {
				do(ctx)
			}
		})
	}
	for range n {
		jobs <- struct{}{}
	}
	close(jobs)
	group.Wait()
}

// residentMiB is the resident memory of a process.
func residentMiB(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return float64(kib) / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
