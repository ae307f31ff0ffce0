package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/spf13/cobra"

	asap "github.com/asap-protocol/asap-go"
)

func (a *app) tokenCommand() *cobra.Command {
	return group(&cobra.Command{Use: "token", Short: "Make the bearer tokens that nodes ask for"},
		a.tokenMintCommand(),
		a.tokenRotateOperatorCommand(),
	)
}

func (a *app) tokenMintCommand() *cobra.Command {
	var keyFile, agent, audience string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "mint --key FILE --agent URN --audience URN",
		Short: "Make a short-lived token with which an agent says who it is",
		Long: `Signs a bearer token (EdDSA JWT) with an agent's own key and prints it. A node
takes it if it knows the public half as one of the agent's keys, and if the
audience is the node's URN or that of an agent it hosts. Who holds the token is
the agent until it expires: treat it as a password.`,
		Example: `  asap keys show me.key --format base64 > asap-data/keys/me.pub   # once, on the node; then SIGHUP
  ASAP_TOKEN=$(asap token mint --key me.key --agent urn:asap:agent:me --audience urn:asap:agent:node) asap usage list --node http://127.0.0.1:8080`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			key, err := a.readPrivateKey("Key file", keyFile)
			if err != nil {
				return err
			}
			if lifetime <= 0 {
				return badValuef("--expires-in must be between 1s and %v", client.MaxTokenLifetime)
			}
			tokens, err := client.NewKeyTokens(key, asap.AgentURN(agent), asap.AgentURN(audience), lifetime)
			if err != nil {
				return badValuef("%w", err)
			}
			token, err := tokens.Token(cmd.Context())
			if err != nil {
				return err
			}
			type answer struct {
				Token     string `json:"token"`
				Agent     string `json:"agent"`
				Audience  string `json:"audience"`
				ExpiresIn int64  `json:"expires_in_seconds"`
			}
			return a.answer(answer{token, agent, audience, int64(lifetime / time.Second)}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, token)
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&keyFile, "key", "k", "", "private key (PEM) of the agent (required)")
	cmd.Flags().StringVar(&agent, "agent", "", "URN of the agent (required)")
	cmd.Flags().StringVar(&audience, "audience", "", "URN of the node, or of an agent it hosts (required)")
	cmd.Flags().DurationVar(&lifetime, "expires-in", 5*time.Minute, "how long the token is good, at most 1h")
	mustRequire(cmd, "key")
	mustRequire(cmd, "agent")
	mustRequire(cmd, "audience")
	return cmd
}

func (a *app) tokenRotateOperatorCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "rotate-operator",
		Short: "Replace the operator token of a data directory",
		Long: `Writes a new operator token to the data directory. A node that serves from it
takes the new one at its first use; the old one is good no more from then on, or
from SIGHUP. The token is not printed: it is in the file.`,
		Args: cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			path := filepath.Join(data, node.OperatorTokenFile)
			if _, err := os.Stat(path); err != nil { // not a data directory
				return stateErrorf("no operator token to replace: %w", err)
			}
			if _, err := node.NewOperatorToken(data); err != nil {
				return stateErrorf("%w", err)
			}
			return a.answer(struct {
				Path string `json:"path"`
			}{path}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "New operator token written to %s\n", path)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&data, "data", node.Defaults().Data, "data directory of the node")
	return cmd
}
