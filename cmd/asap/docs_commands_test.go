package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json/jsontext"
)

// The commands of the documents are run, in the order of the page, in an empty
// folder, with the program as it is:
//
//	sh        commands, which must succeed; "asap serve" runs beside those after it
//	console   commands behind "$ " and, below each, lines that its output must hold,
//	          in that order; numbers, ids and hashes may differ, "…" stands for
//	          anything. It must succeed unless what is expected says otherwise
//	yaml      a configuration that loads
//	json      JSON
//	go        a piece of a Go file of this repository, which is compiled
//	text      nothing that anybody would type
//
// "sh not-run: REASON" is for what needs more than this machine has. A block says
// what it is.
func TestDocuments(t *testing.T) {
	t.Parallel()
	notRun := 0
	for _, page := range documents(t) {
		blocks := readBlocks(t, page)
		for _, b := range blocks {
			if b.reason != "" {
				notRun++
			}
		}
		if len(blocks) == 0 {
			continue
		}
		t.Run(strings.TrimPrefix(page, "../../"), func(t *testing.T) {
			t.Parallel()
			p := &pageRun{t: t, dir: t.TempDir()}
			defer p.stopNode()
			for _, b := range blocks {
				p.block = b
				p.run()
			}
		})
	}
	if notRun > maxNotRun {
		t.Errorf("%d blocks of commands are not run; at most %d may be", notRun, maxNotRun)
	}
}

// maxNotRun is how many blocks may say why they are not run.
const maxNotRun = 12

// documents are the pages of this repository.
func documents(t *testing.T) []string {
	t.Helper()
	var pages []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 10 {
		t.Fatalf("only %d documents: %v", len(pages), pages)
	}
	return pages
}

// docBlock is one fenced block.
type docBlock struct {
	at     string // page and line
	kind   string
	reason string // why it is not run
	indent string // of a block in a list
	text   string
}

func readBlocks(t *testing.T, page string) (blocks []docBlock) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var b *docBlock
	for i, line := range strings.Split(string(text), "\n") {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && b == nil:
			info := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "```"))
			b = &docBlock{at: fmt.Sprintf("%s:%d", strings.TrimPrefix(page, "../../"), i+1), indent: line[:strings.Index(line, "```")]}
			b.kind, info, _ = strings.Cut(info, " ")
			if reason, ok := strings.CutPrefix(info, "not-run: "); ok {
				b.reason = strings.TrimSpace(reason)
			}
		case fence:
			blocks = append(blocks, *b)
			b = nil
		case b != nil:
			b.text += strings.TrimPrefix(line, b.indent) + "\n"
		}
	}
	return blocks
}

// pageRun is one page being tried out.
type pageRun struct {
	t     *testing.T
	dir   string
	block docBlock

	url   string // of the node that runs
	node  *exec.Cmd
	ended chan struct{} // closed when it does not any more
}

func (p *pageRun) run() {
	p.t.Helper()
	b := p.block
	switch {
	case b.reason != "" && (b.kind == "sh" || b.kind == "console"):
	case b.kind == "sh":
		p.runCommands(shCommands(b.text))
	case b.kind == "console":
		p.runCommands(consoleCommands(b.text))
	case b.kind == "yaml":
		name := filepath.Join(p.t.TempDir(), "asap.yaml")
		if err := os.WriteFile(name, []byte(b.text), 0o600); err != nil {
			p.t.Fatal(err)
		}
		c, err := node.Load(name, nil)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			p.t.Errorf("%s: %v", b.at, err)
		}
	case b.kind == "json":
		if !jsontext.Value(b.text).IsValid() {
			p.t.Errorf("%s: not JSON", b.at)
		}
	case b.kind == "go":
		if !slices.ContainsFunc(goFiles(p.t), func(file string) bool { return strings.Contains(file, trimmedLines(b.text)) }) {
			p.t.Errorf("%s: this is no piece of a Go file of the repository, so nobody compiles it", b.at)
		}
	case b.kind == "text", b.kind == "mermaid":
	default:
		p.t.Errorf("%s: a block says what it is: sh, console, yaml, json, go or text; this one says %q", b.at, b.kind)
	}
}

// docCommand is one command, and what is expected of it.
type docCommand struct {
	text     string
	expected []string
	console  bool
}

