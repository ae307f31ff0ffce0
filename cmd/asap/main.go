// Command asap runs an ASAP node, calls agents, reads what nodes recorded, and
// makes the keys, tokens and manifests that both need. Every command answers in text for people, or in
// JSON with --json; results go to standard output, everything else to standard
// error; the exit status is one of four (see exit.go).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // reports by calendar need zones on machines that have none
)

func main() { os.Exit(mainStatus()) }

// mainStatus is main without the exit, so that deferred calls run.
func mainStatus() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv).run(ctx, os.Args[1:])
}
