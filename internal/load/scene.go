package load

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
)

// Scene is a directory with all a node needs to run with everything on: callers
// must prove who they are, tasks are priced, and they run under a delegation of
// three links with limits on tasks and cost.
type Scene struct {
	Config string // file of the node's configuration
	Data   string // its data directory
	Agent  asap.AgentURN

	node   asap.AgentURN
	caller asap.AgentURN
	key    ed25519.PrivateKey
	chain  string // delegation for the caller
}

// sceneLinks is how long the delegation is.
const sceneLinks = 3

// NewScene writes a scene into a directory that is there. Its credentials are
// good for an hour.
func NewScene(dir string, now time.Time) (*Scene, error) {
	s := &Scene{Config: filepath.Join(dir, "asap.yaml"), Data: filepath.Join(dir, "data"), Agent: "urn:asap:agent:echo", node: "urn:asap:agent:node"}
	if err := os.MkdirAll(filepath.Join(s.Data, "keys"), 0o700); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`listen: 127.0.0.1:0
data: %q
urn: %s
auth:
  required: true
metering:
  prices:
    - agent: %s
      usd_per_task: "0.0001"
      max_usd_per_task: "0.0001"
`, s.Data, s.node, s.Agent)
	if err := os.WriteFile(s.Config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	// The limits are beyond reach, but they are counted.
	tasks, nanoUSD := int64(1)<<40, int64(1)<<60
	ids := asap.NewIDSource()
	var above asap.AgentURN
	for i := range sceneLinks + 1 {
		name := fmt.Sprintf("bench-%d", i)
		urn := asap.AgentURN("urn:asap:agent:" + name)
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(s.Data, "keys", name+".pub"), []byte(asap.EncodePublicKey(public)+"\n"), 0o600); err != nil {
			return nil, err
		}
		if i > 0 {
			terms := delegation.Terms{
				Issuer: above, Delegate: urn, TokenID: delegation.NewTokenID(ids, now), IssuedAt: now, ExpiresAt: now.Add(time.Hour),
				Scopes: []string{delegation.ScopeTaskExecute}, MaxTasks: &tasks, MaxNanoUSD: &nanoUSD,
			}
			if i == 1 {
				s.chain, err = delegation.Issue(terms, s.key)
			} else {
				s.chain, err = delegation.Attenuate(s.chain, terms, s.key)
			}
			if err != nil {
				return nil, err
			}
		}
		above, s.caller, s.key = urn, urn, private
	}
	return s, nil
}

// Target is the node of the scene, which serves at a URL, with the caller's
// credentials.
func (s *Scene) Target(ctx context.Context, url string) (*Target, error) {
	tokens, err := client.NewKeyTokens(s.key, s.caller, s.node, client.MaxTokenLifetime)
	if err != nil {
		return nil, err
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	operator, err := os.ReadFile(filepath.Join(s.Data, "operator.token"))
	if err != nil {
		return nil, err
	}
	return &Target{
		URL: url, Recipient: s.Agent, Skill: "echo", Sender: s.caller, OperatorToken: strings.TrimSpace(string(operator)),
		Header: http.Header{"Authorization": {"Bearer " + token}, "X-Asap-Delegation-Token": {s.chain}},
	}, nil
}
