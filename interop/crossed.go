package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ask has crossed.py do something with the Python library and returns what it
// answered as raw JSON. A *pythonError is what the library raised.
func (p *python) ask(ctx context.Context, do string, request map[string]any) (jsontext.Value, error) {
	request["do"] = do
	in, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd := p.command(ctx, "crossed.py")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(in), &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("crossed.py: %w", err)
	}
	for line := range strings.Lines(out.String()) {
		if text, ok := strings.CutPrefix(line, "ANSWER "); ok {
			var answer struct {
				Value jsontext.Value `json:"value"`
				Error string         `json:"error"`
			}
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				return nil, err
			}
			if answer.Error != "" {
				return nil, &pythonError{answer.Error}
			}
			return answer.Value, nil
		}
	}
	return nil, fmt.Errorf("crossed.py gave no answer: %.200s", out.String())
}

// pythonError is an exception of the Python library.
type pythonError struct{ text string }

func (e *pythonError) Error() string { return e.text }

func (p *python) askText(ctx context.Context, do string, request map[string]any) (text string, err error) {
	value, err := p.ask(ctx, do, request)
	if err == nil {
		err = json.Unmarshal(value, &text)
	}
	return text, err
}

// asap runs the asap command of the Python release in the folder of the run.
// Its library's log goes to standard output, in front of what is asked for.
func (p *python) asap(ctx context.Context, dir string, args ...string) (string, error) {
	path, err := filepath.Abs(filepath.Join(filepath.Dir(p.interpreter), "asap"))
	if err != nil {
		return "", err
	}
	cli := &binary{path: path, dir: dir}
	return cli.run(ctx, args...)
}

// manifestCases are manifests in which the two sides could differ.
var manifestCases = []struct{ name, text string }{
	{"small", `{"id":"urn:asap:agent:small","name":"Small","version":"1.0.0","description":"Has the least there can be",
		"capabilities":{"asap_version":"0.1","skills":[{"id":"echo","description":"Gives back its input"}]},"endpoints":{"asap":"https://agent.example.com/asap"}}`},
	{"everything", `{"id":"urn:asap:agent:full","name":"Full","version":"2.1.0rc1","description":"Has everything","ttl_seconds":60,
		"capabilities":{"asap_version":"0.1","state_persistence":true,"streaming":true,"mcp_tools":["b","a"],
			"skills":[{"id":"echo","description":"d","input_schema":{"type":"object","properties":{"x":{"minimum":0.1,"maximum":1e21}}},"output_schema":null}]},
		"endpoints":{"asap":"https://agent.example.com/asap","events":"wss://agent.example.com/asap/events"},
		"auth":{"schemes":["bearer"],"oauth2":{"authorization_url":"https://auth.example.com/a","token_url":"https://auth.example.com/t","scopes":["asap:execute"]}},
		"sla":{"availability":"99.5%","max_latency_p95_ms":500,"max_error_rate":"1%","support_hours":"24/7"}}`},
	{"scripts and escapes", `{"id":"urn:asap:agent:scripts","name":"Žluťoučký 🐎 é é","version":"1.0.0","description":"\"\\\/\b\f\n\r\t\u0001\u007f\u2028\ufeff<>&",
		"capabilities":{"asap_version":"0.1","skills":[{"id":"echo","description":"","input_schema":{"€":1,"\ud83d\ude00":2,"\ufb33":3,"ö":4,"\r":5,"1":6,"\u0080":7}}]},
		"endpoints":{"asap":"http://localhost/asap"}}`},
	{"numbers", `{"id":"urn:asap:agent:numbers","name":"n","version":"1.0.0","description":"d",
		"capabilities":{"asap_version":"0.1","skills":[{"id":"echo","description":"d","input_schema":{"n":[0,-0.0,1.0,1e-7,0.000001,1e20,1e21,1e22,5e-324,1.7976931348623157e308,9007199254740991,0.1,1.10,333333333.3333332,4.35,100]}}]},
		"endpoints":{"asap":"http://localhost/asap"}}`},
}

