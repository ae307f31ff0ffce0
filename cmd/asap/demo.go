package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// demoAct is one act of the demonstration as --json tells it.
type demoAct struct {
	Number  int            `json:"number"`
	Title   string         `json:"title"`
	Story   []string       `json:"story"`
	Figures map[string]any `json:"figures"`
}

// demoReport is the answer of demo --json.
type demoReport struct {
	Directory string      `json:"directory"`
	Acts      []*demoAct  `json:"acts"`
	Next      []string    `json:"next"`
	Claims    []demoClaim `json:"claims,omitempty"`
	Passed    int         `json:"claims_passed"`
	Failed    int         `json:"claims_failed"`
}

func (a *app) demoCommand() *cobra.Command {
	var dir string
	var check bool
	cmd := &cobra.Command{
		Use:   "demo [--check] [--data DIR]",
		Short: "Watch the whole story in a few seconds: budgets, a runaway agent, a broken promise, a forger",
		Long: `demo runs a node and three agents in this process and lets things go wrong: an
agent that never stops meets its budget, forty requests race for ten places, a
promise is broken and kept again, a permission is taken back, and somebody forges
the books. Nothing leaves this machine; no key, no configuration and no network is
needed. What happened stays in a directory that the other commands can read, and
that the next demo makes anew. With --check every claim of the story is computed
again from the exported log and the public key, and the last line counts them.

Exit status: 0 done; 1 a claim failed, the run was interrupted, or the directory
is not one that demo may use; 3 the directory cannot be written.`,
		Example: `  asap demo
  asap demo --check
  asap demo --data /tmp/story && asap usage summary --data /tmp/story`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return a.demo(cmd.Context(), dir, check)
		}),
	}
	cmd.Flags().BoolVar(&check, "check", false, "compute every claim again and end with status 1 if one fails")
	cmd.Flags().StringVar(&dir, "data", "asap-demo", "directory to make, or to make anew if an earlier demo made it")
	return cmd
}

// demo tells the story in dir.
func (a *app) demo(ctx context.Context, dir string, check bool) error {
	d := &demo{a: a, dir: dir, report: demoReport{Directory: dir}}
	err := d.run(ctx, check)
	if ctx.Err() != nil {
		return refusedErrorf("interrupted; the next demo makes %s anew", dir)
	}
	if err != nil {
		return err
	}
	if a.json {
		if err := writeJSON(a.out, d.report); err != nil {
			return err
		}
	}
	if d.report.Failed > 0 {
		return quietFailure(exitRefused)
	}
	return nil
}

// run prepares the directory, plays every act and, if asked to, checks the claims.
func (d *demo) run(ctx context.Context, check bool) (err error) {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	d.tell("asap demo: three agents, one ledger, nothing to set up. All of it runs in this process and takes a few")
	d.tell("seconds. What it records is kept in %s.", d.dir)
	if err := d.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, act := range []func(context.Context) error{
		d.actAgents, d.actBudget, d.actLoop, d.actRace, d.actSlow, d.actRevoke, d.actBooks, d.actForger,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	d.next()
	if !check {
		return nil
	}
	if err := d.check(); err != nil {
		return err
	}
	d.showClaims()
	return nil
}

// begin starts the next act.
func (d *demo) begin(title string) {
	d.act = &demoAct{Number: len(d.report.Acts) + 1, Title: title, Figures: map[string]any{}}
	d.report.Acts = append(d.report.Acts, d.act)
	d.tell("")
	d.tell("%s", d.a.paint(ansiBold, fmt.Sprintf("%d. %s", d.act.Number, title)))
}

// say tells one line of the act.
func (d *demo) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	d.act.Story = append(d.act.Story, line)
	d.tell("   %s", line)
}

// tell prints a line, unless the report is printed in its place.
func (d *demo) tell(format string, args ...any) {
	if !d.a.json {
		fmt.Fprintln(d.a.out, strings.TrimRight(fmt.Sprintf(format, args...), " "))
	}
}

// row tells one figure: what it is, and how much.
func (d *demo) row(what, format string, args ...any) {
	d.say("  %-22s %s", what, fmt.Sprintf(format, args...))
}

// next tells what to type now.
func (d *demo) next() {
	asap := demoProgram()
	d.report.Next = []string{
		asap + " usage summary --data " + d.dir,
		asap + " audit verify --data " + d.dir + "/" + forgedDir + " --vkey " + d.dir + "/node.vkey",
		asap + " serve",
	}
	d.tell("")
	d.tell("%s", d.a.paint(ansiBold, "What you can type next"))
	for i, what := range []string{"what was used, and what it cost", "the forged copy: see for yourself, then the same without /" + forgedDir, "a node of your own, to send tasks to"} {
		d.tell("   %s", what)
		d.tell("     %s", d.report.Next[i])
	}
}

// demoProgram is how this program was started, as far as a newcomer typed it.
func demoProgram() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") && filepath.Base(filepath.Dir(path)) == "exe" {
		return "go run ./cmd/asap"
	}
	return "asap"
}

// jsonText is a JSON object made of pairs of names and values.
func jsonText(pairs ...any) jsontext.Value {
	b := []byte{'{'}
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, "%q:%v", pairs[i], pairs[i+1])
	}
	return append(b, '}')
}
