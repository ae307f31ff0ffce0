package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
	"gopkg.in/macaroon.v2"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// The world of P5: agents a to i, keys of one repeated byte, a being the root.
const chainAgents = 9

func chainAgent(i int) asap.AgentURN {
	return asap.AgentURN("urn:asap:agent:" + string(rune('a'+i)))
}

func chainKey(i int) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize))
}

// chainOf makes a chain of n links.
func chainOf(n int, now time.Time) (token string, err error) {
	for i := range n {
		limit := int64(100 - i)
		terms := delegation.Terms{
			Issuer: chainAgent(i), Delegate: chainAgent(i + 1), TokenID: fmt.Sprintf("del_%d", i),
			IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Hour),
			Scopes: []string{delegation.ScopeTaskExecute, delegation.ScopeDataRead}, MaxTasks: &limit,
		}
		if i == 0 {
			token, err = delegation.Issue(terms, chainKey(i))
		} else {
			token, err = delegation.Attenuate(token, terms, chainKey(i))
		}
		if err != nil {
			return "", err
		}
	}
	return token, nil
}

// work is one contender of P5: a verification.
type work struct {
	name string
	do   func() error
}

// verifications are what is done in turn for n links: the floor, our chain, and
// for each peer n tokens of its own kind, as it has no chains. Ours also checks
// linkage, narrowing, root, revocation, audience, scope and limits; theirs check
// signatures and times. A macaroon is a chain of HMACs, which only the holder of
// the root key can verify.
func verifications(n int, now time.Time) ([]work, error) {
	token, err := chainOf(n, now)
	if err != nil {
		return nil, err
	}
	ring := new(delegation.KeyRing)
	for i := range chainAgents {
		if err := ring.Add(chainAgent(i), delegation.Key{Public: asap.PublicKeyOf(chainKey(i))}); err != nil {
			return nil, err
		}
	}
	policy := &delegation.Policy{Keys: ring, IsRoot: delegation.Roots(chainAgent(0)), Revoked: delegation.NewRevocationSet().Revoked}
	query := delegation.Query{Caller: chainAgent(n), Action: delegation.ScopeTaskExecute, Now: now}

	type link struct {
		token     string // as a peer reads it: of one hop
		key       ed25519.PublicKey
		text, sig []byte
	}
	links := make([]link, n)
	for i := range links {
		limit := int64(100)
		one, err := delegation.Issue(delegation.Terms{Issuer: chainAgent(i), Delegate: chainAgent(i + 1), TokenID: fmt.Sprintf("del_%d", i),
			IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Hour), Scopes: []string{delegation.ScopeTaskExecute, delegation.ScopeDataRead}, MaxTasks: &limit}, chainKey(i))
		if err != nil {
			return nil, err
		}
		end := strings.LastIndexByte(one, '.')
		sig, err := base64.RawURLEncoding.DecodeString(one[end+1:])
		if err != nil {
			return nil, err
		}
		links[i] = link{one, asap.PublicKeyOf(chainKey(i)), []byte(one[:end]), sig}
	}
	each := func(do func(link) error) func() error {
		return func() error {
			for i := range links {
				if err := do(links[i]); err != nil {
					return err
				}
			}
			return nil
		}
	}

	root := bytes.Repeat([]byte{1}, 32)
	m, err := macaroon.New(root, []byte("del_0"), "bench.example", macaroon.LatestVersion)
	for i := 0; err == nil && i < n; i++ {
		for _, caveat := range []string{"expires = 2030-01-01T00:00:00Z", "max_tasks = 100", "scope = task.execute"} {
			err = errors.Join(err, m.AddFirstPartyCaveat([]byte(caveat)))
		}
	}
	var macaroonText []byte
	if err == nil {
		macaroonText, err = m.MarshalBinary()
	}
	if err != nil {
		return nil, err
	}

	return []work{
		{"crypto/ed25519", each(func(l link) error {
			if !ed25519.Verify(l.key, l.text, l.sig) {
				return errors.New("does not verify")
			}
			return nil
		})},
		{"asap-go", func() error { _, err := delegation.Verify(token, policy, query); return err }},
		{"golang-jwt", each(func(l link) error { return verifyGolangJWT(l.token, l.key, now) })},
		{"go-jose", each(func(l link) error { return verifyGoJose(l.token, l.key, now) })},
		{"jwx", each(func(l link) error {
			_, err := jwxjwt.Parse([]byte(l.token), jwxjwt.WithKey(jwa.EdDSA(), l.key), jwxjwt.WithClock(jwxjwt.ClockFunc(func() time.Time { return now })))
			return err
		})},
		{"macaroon (HMAC)", func() error {
			var read macaroon.Macaroon
			if err := read.UnmarshalBinary(macaroonText); err != nil {
				return err
			}
			return read.Verify(root, func(string) error { return nil }, nil)
		}},
	}, nil
}

