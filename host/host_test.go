package host_test

import (
	"context"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/host"
)

// An agent is hosted, called, recorded, and stops when its context ends.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- host.Run(ctx, host.Options{Listen: "127.0.0.1:0", Data: t.TempDir(), Started: func(url string) { started <- url }},
			agent.Echo("urn:asap:agent:echo"))
	}()
	select {
	case url := <-started:
		c, err := client.New(url, client.WithSender("urn:asap:agent:me"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		result, err := c.Task(ctx, client.TaskCall{Recipient: "urn:asap:agent:echo", Skill: "echo"})
		if err != nil || result.Status != asap.Completed || result.Receipt == nil {
			t.Errorf("%+v, %v", result, err)
		}
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Nothing is served when the configuration or an agent is wrong.
func TestRunRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		options host.Options
		agents  []*agent.Agent
		want    string
	}{
		{"no agent", host.Options{}, nil, "hosts at least one"},
		{"bad urn", host.Options{}, []*agent.Agent{agent.Echo("echo")}, "urn"},
		{"no such file", host.Options{Config: "none.yaml"}, nil, "none.yaml"},
		{"beyond loopback", host.Options{Listen: "0.0.0.0:0"}, nil, "reachable from other machines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Data = t.TempDir()
			if c.options.Listen == "" {
				c.options.Listen = "127.0.0.1:0"
			}
			err := host.Run(t.Context(), c.options, c.agents...)
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
