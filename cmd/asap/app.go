package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/spf13/cobra"
)

// app is one run of the program: its streams, its environment, and the flags
// that every command has. Commands take everything they touch from here.
type app struct {
	in     io.Reader
	out    io.Writer
	errOut io.Writer
	getenv func(string) string

	json    bool // --json
	verbose bool // --verbose
}

func newApp(in io.Reader, out, errOut io.Writer, getenv func(string) string) *app {
	return &app{in: in, out: out, errOut: errOut, getenv: getenv}
}

// root builds the command tree. A command group adds itself with one line here
// and lives in a file of its own.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "asap",
		Short: "Run, call and audit agents that speak ASAP",
		Long: `asap runs an ASAP node beside or inside an agent, calls agents, and answers what
is asked afterwards: who used what, whether it was allowed, whether the promise
was kept, and how to prove it. It also makes the keys, tokens and signed
manifests that agents need.

Exit status: 0 done; 1 refused, or a check failed; 2 wrong usage or unusable
input; 3 a node or its data cannot be reached or read.`,
		Version:           asap.Version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "answer in JSON")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "say more")
	root.AddCommand(a.schemaAliases()...)
	return group(root,
		a.demoCommand(),
		a.serveCommand(),
		a.migrateCommand(),
		a.sendCommand(),
		a.usageCommand(),
		a.delegationCommand(),
		a.auditCommand(),
		a.storeCommand(),
		a.registryCommand(),
		a.keysCommand(),
		a.tokenCommand(),
		a.manifestCommand(),
		a.schemasCommand(),
		a.slaCommand(),
		a.traceCommand(),
		a.configCommand(),
		a.doctorCommand(),
		a.benchCommand(),
		a.versionCommand(),
		a.completionCommand(),
		a.manCommand(),
	)
}

// run executes the command line args and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	failure := &statusError{status: exitUsage, err: err}
	errors.As(err, &failure)
	if !failure.quiet {
		a.reportError(cmd, args, failure)
	}
	return failure.status
}

// reportError writes failure to standard error: one line, preceded by a hint
// when the usage was wrong, or one JSON object under --json.
func (a *app) reportError(cmd *cobra.Command, args []string, failure *statusError) {
	asJSON := a.json
	for _, arg := range args { // flag parsing may have failed before it got there
		asJSON = asJSON || arg == "--json"
	}
	message := strings.TrimRight(failure.Error(), "\n")
	if asJSON {
		type body struct {
			Status  int    `json:"exit_status"`
			Message string `json:"message"`
		}
		// There is nowhere left to report a failure to write to standard error.
		_ = writeJSON(a.errOut, struct {
			Error body `json:"error"`
		}{body{failure.status, message}})
		return
	}
	switch {
	case errors.Is(failure, errNoCommand):
		fmt.Fprintln(a.errOut, cmd.UsageString())
	case failure.status == exitUsage:
		fmt.Fprintf(a.errOut, "Usage: %s\nTry '%s --help' for help.\n\n", cmd.UseLine(), cmd.CommandPath())
	}
	fmt.Fprintf(a.errOut, "Error: %s\n", plainLines(message)) // it may quote a file or another node
}

// warnf writes one line of warning to standard error.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.errOut, "Warning: %s\n", plainLines(fmt.Sprintf(format, args...)))
}

// work adapts the work of a command for cobra: an error that does not name an
// exit status means that what was asked for was refused or failed, not that the
// command line was wrong.
func work(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		var known *statusError
		if err != nil && !errors.As(err, &known) {
			return &statusError{status: exitRefused, err: err}
		}
		return err
	}
}

// errNoCommand is the failure of a command that only holds others.
var errNoCommand = errors.New("a command is missing")

// group makes cmd a command that only holds others: alone it shows its help and
// is a usage error, and so is a word that is none of its commands.
func group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q", args[0])
		}
		return nil
	}
	cmd.RunE = func(*cobra.Command, []string) error { return errNoCommand }
	cmd.AddCommand(commands...)
	return cmd
}

// mustRequire marks a flag of cmd as required; not having that flag is a mistake
// in this program.
func mustRequire(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err)
	}
}
