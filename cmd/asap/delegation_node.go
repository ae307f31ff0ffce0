package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
)

func (a *app) delegationRevokeCommand(flags *nodeFlags) *cobra.Command {
	var reason, issuer, key, agent, chain string
	var operator bool
	cmd := &cobra.Command{
		Use:   "revoke JTI [--key FILE --agent URN | --operator]",
		Short: "End a token and everything below it, at once and for good",
		Long: `Revokes the token with that id at a running node. Its issuer may, and any issuer
above it, its holder, and the operator; whom --key and --agent say, or else the
bearer token in force. The issuer may revoke an id the node has never seen.

The id key:THUMBPRINT withdraws the issuer's key of that RFC 7638 thumbprint:
nothing signed with it is accepted any more.`,
		Example: `  asap delegation revoke del_01HZZZZZZZZZZZZZZZZZZZZZZZ --operator --issuer urn:asap:agent:me --reason "key lost"`,
		Args:    cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) (err error) {
			id := strings.TrimSpace(args[0])
			if operator && key != "" {
				return usageErrorf("--operator and --key exclude each other")
			}
			if (key == "") != (agent == "") {
				return usageErrorf("--key says with what key, --agent whose: give both")
			}
			n, err := a.openNode(cmd.Context(), flags, true)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, n.Close()) }()
			if key != "" {
				if err := a.signIn(cmd.Context(), n, key, asap.AgentURN(agent)); err != nil {
					return err
				}
			}
			q := url.Values{}
			for name, value := range map[string]string{"reason": reason, "issuer": issuer} {
				if value != "" {
					q.Set(name, value)
				}
			}
			header := http.Header{}
			if chain != "" {
				token, err := a.readToken(chain, true)
				if err != nil {
					return err
				}
				header.Set(client.DelegationHeader, token)
			}
			if err := n.delete(cmd.Context(), "/delegations/"+url.PathEscape(id), q, header); err != nil {
				return err
			}
			type answer struct {
				ID      string `json:"id"`
				Revoked bool   `json:"revoked"`
			}
			return a.answer(answer{id, true}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Revoked delegation token: %s\n", id)
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&reason, "reason", "r", "", "why; it is kept in the audit log")
	cmd.Flags().StringVar(&issuer, "issuer", "", "URN of the token's issuer, where it is not the caller and the node does not know the token")
	cmd.Flags().StringVarP(&key, "key", "k", "", "private key to sign in with")
	cmd.Flags().StringVar(&agent, "agent", "", "URN of the agent whose key that is")
	cmd.Flags().BoolVar(&operator, "operator", false, "sign in with the operator's token (the default)")
	cmd.Flags().StringVar(&chain, "token", "", "file with the whole token, - for standard input: proves an ancestor's or the holder's right where the node does not know it")
	return cmd
}

// signIn makes n present a token that the agent signs for this node.
func (a *app) signIn(ctx context.Context, n *nodeAPI, keyFile string, agent asap.AgentURN) error {
	key, err := a.readPrivateKey("Key file", keyFile)
	if err != nil {
		return err
	}
	var manifest struct {
		ID string `json:"id"`
	}
	if err := n.get(ctx, "/.well-known/asap/manifest.json", nil, &manifest); err != nil {
		return err
	}
	tokens, err := client.NewKeyTokens(key, agent, asap.AgentURN(manifest.ID), 0)
	if err != nil {
		return badValuef("%w", err)
	}
	n.token, err = tokens.Token(ctx)
	return err
}

