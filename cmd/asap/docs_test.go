package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// Every command answers in JSON, and none swallows the flag.
func TestEveryCommandHasJSON(t *testing.T) {
	a, _, _ := testApp(t, nil)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if f := c.InheritedFlags().Lookup("json"); c.HasParent() && f == nil {
			t.Errorf("%s has no --json", c.CommandPath())
		}
		if c.LocalNonPersistentFlags().Lookup("json") != nil {
			t.Errorf("%s has a --json of its own", c.CommandPath())
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(a.root())
}