// crossManifests signs manifests on one side and verifies them on the other.
func crossManifests(ctx context.Context, r *report, w *world) {
	const group = "manifests"
	r.check(group, "one key, seen by both sides", func() (string, error) { return sameKeys(ctx, w) })
	goKey, key, err := readKey(w.path("go.key"))
	if err != nil {
		r.line(group, "reading the key", "", err)
		return
	}
	for _, c := range manifestCases {
		r.check(group, c.name+": library of either side signs, the other verifies, the signatures are equal", func() (string, error) {
			m, err := asap.ParseManifest([]byte(c.text))
			if err != nil {
				return "", err
			}
			ours, err := asap.SignManifest(m, key)
			if err != nil {
				return "", err
			}
			text, err := json.Marshal(ours)
			if err != nil {
				return "", err
			}
			if _, err := w.py.ask(ctx, "verify", map[string]any{"signed": jsontext.Value(text)}); err != nil {
				return "", fmt.Errorf("Python refuses ours: %w", err)
			}
			document, err := w.py.ask(ctx, "sign", map[string]any{"manifest": jsontext.Value(c.text), "key": goKey})
			if err != nil {
				return "", err
			}
			theirs, err := asap.ParseSignedManifest(document)
			if err != nil {
				return "", fmt.Errorf("we cannot read Python's: %w", err)
			}
			if err := asap.VerifyManifest(theirs, asap.VerifyOptions{PublicKey: asap.PublicKeyOf(key)}); err != nil {
				return "", fmt.Errorf("we refuse Python's: %w", err)
			}
			if err := errors.Join((*jsontext.Value)(&text).Canonicalize(), document.Canonicalize()); err != nil {
				return "", err
			}
			if string(text) != string(document) {
				return "", fmt.Errorf("ours is %s, Python's is %s", text, document)
			}
			return "", nil
		})
	}
	m, err := asap.ParseManifest([]byte(manifestCases[1].text))
	if err != nil {
		r.line(group, "reading the manifest", "", err)
		return
	}
	r.check(group, "changed after signing: refused by both sides", func() (string, error) {
		signed, err := asap.SignManifest(m, key)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(signed)
		if err != nil {
			return "", err
		}
		text = bytes.Replace(text, []byte("99.5%"), []byte("99.6%"), 1)
		_, err = w.py.ask(ctx, "verify", map[string]any{"signed": jsontext.Value(text)})
		if refused := new(pythonError); !errors.As(err, &refused) {
			return "", fmt.Errorf("Python takes it: %w", errors.Join(err, errors.New("expected an exception")))
		}
		changed, err := asap.ParseSignedManifest(text)
		if err != nil {
			return "", err
		}
		if asap.VerifyManifest(changed, asap.VerifyOptions{}) == nil {
			return "", errors.New("we take it")
		}
		return "", nil
	})
	r.check(group, "an authority's signature, both ways", func() (string, error) {
		ours, err := asap.SignManifestAs(m, key, asap.TrustVerified)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(ours)
		if err != nil {
			return "", err
		}
		public := asap.EncodePublicKey(asap.PublicKeyOf(key))
		if _, err := w.py.ask(ctx, "verify_authority", map[string]any{"signed": jsontext.Value(text), "known": []string{public}}); err != nil {
			return "", fmt.Errorf("Python refuses ours: %w", err)
		}
		document, err := w.py.ask(ctx, "sign_as_authority", map[string]any{"manifest": jsontext.Value(manifestCases[1].text), "key": goKey})
		if err != nil {
			return "", err
		}
		theirs, err := asap.ParseSignedManifest(document)
		if err != nil {
			return "", err
		}
		return "", asap.VerifyManifestCA(theirs, []ed25519.PublicKey{asap.PublicKeyOf(key)})
	})
	r.check(group, "our asap signs, the release's asap verifies", func() (string, error) {
		if _, err := w.cli.run(ctx, "manifest", "sign", "manifest.json", "--key", "go.key", "--out", "ours.json"); err != nil {
			return "", err
		}
		if out, err := w.py.asap(ctx, w.dir, "manifest", "verify", "ours.json", "--public-key", "python.key"); err == nil {
			return "", fmt.Errorf("it verifies with another key: %s", out)
		}
		out, err := w.py.asap(ctx, w.dir, "manifest", "verify", "ours.json", "--public-key", "go.key")
		return lastLine(out), err
	})
	r.check(group, "the release's asap signs, our asap verifies", func() (string, error) {
		if _, err := w.py.asap(ctx, w.dir, "manifest", "sign", "manifest.json", "--key", "python.key", "--out", "theirs.json"); err != nil {
			return "", err
		}
		if out, err := w.cli.run(ctx, "manifest", "verify", "theirs.json", "--public-key", "go.key"); err == nil {
			return "", fmt.Errorf("it verifies with another key: %s", out)
		}
		out, err := w.cli.run(ctx, "manifest", "verify", "theirs.json", "--public-key", "python.key")
		return lastLine(out), err
	})
}

func sameKeys(ctx context.Context, w *world) (string, error) {
	if _, err := w.py.asap(ctx, w.dir, "keys", "generate", "--out", "made-by-python.key"); err != nil {
		return "", err
	}
	for _, name := range []string{"made-by-python.key", "go.key"} {
		text, err := os.ReadFile(w.path(name))
		if err != nil {
			return "", err
		}
		theirs, err := w.py.askText(ctx, "public_key", map[string]any{"key": string(text)})
		if err != nil {
			return "", err
		}
		ours, err := w.cli.run(ctx, "keys", "show", name, "--format", "base64")
		if err != nil {
			return "", err
		}
		if ours != theirs {
			return "", fmt.Errorf("%s: public key %s here, %s there", name, ours, theirs)
		}
	}
	return "asap keys generate of either side", nil
}

