package client

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// Socket calls one agent over a WebSocket (core.md, section 17) and receives
// what the agent tells unasked. It is safe for concurrent use.
//
// A Socket lives through three states: made, running, closed. Either [Socket.Run]
// is called by a goroutine that waits for its end, or [Socket.Connect] starts
// one that [Socket.Close] waits for. While running, a lost connection is made
// again after 1, 2, 4 … 30 seconds, and what is unanswered is sent again with
// identical bytes. Closed is final.
type Socket struct {
	url   string
	opts  *options
	http  *http.Client
	idle  func()
	ids   *asap.IDSource
	slots chan struct{} // one per call under way
	wake  chan struct{} // tells the writer that there is something in queue, or a pong due
	drops atomic.Uint64

	events chan func(context.Context) // waits for the handlers; closed by run

	life context.Context    // ends with Close
	kill context.CancelFunc // ends life
	done chan struct{}      // closed when nothing of this Socket is left

	mu       sync.Mutex // guards what follows
	state    socketState
	err      error // why there are no more answers; set when closed
	sequence uint64
	calls    map[string]*call // under way, by JSON-RPC id
	queue    []*call          // to be written; a call is in it once at most
	pongDue  bool
	interval time.Duration            // least time between two requests; 0 until the agent asks for less
	answered map[string]struct{}      // ids of the latest answers delivered, to know a second one
	forget   []string                 // ring over answered
	forgetAt int                      // next place in forget
	watchers map[asap.TaskID][]*watch // who waits for updates of a task
	renew    []byte                   // frame of the SLA subscription, sent again on every new connection
}

type socketState int

const (
	socketMade socketState = iota
	socketRunning
	socketClosed
)

// call is a request under way. Its fields are guarded by Socket.mu, but for
// result.
type call struct {
	id        string
	sequence  uint64 // order of the first sending, kept when sent again
	envelope  asap.EnvelopeID
	frame     []byte
	renewal   bool // of a subscription: nobody waits for the answer
	wantsAck  bool
	acked     bool
	queued    bool
	begun     bool      // a write was started once, so it may have arrived
	writtenAt time.Time // last write on the present connection; zero before it
	expires   time.Time
	resends   int
	limited   int        // how often the rate limit refused it
	result    chan reply // holds one
}

// reply ends a call: a raw result, or an error.
type reply struct {
	result jsontext.Value
	err    error
}

// NewSocket returns a Socket for the agent at baseURL. The URL is made as
// v1.3.0's client does: /asap/ws below it, unless it ends so; http and https
// stand for ws and wss. Plain ws is refused unless the host is loopback or
// [WithInsecure] says so. Nothing is connected yet.
func NewSocket(baseURL string, opts ...Option) (*Socket, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	base, err := parseBase(baseURL, o.insecure)
	if err != nil {
		return nil, err
	}
	c, idle := o.newHTTPClient()
	life, kill := context.WithCancel(context.Background())
	return &Socket{
		url:      socketURL(base),
		opts:     o,
		http:     c,
		idle:     idle,
		ids:      asap.NewIDSource(),
		slots:    make(chan struct{}, o.socket.maxOutstanding),
		wake:     make(chan struct{}, 1),
		events:   make(chan func(context.Context), o.socket.pushQueue),
		life:     life,
		kill:     kill,
		done:     make(chan struct{}),
		calls:    map[string]*call{},
		answered: map[string]struct{}{},
		forget:   make([]string, answeredRemembered),
		watchers: map[asap.TaskID][]*watch{},
	}, nil
}

// URL returns the WebSocket URL.
func (s *Socket) URL() string { return s.url }

// Dropped returns how many events found the queue of the handlers full.
func (s *Socket) Dropped() uint64 { return s.drops.Load() }

// Send sends e and returns the agent's answer, as [Client.Send] does. For task
// requests and cancellations, state restorations and messages it sets
// requires_ack, and sends the same bytes again if the acknowledgement does not
// come, see [WithAckTimeout].
//
// An agent that finds the messages too many (-32001; v1.3.0 allows ten a second
// and connection) is sent them more slowly from then on, and what it refused for
// that reason again, as often as the [RetryPolicy] says.
//
// While the connection is down, Send waits for the next one, until ctx ends.
func (s *Socket) Send(ctx context.Context, e *asap.Envelope) (*asap.Envelope, error) {
	sent := prepare(e, s.ids, time.Now())
	if ackRequired(sent.PayloadType) {
		sent.RequiresAck = true
	}
	if !s.opts.breaker.allow(time.Now()) {
		return nil, failure("connect", s.url, 0, false, ErrCircuitOpen)
	}
	key := idempotencyKey(sent.ID, s.ids, time.Now())
	result, err := s.roundTrip(ctx, sent.ID, sent.RequiresAck, func(id string) []byte {
		return asap.AppendRPCSend(nil, asap.StringID(id), sent, key)
	})
	var answer *asap.Envelope
	if err == nil {
		if answer, err = envelope(result); err != nil {
			err = failure("receive", s.url, 1, true, err)
		}
	}
	s.opts.breaker.conclude(ctx, err, time.Now())
	return answer, err
}

