package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/spf13/cobra"
)

func (a *app) delegationCommand() *cobra.Command {
	flags := &nodeFlags{}
	online := []*cobra.Command{a.delegationRevokeCommand(flags), a.delegationListCommand(flags), a.delegationUsageCommand(flags)}
	for _, cmd := range online {
		flags.add(cmd)
	}
	cmd := group(&cobra.Command{
		Use:   "delegation",
		Short: "Let another agent act for you, within limits, and look at such tokens",
		Long: `A delegation token lets an agent, the delegate, act for another, the delegator,
within scopes, limits and a time. Its holder can pass a narrower part of it on
(create --parent). create, inspect, verify and test-vectors need no node; revoke,
list and usage ask one.`,
	},
		a.delegationCreateCommand(), a.delegationInspectCommand(), a.delegationVerifyCommand(), a.delegationVectorsCommand())
	cmd.AddCommand(online...)
	return cmd
}

// createFlags are the flags of asap delegation create; those of v1.3.0 have its
// names and letters.
type createFlags struct {
	delegate, scopes, key, delegator string
	expiresIn                        int64
	maxTasks, maxDepth               int64
	maxCostUSD                       string
	parent, bindKey, keyID           string
	resources                        []string
	clamp                            bool
}

func (a *app) delegationCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create --delegate URN --scopes SCOPE[,SCOPE] --key FILE --delegator URN",
		Short: "Make a delegation token, or narrow one you hold",
		Long: `Makes a token signed with the delegator's key and prints it. Nothing is sent
anywhere: the token is good on every node that knows the delegator's key.

With --parent the token is passed on: the new link comes below those of the
parent, its delegator is the parent's delegate, and it may only narrow what the
parent gave.`,
		Example: `  asap delegation create -d urn:asap:agent:helper -s task.execute -k me.key \
      --delegator urn:asap:agent:me --max-tasks 50 --max-cost-usd 3
  asap delegation create -d urn:asap:agent:sub -s task.execute -k helper.key --parent token.txt`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error { return a.createDelegation(cmd, &f) }),
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.delegate, "delegate", "d", "", "URN of the agent that may act (required)")
	flags.StringVarP(&f.scopes, "scopes", "s", "", "what it may do, separated by commas: task.execute, task.cancel, data.read, data.write, *, or an agent's own (required)")
	flags.StringVarP(&f.key, "key", "k", "", "the delegator's private key (required)")
	flags.StringVar(&f.delegator, "delegator", "", "URN of the agent that gives (required without --parent)")
	flags.Int64Var(&f.expiresIn, "expires-in", 0, "seconds until it expires; 0 means 86400, or the parent's end if that is sooner")
	flags.Int64Var(&f.maxTasks, "max-tasks", 0, "most tasks that may be started with it and everything below it")
	flags.StringVar(&f.maxCostUSD, "max-cost-usd", "", "most US dollars that these may cost")
	flags.StringVar(&f.parent, "parent", "", "file with the token to pass on; - for standard input")
	flags.Int64Var(&f.maxDepth, "max-depth", 0, "highest position in the chain a link below may have; 0 with a first link forbids to pass it on")
	flags.StringVar(&f.bindKey, "bind-key", "", "key file of the delegate: whoever uses the token must prove to hold that key")
	flags.StringVar(&f.keyID, "key-id", "", "names the signing key (kid), for a delegator with several")
	flags.StringSliceVar(&f.resources, "res", nil, "only for these servers, by URN or origin")
	flags.BoolVar(&f.clamp, "clamp", false, "lower what exceeds the parent to what it allows, instead of refusing")
	for _, name := range []string{"delegate", "scopes", "key"} {
		mustRequire(cmd, name)
	}
	return cmd
}

