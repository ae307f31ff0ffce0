package agent

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/time/rate"
)

// WebSocket close codes (core.md, section 17.4).
const (
	closeGoingAway = 1001
	closePolicy    = 1008
)

// stopHandling says that what closes the connection is on its way.
const stopHandling = -1

// Bounds of the queues of one connection, in frames.
const (
	inboundFrames  = 32
	outboundFrames = 64
	// largeFrame is the size from which on a frame is handled before the next
	// one is read, so that a connection holds few of them.
	largeFrame = 64 << 10
)

type frame struct {
	text   []byte
	size   int64
	binary bool
	busy   bool // there was no room for it
	held   share
}

// session is one WebSocket connection: frames come in and are handled strictly
// one after the other, answers and pushed frames go out through one writer.
//
// Four goroutines: the handler (serve itself), a reader, a writer and the
// heartbeat. serve returns when all have ended. ctx ends the session; whatever
// ends it first, the others follow.
type session struct {
	server     *Server
	caller     Caller
	delegation presented // sent with the upgrade: that of every message that brings none
	conn       *socket
	// authenticate looks at the credentials of the upgrade again; nil if there
	// were none.
	authenticate func() (Caller, error)
	limiter      *rate.Limiter // nil: no limit

	ctx    context.Context
	cancel context.CancelFunc
	in     chan frame
	done   chan struct{} // one token for each large frame that was handled
	out    chan outFrame
	ending chan struct{} // closed by stop
	once   sync.Once

	seen    atomic.Int64 // when the last frame came, Unix nanoseconds
	blocked atomic.Bool  // the reader waits for the handler

	mu          sync.Mutex
	unsubscribe [topics]func()
}

type outFrame struct {
	text   []byte
	close  int // a close code instead of a text
	reason string
}