// ackRequired names the payload types that v1.3.0's client wants acknowledged,
// and state.restore, which it forgets under its dotted name (core.md, 17.2).
func ackRequired(payloadType string) bool {
	switch payloadType {
	case "TaskRequest", "task.request", "TaskCancel", "task.cancel",
		"StateRestore", "state.restore", "state_restore",
		"MessageSend", "message.send", "message_send":
		return true
	}
	return false
}

// Request sends a JSON-RPC request of any method and returns its raw result.
// params is a JSON object; empty means {}.
func (s *Socket) Request(ctx context.Context, method string, params jsontext.Value) (jsontext.Value, error) {
	frame, err := requestFrame(method, params)
	if err != nil {
		return nil, err
	}
	return s.roundTrip(ctx, "", false, frame)
}

// SubscribeSLA asks for notifications of SLA breaches ("sla.breach"), which reach
// [Handlers].Notification, and returns what the agent said. params may narrow
// the subscription where the agent knows how; empty means all. The subscription
// is renewed on every new connection; one more call replaces it.
func (s *Socket) SubscribeSLA(ctx context.Context, params jsontext.Value) (jsontext.Value, error) {
	frame, err := requestFrame("sla.subscribe", params)
	if err != nil {
		return nil, err
	}
	result, err := s.roundTrip(ctx, "", false, frame)
	if err == nil {
		s.mu.Lock()
		s.renew = frame("ws-renew") // nobody waits for what answers it
		s.mu.Unlock()
	}
	return result, err
}

// UnsubscribeSLA ends the subscription of [Socket.SubscribeSLA].
func (s *Socket) UnsubscribeSLA(ctx context.Context) error {
	s.mu.Lock()
	s.renew = nil
	s.mu.Unlock()
	_, err := s.Request(ctx, "sla.unsubscribe", nil)
	return err
}

// requestFrame returns what makes the frame of a request once its id is known.
func requestFrame(method string, params jsontext.Value) (func(id string) []byte, error) {
	if len(params) == 0 {
		params = jsontext.Value("{}")
	}
	if params.Kind() != '{' || !params.IsValid() {
		return nil, errors.New("params: not a JSON object")
	}
	params = params.Clone()
	return func(id string) []byte {
		return asap.AppendRPCRequest(nil, asap.StringID(id), method, params)
	}, nil
}

// roundTrip makes a call and waits for its reply.
func (s *Socket) roundTrip(ctx context.Context, env asap.EnvelopeID, wantsAck bool, frame func(id string) []byte) (jsontext.Value, error) {
	c := &call{envelope: env, wantsAck: wantsAck, result: make(chan reply, 1)}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, failure("wait", s.url, 0, false, ctx.Err())
	case <-s.done:
		return nil, s.closedError(c)
	}
	defer func() { <-s.slots }()

	if err := s.register(c, frame); err != nil {
		return nil, err
	}
	select {
	case r := <-c.result:
		return r.result, r.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, c.id)
		select {
		case r := <-c.result: // it came after all
			return r.result, r.err
		default:
		}
		return nil, failure("receive", s.url, 1, c.begun, ctx.Err())
	}
}

// register gives c its id and its frame and puts it in the queue.
func (s *Socket) register(c *call, frame func(id string) []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != socketRunning {
		return s.closedErrorLocked(c)
	}
	s.sequence++
	c.sequence = s.sequence
	c.id = "ws-req-" + strconv.FormatUint(c.sequence, 10)
	c.frame = frame(c.id)
	c.expires = time.Now().Add(s.opts.socket.answerTimeout)
	s.calls[c.id] = c
	s.enqueue(c)
	return nil
}

func (s *Socket) closedError(c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closedErrorLocked(c)
}

func (s *Socket) closedErrorLocked(c *call) error {
	if s.err == nil {
		return failure("send", s.url, 0, false, ErrClosed)
	}
	return s.lastWord(c, s.err)
}

// lastWord is what c ends with when the Socket or its connection ends with err.
func (s *Socket) lastWord(c *call, err error) error {
	var remote *RemoteError
	if errors.As(err, &remote) { // refused to connect again
		refusal := *remote
		refusal.EarlierUnanswered = c.begun
		return &refusal
	}
	var transport *TransportError
	if errors.As(err, &transport) {
		err = transport.Err
	}
	op, attempts := "send", 0
	if c.begun {
		op, attempts = "receive", c.resends+1
	}
	return failure(op, s.url, attempts, c.begun, err)
}

