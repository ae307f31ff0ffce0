package postgres

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

func (w *changing) token(d *ledger.Token) error {
	above := make([][2]string, len(d.Above))
	for i, k := range d.Above {
		above[i] = [2]string{string(k.Issuer), k.TokenID}
	}
	var lists [3]string
	for i, v := range []any{above, d.Scopes, d.Resources} {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("delegation %s: %w", d.TokenID, err)
		}
		lists[i] = string(text)
	}
	w.batch.Queue(`INSERT INTO delegations (issuer, token_id, delegate, above, scopes, resources, limit_tasks, limit_nano_usd, max_depth,
		bound_key, issued_us, expires_us, signed, seen_us) VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (issuer, token_id) DO NOTHING`,
		string(d.Issuer), d.TokenID, string(d.Delegate), lists[0], lists[1], lists[2], d.LimitTasks, money(d.LimitNanoUSD), d.MaxDepth,
		d.BoundKey, d.IssuedAt.UnixMicro(), d.ExpiresAt.UnixMicro(), d.Signed, d.SeenAt.UnixMicro())
	return nil
}

const revocationColumns = `r.issuer, r.token_id, r.at_us, r.actor, r.reason, r.entry_seq, d.expires_us
	FROM revocations r LEFT JOIN delegations d ON d.issuer = r.issuer AND d.token_id = r.token_id`

func readRevocation(r *row) ledger.Revocation {
	v := ledger.Revocation{Issuer: asap.AgentURN(r.text(0)), TokenID: r.text(1), At: fromUS(r.int(2)), Actor: asap.AgentURN(r.text(3)),
		Reason: r.text(4), Receipt: ledger.Receipt{Seq: r.int(5)}}
	if !r.null(6) {
		v.ExpiresAt = fromUS(r.int(6))
	}
	return v
}

// Revocations yields every revocation, in no order.
func (s *Store) Revocations(ctx context.Context) iter.Seq2[ledger.Revocation, error] {
	return func(yield func(ledger.Revocation, error) bool) {
		err := s.one(ctx, `SELECT `+revocationColumns, func(r *row) error {
			if !yield(readRevocation(r), nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !isEnough(err) {
			yield(ledger.Revocation{}, fmt.Errorf("read revocations: %w", err))
		}
	}
}

// Revocation returns the revocation of a token, if there is one.
func (s *Store) Revocation(ctx context.Context, key ledger.BudgetKey) (v ledger.Revocation, found bool, err error) {
	err = s.one(ctx, `SELECT `+revocationColumns+` WHERE r.issuer = $1 AND r.token_id = $2`, func(r *row) error {
		v, found = readRevocation(r), true
		return nil
	}, string(key.Issuer), key.TokenID)
	return v, found, err
}

const tokenColumns = `d.seq, d.issuer, d.token_id, d.delegate, d.above::text, d.scopes::text, d.resources::text, d.limit_tasks, d.limit_nano_usd, d.max_depth,
	d.bound_key, d.issued_us, d.expires_us, d.signed, d.seen_us`

// ListTokens returns at most limit delegation tokens that f selects, newest
// first, of those before the sequence before (0: from the newest on).
func (s *Store) ListTokens(ctx context.Context, f ledger.TokenFilter, before int64, limit int) (tokens []ledger.Token, err error) {
	var c clauses
	if before > 0 {
		c.add(`d.seq < ?`, before)
	}
	if f.TokenID != "" {
		c.add(`d.token_id = ?`, f.TokenID)
	}
	if f.Issuer != "" {
		c.add(`d.issuer = ?`, string(f.Issuer))
	}
	if f.Delegate != "" {
		c.add(`d.delegate = ?`, string(f.Delegate))
	}
	if f.Party != "" {
		c.add(`(d.issuer = ? OR d.delegate = ?)`, string(f.Party), string(f.Party))
	}
	if f.Unrevoked {
		c.add(`NOT EXISTS (SELECT 1 FROM revocations r WHERE r.issuer = d.issuer AND r.token_id = d.token_id)`)
		c.add(`NOT EXISTS (SELECT 1 FROM jsonb_array_elements(d.above) j JOIN revocations r ON r.issuer = j ->> 0 AND r.token_id = j ->> 1)`)
	}
	where := c.where()
	err = s.one(ctx, `SELECT `+tokenColumns+` FROM delegations d`+where+` ORDER BY d.seq DESC LIMIT `+c.bind(limit), func(r *row) error {
		t, err := readToken(r)
		tokens = append(tokens, t)
		return err
	}, c.args...)
	if err != nil {
		return nil, fmt.Errorf("read delegations: %w", err)
	}
	return tokens, nil
}

func readToken(r *row) (t ledger.Token, err error) {
	t = ledger.Token{Sequence: r.int(0), Issuer: asap.AgentURN(r.text(1)), TokenID: r.text(2), Delegate: asap.AgentURN(r.text(3)),
		LimitTasks: r.number(7), LimitNanoUSD: r.money(8), MaxDepth: r.number(9), BoundKey: r.text(10), IssuedAt: fromUS(r.int(11)),
		ExpiresAt: fromUS(r.int(12)), Signed: r.int(13) != 0, SeenAt: fromUS(r.int(14))}
	above, err := readPairs(r.bytes(4))
	if err == nil {
		err = json.Unmarshal(r.bytes(5), &t.Scopes)
	}
	if err == nil {
		err = json.Unmarshal(r.bytes(6), &t.Resources)
	}
	if err != nil {
		return t, fmt.Errorf("token %s: %w", t.TokenID, err)
	}
	if len(above) > 0 {
		t.Above = above
	}
	return t, nil
}

// clauses is the WHERE of a query and its arguments.
type clauses struct {
	terms []string
	args  []any
}

// add adds a term; each ? in it is bound to the next argument.
func (c *clauses) add(term string, args ...any) {
	for _, v := range args {
		term = strings.Replace(term, "?", c.bind(v), 1)
	}
	c.terms = append(c.terms, term)
}

// bind adds an argument and returns its name.
func (c *clauses) bind(v any) string {
	c.args = append(c.args, v)
	return fmt.Sprintf("$%d", len(c.args))
}

func (c *clauses) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.terms, " AND ")
}
