package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very test binary as "asap", and the documents
// a stand-in for curl.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"asap": func() { os.Exit(mainStatus()) },
		"curl": func() { os.Exit(curlStatus(os.Args[1:])) },
	})
}

// TestScripts runs testdata/script/*.txtar: every command as a person types it.
// A script whose expected output is part of it is rewritten by
//
//	UPDATE_SCRIPTS=1 go test ./cmd/asap -run TestScripts
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tokens, err := filepath.Abs("../../delegation/testdata")
			if err != nil {
				return err
			}
			env.Setenv("TOKENS", tokens)
			docs, err := filepath.Abs("../../docs")
			if err != nil {
				return err
			}
			env.Setenv("DOCS", docs)
			env.Setenv("NODE_ADDRESS", "127.0.0.1:0") // until a script knows better
			for name, in := range map[string]time.Duration{"YESTERDAY": -24 * time.Hour, "SOON": 2 * time.Minute, "TOMORROW": 24 * time.Hour, "OVERMORROW": 48 * time.Hour} {
				env.Setenv(name, time.Now().UTC().Add(in).Format(time.RFC3339))
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":   scriptStatus,
			"node":     scriptNode,
			"forge":    scriptForge,
			"receipt":  scriptReceipt,
			"expand":   scriptExpand,
			"tutorial": scriptTutorial,
		},
	})
}
