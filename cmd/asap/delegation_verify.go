package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

func (a *app) delegationInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect TOKEN|-",
		Short: "Show what a token says, without verifying it",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			token, err := a.readToken(args[0], false)
			if err != nil {
				return err
			}
			view, err := delegation.Inspect(token, time.Now())
			if err != nil {
				return err
			}
			return a.answer(view, func(w io.Writer) error { return a.printInspection(w, view) })
		}),
	}
}

func (a *app) printInspection(w io.Writer, view *delegation.Inspection) error {
	p := &linePrinter{w: w}
	p.linef("NOT VERIFIED: this is what the token says of itself.")
	p.linef("%s pays, %s acts", view.Principal, view.Actor)
	for _, l := range view.Links {
		indent := strings.Repeat("  ", l.Index)
		branch := ""
		if l.Index > 0 {
			branch = "└ "
		}
		p.linef("%s%s%s -> %s  (%s)", indent, branch, l.Issuer, l.Delegate, l.TokenID)
		if l.Index > 0 {
			indent += "  "
		}
		p.linef("%s  scopes    %s", indent, strings.Join(l.Scopes, " "))
		p.linef("%s  limits    %s", indent, limitsText(l.MaxTasks, l.MaxCostUSD))
		p.linef("%s  expires   %s (%s)", indent, l.ExpiresAt, countdown(l.ExpiresIn))
		if l.MaxDepth != nil {
			p.linef("%s  max depth %d", indent, *l.MaxDepth)
		}
		if len(l.Resources) > 0 {
			p.linef("%s  servers   %s", indent, strings.Join(l.Resources, " "))
		}
		if l.BoundTo != "" {
			p.linef("%s  bound to  key %s", indent, l.BoundTo)
		}
	}
	for _, warning := range view.Warnings {
		p.linef("%s", a.paint(ansiRed, "warning: "+warning))
	}
	return p.err
}

// linePrinter keeps the first error of many writes.
type linePrinter struct {
	w   io.Writer
	err error
}