// enqueue puts c in the queue of the writer. The caller holds mu.
func (s *Socket) enqueue(c *call) {
	if c.queued {
		return
	}
	c.queued = true
	s.queue = append(s.queue, c)
	s.wakeWriter()
}

func (s *Socket) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next takes the next frame to write, or nil, and says how long to pause after
// it.
func (s *Socket) next(now time.Time) (frame []byte, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pongDue {
		s.pongDue = false
		return []byte(`{"type":"pong"}`), 0
	}
	for len(s.queue) > 0 {
		c := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		c.queued = false
		if !c.renewal && s.calls[c.id] != c { // answered or given up meanwhile
			continue
		}
		c.begun, c.writtenAt = true, now
		return c.frame, s.interval
	}
	s.queue = nil
	return nil, 0
}

// slowDown deals with the refusal of a call for want of rate: from now on
// requests keep a distance, which doubles with every refusal, and the call is
// sent again. It reports false if the call has been refused often enough.
func (s *Socket) slowDown(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interval = min(max(2*s.interval, firstInterval), lastInterval)
	c := s.calls[id]
	if c == nil {
		return true
	}
	c.limited++
	if !s.opts.socket.reconnect || c.limited >= s.opts.retry.Attempts {
		return false
	}
	s.enqueue(c)
	return true
}

// finish ends the call with that id. It reports whether there was one.
func (s *Socket) finish(id string, r reply) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[id]
	if c == nil {
		return false
	}
	s.finishLocked(c, r)
	return true
}

func (s *Socket) finishLocked(c *call, r reply) {
	delete(s.calls, c.id)
	delete(s.answered, s.forget[s.forgetAt])
	s.forget[s.forgetAt] = c.id
	s.forgetAt = (s.forgetAt + 1) % len(s.forget)
	s.answered[c.id] = struct{}{}
	c.result <- r
}

// wasAnswered reports whether the reply to that id was delivered lately.
func (s *Socket) wasAnswered(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.answered[id]
	return ok
}

// acknowledge notes an acknowledgement for every call that carries the
// envelope; a rejection ends them.
func (s *Socket) acknowledge(ack *asap.MessageAck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.envelope == "" || c.envelope != ack.OriginalEnvelopeID {
			continue
		}
		c.acked = true
		if ack.Status == "rejected" {
			remote := &RemoteError{Code: asap.RPCInternalError, Message: "message rejected", DataCode: "message_rejected"}
			if ack.Reason != nil {
				remote.Message += ": " + *ack.Reason
			}
			s.finishLocked(c, reply{err: remote})
		}
	}
}

// sweep sends again what was not acknowledged in time, and ends what was sent
// often enough, or has waited for its answer long enough.
func (s *Socket) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.inOrder() {
		switch {
		case !now.Before(c.expires):
			s.finishLocked(c, reply{err: failure("receive", s.url, c.resends+1, c.begun, ErrNoAnswer)})
		case !c.wantsAck || c.acked || c.queued || c.writtenAt.IsZero() || now.Sub(c.writtenAt) < s.opts.socket.ackTimeout:
		case c.resends >= s.opts.socket.resends:
			s.finishLocked(c, reply{err: failure("receive", s.url, c.resends+1, true, ErrNoAck)})
		default:
			c.resends++
			s.enqueue(c)
		}
	}
}

// inOrder returns the calls under way in the order they were made. The caller
// holds mu.
func (s *Socket) inOrder() []*call {
	calls := make([]*call, 0, len(s.calls))
	for _, c := range s.calls {
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b *call) int { return cmp.Compare(a.sequence, b.sequence) })
	return calls
}

// resume prepares the queue for a new connection: the subscription, then all
// that is unanswered, oldest first.
func (s *Socket) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pongDue = false
	s.queue = nil
	calls := s.inOrder()
	if s.renew != nil {
		s.enqueue(&call{frame: s.renew, renewal: true})
	}
	for _, c := range calls {
		c.queued, c.writtenAt, c.acked = false, time.Time{}, false
		s.enqueue(c)
	}
}

// suspend notes that there is no connection, so no acknowledgement is due.
func (s *Socket) suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		c.writtenAt = time.Time{}
	}
}

// failAll ends every call under way.
func (s *Socket) failAll(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAllLocked(err)
}

func (s *Socket) failAllLocked(err error) {
	for _, c := range s.inOrder() {
		s.finishLocked(c, reply{err: s.lastWord(c, err)})
	}
}
