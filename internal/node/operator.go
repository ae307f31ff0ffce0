package node

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// operator recognises the operator's bearer token without holding it.
type operator struct{ digest [32]byte }

func newOperator(token string) operator { return operator{sha256.Sum256([]byte(token))} }

// is tells whether r carries the operator token.
func (o operator) is(r *http.Request) bool {
	token, ok := bearer(r)
	if !ok {
		return false
	}
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], o.digest[:]) == 1
}

// bearer returns the bearer token of a request; the scheme's case is free (RFC 9110, 11.1).
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer")
}
