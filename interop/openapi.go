package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// openAPI holds nodes of ours to the document that they serve at /openapi.json:
// schemathesis calls every route with an operator's credentials, an agent's and
// none, each on a node of its own that has tasks, reports, agents, delegations,
// an audit log and a breach, and checks every answer.
func openAPI(ctx context.Context, r *report, w *world) error {
	// The coverage phase walks through every bound of every parameter, the fuzzing
	// phase makes up as many requests per route as stand here.
	for _, c := range []struct{ name, phases, examples string }{
		{"operator", "examples,coverage,fuzzing", "10"},
		{"agent", "examples,fuzzing", "10"},
		{"nobody", "examples,fuzzing", "5"},
	} {
		f, err := startFilled(ctx, w, c.name)
		if err != nil {
			return err
		}
		token := map[string]string{"operator": f.operator, "agent": f.agent}[c.name]
		said, err := f.schemathesis(ctx, c.name, token, "--phases", c.phases, "--max-examples", c.examples)
		if err != nil {
			fmt.Fprintln(r.out, said)
		}
		r.line("openapi", "schemathesis as "+c.name, casesOf(said), err)
		f.node.stop()
	}
	return nil
}

// casesOf returns what schemathesis says of how much it tried.
func casesOf(said string) string {
	for line := range strings.Lines(said) {
		if strings.Contains(line, " generated, ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// filled is a node with something of everything in it.
type filled struct {
	w               *world
	node            *process
	hc              *http.Client
	operator, agent string // tokens
	known           map[string]map[string]any
}

// startFilled starts such a node.
func startFilled(ctx context.Context, w *world, name string) (*filled, error) {
	hc := &http.Client{Timeout: 30 * time.Second}
	node, err := w.startNode(ctx, hc, name, "--set", "delegation.keys="+goAgent+"="+w.path("go.key"), "--set", "sla.probe_interval=1s", "--set", "sla.for=0s")
	if err != nil {
		return nil, err
	}
	f := &filled{w: w, node: node, hc: hc}
	if err := f.fill(ctx); err != nil {
		return nil, fmt.Errorf("filling the node %s: %w", name, err)
	}
	return f, nil
}

const (
	goAgent     = "urn:asap:agent:go"
	helperAgent = "urn:asap:agent:helper"
)

// fill puts it there and notes the names of what exists.
func (f *filled) fill(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(f.node.data, "operator.token"))
	if err != nil {
		return err
	}
	f.operator = strings.TrimSpace(string(text))
	mint := func(who, key string) (string, error) {
		return f.w.cli.run(ctx, "token", "mint", "--key", key, "--agent", who, "--audience", "urn:asap:agent:node", "--expires-in", "1h")
	}
	if f.agent, err = mint(goAgent, "go.key"); err != nil {
		return err
	}
	helper, err := mint(helperAgent, "helper.key")
	if err != nil {
		return err
	}
	if _, err := f.w.cli.run(ctx, "send", "--to", f.node.url, "--skill", "echo", "--input", `{"text":"ahoj"}`, "--sender", goAgent, "--token", f.agent, "--repeat", "30"); err != nil {
		return err
	}
	now := time.Now().UTC().Format(time.RFC3339)
	usage := fmt.Sprintf(`{"id":"report-1","task_id":"task-1","agent":%q,"consumer":%q,"tokens_in":10,"tokens_out":5,"timestamp":%q,"skill":"count"}`, goAgent, helperAgent, now)
	if _, err := f.call(ctx, http.MethodPost, "/usage", f.agent, usage); err != nil {
		return err
	}
	delegated, err := f.call(ctx, http.MethodPost, "/delegations", f.agent, fmt.Sprintf(`{"delegate":%q,"scopes":["task.execute"],"max_tasks":5}`, helperAgent))
	if err != nil {
		return err
	}
	var delegation struct {
		Token string `json:"token"`
		ID    string `json:"id"`
	}
	if err := json.Unmarshal(delegated, &delegation); err != nil {
		return err
	}
	if _, err := f.w.cli.run(ctx, "send", "--to", f.node.url, "--skill", "echo", "--sender", helperAgent, "--token", helper, "--delegation", delegation.Token); err != nil {
		return err
	}
	signed, err := f.register(ctx)
	if err != nil {
		return err
	}
	entry, err := f.await(ctx, "/audit/logs?limit=1", "id")
	if err != nil {
		return err
	}
	// The agent is down, and fails: once that is seen, there are an outage and a
	// breach.
	if _, err := f.await(ctx, "/agents/"+goAgent+"/sla/outages", "agent"); err != nil {
		return err
	}
	now = time.Now().UTC().Format(time.RFC3339Nano)
	var failures []string
	for i := range 30 {
		failures = append(failures, fmt.Sprintf(`{"task_id":"failure-%d","agent":%q,"consumer":%q,"timestamp":%q,"outcome":"failed"}`, i, goAgent, helperAgent, now))
	}
	if _, err := f.call(ctx, http.MethodPost, "/usage/batch", f.agent, `{"events":[`+strings.Join(failures, ",")+`]}`); err != nil {
		return err
	}
	if _, err := f.await(ctx, "/agents/"+goAgent+"/sla/breaches", "id"); err != nil {
		return err
	}
	if _, err := f.call(ctx, http.MethodGet, "/audit/checkpoint", f.operator, ""); err != nil {
		return err
	}
	cursors := map[string]string{}
	for _, path := range []string{"/usage", "/audit/logs"} {
		body, err := f.call(ctx, http.MethodGet, path+"?limit=5", f.agent, "")
		if err != nil {
			return err
		}
		var page struct {
			Next string `json:"next_cursor"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return err
		}
		cursors[path] = page.Next
	}
	id := map[string]any{"id": delegation.ID}
	agent := map[string]any{"id": goAgent}
	f.known = map[string]map[string]any{
		"* /usage/{task_id}":           {"task_id": "task-1"},
		"POST /usage":                  {"body": jsontext.Value(strings.Replace(usage, "report-1", "report-2", 1))},
		"POST /usage/validate":         {"body": jsontext.Value(usage)},
		"POST /usage/batch":            {"body": jsontext.Value(`{"events":[` + usage + `]}`)},
		"GET /usage":                   {"cursor": cursors["/usage"]},
		"GET /audit/logs":              {"cursor": cursors["/audit/logs"]},
		"* /audit/logs/{id}":           {"id": entry},
		"GET /audit/proof/inclusion":   {"id": entry, "size": 20},
		"GET /audit/proof/consistency": {"from": 5, "to": 20},
		"POST /delegations":            {"body": jsontext.Value(fmt.Sprintf(`{"delegate":%q,"scopes":["task.execute"]}`, helperAgent))},
		"PUT /registry/agents/{id}":    {"id": goAgent, "body": jsontext.Value(signed)},
		"GET /registry/agents/{id}":    agent,
		"DELETE /registry/agents/{id}": {"id": "urn:asap:agent:nobody"},
		"GET /usage/aggregate":         {"group_by": "agent,day"},
	}
	for _, prefix := range []string{"", "/asap"} {
		for _, suffix := range []string{"", "/chain", "/usage"} {
			f.known["GET "+prefix+"/delegations/{id}"+suffix] = id
		}
		f.known["POST "+prefix+"/delegations/verify"] = map[string]any{"body": map[string]any{"token": delegation.Token, "caller": helperAgent, "explain": true}}
	}
	for _, suffix := range []string{"", "/history", "/breaches", "/outages"} {
		f.known["GET /agents/{id}/sla"+suffix] = agent
	}
	return nil
}

// register registers an agent with promises and an address at which nobody
// answers, so that it breaks one.
func (f *filled) register(ctx context.Context) (string, error) {
	manifest := fmt.Sprintf(`{"id":%q,"name":"Count","version":"1.0.0","description":"Counts","capabilities":{"asap_version":"0.1","skills":[{"id":"count","description":"Counts"}]},
		"endpoints":{"asap":"http://127.0.0.1:1/asap"},"sla":{"availability":"99.9%%","max_latency_p95_ms":500,"max_error_rate":"1%%"}}`, goAgent)
	if err := os.WriteFile(f.w.path("count.json"), []byte(manifest), 0o600); err != nil {
		return "", err
	}
	signed, err := f.w.cli.run(ctx, "manifest", "sign", "count.json", "--key", "go.key")
	if err != nil {
		return "", err
	}
	_, err = f.call(ctx, http.MethodPut, "/registry/agents/"+goAgent, f.operator, signed)
	return signed, err
}

// await asks until the answer lists something, and returns a member of the first.
func (f *filled) await(ctx context.Context, path, member string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var list struct {
			Data []map[string]any `json:"data"`
		}
		body, err := f.call(ctx, http.MethodGet, path, f.operator, "") // 404 of what is not watched yet
		if err == nil {
			err = json.Unmarshal(body, &list)
		}
		if err == nil && len(list.Data) > 0 {
			return fmt.Sprint(list.Data[0][member]), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s stays empty: %w", path, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// call makes a request that must succeed.
func (f *filled) call(ctx context.Context, method, path, token, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.node.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	answer, err := f.hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, answer.Status, got)
	}
	return got, err
}

// schemathesis runs it on the node, with a folder of its own for what it keeps.
// It returns what it said.
func (f *filled) schemathesis(ctx context.Context, name, token string, more ...string) (string, error) {
	dir := f.w.path("schemathesis-" + name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	known, err := json.Marshal(f.known)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "examples.json")
	if err := os.WriteFile(file, known, 0o600); err != nil {
		return "", err
	}
	scripts, err := filepath.Abs(f.w.py.dir)
	if err != nil {
		return "", err
	}
	interpreter, err := filepath.Abs(f.w.py.interpreter)
	if err != nil {
		return "", err
	}
	args := []string{"-m", "schemathesis.cli", "--config-file", filepath.Join(filepath.Dir(scripts), "schemathesis.toml"), "run", f.node.url + "/openapi.json",
		"--request-timeout", "30"}
	args = append(args, more...)
	if token != "" {
		args = append(args, "--header", "Authorization: Bearer "+token)
	}
	cmd := exec.CommandContext(ctx, interpreter, args...) //nolint:gosec // of our virtual environment
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PYTHONPATH="+scripts, "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0", "INTEROP_EXAMPLES="+file)
	said, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("see above: %w", err)
	}
	return string(said), err
}
