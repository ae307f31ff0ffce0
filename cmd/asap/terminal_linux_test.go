package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pseudoTerminal returns the two ends of a terminal: what a program writes to
// its side is read at ours.
func pseudoTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var fault error
	err = conn.Control(func(fd uintptr) {
		if fault = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); fault == nil {
			number, fault = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || fault != nil {
		t.Fatal(err, fault)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// seen returns what is on the terminal when the program has written last.
func seen(t *testing.T, ours *os.File, last string) string {
	t.Helper()
	var screen strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(screen.String(), last) {
		n, err := ours.Read(buffer)
		if err != nil {
			t.Fatalf("after %q: %v", screen.String(), err)
		}
		screen.Write(buffer[:n])
	}
	return strings.ReplaceAll(screen.String(), "\r\n", "\n")
}

func TestTableOnATerminalIsAligned(t *testing.T) {
	ours, theirs := pseudoTerminal(t)
	a, _, _ := testApp(t, nil)
	a.out = theirs
	if err := a.table([]string{"AGENT", "TASKS"}, [][]string{{"urn:asap:agent:a", "1"}, {"b", "END"}}); err != nil {
		t.Fatal(err)
	}
	const want = "AGENT             TASKS\nurn:asap:agent:a  1\nb                 END\n"
	if got := seen(t, ours, "END\r\n"); got != want {
		t.Errorf("on the terminal:\n%s\nwant:\n%s", got, want)
	}
}

func TestColourOnATerminal(t *testing.T) {
	_, theirs := pseudoTerminal(t)
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, "\x1b[32mtext\x1b[0m"},
		{map[string]string{"NO_COLOR": "1"}, "text"},
		{map[string]string{"TERM": "dumb"}, "text"},
	} {
		a, _, _ := testApp(t, c.env)
		a.out = theirs
		if got := a.paint(ansiGreen, "text"); got != c.want {
			t.Errorf("environment %v: painted %q, want %q", c.env, got, c.want)
		}
	}
}

// On a terminal a verification says how far it is, and takes that back; in a pipe
// it says nothing.
func TestProgressOnATerminal(t *testing.T) {
	ours, theirs := pseudoTerminal(t)
	a, _, _ := testApp(t, nil)
	a.errOut = theirs
	show, done := a.progress()
	show(10_000, 0)
	show(20_000, 63_000)
	done()
	const want = "\r10000 entries checked\r20000 of 63000 entries checked\r\x1b[K"
	if got := seen(t, ours, "\x1b[K"); got != want {
		t.Errorf("on the terminal %q, want %q", got, want)
	}
	a, _, piped := testApp(t, nil)
	show, done = a.progress()
	show(10_000, 0)
	done()
	if piped.Len() != 0 {
		t.Errorf("in a pipe %q", piped)
	}
}
