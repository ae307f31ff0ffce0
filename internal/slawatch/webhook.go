package slawatch

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// Post is one message to a webhook, in the form of Standard Webhooks.
type Post struct {
	// ID is the same for each attempt.
	ID string
	// Timestamp is when this attempt is made.
	Timestamp time.Time
	// Signature is over ID, Timestamp and Body; empty without a secret.
	Signature string
	Body      []byte // JSON
}

// ErrGone wraps what a sender says of a post that no further attempt will help.
var ErrGone = errors.New("the receiver refuses it for good")

// Webhook posts what happens to breaches, in order. It remembers in the store how
// far it has got, so that a restart neither loses nor begins anew; the log of
// notifications is its queue.
type Webhook struct {
	// Name of the sink; its position is kept under it.
	Name string
	// Secret signs posts; nil leaves them unsigned.
	Secret []byte
	// Send delivers one post. An error that is ErrGone ends the attempts.
	Send func(ctx context.Context, p Post) error
	// Attempts is how often a post is tried; 0 means 8. After that it becomes a
	// dead letter, and the next one has its turn.
	Attempts int
	// Backoff is the pause after the first attempt, which doubles with each; 0
	// means 1 s. No pause is longer than 5 minutes.
	Backoff time.Duration
	Now     func() time.Time
	Log     *slog.Logger
}

const (
	defaultAttempts = 8
	defaultBackoff  = time.Second
	longestBackoff  = 5 * time.Minute
	attemptTimeout  = 10 * time.Second
)

// Deliver posts until ctx ends.
func (w *Watch) Deliver(ctx context.Context, to Webhook, keep Deliveries) error {
	if to.Attempts <= 0 {
		to.Attempts = defaultAttempts
	}
	if to.Backoff <= 0 {
		to.Backoff = defaultBackoff
	}
	wake := make(chan struct{}, 1)
	w.feed.mu.Lock()
	w.feed.wakes[wake] = struct{}{}
	w.feed.mu.Unlock()
	defer func() {
		w.feed.mu.Lock()
		delete(w.feed.wakes, wake)
		w.feed.mu.Unlock()
	}()
	for {
		more, err := to.deliverNext(ctx, w.log, keep)
		if err != nil && ctx.Err() == nil {
			to.Log.Error("webhook", "sink", to.Name, "error", err)
		}
		again := time.NewTimer(longestBackoff)
		if err != nil {
			again.Reset(to.Backoff)
		}
		if !more || err != nil {
			select {
			case <-ctx.Done():
			case <-wake:
			case <-again.C:
			}
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// deliverNext is done with the next change, if there is one.
func (h *Webhook) deliverNext(ctx context.Context, log Log, keep Deliveries) (more bool, err error) {
	done, err := keep.Delivered(ctx, h.Name)
	if err != nil {
		return false, err
	}
	changes, err := log.BreachChanges(ctx, done, 1)
	if err != nil || len(changes) == 0 {
		return false, err
	}
	letter, err := h.post(ctx, &changes[0])
	if err != nil {
		return false, err
	}
	return true, keep.SetDelivered(context.WithoutCancel(ctx), h.Name, changes[0].Seq, letter)
}

// post tries until it succeeds or gives up. An error means that ctx has ended.
func (h *Webhook) post(ctx context.Context, c *ledger.BreachChange) (*DeadLetter, error) {
	body, err := json.Marshal(&struct {
		Type      string      `json:"type"`
		Timestamp sla.Instant `json:"timestamp"`
		Data      Event       `json:"data"`
	}{"sla.breach." + string(c.Kind), c.At, eventOf(c)})
	if err != nil {
		return nil, err
	}
	p := Post{ID: fmt.Sprintf("msg_%s_%s", c.Breach.ID, c.Kind), Body: body}
	pause := h.Backoff
	for attempt := 1; ; attempt++ {
		p.Timestamp = h.Now()
		p.Signature = Sign(h.Secret, p.ID, p.Timestamp, body)
		one, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := h.Send(one, p)
		cancel()
		if err == nil {
			return nil, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if attempt == h.Attempts || errors.Is(err, ErrGone) {
			h.Log.Error("a webhook does not take this and will not be asked again", "sink", h.Name, "id", p.ID, "attempts", attempt, "error", err)
			return &DeadLetter{At: sla.InstantOf(h.Now()), Attempts: attempt, Error: err.Error()}, nil
		}
		h.Log.Warn("a webhook does not take this yet", "sink", h.Name, "id", p.ID, "attempt", attempt, "error", err)
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		case <-wait.C:
		}
		pause = min(2*pause, longestBackoff)
	}
}

// Sign is the signature of a post as Standard Webhooks has it: "v1," and the base64
// of the HMAC-SHA256 of id, timestamp and body. Without a secret it is empty.
func Sign(secret []byte, id string, at time.Time, body []byte) string {
	if len(secret) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, strconv.FormatInt(at.Unix(), 10)) // a hash takes everything
	_, _ = mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
