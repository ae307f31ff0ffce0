package client_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
)

// Ask an agent, and tell what it said from what went wrong on the way.
func Example() {
	c, err := client.New("https://agent.example.com", client.WithSender("urn:asap:agent:me"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	result, err := c.Task(context.Background(), client.TaskCall{
		Recipient: "urn:asap:agent:researcher",
		Skill:     "summarise",
		Input:     jsontext.Value(`{"text":"…"}`),
	})
	var refused *client.RemoteError
	switch {
	case errors.As(err, &refused):
		fmt.Println("the agent refused:", refused.DataCode, refused.Message)
	case client.MayHaveExecuted(err):
		fmt.Println("no answer, but it may have been done:", err)
	case err != nil:
		fmt.Println("it was not done:", err)
	default:
		fmt.Println(result.Status, result.Result)
	}
}

// Stay connected: updates arrive as they happen, and what was asked survives a
// lost connection.
func ExampleSocket() {
	ctx := context.Background()
	s, err := client.NewSocket("wss://agent.example.com",
		client.WithSender("urn:asap:agent:me"),
		client.WithHandlers(client.Handlers{
			Push: func(_ context.Context, e *asap.Envelope) { fmt.Println("update:", e.PayloadType) },
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Connect(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = s.Close() }()

	task, err := s.Task(ctx, client.TaskCall{Recipient: "urn:asap:agent:researcher", Skill: "study"})
	if err == nil && !task.Status.Terminal() {
		task, err = s.Wait(ctx, "urn:asap:agent:researcher", task.TaskID)
	}
	fmt.Println(task, err)
}

// Act for somebody else: the key proves who calls, the delegation what it may.
func ExampleWithDelegation() {
	_, key, err := ed25519.GenerateKey(nil) // or asap.ReadPrivateKeyPEM
	if err != nil {
		fmt.Println(err)
		return
	}
	identity, err := client.NewKeyTokens(key, "urn:asap:agent:me", "urn:asap:agent:node", 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.New("https://agent.example.com",
		client.WithSender("urn:asap:agent:me"),
		client.WithTokenSource(identity),
		client.WithDelegation("eyJhbGciOiJFZERTQSJ9…"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.Task(context.Background(), client.TaskCall{Recipient: "urn:asap:agent:researcher", Skill: "study"})
	var refused *client.RemoteError
	if errors.As(err, &refused) && refused.DataCode == asap.CodeDelegationLimitCost {
		fmt.Println("the budget is used up")
	}
}
