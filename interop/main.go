// Command interop runs this project against the public Python release of ASAP,
// asap-protocol 1.3.0, both ways: their client and compliance harness against our
// node, our client against their server, and keys, manifests and delegation
// tokens made on one side and judged on the other. It prints one line for each
// check and exits with 1 if one failed.
//
// make interop builds the binary, makes the virtual environment and runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	var (
		asapBinary  = flag.String("asap", "../asap", "the asap binary")
		interpreter = flag.String("python", "../.venv/bin/python", "Python of the virtual environment")
		scripts     = flag.String("scripts", "python", "folder of the Python scripts")
		what        = flag.String("run", "python", "what to run: python, the Python release; openapi, schemathesis over our own interface")
		timeout     = flag.Duration("timeout", 15*time.Minute, "for everything")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	r := &report{out: os.Stdout}
	if err := run(ctx, r, *what, *asapBinary, *interpreter, *scripts); err != nil {
		r.line("interop", "setting up", "", err)
	}
	fmt.Printf("%d passed, %d failed\n", r.passed, r.failed)
	if r.failed > 0 || r.passed == 0 {
		os.Exit(1) //nolint:gocritic // nothing is left to clean up
	}
}

// run sets up both sides and runs every check. Its error is a fault of the
// set-up; failed checks are in the report.
func run(ctx context.Context, r *report, what, asapBinary, interpreter, scripts string) (err error) {
	dir, err := os.MkdirTemp("", "asap-interop-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil && r.failed == 0 {
			err = os.RemoveAll(dir)
			return
		}
		fmt.Printf("logs and data are kept in %s\n", dir)
	}()
	log, err := os.Create(filepath.Join(dir, "python.log")) //nolint:gosec // in the folder just made
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // a log
	py := &python{interpreter: interpreter, dir: scripts, log: log}
	cli := &binary{path: asapBinary, dir: dir}
	if cli.path, err = filepath.Abs(asapBinary); err != nil {
		return err
	}

	w := &world{dir: dir, cli: cli, py: py}
	defer w.close()
	switch what {
	case "openapi":
		return openAPI(ctx, r, w)
	case "python":
		return pythonRelease(ctx, r, w)
	}
	return fmt.Errorf("-run %s: unknown", what)
}

// pythonRelease runs against the Python release, both ways.
func pythonRelease(ctx context.Context, r *report, w *world) error {
	if err := w.start(ctx); err != nil {
		return err
	}
	fmt.Println("# asap-compliance 1.2.0 against our node")
	w.py.checks(ctx, r, "harness", "harness.py", w.node.url)
	fmt.Println("# the Python client against our node")
	w.py.checks(ctx, r, "Python client", "client.py", w.node.url, w.secure.url, filepath.Join(w.node.data, "operator.token"), w.signedURL, w.signer)
	token, err := w.cli.run(ctx, "token", "mint", "--key", "python.key", "--agent", "urn:asap:agent:python", "--audience", "urn:asap:agent:node", "--expires-in", "1h")
	if err != nil {
		return err
	}
	w.py.checks(ctx, r, "Python client", "strict.py", w.strict.url, filepath.Join(w.strict.data, "operator.token"), token)
	full, err := startFilled(ctx, w, "full")
	if err != nil {
		return err
	}
	w.py.checks(ctx, r, "Python client", "full.py", full.node.url, full.operator, full.agent, w.path("go.key"))
	full.node.stop()
	if err := proofs(ctx, r, w, w.trusting); err != nil {
		return err
	}
	fmt.Println("# our client against the Python server")
	callPython(ctx, r, w)
	fmt.Println("# keys, manifests and delegation tokens, both ways")
	crossManifests(ctx, r, w)
	crossDelegations(ctx, r, w)
	return nil
}
