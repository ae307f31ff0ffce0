// Command minimal is the least an agent needs.
package main

import (
	"context"
	"log"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/host"
)

func main() {
	a := agent.New("urn:asap:agent:greeter", "Greeter")
	a.Handle("greet", func(_ context.Context, t *agent.Task) (any, error) {
		return map[string]string{"text": "hello, " + string(t.Caller().URN)}, nil
	})
	if err := host.Run(context.Background(), host.Options{}, a); err != nil {
		log.Fatal(err)
	}
}
