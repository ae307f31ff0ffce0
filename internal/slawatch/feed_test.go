package slawatch_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// N4, N12: a subscriber hears of what it asked for, until it has enough.
func TestFiltersOfSubscribers(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	hear := func(params string, allowed func(string) bool) (*frames, func()) {
		f, err := slawatch.ParseFilter(jsontext.Value(params))
		if err != nil {
			t.Fatal(err)
		}
		var got frames
		end, err := s.watch.Subscribe(t.Context(), f, allowed, got.push)
		if err != nil {
			t.Fatal(err)
		}
		return &got, end
	}
	all, end := hear(`null`, nil)
	defer end()
	var silent []*frames
	for _, params := range []string{`{"agents":["urn:asap:agent:other"]}`, `{"objectives":["latency"]}`, `{"windows":["30d"]}`} {
		got, end := hear(params, nil)
		defer end()
		silent = append(silent, got)
	}
	stranger, end := hear(`{}`, func(string) bool { return false })
	defer end()
	left, end := hear(`{}`, nil)
	end()
	critical, end := hear(`{"agents":["`+string(agentX)+`"],"min_severity":"critical"}`, nil)
	defer end()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, `{"max_error_rate":"1%"}`)})
	s.known()
	for range 20 {
		s.task(metering.Failed, "", 1)
	}
	s.until("it is heard of", func() bool { return all.count() == 1 && critical.count() == 1 })
	for i, got := range append(silent, stranger, left) {
		if got.count() != 0 {
			t.Errorf("subscriber %d hears %v", i, got.all())
		}
	}
	for _, bad := range []string{`{"objectives":["beauty"]}`, `{"windows":["2d"]}`, `{"min_severity":"high"}`, `{"since_seq":-2}`, `{"agents":1}`} {
		if _, err := slawatch.ParseFilter(jsontext.Value(bad)); !errors.Is(err, slawatch.ErrFilter) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A webhook gets the same message again, under the same id and signed anew, until
// it takes it or its attempts are used up.
func TestWebhookTriesAgain(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	var mu sync.Mutex // guards posts
	var posts []slawatch.Post
	secret := []byte("secret")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if _, err := s.store.Delivered(t.Context(), "test"); err != nil { // from now on
		t.Fatal(err)
	}
	go func() {
		done <- s.watch.Deliver(ctx, slawatch.Webhook{Name: "test", Secret: secret, Attempts: 3, Backoff: time.Millisecond, Now: s.time, Log: slog.New(slog.DiscardHandler),
			Send: func(_ context.Context, p slawatch.Post) error {
				mu.Lock()
				defer mu.Unlock()
				posts = append(posts, p)
				if bytes.Contains(p.Body, []byte(`"event":"firing"`)) && len(posts) < 3 {
					return errors.New("not now")
				}
				if bytes.Contains(p.Body, []byte(`"event":"resolved"`)) {
					return errors.New("never")
				}
				return nil
			}}, s.store)
	}()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(posts) }
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, `{"max_error_rate":"1%"}`)})
	s.known()
	for range 20 {
		s.task(metering.Failed, "", 1)
	}
	s.until("it is taken at the third attempt", func() bool { return count() == 3 })
	s.watch.RemoveAgent(string(agentX))
	s.until("the end is given up after three", func() bool { return count() == 6 })
	s.until("and the sink is done with it", func() bool {
		last, err := s.store.LastBreachChange(t.Context())
		at, err2 := s.store.Delivered(t.Context(), "test")
		return err == nil && err2 == nil && at == last
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for i, p := range posts {
		if want := posts[i/3*3].ID; p.ID != want || p.Signature != slawatch.Sign(secret, p.ID, p.Timestamp, p.Body) {
			t.Errorf("post %d: %+v", i, p)
		}
	}
}

// The signature is that of Standard Webhooks, as its own example has it.
func TestSignature(t *testing.T) {
	secret, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := slawatch.Sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

// Who has no room for too long is told where to go on, and nothing more.
func TestSlowSubscriberIsDropped(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, `{"max_error_rate":"1%"}`)})
	s.known()
	for range 20 {
		s.task(metering.Failed, "", 1)
	}
	s.until("it opens", func() bool { return s.watch.Position() >= 0 })
	since := int64(-1)
	lagged := make(chan string, 1)
	end, err := s.watch.Subscribe(t.Context(), slawatch.Filter{SinceSeq: &since}, nil, func(ctx context.Context, frame []byte) bool {
		if !strings.Contains(string(frame), "sla.lagged") {
			<-ctx.Done() // no room for what it asked for
			return false
		}
		lagged <- string(frame)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if got := <-lagged; got != `{"jsonrpc":"2.0","method":"sla.lagged","params":{"since_seq":-1}}` {
		t.Errorf("frame %s", got)
	}
}