func (p *linePrinter) linef(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func limitsText(tasks *int64, usd *string) string {
	var parts []string
	if tasks != nil {
		parts = append(parts, strconv.FormatInt(*tasks, 10)+" tasks")
	}
	if usd != nil {
		parts = append(parts, *usd+" USD")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// countdown says how far away a second is.
func countdown(seconds int64) string {
	d := (time.Duration(min(max(seconds, -1<<32), 1<<32)) * time.Second).Abs().String()
	if seconds <= 0 {
		return d + " ago"
	}
	return "in " + d
}

// verifyFlags are the flags of asap delegation verify.
type verifyFlags struct {
	keys, caller, action, at, revoked string
	roots                             []string
	explain, offline                  bool
}

func (a *app) delegationVerifyCommand() *cobra.Command {
	var f verifyFlags
	node := &nodeFlags{}
	cmd := &cobra.Command{
		Use:   "verify TOKEN|- --keys FILE|DIR|URL --caller URN",
		Short: "Judge a token as a node would",
		Long: `Judges a token for a caller and an action, in the order of checks that every
node keeps to. Only the counting of limits is left out: no file knows the counters.

--keys is a JSON file {"keys": [{"agent", "public_key", "kid"}]}, a directory of
such files and of NAME.pub files (the base64 key of urn:asap:agent:NAME), or the
URL of a node, which then judges with its own keys, roots and revocations.

Exit status: 0 the token is good; 1 it is refused, with the code; 2 wrong usage;
3 the node, or the state that decides, cannot be reached.`,
		Example: `  asap delegation verify "$TOKEN" --keys keys.json --roots urn:asap:agent:me \
      --caller urn:asap:agent:helper --action task.execute`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			token, err := a.readToken(args[0], false)
			if err != nil {
				return err
			}
			return a.verifyDelegation(cmd.Context(), token, &f, node)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.keys, "keys", "", "key file, directory of keys, or URL of a node (required)")
	flags.StringSliceVar(&f.roots, "roots", nil, "agents that may delegate on their own account; every agent with a key if left out")
	flags.StringVar(&f.caller, "caller", "", "URN of the agent that would use it (required)")
	flags.StringVar(&f.action, "action", delegation.ScopeTaskExecute, "the scope that the use needs")
	flags.StringVar(&f.at, "at", "", "judge at that time, in seconds since 1970 or RFC 3339; now if left out")
	flags.StringVar(&f.revoked, "revoked", "", "file of revoked links, one issuer|jti a line")
	flags.BoolVar(&f.explain, "explain", false, "list the steps of the verification")
	flags.BoolVar(&f.offline, "offline", false, "never ask a node")
	node.add(cmd)
	mustRequire(cmd, "keys")
	mustRequire(cmd, "caller")
	return cmd
}

// verdict is the answer of verify, in the form that black-box checks read.
type verdict struct {
	Allow  bool                    `json:"allow"`
	Code   asap.Code               `json:"code,omitempty"`
	Link   *int                    `json:"link,omitempty"`
	HTTP   int                     `json:"http,omitzero"`
	Detail string                  `json:"detail,omitempty"`
	Steps  []delegation.StepResult `json:"steps,omitempty"`
}

func (a *app) verifyDelegation(ctx context.Context, token string, f *verifyFlags, node *nodeFlags) error {
	now, err := parseAt(f.at)
	if err != nil {
		return err
	}
	revoked := ""
	if f.revoked != "" {
		text, err := a.readInput("Revocation file", f.revoked)
		if err != nil {
			return err
		}
		revoked = string(text)
	}
	set, err := delegation.ParseRevocations(strings.NewReader(revoked))
	if err != nil {
		return badValuef("--revoked: %w", err)
	}
	var v verdict
	if strings.HasPrefix(f.keys, "http://") || strings.HasPrefix(f.keys, "https://") {
		if f.offline {
			return usageErrorf("--keys names a node, and --offline forbids to ask one")
		}
		if v, err = a.askNode(ctx, token, f, node, now, revoked); err != nil {
			return err
		}
	} else {
		keys, err := a.readKeyRing(f.keys)
		if err != nil {
			return err
		}
		policy := &delegation.Policy{Keys: keys, Revoked: set.Revoked}
		if policy.IsRoot = delegation.Roots(f.roots...); f.roots == nil {
			policy.IsRoot = func(agent asap.AgentURN) bool { return len(keys.Keys(agent, "")) > 0 }
		}
		if now.IsZero() {
			now = time.Now()
		}
		_, err = delegation.Verify(token, policy, delegation.Query{Caller: asap.AgentURN(f.caller), Action: f.action, Now: now})
		v = judged(err)
		v.Steps = delegation.Explain(err)
	}
	if !f.explain {
		v.Steps = nil
	}
	if err := a.answer(v, func(w io.Writer) error { return a.printVerdict(w, &v) }); err != nil {
		return err
	}
	switch {
	case v.Allow:
		return nil
	case v.Code == asap.CodeDelegationStateUnavailable:
		return quietFailure(exitState)
	}
	return quietFailure(exitRefused)
}

func judged(err error) verdict {
	r := delegation.AsRefusal(err)
	if r == nil {
		return verdict{Allow: true}
	}
	v := verdict{Code: r.Code, HTTP: r.HTTP(), Detail: r.Detail}
	if r.Link != delegation.NoLink {
		v.Link = &r.Link
	}
	return v
}

func (a *app) printVerdict(w io.Writer, v *verdict) error {
	p := &linePrinter{w: w}
	for _, s := range v.Steps {
		switch {
		case s.Result == "failed" && s.Link != nil:
			p.linef("%-26s failed at link %d: %s", s.Step, *s.Link, s.Detail)
		case s.Result == "failed":
			p.linef("%-26s failed: %s", s.Step, s.Detail)
		default:
			p.linef("%-26s %s", s.Step, s.Result)
		}
	}
	switch {
	case v.Allow:
		p.linef("%s", a.paint(ansiGreen, "allowed"))
	case v.Link != nil:
		p.linef("%s link %d: %s", a.paint(ansiRed, "refused: "+string(v.Code)+":"), *v.Link, v.Detail)
	default:
		p.linef("%s %s", a.paint(ansiRed, "refused: "+string(v.Code)+":"), v.Detail)
	}
	return p.err
}

// parseAt reads a time as seconds since 1970 or RFC 3339; "" is the zero time.
func parseAt(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, badValuef("--at: %q is neither seconds since 1970 nor RFC 3339", text)
	}
	return t, nil
}

// askNode has a node judge the token.
func (a *app) askNode(ctx context.Context, token string, f *verifyFlags, flags *nodeFlags, now time.Time, revoked string) (verdict, error) {
	flags.url = f.keys
	n, err := a.openNode(ctx, flags, true)
	if err != nil {
		return verdict{}, err
	}
	defer n.Close() //nolint:errcheck // only reads
	type question struct {
		Token   string   `json:"token"`
		Caller  string   `json:"caller"`
		Action  string   `json:"action"`
		At      *int64   `json:"at,omitzero"`
		Roots   []string `json:"roots,omitempty"`
		Revoked []string `json:"revoked,omitempty"`
		Explain bool     `json:"explain,omitempty"`
	}
	q := question{Token: token, Caller: f.caller, Action: f.action, Roots: f.roots, Revoked: strings.Fields(revoked), Explain: f.explain}
	if !now.IsZero() {
		q.At = new(now.Unix())
	}
	body, err := json.Marshal(q)
	if err != nil {
		return verdict{}, err
	}
	res, err := n.do(ctx, "POST", "/delegations/verify", nil, "application/json", body)
	if err != nil {
		return verdict{}, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	var v verdict
	if err := json.UnmarshalRead(res.Body, &v); err != nil {
		return verdict{}, stateErrorf("read the node's answer: %w", err)
	}
	return v, nil
}

// keyEntry is one key of a key file.
type keyEntry struct {
	Agent     string `json:"agent"`
	PublicKey string `json:"public_key"`
	KeyID     string `json:"kid,omitempty"`
}

type keyFile struct {
	Keys []keyEntry `json:"keys"`
}

// readKeyRing reads a key file, or a directory of key files (.json) and public
// keys (.pub, named for the agent).
func (a *app) readKeyRing(name string) (*delegation.KeyRing, error) {
	if !isDirectory(name) {
		text, err := a.readInput("Key file", name)
		if err != nil {
			return nil, err
		}
		ring, err := delegation.ParseKeyFile(text)
		if err != nil {
			return nil, badValuef("%s: %w", name, err)
		}
		return ring, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, badValuef("--keys: %w", err)
	}
	var all keyFile
	for _, entry := range entries {
		file := filepath.Join(name, entry.Name())
		base, ext := strings.TrimSuffix(entry.Name(), filepath.Ext(entry.Name())), filepath.Ext(entry.Name())
		if entry.IsDir() || (ext != ".json" && ext != ".pub") {
			continue
		}
		text, err := a.readInput("Key file", file)
		if err != nil {
			return nil, err
		}
		if ext == ".json" {
			var more keyFile
			if err := json.Unmarshal(text, &more); err != nil {
				return nil, badValuef("%s: %w", file, err)
			}
			all.Keys = append(all.Keys, more.Keys...)
			continue
		}
		for line := range bytes.Lines(text) {
			if key := strings.TrimSpace(string(line)); key != "" && key[0] != '#' {
				all.Keys = append(all.Keys, keyEntry{Agent: "urn:asap:agent:" + strings.ReplaceAll(base, ".", ":"), PublicKey: key})
			}
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	ring, err := delegation.ParseKeyFile(text)
	if err != nil {
		return nil, badValuef("%s: %w", name, err)
	}
	return ring, nil
}

func (a *app) delegationVectorsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test-vectors FILE.jsonl",
		Short: "Judge a file of test cases and compare with what it expects",
		Long: `Reads a first line {"world": {"keys": […], "roots": […]}} and then one case a
line, judges each, prints every mismatch and a closing line "N passed, N failed".`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			text, err := a.readInput("Vector file", args[0])
			if err != nil {
				return err
			}
			var report bytes.Buffer
			passed, failed, err := delegation.RunVectors(bytes.NewReader(text), &report)
			if err != nil {
				return badValuef("%s: %w", args[0], err)
			}
			type answer struct {
				Passed     int      `json:"passed"`
				Failed     int      `json:"failed"`
				Mismatches []string `json:"mismatches"`
			}
			lines := strings.Split(strings.TrimRight(report.String(), "\n"), "\n")
			err = a.answer(answer{passed, failed, lines[:len(lines)-1]}, func(w io.Writer) error {
				_, err := w.Write(report.Bytes())
				return err
			})
			if err == nil && failed > 0 {
				err = quietFailure(exitRefused)
			}
			return err
		}),
	}
}
