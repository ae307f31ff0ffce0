package node

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// A revocation leaves memory a day after its token's end, and not before; one of
// a token that nobody has seen stays.
func TestRevocationsOfEndedTokensAreForgotten(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	n, _ := start(t, delegating(t), counter(new(atomic.Int64)))
	d := n.judge
	const issuer = agentA
	for _, id := range []string{"del_ended", "del_alive"} {
		ends := now.Add(-25 * time.Hour)
		if id == "del_alive" {
			ends = now.Add(-23 * time.Hour)
		}
		token := ledger.Token{Issuer: issuer, Delegate: agentB, TokenID: id, Scopes: []string{"*"}, IssuedAt: now.Add(-48 * time.Hour), ExpiresAt: ends}
		if _, err := n.ledger.Issue(t.Context(), []ledger.Token{token}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"del_ended", "del_alive", "del_unseen"} {
		if err := d.Revoke(t.Context(), ledger.Revocation{Issuer: issuer, TokenID: id}); err != nil {
			t.Fatal(err)
		}
	}
	known := func() string {
		var out []bool
		for _, id := range []string{"del_ended", "del_alive", "del_unseen"} {
			revoked, err := d.revoked.Revoked(issuer, id)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, revoked)
		}
		return fmt.Sprint(out)
	}
	if got := known(); got != "[true true true]" {
		t.Error(got)
	}
	if err := d.readRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := known(); got != "[false true true]" {
		t.Error(got)
	}
	if _, found, err := n.store.Revocation(t.Context(), ledger.BudgetKey{Issuer: issuer, TokenID: "del_ended"}); !found || err != nil {
		t.Error("the row is gone", err)
	}
}
