package client

import (
	"context"
	"errors"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// Handlers receive what a [Socket] is told without having asked. They are
// called one at a time, in the order of arrival, by a goroutine of the Socket;
// ctx ends when the Socket closes, which then waits for the handler. A handler
// that is slow delays the others, never the answers to requests: up to
// [WithPushQueue] events wait for it, and further ones are dropped and counted.
// Any field may be nil.
type Handlers struct {
	// Push receives envelopes that answer no request under way: task updates,
	// and results that came too late.
	Push func(ctx context.Context, e *asap.Envelope)
	// Notification receives JSON-RPC notifications other than acknowledgements,
	// such as "sla.breach", with their raw params.
	Notification func(ctx context.Context, method string, params jsontext.Value)
	// RemoteError receives errors that name no request under way.
	RemoteError func(ctx context.Context, err *RemoteError)
	// Invalid receives what is wrong with a frame that cannot be read.
	Invalid func(ctx context.Context, err error)
	// Connected is called for every connection that was made, the first included.
	Connected func(ctx context.Context)
	// Disconnected is called for every connection that was lost, with the
	// cause; a *[CloseError] in it holds the server's close code.
	Disconnected func(ctx context.Context, err error)
}

type socketOptions struct {
	handlers       Handlers
	pushQueue      int
	maxOutstanding int
	ackTimeout     time.Duration
	resends        int
	answerTimeout  time.Duration
	reconnect      bool
}

const (
	ackCheckInterval    = 5 * time.Second
	pingInterval        = 30 * time.Second
	pongTimeout         = 20 * time.Second
	writeTimeout        = 30 * time.Second
	reconnectBase       = time.Second
	reconnectMax        = 30 * time.Second
	answeredRemembered  = 1024
	firstInterval       = 125 * time.Millisecond // between requests, once there were too many
	lastInterval        = 2 * time.Second
	defaultPushQueue    = 256
	defaultOutstanding  = 256
	defaultAnswerWithin = 10 * time.Minute // the protocol's default task timeout
)

func defaultSocketOptions() socketOptions {
	return socketOptions{
		pushQueue:      defaultPushQueue,
		maxOutstanding: defaultOutstanding,
		ackTimeout:     30 * time.Second,
		resends:        3,
		answerTimeout:  defaultAnswerWithin,
		reconnect:      true,
	}
}

// WithHandlers sets who receives what a [Socket] is told unasked.
func WithHandlers(h Handlers) Option {
	return func(o *options) error {
		o.socket.handlers = h
		return nil
	}
}

// WithPushQueue sets how many events may wait for a [Handlers] function; the
// default is 256. See [Socket.Dropped].
func WithPushQueue(n int) Option {
	return func(o *options) error {
		if n < 1 {
			return errors.New("push queue: needs a place at least")
		}
		o.socket.pushQueue = n
		return nil
	}
}

// WithMaxOutstanding sets how many requests of a [Socket] may be under way;
// further calls wait for a place. The default is 256.
func WithMaxOutstanding(n int) Option {
	return func(o *options) error {
		if n < 1 {
			return errors.New("outstanding requests: must be positive")
		}
		o.socket.maxOutstanding = n
		return nil
	}
}

// WithAckTimeout sets how long a [Socket] waits for the acknowledgement of a
// message before it sends it again, and how often it does so before the call
// fails with [ErrNoAck]. The defaults are those of v1.3.0: 30 s, looked at every
// 5 s, and 3 times.
func WithAckTimeout(d time.Duration, resends int) Option {
	return func(o *options) error {
		if d <= 0 || resends < 0 {
			return errors.New("acknowledgement timeout: must be positive, with no negative number of re-sends")
		}
		o.socket.ackTimeout, o.socket.resends = d, resends
		return nil
	}
}

// WithAnswerTimeout bounds the wait for an answer over a [Socket] where the
// call's context does not end earlier; the default is 10 minutes.
func WithAnswerTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d <= 0 {
			return errors.New("answer timeout: must be positive")
		}
		o.socket.answerTimeout = d
		return nil
	}
}

// WithReconnect says whether a [Socket] makes a new connection when one is lost
// and sends again what is unanswered, which is the default. Turn it off for
// servers that do not remember envelope ids, such as v1.3.0's, where the task
// must not run twice.
func WithReconnect(on bool) Option {
	return func(o *options) error {
		o.socket.reconnect = on
		return nil
	}
}