func readKey(path string) (text string, key ed25519.PrivateKey, err error) {
	b, err := os.ReadFile(path) //nolint:gosec // a key of the run
	if err != nil {
		return "", nil, err
	}
	key, err = asap.ReadPrivateKeyPEM(b)
	return string(b), key, err
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// crossDelegations makes tokens on one side and judges them on the other.
func crossDelegations(ctx context.Context, r *report, w *world) {
	const group = "delegation"
	const delegator, delegate = asap.AgentURN("urn:asap:agent:go"), asap.AgentURN("urn:asap:agent:helper")
	_, key, err := readKey(w.path("go.key"))
	if err != nil {
		r.line(group, "reading the key", "", err)
		return
	}
	public := asap.EncodePublicKey(asap.PublicKeyOf(key))
	judge := func(token, action string, more map[string]any) (judgement, error) {
		request := map[string]any{"token": token, "action": action, "keys": map[string]string{string(delegator): public}}
		for k, v := range more {
			request[k] = v
		}
		value, err := w.py.ask(ctx, "judge", request)
		var j judgement
		if err == nil {
			err = json.Unmarshal(value, &j)
		}
		return j, err
	}
	issue := func(change func(*delegation.Terms)) (string, error) {
		now := time.Now()
		t := delegation.Terms{Issuer: delegator, Delegate: delegate, TokenID: delegation.NewTokenID(asap.NewIDSource(), now), IssuedAt: now,
			ExpiresAt: now.Add(time.Hour), Scopes: []string{"task.execute", "data.read"}, MaxTasks: new(int64(3)), MaxNanoUSD: new(int64(2_500_000_000))}
		if change != nil {
			change(&t)
		}
		return delegation.Issue(t, key)
	}
	for _, c := range []struct {
		name   string
		change func(*delegation.Terms)
		action string
		more   map[string]any
		want   string // in the error; empty if the token is good
	}{
		{"good", nil, "task.execute", nil, ""},
		{"another of its scopes", nil, "data.read", nil, ""},
		{"everything allowed", func(t *delegation.Terms) { t.Scopes = []string{delegation.ScopeAll} }, "task.cancel", nil, ""},
		{"scope it lacks", nil, "data.write", nil, "not allowed"},
		{"expired", func(t *delegation.Terms) {
			t.IssuedAt, t.ExpiresAt = t.IssuedAt.Add(-2*time.Hour), t.IssuedAt.Add(-time.Hour)
		}, "task.execute", nil, "expired"},
		{"two tasks used of three", nil, "task.execute", map[string]any{"used": 2}, ""},
		{"all tasks used", nil, "task.execute", map[string]any{"used": 3}, "limit exceeded"},
		{"revoked", func(t *delegation.Terms) { t.TokenID = "del_revoked" }, "task.execute", map[string]any{"revoked": []string{"del_revoked"}}, "revoked"},
		{"bound to a key and to a server", func(t *delegation.Terms) {
			t.ConfirmJKT, t.Resources = delegation.Thumbprint(asap.PublicKeyOf(key)), []string{"https://x.example.com"}
		}, "task.execute", nil, ""},
	} {
		r.check(group, "made by our library, judged by theirs: "+c.name, func() (string, error) {
			token, err := issue(c.change)
			if err != nil {
				return "", err
			}
			j, err := judge(token, c.action, c.more)
			if err != nil {
				return "", err
			}
			return j.verdict(c.want, delegator, delegate)
		})
	}
	r.check(group, "made by our asap, judged by their library", func() (string, error) {
		token, err := w.cli.run(ctx, "delegation", "create", "--delegate", string(delegate), "--scopes", "task.execute", "--key", "go.key",
			"--delegator", string(delegator), "--max-tasks", "3", "--max-cost-usd", "0.05")
		if err != nil {
			return "", err
		}
		j, err := judge(token, "task.execute", nil)
		if err != nil {
			return "", err
		}
		return j.verdict("", delegator, delegate)
	})
	r.check(group, "a chain of ours: they refuse it, and do not misread it", func() (string, error) {
		token, err := issue(nil)
		if err != nil {
			return "", err
		}
		_, helper, err := readKey(w.path("helper.key"))
		if err != nil {
			return "", err
		}
		now := time.Now()
		token, err = delegation.Attenuate(token, delegation.Terms{Issuer: delegate, Delegate: "urn:asap:agent:third", TokenID: "del_third", IssuedAt: now,
			ExpiresAt: now.Add(time.Minute), Scopes: []string{"task.execute"}, MaxTasks: new(int64(1)), MaxNanoUSD: new(int64(1))}, helper)
		if err != nil {
			return "", err
		}
		j, err := judge(token, "task.execute", nil)
		if err != nil {
			return "", err
		}
		return j.verdict("malformed", delegator, delegate)
	})
	theirDelegations(ctx, r, w)
}

// judgement is what validate_delegation returned.
type judgement struct {
	Success   bool          `json:"success"`
	Error     string        `json:"error"`
	Delegator asap.AgentURN `json:"delegator"`
	Delegate  asap.AgentURN `json:"delegate"`
}

// verdict compares a judgement with the error that is wanted; empty for none.
func (j judgement) verdict(want string, delegator, delegate asap.AgentURN) (string, error) {
	switch {
	case j.Success != (want == ""), !strings.Contains(j.Error, want):
		return "", fmt.Errorf("%+v", j)
	case j.Success && (j.Delegator != delegator || j.Delegate != delegate):
		return "", fmt.Errorf("parties are wrong: %+v", j)
	}
	return j.Error, nil
}
