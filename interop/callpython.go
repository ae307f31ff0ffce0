package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// pythonAgent is the agent of server.py.
const pythonAgent = asap.AgentURN("urn:asap:agent:python-echo")

// pythonToken is the bearer token that server.py takes, and pythonTokenHolder
// who it says one is.
const pythonToken, pythonTokenHolder = "interop-token", asap.AgentURN("urn:asap:agent:go-token")

const notes = `{"text":"žluťoučký 🐎 \u2028 \"\\","list":[1,2.5,-0.001,1e21,true,null],"deep":{"a":{"b":[{}]}}}`

// caller is what Client and Socket have in common.
type caller interface {
	Task(ctx context.Context, t client.TaskCall) (*client.TaskResult, error)
	Send(ctx context.Context, e *asap.Envelope) (*asap.Envelope, error)
}

// sender returns the URN a check sends as: one of its own, so that the usage
// recorded for it can be counted.
func sender(name string) asap.AgentURN { return asap.AgentURN("urn:asap:agent:go-" + name) }

// echo does one task and checks the answer.
func echo(ctx context.Context, c caller, input string) (asap.TaskID, error) {
	result, err := c.Task(ctx, client.TaskCall{Recipient: pythonAgent, Skill: "echo", Input: jsontext.Value(input), TraceID: "trace-of-interop"})
	if err != nil {
		return "", err
	}
	got, want := result.Result.Clone(), jsontext.Value(`{"echoed":`+input+`}`)
	if err := errors.Join(got.Canonicalize(), want.Canonicalize()); err != nil {
		return "", err
	}
	switch e := result.Envelope; {
	case result.Status != asap.Completed:
		return "", fmt.Errorf("status %s", result.Status)
	case string(got) != string(want):
		return "", fmt.Errorf("the echo is %.100s, want %.100s", got, want)
	case e.Sender != pythonAgent:
		return "", fmt.Errorf("the answer is from %s", e.Sender)
	}
	return result.TaskID, nil
}