// shCommands splits a block of commands where a node is started or stopped, and
// where something is not for here.
func shCommands(text string) (commands []docCommand) {
	var rest strings.Builder
	flush := func() {
		if strings.TrimSpace(rest.String()) != "" {
			commands = append(commands, docCommand{text: rest.String()})
		}
		rest.Reset()
	}
	for line := range strings.Lines(text) {
		if alone(strings.TrimSpace(line)) {
			flush()
			commands = append(commands, docCommand{text: line})
			continue
		}
		rest.WriteString(line)
	}
	flush()
	return commands
}

func consoleCommands(text string) (commands []docCommand) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		command, ok := strings.CutPrefix(line, "$ ")
		switch last := len(commands) - 1; {
		case ok:
			commands = append(commands, docCommand{text: command + "\n", console: true})
		case line == "^C":
			commands = append(commands, docCommand{text: line, console: true})
		case last < 0:
			commands = append(commands, docCommand{text: "false # a console block begins with a command\n"})
		case len(commands[last].expected) == 0 && (strings.HasSuffix(commands[last].text, "\\\n") || strings.HasPrefix(line, "> ")):
			commands[last].text += strings.TrimPrefix(line, "> ") + "\n"
		default:
			commands[last].expected = append(commands[last].expected, line)
		}
	}
	return commands
}

var (
	serves     = regexp.MustCompile(`^asap serve\b`)
	goPackage  = regexp.MustCompile(`^go (?:run|install|build) (?:-\S+ )*(\./\S*)`)
	makeTarget = regexp.MustCompile(`^make(?: ([a-z-]+))?(?: [A-Z]+=\S*)*(?:\s+#.*)?$`)
)

// alone tells whether a line is run by itself, or only looked at.
func alone(line string) bool {
	line = ours(line)
	return serves.MatchString(line) || goPackage.MatchString(line) || makeTarget.MatchString(line) || strings.HasPrefix(line, "go test")
}

// ours has the program that is tested in place of the one that go run builds.
func ours(line string) string { return strings.ReplaceAll(line, "go run ./cmd/asap", "asap") }

func (p *pageRun) runCommands(commands []docCommand) {
	p.t.Helper()
	for _, c := range commands {
		line := strings.TrimSpace(ours(c.text))
		switch {
		case line == "^C":
			p.stopNode()
		case serves.MatchString(line) && !strings.Contains(line, "--help"):
			p.startNode(line)
		case goPackage.MatchString(line):
			dir := strings.TrimSuffix(goPackage.FindStringSubmatch(line)[1], "...")
			if _, err := os.Stat(filepath.Join("../..", dir)); err != nil {
				p.t.Errorf("%s: %s: %v", p.block.at, line, err)
			}
		case makeTarget.MatchString(line):
			target := makeTarget.FindStringSubmatch(line)[1]
			makefile, err := os.ReadFile("../../Makefile")
			if err != nil || target != "" && !strings.Contains(string(makefile), "\n"+target+":") {
				p.t.Errorf("%s: %s: there is no such target (%v)", p.block.at, line, err)
			}
		case strings.HasPrefix(line, "go test"): // CI runs it, and this is a part of it
		default:
			p.runShell(c)
		}
	}
}

// environment is that of a person who has the program on the path and nothing
// configured. Nodes take a free port.
func environment(dir string) []string {
	env := []string{"ASAP_LISTEN=127.0.0.1:0", "HOME=" + dir, "NO_COLOR=1"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ASAP_") && !strings.HasPrefix(kv, "HOME=") {
			env = append(env, kv)
		}
	}
	return env
}

// here names the node that runs in place of the one of the page.
func (p *pageRun) here(text string) string {
	text = ours(text)
	if p.url != "" {
		text = strings.ReplaceAll(text, "127.0.0.1:8080", strings.TrimPrefix(p.url, "http://"))
	}
	return text
}

func (p *pageRun) runShell(c docCommand) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-eu", "-c", p.here(c.text))
	cmd.Dir, cmd.Env = p.dir, environment(p.dir)
	out, err := cmd.CombinedOutput()
	expected := strings.Join(c.expected, "\n")
	mayFail := c.console && (strings.Contains(expected, "Error: ") || strings.Contains(expected, "not valid"))
	if (err != nil) != mayFail {
		p.t.Errorf("%s: %s: %v\n%s", p.block.at, strings.TrimSpace(c.text), err, out)
		return
	}
	if missing := missingLine(c.expected, string(out)); missing != "" {
		p.t.Errorf("%s: %s: no line %q, or not in this place; it prints\n%s", p.block.at, strings.TrimSpace(c.text), missing, out)
	}
}