// verifyGolangJWT verifies one link as strictly as golang-jwt can.
func verifyGolangJWT(token string, key ed25519.PublicKey, now time.Time) error {
	_, err := jwt.ParseWithClaims(token, jwt.MapClaims{}, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	return err
}

// verifyGoJose verifies one link the way go-jose is meant to be used.
func verifyGoJose(token string, key ed25519.PublicKey, now time.Time) error {
	parsed, err := josejwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return err
	}
	var claims struct {
		josejwt.Claims

		Scopes []string `json:"scp"`
	}
	if err := parsed.Claims(key, &claims); err != nil {
		return err
	}
	return claims.ValidateWithLeeway(josejwt.Expected{Time: now}, 0)
}

// verifyUncached is P5.
func verifyUncached(ctx context.Context, b *bench) (outcome, error) {
	turns := 2000
	if b.quick {
		turns = 400
	}
	now := time.Unix(1_800_000_000, 0)
	var o outcome
	var reached, allocated []string
	var ok []bool
	for _, n := range []int{1, 3, 8} {
		works, err := verifications(n, now)
		if err != nil {
			return o, err
		}
		took := make([][]float64, len(works))
		for range turns / n {
			if ctx.Err() != nil {
				return o, context.Cause(ctx)
			}
			for i, w := range works {
				start := time.Now()
				if err := w.do(); err != nil {
					return o, fmt.Errorf("%s refuses: %w", w.name, err)
				}
				took[i] = append(took[i], float64(time.Since(start)))
			}
		}
		floor := median(took[0])
		c := chart{Title: fmt.Sprintf("P5: verification of %s against %d × ed25519.Verify (shorter is better)", links(n), n), Unit: "×", Line: 1.15, LineName: "1.15"}
		var detail []string
		for i, w := range works[1:] {
			ratio, allocs := median(took[i+1])/floor, testing.AllocsPerRun(20, func() { _ = w.do() })
			c.Bars = append(c.Bars, bar{Name: w.name, Value: ratio, Own: i == 0})
			detail = append(detail, fmt.Sprintf("%s %.2f (%.0f)", w.name, ratio, allocs))
			if i == 0 {
				reached, allocated = append(reached, fmt.Sprintf("%.2f", ratio)), append(allocated, fmt.Sprintf("%.0f", allocs))
				ok = append(ok, ratio <= 1.15, allocs <= float64(8*n))
			}
		}
		o.Charts = append(o.Charts, c)
		o.Details = append(o.Details, fmt.Sprintf("%s, ratio to the floor of %.0f µs (and allocations): %s", links(n), floor/1000, strings.Join(detail, ", ")))
	}
	o.Reached = fmt.Sprintf("%s × the floor; %s allocations", strings.Join(reached, " / "), strings.Join(allocated, " / "))
	o.Met = metIf(ok...)
	o.Details = append(o.Details, "Peers have no chains: they verify as many single tokens, signature and times only. A macaroon is verified with the secret that made it, by HMAC: cheaper, and nobody but its issuer can do it.")
	return o, nil
}

func links(n int) string {
	if n == 1 {
		return "1 link"
	}
	return fmt.Sprintf("%d links", n)
}
