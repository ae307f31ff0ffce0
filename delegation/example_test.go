package delegation_test

import (
	"crypto/ed25519"
	"fmt"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// A consumer lets an agent run 50 tasks for 3 dollars; the agent passes two of
// them on to another, which presents the chain.
func Example() {
	consumer := ed25519.NewKeyFromSeed([]byte("a test key of thirty-two bytes.."))
	agent := ed25519.NewKeyFromSeed([]byte("another key of thirty-two bytes."))
	now := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	fifty, two, threeDollars := int64(50), int64(2), int64(3*delegation.NanoPerUSD)

	token, err := delegation.Issue(delegation.Terms{
		Issuer: "urn:asap:agent:consumer", Delegate: "urn:asap:agent:writer", TokenID: "del_01JTEST0000000000000000001",
		IssuedAt: now, ExpiresAt: now.Add(delegation.DefaultLifetime),
		Scopes: []string{delegation.ScopeTaskExecute}, MaxTasks: &fifty, MaxNanoUSD: &threeDollars,
	}, consumer)
	if err != nil {
		panic(err)
	}
	token, err = delegation.Attenuate(token, delegation.Terms{
		Issuer: "urn:asap:agent:writer", Delegate: "urn:asap:agent:searcher", TokenID: "del_01JTEST0000000000000000002",
		IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		Scopes: []string{delegation.ScopeTaskExecute}, MaxTasks: &two,
	}, agent)
	if err != nil {
		panic(err)
	}

	keys := new(delegation.KeyRing)
	for urn, key := range map[asap.AgentURN]ed25519.PrivateKey{"urn:asap:agent:consumer": consumer, "urn:asap:agent:writer": agent} {
		if err := keys.Add(urn, delegation.Key{Public: asap.PublicKeyOf(key)}); err != nil {
			panic(err)
		}
	}
	revoked := delegation.NewRevocationSet()
	verifier := delegation.NewVerifier(delegation.Policy{
		Keys: keys, IsRoot: delegation.Roots("urn:asap:agent:consumer"), Revoked: revoked.Revoked,
	})
	query := delegation.Query{Caller: "urn:asap:agent:searcher", Action: delegation.ScopeTaskExecute, Now: now}
	grant, err := verifier.Verify(token, query)
	if err != nil {
		panic(err)
	}
	for _, link := range grant.Links() {
		fmt.Println(link.Issuer, "to", link.Delegate, "at most", *link.LimitTasks, "tasks")
	}

	revoked.Add("urn:asap:agent:consumer", "del_01JTEST0000000000000000001")
	_, err = verifier.Verify(token, query)
	fmt.Println(err)

	// Output:
	// urn:asap:agent:consumer to urn:asap:agent:writer at most 50 tasks
	// urn:asap:agent:writer to urn:asap:agent:searcher at most 2 tasks
	// delegation_revoked: link 0: the link was revoked
}