// missingLine is the first expected line that the output does not hold after
// those before it, or "".
func missingLine(expected []string, out string) string {
	lines := strings.Split(out, "\n")
	for _, want := range expected {
		if strings.TrimSpace(want) == "" || strings.TrimSpace(want) == "…" {
			continue
		}
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(normalised(want)), "…", ".*") + "$")
		at := slices.IndexFunc(lines, func(line string) bool { return pattern.MatchString(normalised(line)) })
		if at < 0 {
			return want
		}
		lines = lines[at+1:]
	}
	return ""
}

var varying = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{26}`), "ULID"},
	{regexp.MustCompile(`\b[0-9a-f]{8,}\b`), "HEX"},
	{regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}=*`), "BASE64"},
	{regexp.MustCompile(`[0-9]+`), "0"},
	{regexp.MustCompile(`\s+`), " "},
}

// normalised is a line without what differs from run to run.
func normalised(line string) string {
	for _, v := range varying {
		line = v.pattern.ReplaceAllString(line, v.by)
	}
	return strings.TrimSpace(line)
}

// startNode starts a node in place of the one that may run, and waits until it
// says where it is.
func (p *pageRun) startNode(line string) {
	p.t.Helper()
	p.stopNode()
	said, w := io.Pipe()
	var all syncBuffer
	cmd := exec.CommandContext(p.t.Context(), "sh", "-eu", "-c", "exec "+strings.TrimSuffix(strings.TrimSpace(line), "&"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Dir, cmd.Env = p.dir, environment(p.dir)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&all, w), &all
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("%s: %s: %v", p.block.at, line, err)
	}
	found := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(said)
		for lines.Scan() {
			if _, url, ok := strings.Cut(lines.Text(), " serves at "); ok {
				found <- url
			}
		}
		close(found)
		_, _ = io.Copy(io.Discard, said) // so that the node can go on talking
	}()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // by a signal, as it should
		_ = w.Close()
		close(ended)
	}()
	url, ok := <-found
	if !ok {
		<-ended
		p.t.Fatalf("%s: %s ends at once:\n%s", p.block.at, line, all.String())
	}
	p.url, p.node, p.ended = url, cmd, ended
}

func (p *pageRun) stopNode() {
	if p.node == nil {
		return
	}
	_ = p.node.Process.Signal(os.Interrupt) // one that has ended needs none
	<-p.ended
	p.node, p.url = nil, ""
}

// syncBuffer is a buffer that two goroutines write to.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// goFiles are the Go files that examples in documents are taken from.
func goFiles(t *testing.T) (texts []string) {
	t.Helper()
	for _, pattern := range []string{"../../examples/*/*.go", "../../*/example_test.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, trimmedLines(string(text)))
		}
	}
	return texts
}

// trimmedLines is text without indentation and empty lines.
func trimmedLines(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// What the documents may leave out of an output, and what not.
func TestExpectedOutputIsLoose(t *testing.T) {
	const out = "valid: 12 entries\nID\tCOST\ndel_01M80HR0AV91H3EP7YMZ23XJ6S\t0.25\nend\n"
	for _, c := range []struct {
		expected []string
		missing  string
	}{
		{[]string{"valid: 63 entries", "del_01M80HQX2TKYDJHM2624D2W2KC  1.75", "end"}, ""},
		{[]string{"valid: …", "…", "end"}, ""},
		{[]string{"end", "valid: 12 entries"}, "valid: 12 entries"},
		{[]string{"valid: 12"}, "valid: 12"},
	} {
		if missing := missingLine(c.expected, out); missing != c.missing {
			t.Errorf("%q: missing %q, want %q", c.expected, missing, c.missing)
		}
	}
	commands := consoleCommands("$ one \\\n  two\nout\n$ three\n")
	if len(commands) != 2 || commands[0].text != "one \\\n  two\n" || len(commands[0].expected) != 1 {
		t.Errorf("commands: %+v", commands)
	}
}
