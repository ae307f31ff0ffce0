package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// docs/cli.md has a row for every command, and none for others.
func TestEveryCommandIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Commands\n")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \| .* \|$`).FindAllStringSubmatch(table, -1) {
		group := ""
		for i, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			words := strings.Fields(quoted[1])
			if i > 0 && group != "" { // further ones of the same group leave its name out
				words = append([]string{group}, words...)
			}
			if len(words) > 1 && regexp.MustCompile("^[a-z][a-z-]*$").MatchString(words[1]) {
				group = words[0]
				documented[words[0]+" "+words[1]] = true
			} else {
				documented[words[0]] = true
			}
		}
	}
	a, _, _ := testApp(t, nil)
	var walk func(c *cobra.Command, path string)
	walk = func(c *cobra.Command, path string) {
		for _, child := range c.Commands() {
			name := strings.TrimSpace(path + " " + child.Name())
			switch {
			case child.Hidden || child.Name() == "help":
			case child.HasSubCommands() && child.Name() != "completion":
				walk(child, name)
			case !documented[name]:
				t.Errorf("docs/cli.md has no row for asap %s", name)
			default:
				delete(documented, name)
			}
		}
	}
	walk(a.root(), "")
	for name := range documented {
		t.Errorf("docs/cli.md has a row for asap %s, which there is not", name)
	}
}

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