// delete sends a DELETE whose success has no content.
func (n *nodeAPI) delete(ctx context.Context, path string, query url.Values, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, n.base+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header = header
	if n.token != "" {
		req.Header.Set("Authorization", "Bearer "+n.token)
	}
	res, err := n.http.Do(req)
	if err != nil {
		return stateErrorf("cannot reach the node: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode < 300 {
		return nil
	}
	return problem(res)
}

func (a *app) delegationListCommand(flags *nodeFlags) *cobra.Command {
	var issued, held, active bool
	var agent, cursor string
	var limit int
	cmd := &cobra.Command{
		Use:   "list [--issued|--held] [--active]",
		Short: "List the tokens a node knows: those it signed and those that were used there",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			if issued && held {
				return usageErrorf("--issued and --held exclude each other")
			}
			q := url.Values{"limit": {fmt.Sprint(limit)}}
			for name, set := range map[string]bool{"issued": issued, "held": held} {
				if set {
					q.Set("role", name)
				}
			}
			if active {
				q.Set("active", "true")
			}
			for name, value := range map[string]string{"agent": agent, "cursor": cursor} {
				if value != "" {
					q.Set(name, value)
				}
			}
			var raw jsontext.Value
			if err := n.get(ctx, "/delegations", q, &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error { return a.printDelegations(raw) })
		}),
	}
	cmd.Flags().BoolVar(&issued, "issued", false, "only those the agent gave")
	cmd.Flags().BoolVar(&held, "held", false, "only those the agent was given")
	cmd.Flags().BoolVar(&active, "active", false, "only those with no revoked link")
	cmd.Flags().StringVar(&agent, "agent", "", "URN of the agent, for the operator; all agents if left out")
	cmd.Flags().IntVar(&limit, "limit", 100, "tokens a page, 1 to 1000")
	cmd.Flags().StringVar(&cursor, "cursor", "", "where the page before ended")
	return cmd
}

func (a *app) printDelegations(raw jsontext.Value) error {
	var page struct {
		Data []struct {
			ID         string   `json:"id"`
			Delegator  string   `json:"delegator"`
			Delegate   string   `json:"delegate"`
			Scopes     []string `json:"scopes"`
			MaxTasks   *int64   `json:"max_tasks"`
			MaxCostUSD *string  `json:"max_cost_usd"`
			ExpiresAt  string   `json:"expires_at"`
			Status     string   `json:"status"`
		} `json:"data"`
		Next *string `json:"next_cursor"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	rows := make([][]string, len(page.Data))
	for i, d := range page.Data {
		rows[i] = []string{d.ID, d.Delegator, d.Delegate, strings.Join(d.Scopes, " "), limitsText(d.MaxTasks, d.MaxCostUSD), d.ExpiresAt, d.Status}
	}
	err := a.table([]string{"ID", "DELEGATOR", "DELEGATE", "SCOPES", "LIMITS", "EXPIRES", "STATUS"}, rows)
	if err == nil && page.Next != nil {
		_, err = fmt.Fprintf(a.errOut, "more: --cursor %s\n", plain(*page.Next))
	}
	return err
}

func (a *app) delegationUsageCommand(flags *nodeFlags) *cobra.Command {
	var issuer string
	cmd := &cobra.Command{
		Use:   "usage JTI",
		Short: "Show what was used of a token's limits",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) (err error) {
			n, err := a.openNode(cmd.Context(), flags, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, n.Close()) }()
			q := url.Values{}
			if issuer != "" {
				q.Set("issuer", issuer)
			}
			var raw jsontext.Value
			if err := n.get(cmd.Context(), "/delegations/"+url.PathEscape(args[0])+"/usage", q, &raw); err != nil {
				return err
			}
			return a.answer(raw, func(io.Writer) error { return a.printBudget(raw) })
		}),
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "URN of the token's issuer, where several used the same id")
	return cmd
}

func (a *app) printBudget(raw jsontext.Value) error {
	type amounts struct {
		Limit, Used, Held, Remaining jsontext.Value
	}
	var usage struct {
		Tasks amounts `json:"tasks"`
		USD   amounts `json:"usd"`
	}
	if err := json.Unmarshal(raw, &usage, json.MatchCaseInsensitiveNames(true)); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	cell := func(v jsontext.Value) string {
		if v == nil || v.Kind() == 'n' {
			return "-"
		}
		return strings.Trim(string(v), `"`)
	}
	row := func(name string, v amounts) []string {
		return []string{name, cell(v.Limit), cell(v.Used), cell(v.Held), cell(v.Remaining)}
	}
	return a.table([]string{"", "LIMIT", "USED", "HELD", "REMAINING"}, [][]string{row("tasks", usage.Tasks), row("USD", usage.USD)})
}
