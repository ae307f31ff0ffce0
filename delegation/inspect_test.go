package delegation

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
)

func TestInspect(t *testing.T) {
	root := terms(agentA, agentB, "del_root")
	root.MaxTasks, root.MaxNanoUSD, root.MaxDepth, root.KeyID, root.NotBefore = number(10), number(1_250_000_000), number(3), "k", at(testNow-10)
	root.Resources = []string{"https://one.example"}
	leaf := terms(agentB, agentC, "del_leaf")
	leaf.ExpiresAt, leaf.ConfirmJKT = at(testNow+60), Thumbprint(publicOf(agentC))
	token, err := Attenuate(mustIssue(t, root), leaf, keyOf(agentB))
	if err != nil {
		t.Fatal(err)
	}
	view, err := Inspect(token, at(testNow))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"links":[{"index":0,"iss":"urn:asap:agent:a","aud":"urn:asap:agent:b","jti":"del_root","alg":"EdDSA","kid":"k",` +
		`"issued_at":"2027-01-15T07:59:00Z","not_before":"2027-01-15T07:59:50Z","expires_at":"2027-01-15T09:00:00Z","expires_in_seconds":3600,` +
		`"scopes":["task.execute","data.read"],"max_tasks":10,"max_cost_usd":"1.25","max_depth":3,"res":["https://one.example"]},` +
		`{"index":1,"iss":"urn:asap:agent:b","aud":"urn:asap:agent:c","jti":"del_leaf","alg":"EdDSA",` +
		`"issued_at":"2027-01-15T07:59:00Z","expires_at":"2027-01-15T08:01:00Z","expires_in_seconds":60,` +
		`"scopes":["task.execute","data.read"],"max_tasks":null,"max_cost_usd":null,"cnf_jkt":"` + leaf.ConfirmJKT + `"}],` +
		`"principal":"urn:asap:agent:a","actor":"urn:asap:agent:c","expires_at":"2027-01-15T08:01:00Z","expires_in_seconds":60,` +
		`"max_tasks":10,"max_cost_usd":"1.25","warnings":[]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if _, err := Inspect("x", at(testNow)); AsRefusal(err) == nil {
		t.Errorf("unreadable: %v", err)
	}
}

func TestInspectWarns(t *testing.T) {
	wild := terms(agentA, agentB, "del_x")
	wild.Scopes, wild.ExpiresAt = []string{ScopeAll}, at(testNow).Add(100*24*time.Hour)
	forbids := terms(agentA, agentB, "del_x")
	forbids.MaxDepth = number(0)
	for _, c := range []struct {
		name, token, want string
		now               int64
	}{
		{"wildcard", mustIssue(t, wild), "the scope *", testNow},
		{"no limit", mustIssue(t, wild), "no limit", testNow},
		{"long life", mustIssue(t, wild), "valid for another 100 days", testNow},
		{"expired", rootToken(""), "delegation_expired", testNow + 3600},
		{"not yet", rootToken(""), "delegation_not_yet_valid", testNow - 100},
		{"broken", rootToken("") + "~" + rootToken(""), "delegation_chain_broken", testNow},
		{"depth", child(t, mustIssue(t, forbids), terms(agentB, agentC, "del_y")), "delegation_depth", testNow},
	} {
		view, err := Inspect(c.token, at(c.now))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(view.Warnings, func(w string) bool { return strings.Contains(w, c.want) }) {
			t.Errorf("%s: %q", c.name, view.Warnings)
		}
	}
}

func TestExplain(t *testing.T) {
	summary := func(err error) string {
		var b strings.Builder
		for _, s := range Explain(err) {
			b.WriteByte(s.Result[0])
		}
		return b.String()
	}
	_, err := Verify(rootToken(""), testPolicy(t), ask(agentB, ScopeDataWrite))
	if got, want := summary(err), "ppppppppppppfnnn"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	steps := Explain(err)
	if s := steps[StepScope]; s.Step != "scope" || s.Code != asap.CodeDelegationScope || *s.Link != 0 || s.Detail == "" {
		t.Errorf("%+v", s)
	}
	if got, want := summary(nil), "ppppppppppppppnp"; got != want {
		t.Errorf("accepted: got %s, want %s", got, want)
	}
	if s := Explain(Refuse(asap.CodeDelegationStateUnavailable, NoLink, "x"))[StepState]; s.Link != nil || s.Result != "failed" {
		t.Errorf("%+v", s)
	}
	if Explain(errors.New("x")) != nil {
		t.Error("an error that is no refusal is explained")
	}
}
