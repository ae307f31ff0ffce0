package main

import (
	"os"
	"strings"
	"testing"
)

// The README shows this program as it is, and it is short.
func TestShownInReadme(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(program), "\n"); n > 20 {
		t.Errorf("%d lines; an agent is promised in 20", n)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(program), "package main\n")
	if !strings.Contains(string(readme), "```go\npackage main\n"+shown+"```\n") {
		t.Error("README.md does not show main.go as it is")
	}
}