func (a *app) createDelegation(cmd *cobra.Command, f *createFlags) error {
	terms, err := f.terms(cmd)
	if err != nil {
		return err
	}
	key, err := a.readPrivateKey("Key file", f.key)
	if err != nil {
		return err
	}
	if f.bindKey != "" {
		public, err := a.readPublicKey("Key file", f.bindKey)
		if err != nil {
			return err
		}
		terms.ConfirmJKT = delegation.Thumbprint(public)
	}
	now := time.Now()
	terms.TokenID = delegation.NewTokenID(asap.NewIDSource(), now)
	terms.IssuedAt, terms.ExpiresAt = lifetime(now, f.expiresIn)
	var token string
	if f.parent == "" {
		if terms.Issuer == "" {
			return usageErrorf(`required flag(s) "delegator" not set`)
		}
		token, err = delegation.Issue(terms, key)
	} else {
		token, err = a.attenuate(f, terms, key)
	}
	if err != nil {
		return err
	}
	view, err := delegation.Inspect(token, now)
	if err != nil {
		return err
	}
	type answer struct {
		Token     string                `json:"token"`
		ID        string                `json:"id"`
		ExpiresAt string                `json:"expires_at"`
		Chain     []delegation.LinkView `json:"chain"`
	}
	return a.answer(answer{token, terms.TokenID, view.ExpiresAt, view.Links}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, token)
		return err
	})
}

// terms reads the flags that say what is given.
func (f *createFlags) terms(cmd *cobra.Command) (delegation.Terms, error) {
	t := delegation.Terms{Issuer: asap.AgentURN(f.delegator), Delegate: asap.AgentURN(f.delegate), KeyID: f.keyID, Resources: f.resources}
	for scope := range strings.SplitSeq(f.scopes, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			t.Scopes = append(t.Scopes, scope)
		}
	}
	if len(t.Scopes) == 0 {
		return t, badValuef("At least one scope is required.")
	}
	for flag, to := range map[string]struct {
		value int64
		limit **int64
	}{"max-tasks": {f.maxTasks, &t.MaxTasks}, "max-depth": {f.maxDepth, &t.MaxDepth}} {
		if cmd.Flags().Changed(flag) {
			*to.limit = &to.value
		}
	}
	if cmd.Flags().Changed("max-cost-usd") {
		nanoUSD, err := delegation.ParseLimitUSD(f.maxCostUSD)
		if err != nil {
			return t, badValuef("--max-cost-usd: %w", err)
		}
		t.MaxNanoUSD = &nanoUSD
	}
	return t, nil
}

// lifetime is from when to when a token is good. As in v1.3.0, 0 means the
// default and a negative number makes a token that has expired already.
func lifetime(now time.Time, seconds int64) (issued, expires time.Time) {
	switch {
	case seconds == 0:
		return now, now.Add(delegation.DefaultLifetime)
	case seconds < 0:
		expires = now.Add(time.Duration(max(seconds, -1<<32)) * time.Second)
		return expires.Add(-time.Second), expires
	}
	return now, now.Add(time.Duration(min(seconds, 1<<32)) * time.Second)
}

// attenuate makes the link below the token in --parent.
func (a *app) attenuate(f *createFlags, terms delegation.Terms, key ed25519.PrivateKey) (string, error) {
	parent, err := a.readToken(f.parent, true)
	if err != nil {
		return "", err
	}
	chain, err := delegation.Parse(parent)
	if err != nil {
		return "", fmt.Errorf("the parent cannot be read: %w", err)
	}
	if terms.Issuer == "" {
		terms.Issuer = chain.Actor()
	}
	if end := chain.ExpiresAt(); f.expiresIn == 0 && terms.ExpiresAt.After(end) {
		terms.ExpiresAt = end
	}
	if f.clamp {
		if terms, err = delegation.Clamp(chain, terms); err != nil {
			return "", err
		}
	}
	token, err := delegation.Attenuate(parent, terms, key)
	var refusal *delegation.Refusal
	if errors.As(err, &refusal) {
		return "", refusedErrorf("not within the parent: %w (--clamp lowers it)", refusal)
	}
	return token, err
}

// maxTokenInput is the most that is read of a token; more than any good token,
// so that one that is too large is judged as such.
const maxTokenInput = 1 << 20

// readToken returns the token that an argument gives: standard input for "-",
// a file if it is a file's name, else the argument itself.
func (a *app) readToken(arg string, file bool) (string, error) {
	if arg != "-" && !file {
		return arg, nil
	}
	text, err := a.readInput("Token file", arg)
	if err != nil {
		return "", err
	}
	if len(text) > maxTokenInput {
		return "", badValuef("%s holds more than %d bytes", arg, maxTokenInput)
	}
	// One line feed ends the line; another one would be part of the token.
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
