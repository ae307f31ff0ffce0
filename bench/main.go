// Command bench measures the product beside its peers: every row of
// docs/benchmarks.md, A and B in turn in one run, medians of five, and writes the
// page. make bench runs it; what it measures and how is on the page.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		err = serve(ctx, os.Args[2], os.Args[3:])
	} else {
		err = run(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to clean up
	}
}

func run(ctx context.Context, args []string) error {
	b := &bench{out: os.Stdout}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&b.quick, "quick", false, "short runs: figures for orientation")
	flags.StringVar(&b.root, "root", "..", "root of the repository")
	only := flags.String("rows", "", "the rows to measure, as P1,P5; the others stay as they were last measured (default: all)")
	flags.StringVar(&b.profile, "profile", "", "file for a CPU profile of the node of P1, of the last round")
	flags.BoolVar(&b.dry, "n", false, "measure and print, write nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if b.root, err = filepath.Abs(b.root); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, id := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' || r == ' ' }) {
		wanted[strings.ToUpper(id)] = true
	}
	return b.all(ctx, wanted)
}
