package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"iter"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

func (l *loading) revocations(n *ledger.Needs) error {
	seen := make(map[ledger.BudgetKey]bool, len(n.Revocations))
	for _, k := range n.Revocations {
		if seen[k] {
			continue
		}
		seen[k] = true
		err := l.c.query(`SELECT r.at_us, r.actor, r.reason, r.entry_seq, e.id, e.hash FROM revocations r LEFT JOIN audit_entries e ON e.seq = r.entry_seq
			WHERE r.issuer = ? AND r.token_id = ?`, func(r *row) error {
			v := ledger.Revocation{
				Issuer: k.Issuer, TokenID: k.TokenID, At: fromUS(r.int(0)), Actor: asap.AgentURN(r.text(1)), Reason: r.text(2),
				Receipt: ledger.Receipt{Seq: r.int(3)},
			}
			if !r.null(4) {
				v.Receipt.EntryID, v.Receipt.Hash = r.text(4), r.hash(5)
			}
			l.out.Revocations = append(l.out.Revocations, v)
			return nil
		}, string(k.Issuer), k.TokenID)
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loading) tokens(n *ledger.Needs) error {
	for _, k := range n.Tokens {
		err := l.c.query(`SELECT 1 FROM delegations WHERE issuer = ? AND token_id = ?`, func(*row) error {
			l.out.Tokens = append(l.out.Tokens, k)
			return nil
		}, string(k.Issuer), k.TokenID)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) insertToken(d *ledger.Token) error {
	above := make([][2]string, len(d.Above))
	for i, k := range d.Above {
		above[i] = [2]string{string(k.Issuer), k.TokenID}
	}
	_, err := t.c.exec(`INSERT OR IGNORE INTO delegations (issuer, token_id, delegate, above, scopes, resources, limit_tasks, limit_nano_usd, max_depth,
		bound_key, issued_us, expires_us, signed, seen_us) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		string(d.Issuer), d.TokenID, string(d.Delegate), list(above), list(d.Scopes), list(d.Resources), number(d.LimitTasks), money(d.LimitNanoUSD),
		number(d.MaxDepth), d.BoundKey, d.IssuedAt.UnixMicro(), d.ExpiresAt.UnixMicro(), flag(d.Signed), d.SeenAt.UnixMicro())
	return err
}

func (t *tx) insertRevocation(r *ledger.Revocation) error {
	_, err := t.c.exec(`INSERT INTO revocations (issuer, token_id, at_us, actor, reason, entry_seq) VALUES (?,?,?,?,?,?)`,
		string(r.Issuer), r.TokenID, r.At.UnixMicro(), string(r.Actor), r.Reason, r.Receipt.Seq)
	return err
}

// list writes texts, or lists of them, as JSON; none is [].
func list[T any](v []T) driver.Value {
	b, err := json.Marshal(v)
	if err != nil {
		panic("sqlite: a list of texts does not marshal: " + err.Error()) // texts are valid UTF-8, the protocol layer checks them
	}
	return string(b)
}

func number(n *int64) driver.Value {
	if n == nil {
		return nil
	}
	return *n
}

// Revocations yields every revocation, in no order.
func (s *Store) Revocations(ctx context.Context) iter.Seq2[ledger.Revocation, error] {
	return func(yield func(ledger.Revocation, error) bool) {
		stopped := errors.New("stopped")
		err := s.read(ctx, func(q *sql.Tx) error {
			rows, err := q.QueryContext(ctx, `SELECT r.issuer, r.token_id, r.at_us, r.actor, r.reason, r.entry_seq, d.expires_us
				FROM revocations r LEFT JOIN delegations d ON d.issuer = r.issuer AND d.token_id = r.token_id`)
			if err != nil {
				return err
			}
			defer rows.Close() //nolint:errcheck // Err tells
			for rows.Next() {
				var r ledger.Revocation
				var us int64
				var ends *int64
				if err := rows.Scan(&r.Issuer, &r.TokenID, &us, &r.Actor, &r.Reason, &r.Receipt.Seq, &ends); err != nil {
					return err
				}
				r.At = fromUS(us)
				if ends != nil {
					r.ExpiresAt = fromUS(*ends)
				}
				if !yield(r, nil) {
					return stopped
				}
			}
			return rows.Err()
		})
		if err != nil && !errors.Is(err, stopped) {
			yield(ledger.Revocation{}, fmt.Errorf("read revocations: %w", err))
		}
	}
}

// Revocation returns the revocation of a token, if there is one.
func (s *Store) Revocation(ctx context.Context, key ledger.BudgetKey) (r ledger.Revocation, found bool, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		var us int64
		err := q.QueryRowContext(ctx, `SELECT at_us, actor, reason, entry_seq FROM revocations WHERE issuer = ? AND token_id = ?`,
			string(key.Issuer), key.TokenID).Scan(&us, &r.Actor, &r.Reason, &r.Receipt.Seq)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		r.Issuer, r.TokenID, r.At, found = key.Issuer, key.TokenID, fromUS(us), err == nil
		return err
	})
	return r, found, err
}

const tokenColumns = `d.seq, d.issuer, d.token_id, d.delegate, d.above, d.scopes, d.resources, d.limit_tasks, d.limit_nano_usd, d.max_depth,
	d.bound_key, d.issued_us, d.expires_us, d.signed, d.seen_us`

// ListTokens returns at most limit delegation tokens that f selects, newest
// first, of those before the sequence before (0: from the newest on).
func (s *Store) ListTokens(ctx context.Context, f ledger.TokenFilter, before int64, limit int) (tokens []ledger.Token, err error) {
	query, args := `SELECT `+tokenColumns+` FROM delegations d WHERE 1`, []any{}
	where := func(condition string, values ...any) {
		query += ` AND ` + condition //nolint:gosec // the conditions are texts of this package
		args = append(args, values...)
	}
	if before > 0 {
		where(`d.seq < ?`, before)
	}
	if f.TokenID != "" {
		where(`d.token_id = ?`, f.TokenID)
	}
	if f.Issuer != "" {
		where(`d.issuer = ?`, string(f.Issuer))
	}
	if f.Delegate != "" {
		where(`d.delegate = ?`, string(f.Delegate))
	}
	if f.Party != "" {
		where(`(d.issuer = ? OR d.delegate = ?)`, string(f.Party), string(f.Party))
	}
	if f.Unrevoked {
		where(`NOT EXISTS (SELECT 1 FROM revocations r WHERE r.issuer = d.issuer AND r.token_id = d.token_id)
			AND NOT EXISTS (SELECT 1 FROM json_each(d.above) j JOIN revocations r ON r.issuer = j.value ->> 0 AND r.token_id = j.value ->> 1)`)
	}
	query += ` ORDER BY d.seq DESC LIMIT ?`
	args = append(args, limit)
	err = s.read(ctx, func(q *sql.Tx) error {
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close() //nolint:errcheck // Err tells
		for rows.Next() {
			t, err := scanToken(rows)
			if err != nil {
				return err
			}
			tokens = append(tokens, t)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read delegations: %w", err)
	}
	return tokens, nil
}

func scanToken(rows *sql.Rows) (ledger.Token, error) {
	var t ledger.Token
	var above, scopes, resources []byte
	var tasks, nanoUSD, depth sql.NullInt64
	var issued, expires, seen int64
	if err := rows.Scan(&t.Sequence, &t.Issuer, &t.TokenID, &t.Delegate, &above, &scopes, &resources, &tasks, &nanoUSD, &depth,
		&t.BoundKey, &issued, &expires, &t.Signed, &seen); err != nil {
		return t, err
	}
	var pairs [][2]string
	for text, to := range map[*[]byte]any{&above: &pairs, &scopes: &t.Scopes, &resources: &t.Resources} {
		if err := json.Unmarshal(*text, to); err != nil {
			return t, fmt.Errorf("token %s: %w", t.TokenID, err)
		}
	}
	for _, p := range pairs {
		t.Above = append(t.Above, ledger.BudgetKey{Issuer: asap.AgentURN(p[0]), TokenID: p[1]})
	}
	if tasks.Valid {
		t.LimitTasks = &tasks.Int64
	}
	if nanoUSD.Valid {
		t.LimitNanoUSD = new(metering.NanoUSD(nanoUSD.Int64))
	}
	if depth.Valid {
		t.MaxDepth = &depth.Int64
	}
	t.IssuedAt, t.ExpiresAt, t.SeenAt = fromUS(issued), fromUS(expires), fromUS(seen)
	return t, nil
}