// echoes does n tasks, with the given number of them at a time.
func echoes(ctx context.Context, c caller, n, parallel int) ([]asap.TaskID, error) {
	var (
		wait  sync.WaitGroup
		tasks = make([]asap.TaskID, n)
		errs  = make([]error, n)
		next  = make(chan int)
	)
	for range parallel {
		wait.Go(func() {
			for i := range next {
				tasks[i], errs[i] = echo(ctx, c, fmt.Sprintf(`{"n":%d}`, i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wait.Wait()
	return tasks, errors.Join(errs...)
}

// metered checks that the server recorded the tasks of a sender, each once.
func metered(ctx context.Context, server string, who asap.AgentURN, tasks ...asap.TaskID) (string, error) {
	body, err := get(ctx, server+"/usage?consumer_id="+string(who))
	if err != nil {
		return "", err
	}
	var answer struct {
		Data []struct {
			TaskID asap.TaskID `json:"task_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	var found []asap.TaskID
	for _, one := range answer.Data {
		found = append(found, one.TaskID)
	}
	slices.Sort(found)
	slices.Sort(tasks)
	if !slices.Equal(found, tasks) {
		return "", fmt.Errorf("%d tasks are metered there, want the %d that were answered", len(found), len(tasks))
	}
	return fmt.Sprintf("%d metered there", len(found)), nil
}

// remote checks that err is a refusal with the JSON-RPC code or HTTP status.
func remote(err error, code, status int) (string, error) {
	var refused *client.RemoteError
	if !errors.As(err, &refused) {
		return "", fmt.Errorf("not refused, but %w", errors.Join(err, errors.New("expected a RemoteError")))
	}
	if refused.Code != code || (status != 0 && refused.HTTPStatus != status) {
		return "", fmt.Errorf("refused with %d under %d: %w", refused.Code, refused.HTTPStatus, err)
	}
	return err.Error(), nil
}

func withHTTP(ctx context.Context, url string, who asap.AgentURN, f func(context.Context, *client.Client) (string, error), opts ...client.Option) (string, error) {
	c, err := client.New(url, append([]client.Option{client.WithSender(who)}, opts...)...)
	if err != nil {
		return "", err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return f(ctx, c)
}

func withSocket(ctx context.Context, url string, who asap.AgentURN, f func(context.Context, *client.Socket) (string, error), opts ...client.Option) (detail string, err error) {
	s, err := client.NewSocket(url, append([]client.Option{client.WithSender(who)}, opts...)...)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := s.Connect(ctx); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(ctx, s)
}

// callPython runs our client, as package and as command, against the agents of
// the Python release.
func callPython(ctx context.Context, r *report, w *world) {
	const group = "our client"
	http := func(name string, who asap.AgentURN, url string, f func(context.Context, *client.Client) (string, error), opts ...client.Option) {
		r.check(group, "HTTP: "+name, func() (string, error) { return withHTTP(ctx, url, who, f, opts...) })
	}
	socket := func(name string, who asap.AgentURN, url string, f func(context.Context, *client.Socket) (string, error), opts ...client.Option) {
		r.check(group, "WebSocket: "+name, func() (string, error) { return withSocket(ctx, url, who, f, opts...) })
	}
	large := `{"text":"` + strings.Repeat("large enough to be worth it ", 4000) + `"}`
	one := func(input string, who asap.AgentURN) func(context.Context, *client.Client) (string, error) {
		return func(ctx context.Context, c *client.Client) (string, error) {
			task, err := echo(ctx, c, input)
			if err != nil {
				return "", err
			}
			return metered(ctx, w.plain, who, task)
		}
	}
	many := func(n, parallel int, url string, who asap.AgentURN) func(context.Context, caller) (string, error) {
		return func(ctx context.Context, c caller) (string, error) {
			tasks, err := echoes(ctx, c, n, parallel)
			if err != nil {
				return "", err
			}
			return metered(ctx, url, who, tasks...)
		}
	}

	http("a task", sender("one"), w.plain, one(notes, sender("one")))
	http("brotli", sender("br"), w.plain, one(large, sender("br")), client.WithCompression(client.CompressBrotli))
	http("gzip", sender("gzip"), w.plain, one(large, sender("gzip")), client.WithCompression(client.CompressGzip))
	http("uncompressed", sender("plain"), w.plain, one(large, sender("plain")), client.WithCompression(client.CompressNone))
	http("200 tasks, 16 at a time", sender("many"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		return many(200, 16, w.plain, sender("many"))(ctx, c)
	})
	http("11 MB are refused with 413", sender("huge"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		_, err := echo(ctx, c, `{"text":"`+strings.Repeat("x", 11_000_000)+`"}`)
		return remote(err, 0, 413)
	}, client.WithCompression(client.CompressNone))
	http("12 tasks, 4 at a time, where 5 a second may pass", sender("limited"), w.limited, func(ctx context.Context, c *client.Client) (string, error) {
		detail, err := many(12, 4, w.limited, sender("limited"))(ctx, c)
		return detail, err
	}, client.WithRetry(client.RetryPolicy{Attempts: 10, Base: time.Second, Max: time.Minute}))
	http("a payload type nobody handles", sender("unhandled"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		_, err := c.Cancel(ctx, pythonAgent, "task_x", "")
		return remote(err, asap.RPCMethodNotFound, 200)
	})
	http("an old timestamp", sender("old"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		_, err := c.Task(ctx, client.TaskCall{Recipient: pythonAgent, Skill: "echo", Timestamp: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)})
		return remote(err, asap.RPCInvalidParams, 200)
	})
	http("bearer token", pythonTokenHolder, w.guarded, func(ctx context.Context, c *client.Client) (string, error) {
		task, err := echo(ctx, c, notes)
		if err != nil {
			return "", err
		}
		return metered(ctx, w.guarded, pythonTokenHolder, task)
	}, client.WithTokenSource(client.StaticToken(pythonToken)))
	http("another bearer token", pythonTokenHolder, w.guarded, func(ctx context.Context, c *client.Client) (string, error) {
		_, err := echo(ctx, c, notes)
		return remote(err, asap.RPCInvalidRequest, 200)
	}, client.WithTokenSource(client.StaticToken("forged")))
	http("health", sender("health"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		h, err := c.Health(ctx)
		if err != nil {
			return "", err
		}
		if !h.Healthy() || h.AgentID != pythonAgent {
			return "", fmt.Errorf("health is %+v", h)
		}
		return "version " + h.Version, nil
	})
	http("discovery", sender("discovery"), w.plain, func(ctx context.Context, c *client.Client) (string, error) {
		d, err := c.Manifest(ctx)
		if err != nil {
			return "", err
		}
		if d.Manifest.ID != pythonAgent || d.Signed != nil {
			return "", fmt.Errorf("manifest of %s", d.Manifest.ID)
		}
		return "", nil
	})

	socket("30 tasks", sender("ws"), w.plain, func(ctx context.Context, s *client.Socket) (string, error) {
		return many(30, 1, w.plain, sender("ws"))(ctx, s)
	}, client.WithReconnect(false))
	socket("100 tasks, 16 at a time", sender("wsmany"), w.plain, func(ctx context.Context, s *client.Socket) (string, error) {
		return many(100, 16, w.plain, sender("wsmany"))(ctx, s)
	}, client.WithReconnect(false))
	socket("900 kB", sender("wslarge"), w.plain, func(ctx context.Context, s *client.Socket) (string, error) {
		task, err := echo(ctx, s, `{"text":"`+strings.Repeat("x", 900_000)+`"}`)
		if err != nil {
			return "", err
		}
		return metered(ctx, w.plain, sender("wslarge"), task)
	}, client.WithReconnect(false))
	socket("refusal, and on with the connection", sender("wsrefused"), w.plain, func(ctx context.Context, s *client.Socket) (string, error) {
		_, err := s.Cancel(ctx, pythonAgent, "task_x", "")
		if _, err := remote(err, asap.RPCMethodNotFound, 0); err != nil {
			return "", err
		}
		return many(1, 1, w.plain, sender("wsrefused"))(ctx, s)
	}, client.WithReconnect(false))
	socket("30 tasks at once, where 10 a second may pass", sender("wslimited"), w.limited, func(ctx context.Context, s *client.Socket) (string, error) {
		return many(30, 30, w.limited, sender("wslimited"))(ctx, s)
	})
	socket("bearer token", pythonTokenHolder, w.guarded, func(ctx context.Context, s *client.Socket) (string, error) {
		_, err := echo(ctx, s, notes)
		return "", err
	}, client.WithReconnect(false), client.WithTokenSource(client.StaticToken(pythonToken)))

	registry(ctx, r, w, group)
	commands(ctx, r, w, group)
}

// registry reads a Lite Registry document and a signed manifest that the Python
// release made.
func registry(ctx context.Context, r *report, w *world, group string) {
	r.check(group, "discovery: a Lite Registry that the release wrote", func() (string, error) {
		var agents []any
		for _, c := range manifestCases {
			agents = append(agents, map[string]any{"manifest": jsontext.Value(c.text), "endpoints": map[string]string{"http": w.plain + "/asap", "manifest": w.signedURL}})
		}
		document, err := w.py.ask(ctx, "lite_registry", map[string]any{"agents": agents})
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(w.dir, "files", "registry.json"), document, 0o600); err != nil {
			return "", err
		}
		reg, err := client.NewRegistry(w.filesURL + "/registry.json")
		if err != nil {
			return "", err
		}
		defer reg.Close()
		found, err := reg.Find(ctx, client.AgentQuery{Skill: "echo"})
		if err != nil {
			return "", err
		}
		if len(found) == 0 || found[0].HTTP != w.plain+"/asap" {
			return "", fmt.Errorf("found %+v", found)
		}
		return fmt.Sprintf("%d agents with the skill", len(found)), nil
	})
	r.check(group, "discovery: a manifest that the release signed", func() (string, error) {
		key, err := os.ReadFile(w.path("python.key"))
		if err != nil {
			return "", err
		}
		signed, err := w.py.ask(ctx, "sign", map[string]any{"manifest": jsontext.Value(manifestCases[0].text), "key": string(key)})
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(w.dir, "files", "python.json"), signed, 0o600); err != nil {
			return "", err
		}
		private, err := asap.ReadPrivateKeyPEM(key)
		if err != nil {
			return "", err
		}
		d, err := client.NewDiscovery(client.WithRequiredSignature(), client.WithTrustedKeys(asap.PublicKeyOf(private)))
		if err != nil {
			return "", err
		}
		defer d.Close()
		found, err := d.Discover(ctx, w.filesURL+"/python.json")
		if err != nil {
			return "", err
		}
		if !found.Trusted {
			return "", errors.New("it is not trusted")
		}
		if _, err := d.Discover(ctx, w.signedURL); !errors.Is(err, client.ErrUntrusted) {
			return "", fmt.Errorf("a manifest signed with another key: %w", errors.Join(err, errors.New("expected ErrUntrusted")))
		}
		return "another key is refused", nil
	})
}

// commands runs asap send.
func commands(ctx context.Context, r *report, w *world, group string) {
	send := func(name, who string, tasks int, args ...string) {
		r.check(group, "asap send: "+name, func() (string, error) {
			out, err := w.cli.run(ctx, append([]string{"send", "--to", w.plain, "--skill", "echo", "--input", `{"text":"ahoj"}`, "--sender", who}, args...)...)
			if err != nil {
				return "", err
			}
			body, err := get(ctx, w.plain+"/usage?consumer_id="+who)
			if err != nil {
				return "", err
			}
			if n := strings.Count(string(body), `"task_id"`); n != tasks {
				return "", fmt.Errorf("%d tasks are metered there, want %d: %.200s", n, tasks, out)
			}
			if tasks == 1 && !strings.Contains(out, "ahoj") {
				return "", fmt.Errorf("it prints %.200s", out)
			}
			return fmt.Sprintf("%d metered there", tasks), nil
		})
	}
	send("HTTP", "urn:asap:agent:cli-http", 1)
	send("WebSocket", "urn:asap:agent:cli-ws", 1, "--ws")
	send("100 tasks, 8 at a time", "urn:asap:agent:cli-many", 100, "--repeat", "100", "--parallel", "8")
	send("100 tasks, 8 at a time, over a WebSocket", "urn:asap:agent:cli-wsmany", 100, "--repeat", "100", "--parallel", "8", "--ws")
	r.check(group, "asap send: a refusal", func() (string, error) {
		out, err := w.cli.run(ctx, "send", "--to", w.guarded, "--skill", "echo", "--token", "forged")
		if err == nil {
			return "", fmt.Errorf("not refused: %s", out)
		}
		if !strings.Contains(err.Error(), "exit status 1") {
			return "", err
		}
		return "exit status 1", nil
	})
}
