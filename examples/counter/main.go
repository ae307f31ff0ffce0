// Command counter is an agent that counts the words of a text and reports what
// it used. It is served by a node of its own: run it, then
//
//	asap send --to http://127.0.0.1:8080 --skill count --input '{"text":"one two"}'
//	asap usage list
package main

import (
	"context"
	"log"
	"strings"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/host"
)

func main() {
	a := agent.New("urn:asap:agent:counter", "Word counter")
	a.Handle("count", func(_ context.Context, t *agent.Task) (any, error) {
		var in struct {
			Text string `json:"text"`
		}
		if err := t.Decode(&in); err != nil {
			return nil, err
		}
		words := len(strings.Fields(in.Text))
		t.Usage().AddTokens(int64(words), 1)
		return map[string]int{"words": words}, nil
	})
	if err := host.Run(context.Background(), host.Options{}, a); err != nil {
		log.Fatal(err)
	}
}
