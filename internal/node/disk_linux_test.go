package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

// How the disk of a node in a process of its own is spoilt.
const (
	childDisk     = "ASAP_TEST_NODE_DISK"     // bytes of a disk of its own, a quarter of them taken until standard input ends
	childFileSize = "ASAP_TEST_NODE_FILESIZE" // bytes after which writing to a file is an I/O error
	childFails    = "ASAP_TEST_NODE_FAILS"    // fsync or readonly: what fails from the first byte on standard input on
)

// spoilDisk does to this process what its environment says.
func spoilDisk(dir string) error {
	var size uint64
	if _, err := fmt.Sscan(os.Getenv(childFileSize), &size); err == nil {
		signal.Ignore(syscall.SIGXFSZ)
		return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size})
	}
	if how := os.Getenv(childFails); how != "" {
		go func() { // lives as long as the process
			if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
				return
			}
			var err error
			if how == "fsync" {
				err = failCalls(syscall.EIO, unix.SYS_FSYNC, unix.SYS_FDATASYNC)
			} else {
				err = failCalls(syscall.EROFS, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE)
			}
			fmt.Fprintln(os.Stderr, "system calls fail from now on:", how, err)
		}()
		return nil
	}
	if _, err := fmt.Sscan(os.Getenv(childDisk), &size); err != nil {
		return nil // a good disk
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, size/4), 0o600); err != nil {
		return err
	}
	go func() { // lives as long as the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = os.Remove(ballast)
	}()
	return nil
}

// failCalls makes system calls of this process, in every thread, fail from now on
// with an error, as a broken disk makes them fail (seccomp). It cannot be undone.
func failCalls(err syscall.Errno, calls ...uint32) error {
	const numberAt, load, equal, answer = 0, unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load, K: numberAt}}
	for i, call := range calls {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(len(calls) - i), K: call}) //nolint:gosec // a few
	}
	program = append(program,
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(err)})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]} //nolint:gosec // a few
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter))) //nolint:gosec // the way to call it
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// A disk that is full: tasks are refused with the stable code, the node says that
// it is not ready, and nothing is half-done. When there is room again it goes on
// by itself, and the task that could not be recorded is, once.
func TestFullDisk(t *testing.T) {
	// A user namespace lets anybody mount; the disk goes with the process.
	own := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	try := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "tmpfs", t.TempDir())
	try.SysProcAttr = own
	if out, err := try.CombinedOutput(); err != nil {
		// Containers may forbid it. A full disk is then played for the store alone,
		// by a limit on its pages (internal/sqlite).
		say := t.Logf
		if os.Getenv("CI") != "" {
			say = t.Fatalf
		}
		say("NOT RUN: this system does not let a process have a disk of its own: %v %s", err, out)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{fmt.Sprintf("%s=%d", childDisk, 3<<20)}
	cmd.SysProcAttr = own
	room, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	url, kill := runningChild(t, cmd, t.TempDir())
	defer kill()
	c, err := client.New(url, client.WithSender(callerURN), client.WithRetry(client.RetryPolicy{Attempts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	call := func(n int) client.TaskCall {
		return client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, n)),
			EnvelopeID: asap.EnvelopeID(fmt.Sprintf("full-%d", n)), ConversationID: "c", Timestamp: begun}
	}
	answered := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err = c.Task(ctx, call(answered))
		cancel()
		if err != nil {
			break
		}
		answered++
	}
	// It was not admitted, or it was and waits for room for its record.
	if !errors.Is(err, context.DeadlineExceeded) {
		refusedWith(t, "on a full disk", err, asap.CodeLedgerUnavailable)
	}
	ready := func() int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/readyz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if status := ready(); status != http.StatusServiceUnavailable {
		t.Errorf("ready on a full disk: %d", status)
	}
	if err := room.Close(); err != nil {
		t.Fatal(err)
	}
	for ready() != http.StatusOK {
		if t.Context().Err() != nil {
			t.Fatal("it does not notice that there is room again")
		}
	}
	var first *client.TaskResult
	for n := range answered + 2 { // all of them again, the refused one, and a new one
		result, err := c.Task(t.Context(), call(n))
		if err != nil || result.Status != asap.Completed || result.Receipt == nil {
			t.Fatalf("task %d with room again: %+v, %v", n, result, err)
		}
		if first == nil {
			first = result
		}
		// Sequences tell how many entries there are: three for each task.
		if want := first.Receipt.Seq + 3*int64(n); result.Receipt.Seq != want && n < answered {
			t.Errorf("task %d ended with entry %d, want %d", n, result.Receipt.Seq, want)
		}
	}
}

// A disk that fails: the node cannot know what of the last commit is there, says
// so, and stops. The next one finds out: what was answered is there, once.
func TestWriteError(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{fmt.Sprintf("%s=%d", childFileSize, 512<<10)}
	url, kill := runningChild(t, cmd, dir)
	c, err := client.New(url, client.WithSender(callerURN), client.WithRetry(client.RetryPolicy{Attempts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := map[asap.TaskID]bool{}
	for {
		var result *client.TaskResult
		if result, err = c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
			break
		}
		answered[result.TaskID] = true
	}
	var refused *client.RemoteError
	var unreached *client.TransportError
	switch {
	case errors.As(err, &refused) && (refused.DataCode == asap.CodeTaskIndeterminate || refused.DataCode == asap.CodeLedgerUnavailable):
	case errors.As(err, &unreached): // it stopped before it could say so
	default:
		t.Errorf("on a disk that fails: %v", err)
	}
	kill()
	recorded := recordedOnce(t, dir, answered)
	if extra := recorded - len(answered); len(answered) == 0 || extra < 0 || extra > 1 {
		t.Errorf("%d answered, %d recorded", len(answered), recorded)
	}
	auditedTotals(t, dir) // verifies the chain
}

// A data directory that cannot be written is refused in one clear line.
func TestReadOnlyDirectory(t *testing.T) {
	c := testConfig("/sys") // nobody makes files there
	if os.Getuid() != 0 {
		c.Data = t.TempDir()
		if err := os.Chmod(c.Data, 0o500); err != nil { //nolint:gosec // a directory
			t.Fatal(err)
		}
	}
	n, err := Open(t.Context(), c, Options{})
	if err == nil {
		_ = n.Close()
		t.Fatal("it opened")
	}
	understandable(t, "read-only", err.Error())
}

// recordedOnce checks, in a data directory that can be used again, that what was
// answered is recorded once and nothing is held, and counts the recorded tasks.
func recordedOnce(t *testing.T, dir string, answered map[asap.TaskID]bool) int {
	t.Helper()
	n, stop := start(t, testConfig(dir), counter(new(atomic.Int64)))
	if h := n.holdings(t); h.Held != 0 {
		t.Errorf("held: %+v", h)
	}
	stop()
	seen := map[asap.TaskID]int{}
	for r, err := range openLedger(t, dir).ExportUsage(t.Context(), metering.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[r.TaskID]++
	}
	for id := range answered {
		if seen[id] != 1 {
			t.Errorf("task %s was answered and is recorded %d times", id, seen[id])
		}
	}
	return len(seen)
}
