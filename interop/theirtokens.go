package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/go-json-experiment/json"
)

// theirDelegations judges tokens that the Python release made: with our library,
// with our command, and on our node, which counts what they are used for.
func theirDelegations(ctx context.Context, r *report, w *world) {
	const group = "delegation"
	const delegator, delegate = asap.AgentURN("urn:asap:agent:python"), asap.AgentURN("urn:asap:agent:helper")
	text, key, err := readKey(w.path("python.key"))
	if err != nil {
		r.line(group, "reading the key", "", err)
		return
	}
	public := asap.EncodePublicKey(asap.PublicKeyOf(key))
	ring, err := delegation.ParseKeyFile(fmt.Appendf(nil, `{"keys":[{"agent":%q,"public_key":%q}]}`, delegator, public))
	if err == nil {
		err = os.WriteFile(w.path("keys.json"), fmt.Appendf(nil, `{"keys":[{"agent":%q,"public_key":%q}]}`, delegator, public), 0o600)
	}
	if err != nil {
		r.line(group, "reading the public key", "", err)
		return
	}
	make := func(more map[string]any) (string, error) {
		request := map[string]any{"delegator": delegator, "delegate": delegate, "scopes": []string{"task.execute", "data.read"}, "key": text}
		for k, v := range more {
			request[k] = v
		}
		return w.py.askText(ctx, "delegate", request)
	}
	for _, c := range []struct {
		name   string
		more   map[string]any
		caller asap.AgentURN
		action string
		later  time.Duration
		want   asap.Code
	}{
		{"good", nil, delegate, "task.execute", 0, ""},
		{"with limits", map[string]any{"max_tasks": 5, "max_cost_usd": 2.5}, delegate, "task.execute", 0, ""},
		{"with a limit that is no round binary number", map[string]any{"max_cost_usd": 0.1}, delegate, "task.execute", 0, ""},
		{"everything allowed", map[string]any{"scopes": []string{"*"}}, delegate, "task.cancel", 0, ""},
		{"scope it lacks", nil, delegate, "data.write", 0, asap.CodeDelegationScope},
		{"somebody else's", nil, "urn:asap:agent:go", "task.execute", 0, asap.CodeDelegationAudience},
		{"expired", nil, delegate, "task.execute", 2 * time.Hour, asap.CodeDelegationExpired},
		{"delegator nobody knows", map[string]any{"delegator": "urn:asap:agent:nobody"}, delegate, "task.execute", 0, asap.CodeDelegationUnknownIssuer},
	} {
		r.check(group, "made by their library, judged by ours: "+c.name, func() (string, error) {
			token, err := make(c.more)
			if err != nil {
				return "", err
			}
			grant, err := delegation.Verify(token, &delegation.Policy{Keys: ring, IsRoot: func(asap.AgentURN) bool { return true },
				Revoked: func(asap.AgentURN, string) (bool, error) { return false, nil }}, delegation.Query{Caller: c.caller, Action: c.action, Now: time.Now().Add(c.later)})
			switch refused := delegation.AsRefusal(err); {
			case c.want == "" && err != nil:
				return "", err
			case c.want == "":
				return "by " + string(grant.Links()[0].Issuer), nil
			case refused == nil || refused.Code != c.want:
				return "", fmt.Errorf("want %s, got %w", c.want, errors.Join(err, errors.New("not that")))
			}
			return string(c.want), nil
		})
	}
	r.check(group, "made by their asap, judged by ours", func() (string, error) {
		token, err := w.py.asap(ctx, w.dir, "delegation", "create", "--delegate", string(delegate), "--scopes", "task.execute,data.read", "--key", "python.key",
			"--delegator", string(delegator), "--max-tasks", "5")
		if err != nil {
			return "", err
		}
		return w.cli.run(ctx, "delegation", "verify", lastLine(token), "--keys", "keys.json", "--caller", string(delegate), "--offline")
	})
	r.check(group, "made by their library, used on our node: two tasks, then its limit", func() (string, error) {
		token, err := make(map[string]any{"max_tasks": 2})
		if err != nil {
			return "", err
		}
		use := func(key string, who asap.AgentURN) error {
			_, err := w.cli.run(ctx, "send", "--to", w.node.url, "--skill", "echo", "--sender", string(who), "--key", key, "--delegation", token)
			return err
		}
		if err := errors.Join(use("helper.key", delegate), use("helper.key", delegate)); err != nil {
			return "", err
		}
		err = use("helper.key", delegate)
		if err == nil || !strings.Contains(err.Error(), "delegation_") {
			return "", fmt.Errorf("a third task: %w", errors.Join(err, errors.New("expected a refusal")))
		}
		if other := use("go.key", "urn:asap:agent:go"); other == nil || !strings.Contains(other.Error(), string(asap.CodeDelegationAudience)) {
			return "", fmt.Errorf("used by another agent: %w", errors.Join(other, errors.New("expected a refusal")))
		}
		out, err := w.cli.run(ctx, "usage", "summary", "--node", w.node.url, "--data", w.node.data, "--consumer", string(delegate), "--json")
		if err != nil {
			return "", err
		}
		var sums struct {
			TotalTasks int `json:"total_tasks"`
		}
		if err := json.Unmarshal([]byte(out), &sums); err != nil {
			return "", err
		}
		if sums.TotalTasks != 2 {
			return "", fmt.Errorf("%d tasks are recorded, want 2", sums.TotalTasks)
		}
		return "2 recorded", nil
	})
}