func newSession(s *Server, caller Caller, sent presented) *session {
	w := &session{server: s, caller: caller, delegation: sent, in: make(chan frame, inboundFrames), done: make(chan struct{}, 1),
		out: make(chan outFrame, outboundFrames), ending: make(chan struct{})}
	if per := s.limits.MessagesPerSecond; per > 0 {
		w.limiter = rate.NewLimiter(rate.Limit(per), max(1, int(per)))
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.alive()
	return w
}

func (w *session) alive() { w.seen.Store(time.Now().UnixNano()) }

// stop ends the session when the request at hand is answered. It does not
// block.
func (w *session) stop() { w.once.Do(func() { close(w.ending) }) }

// push queues a frame nobody waits for; false says the queue is full.
func (w *session) push(text []byte) bool {
	select {
	case w.out <- outFrame{text: text}:
		return true
	default:
		return false
	}
}

// pushWithin queues a frame nobody waits for, as soon as there is room; false says
// that ctx, or the session, ended before.
func (w *session) pushWithin(ctx context.Context, text []byte) bool {
	select {
	case w.out <- outFrame{text: text}:
		return true
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
	return false
}

// send queues a frame and waits for room.
func (w *session) send(f outFrame) {
	select {
	case w.out <- f:
	case <-w.ctx.Done():
	}
}

// serve runs the session on conn until it ends.
func (w *session) serve(conn *socket) {
	w.conn = conn
	w.alive()
	var parts sync.WaitGroup
	parts.Go(w.readLoop)
	parts.Go(w.writeLoop)
	parts.Go(w.heartbeat)
	for w.next() {
	}
	<-w.ctx.Done()
	conn.drop()
	parts.Wait()
	for f := range w.in { // closed by the reader; nobody handles them any more
		f.held.end()
	}
	for topic := range w.unsubscribe {
		w.endSubscription(topic)
	}
}

// next handles one frame; false says the session is over or about to be.
func (w *session) next() bool {
	select {
	case <-w.ending:
		w.send(outFrame{close: closeGoingAway, reason: "Server shutting down"})
		return false
	default:
	}
	select {
	case <-w.ending:
		return true // the next turn closes
	case <-w.ctx.Done():
		return false
	case f, open := <-w.in:
		if !open {
			w.cancel()
			return false
		}
		code := w.handle(f)
		f.held.end()
		if f.size >= largeFrame {
			w.done <- struct{}{}
		}
		if code == stopHandling {
			return false
		}
		if code != 0 {
			w.send(outFrame{close: code})
			return false
		}
		return true
	}
}

func (w *session) readLoop() {
	defer close(w.in)
	for {
		f, err := w.conn.read(w.ctx)
		if err != nil {
			return
		}
		w.alive()
		w.blocked.Store(true)
		select {
		case w.in <- f:
		case <-w.ctx.Done():
			f.held.end()
			return
		}
		if f.size >= largeFrame {
			select {
			case <-w.done:
			case <-w.ctx.Done():
				return
			}
		}
		w.alive()
		w.blocked.Store(false)
	}
}

func (w *session) writeLoop() {
	defer w.cancel()
	for {
		select {
		case <-w.ctx.Done():
			return
		case f := <-w.out:
			if f.close != 0 {
				w.conn.close(f.close, f.reason)
				return
			}
			if w.conn.write(w.ctx, f.text) != nil {
				return
			}
		}
	}
}

// heartbeat pings and closes a connection from which nothing comes any more.
func (w *session) heartbeat() {
	ticker := time.NewTicker(w.server.limits.HeartbeatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
		if silent := time.Since(time.Unix(0, w.seen.Load())); silent > w.server.limits.StaleAfter && !w.blocked.Load() {
			w.conn.close(closeGoingAway, "stale")
			w.cancel()
			return
		}
		if !w.stillCaller() {
			w.conn.close(closePolicy, noLongerValid)
			w.cancel()
			return
		}
		w.push([]byte(`{"type":"ping"}`))
	}
}

// noLongerValid is the reason a connection is closed with whose credentials have
// expired or were withdrawn.
const noLongerValid = "credentials are no longer valid"

// stillCaller tells whether the credentials the connection was opened with are
// good yet. That they cannot be judged at the moment does not end it.
func (w *session) stillCaller() bool {
	if w.authenticate == nil {
		return true
	}
	caller, err := w.authenticate()
	if err != nil {
		return authError(err).Code.Info().HTTP == http.StatusServiceUnavailable
	}
	return caller == w.caller
}

// handle takes one frame in the order of core.md, section 17. It returns the
// code to close with, or 0.
func (w *session) handle(f frame) int {
	if f.binary {
		return closeGoingAway
	}
	if f.text == nil && f.size > 0 {
		if !w.allowed() {
			return w.rateLimited("")
		}
		if f.busy {
			w.send(outFrame{text: asap.AppendRPCError(nil, "", (&busy{asap.CodeOverloaded, asap.CodeOverloaded.Info().Sentence, jsontext.Value("{}")}).rpc())})
			return 0
		}
		detail := tooLarge("Request size", f.size, w.server.limits.BodyBytes).detail
		w.send(outFrame{text: asap.AppendRPCError(nil, "", rpcError(asap.RPCInvalidRequest,
			object("error", detail, "code", string(asap.CodeRequestTooLarge), "status_code", 413)))})
		return 0
	}
	rpc, bad := asap.ParseRPCRequest(f.text)
	switch {
	case bad == nil && rpc.Method == asap.MethodSend: // by far the most
	case bad != nil && bad.Code == asap.RPCParseError && !looselyJSON(f.text):
		return 0
	case !isObject(f.text):
		return closeGoingAway
	default:
		if handled := w.control(f.text); handled {
			return 0
		}
	}
	if !w.allowed() {
		return w.rateLimited(rpc.ID)
	}
	if !w.stillCaller() {
		w.server.metrics.authFailures.Inc()
		w.send(outFrame{close: closePolicy, reason: noLongerValid})
		return stopHandling
	}
	w.request(rpc, bad)
	return 0
}

// looselyJSON tells whether what we refuse as JSON is some to others: it has two
// members of one name, or text that is no Unicode. Silence would let its sender
// wait for an answer.
func looselyJSON(text []byte) bool {
	return jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

func isObject(text []byte) bool { return jsontext.Value(text).Kind() == '{' }

// control handles frames that are not requests of asap.send and cost no token:
// pings, pongs and subscriptions.
func (w *session) control(text []byte) bool {
	var members struct {
		Type   jsontext.Value `json:"type"`
		Method jsontext.Value `json:"method"`
		Params jsontext.Value `json:"params"`
		ID     jsontext.Value `json:"id"`
	}
	if json.Unmarshal(text, &members) != nil {
		return false
	}
	if len(members.ID) == 0 {
		members.ID = jsontext.Value("null")
	}
	if len(members.Method) == 0 {
		switch string(members.Type) {
		case `"pong"`:
			return true
		case `"ping"`:
			w.push([]byte(`{"type":"pong"}`))
			return true
		}
		return false
	}
	topic := slaTopic
	switch string(members.Method) {
	case `"` + asap.MethodDelegationSubscribe + `"`, `"` + asap.MethodDelegationUnsubscribe + `"`:
		topic = limitsTopic
	}
	switch string(members.Method) {
	case `"` + asap.MethodSLASubscribe + `"`, `"` + asap.MethodDelegationSubscribe + `"`:
		subscribed := object("subscribed", true)
		if p, ok := w.news(topic).(Positioned); ok {
			subscribed = object("subscribed", true, "seq", p.Position())
		}
		result := object("jsonrpc", "2.0", "result", subscribed, "id", members.ID)
		if err := w.subscribe(topic, members.Params); err != nil {
			refused, unavailable := w.server.failed(&call{kind: otherType}, err)
			if unavailable != nil {
				refused = unavailable.rpc()
			}
			result = asap.AppendRPCError(nil, asap.RPCID(members.ID), refused)
		}
		w.send(outFrame{text: result})
		return true
	case `"` + asap.MethodSLAUnsubscribe + `"`, `"` + asap.MethodDelegationUnsubscribe + `"`:
		w.endSubscription(topic)
		w.send(outFrame{text: object("jsonrpc", "2.0", "result", object("unsubscribed", true), "id", members.ID)})
		return true
	}
	return false
}

// What a connection can subscribe to, once each.
const (
	slaTopic = iota
	limitsTopic
	topics // how many there are
)

// news is where a topic is subscribed to, nil if nowhere.
func (w *session) news(topic int) Notifications {
	if topic == limitsTopic {
		return w.server.cfg.LimitNotifications
	}
	return w.server.cfg.Notifications
}

func (w *session) subscribe(topic int, params jsontext.Value) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.news(topic)
	if from == nil {
		return nil
	}
	end, err := from.Subscribe(w.ctx, w.caller, params, w.pushWithin)
	if err != nil {
		return err
	}
	if w.unsubscribe[topic] != nil { // the new one takes its place
		w.unsubscribe[topic]()
	}
	w.unsubscribe[topic] = end
	return nil
}

func (w *session) endSubscription(topic int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsubscribe[topic] != nil {
		w.unsubscribe[topic]()
		w.unsubscribe[topic] = nil
	}
}

func (w *session) allowed() bool { return w.limiter == nil || w.limiter.Allow() }

func (w *session) rateLimited(id asap.RPCID) int {
	w.send(outFrame{text: asap.AppendRPCError(nil, id, &asap.RPCError{Code: asap.RPCRateLimited, Message: "Rate limit exceeded; too many messages per second"})})
	return closePolicy
}

// request is one asap.send: the acknowledgement if it is asked for, then the
// answer, both in this order before the next frame is looked at.
func (w *session) request(rpc asap.RPCRequest, bad *asap.RPCError) {
	s := w.server
	c := &call{inbound: inbound{caller: w.caller, delegation: w.delegation, watcher: w}}
	err := s.check(c, rpc, bad)
	if c.envelope != nil && c.envelope.RequiresAck {
		c.envelope.Complete(s.ids, s.now())
		w.send(outFrame{text: s.ack(c.envelope)})
	}
	var answer *asap.Envelope
	if err == nil {
		answer, err = s.dispatch(w.ctx, c)
	}
	s.metrics.answered(c.kind, c.failure, time.Since(c.began))
	switch {
	case err == nil:
		w.send(outFrame{text: asap.AppendRPCResult(make([]byte, 0, len(answer.Payload)+1024), c.rpc.ID, answer)})
	case w.ctx.Err() != nil && errors.Is(err, context.Cause(w.ctx)): // the connection is gone
	default:
		refused, unavailable := s.failed(c, err)
		if unavailable != nil {
			refused = unavailable.rpc()
		}
		w.send(outFrame{text: asap.AppendRPCError(nil, c.rpc.ID, refused)})
	}
}

// ack is the frame that acknowledges the receipt of e (core.md, section 17.2).
func (s *Server) ack(e *asap.Envelope) []byte {
	now := s.now()
	payload := (&asap.MessageAck{OriginalEnvelopeID: e.ID, Status: asap.AckReceived}).AppendJSON(nil)
	ack := e.Answer(s.ids.NewEnvelopeID(now), now, e.Recipient, asap.MessageAckType, payload)
	ack.CorrelationID, ack.TraceID = nil, nil
	return asap.AppendRPCNotification(nil, asap.MethodAck, object("envelope", jsontext.Value(ack.AppendJSON(nil))))
}

// rpc is the form of a 503 on a connection that carries JSON-RPC alone: the
// bare body v1.3.0 sends there ends its own client's reading.
func (b *busy) rpc() *asap.RPCError {
	return rpcError(asap.RPCInternalError, object("error", "Service Temporarily Unavailable", "code", string(b.code),
		"message", b.message, "status_code", 503, "retry_after", 1, "details", b.details))
}
