package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestDialogues plays testdata/dialogues/*.txtar, each over HTTP and over
// WebSocket; testdata/dialogues/README.md says how to read them.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		for _, transport := range []string{"http", "ws"} {
			if only, ok := onlyOver(archive); ok && only != transport {
				continue
			}
			t.Run(name+"/"+transport, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { play(t, archive, transport) })
			})
		}
	}
}

func onlyOver(a *txtar.Archive) (string, bool) {
	_, rest, ok := strings.Cut(string(a.Comment), "Only over ")
	if !ok {
		return "", false
	}
	return strings.ToLower(strings.Fields(strings.TrimSuffix(rest, "."))[0]), true
}

// stage is the agent of the dialogues: one skill for each way a task can go.
func stage() *Agent {
	a := New("urn:asap:agent:stage", "Stage")
	a.Handle("echo", func(_ context.Context, t *Task) (any, error) { return object("echoed", t.Input()), nil })
	a.Handle("refuse", func(context.Context, *Task) (any, error) {
		return nil, &Failure{Code: "out_of_paper", Message: "there is no paper left"}
	})
	a.Handle("break", func(context.Context, *Task) (any, error) { return nil, errors.New("disk /dev/sda1 is on fire") })
	a.Handle("panic", func(context.Context, *Task) (any, error) { panic("secret") })
	a.Handle("unencodable", func(context.Context, *Task) (any, error) { return func() {}, nil })
	a.Handle("number", func(context.Context, *Task) (any, error) { return 42, nil })
	a.Handle("nothing", func(context.Context, *Task) (any, error) { return nil, nil })
	a.Handle("sleep", func(ctx context.Context, _ *Task) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, Timeout(time.Minute))
	a.Handle("deaf", func(context.Context, *Task) (any, error) {
		time.Sleep(5 * time.Minute)
		return "too late", nil
	}, Timeout(time.Minute))
	a.Handle("count", func(_ context.Context, t *Task) (any, error) {
		t.Usage().AddTokens(120, 30)
		t.Usage().AddAPICalls(0)
		t.Usage().SetModel("small")
		return nil, nil
	})
	a.Handle("ask", func(ctx context.Context, t *Task) (any, error) {
		if _, err := t.Snapshot(map[string]any{"step": "before"}); err != nil {
			return nil, err
		}
		in, err := t.InputRequired(ctx, map[string]any{"question": "which colour?"})
		if err != nil {
			return nil, err
		}
		if in.Restored != nil {
			return map[string]any{"restored": in.Restored.Data}, nil
		}
		return map[string]any{"said": in.Message.Parts}, nil
	})
	a.HandleLong("long", func(ctx context.Context, t *Task) (any, error) {
		t.Progress(40, "almost half")
		if _, err := t.Snapshot(map[string]any{"done": 40}); err != nil {
			return nil, err
		}
		select {
		case <-time.After(10 * time.Second):
			return map[string]any{"pages": 3}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return a
}

func play(t *testing.T, archive *txtar.Archive, transport string) {
	ledger := newLedger()
	cfg := Config{Agents: []*Agent{stage(), Echo("urn:asap:agent:second", "Second")}, Ledger: ledger,
		AllowUnverified: func(*http.Request) bool { return true }, Limits: Limits{RunningTasks: 2, MessagesPerSecond: -1}}
	n := newNetwork(t, cfg)
	var talk line = &httpLine{n: n}
	if transport == "ws" {
		c := n.mustDial()
		talk = &socketLine{c: c, in: read(c)}
	}
	vars := map[string]string{}
	for i, f := range archive.Files {
		where := fmt.Sprintf("section %d (%s)", i+1, f.Name)
		what, condition, _ := strings.Cut(f.Name, " over ")
		if condition != "" && condition != transport {
			continue
		}
		text := strings.TrimSpace(string(f.Data))
		for name, value := range vars {
			text = strings.ReplaceAll(text, "$"+name, value)
		}
		switch what {
		case "client":
			talk.say(t, text)
		case "server":
			got := talk.hear(t)
			if why := match([]byte(text), []byte(got), vars); why != "" {
				t.Fatalf("%s: %s\ngot:  %s\nwant: %s", where, why, got, text)
			}
		case "wait":
			d, err := time.ParseDuration(text)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
		case "ledger":
			synctest.Wait()
			var lines []string
			for _, s := range ledger.settled() {
				lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s", s.Skill, s.Outcome, s.FailureCode)))
			}
			if got := strings.Join(lines, "\n"); got != text {
				t.Fatalf("%s: got\n%s\nwant\n%s", where, got, text)
			}
		default:
			t.Fatalf("%s: unknown", where)
		}
	}
	talk.hangUp()
}

// line is one client on one transport.
type line interface {
	say(t *testing.T, text string)
	hear(t *testing.T) string
	hangUp()
}

type httpLine struct {
	n      *network
	answer string
}

func (l *httpLine) say(t *testing.T, text string) {
	t.Helper()
	_, _, l.answer = fetch(t, l.n.client, http.MethodPost, "http://agent.example.com/asap", text, nil)
}

func (l *httpLine) hear(*testing.T) string { return l.answer }
func (l *httpLine) hangUp()                {}

type socketLine struct {
	c  *websocket.Conn
	in *reading
}

func (l *socketLine) say(t *testing.T, text string) {
	t.Helper()
	write(t, l.c, text)
}

func (l *socketLine) hear(t *testing.T) string {
	t.Helper()
	for {
		text, ok := l.in.within(10 * time.Minute)
		if !ok {
			t.Fatal("nothing came")
		}
		if text != `{"type":"ping"}` {
			return text
		}
	}
}

func (l *socketLine) hangUp() { l.c.Close(websocket.StatusNormalClosure, "") }

var binding = regexp.MustCompile(`^\$([a-z_]+)$`)

// match compares a pattern with what was got, and says why they differ. An
// object matches one that has at least its members; "*" matches anything;
// "$name" matches anything the first time and the same after.
func match(want, got []byte, vars map[string]string) string {
	w, g := jsontext.Value(bytes.TrimSpace(want)), jsontext.Value(bytes.TrimSpace(got))
	switch w.Kind() {
	case '"':
		var text string
		if err := json.Unmarshal(w, &text); err != nil {
			return err.Error()
		}
		if text == "*" {
			return ""
		}
		if m := binding.FindStringSubmatch(text); m != nil && g.Kind() == '"' {
			var value string
			if err := json.Unmarshal(g, &value); err != nil {
				return err.Error()
			}
			vars[m[1]] = value
			return ""
		}
	case '{':
		var wm, gm map[string]jsontext.Value
		if err := json.Unmarshal(w, &wm); err != nil {
			return "the pattern: " + err.Error()
		}
		if err := json.Unmarshal(g, &gm); err != nil {
			return "expected an object: " + err.Error()
		}
		for name, v := range wm {
			have, ok := gm[name]
			if !ok {
				return "no member " + name
			}
			if why := match(v, have, vars); why != "" {
				return name + ": " + why
			}
		}
		return ""
	}
	if err := w.Canonicalize(); err != nil {
		return "the pattern: " + err.Error()
	}
	g = bytes.Clone(g)
	if err := g.Canonicalize(); err != nil {
		return err.Error()
	}
	if !bytes.Equal(w, g) {
		return fmt.Sprintf("got %s, want %s", g, w)
	}
	return ""
}
