package agent

import (
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Bounds of the memory of nonces.
const (
	maxNonces     = 100_000
	maxNonceBytes = 256
)

// nonces remembers the nonces of the last ten minutes, per sender. It is
// bounded: when it is full the oldest is forgotten first, and what still keeps
// a replay from running twice is the ledger's memory of envelope ids.
type nonces struct {
	mu    sync.Mutex
	seen  map[nonceKey]nonceUse
	queue []nonceKey // in the order they came
}

type nonceKey struct {
	sender asap.AgentURN
	nonce  string
}

type nonceUse struct {
	envelope asap.EnvelopeID
	at       time.Time
}

// take uses up the nonce of e, if it has one. A repeat within its lifetime is
// refused, unless it comes in the envelope that brought it first: that is a
// retry, and the envelope id decides what becomes of it.
func (n *nonces) take(e *asap.Envelope, now time.Time) error {
	nonce, ok, err := e.Nonce()
	if err != nil || !ok {
		return err
	}
	if len(nonce) > maxNonceBytes {
		return asap.CodeInvalidNonce.Err("Nonce must be at most 256 bytes")
	}
	key := nonceKey{e.Sender, nonce}
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.queue) > 0 {
		oldest := n.queue[0]
		if len(n.seen) < maxNonces && now.Sub(n.seen[oldest].at) < asap.NonceLifetime {
			break
		}
		delete(n.seen, oldest)
		n.queue = n.queue[1:]
	}
	if use, seen := n.seen[key]; seen {
		if e.IDSet && use.envelope == e.ID {
			return nil
		}
		return e.DuplicateNonce(nonce)
	}
	if n.seen == nil {
		n.seen = make(map[nonceKey]nonceUse)
	}
	n.seen[key] = nonceUse{e.ID, now}
	n.queue = append(n.queue, key)
	return nil
}
