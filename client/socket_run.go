package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/asap-protocol/asap-go"
)

var errAlreadyRunning = errors.New("socket was connected or closed before")

// Connect makes the first connection, once, and then keeps the Socket running
// in the background until [Socket.Close]. The error is a *[RemoteError] if the
// agent refused the upgrade, else a *[TransportError]; Connect may then be called
// again. ctx bounds the first connection only; its values reach the handlers.
func (s *Socket) Connect(ctx context.Context) error {
	conn, err := s.first(ctx)
	if err != nil {
		return err
	}
	go func() { _ = s.run(context.WithoutCancel(ctx), conn) }() // Send reports why it ended; Close waits for it
	return nil
}

// Run makes the first connection and keeps the Socket running until ctx ends or
// [Socket.Close] is called, which is no error, or until the connection is lost
// for good: the agent refuses a new one with a 4xx status, or [WithReconnect] is
// off. If the first connection fails, Run may be called again. When it returns,
// nothing of the Socket runs any more.
func (s *Socket) Run(ctx context.Context) error {
	conn, err := s.first(ctx)
	if err != nil {
		return err
	}
	return s.run(ctx, conn)
}

// Close ends the Socket: it says good-bye to the agent, for 5 seconds at most,
// fails the calls under way with [ErrClosed] and waits until nothing of the
// Socket runs any more, handlers included. Closing twice is allowed.
func (s *Socket) Close() error {
	s.kill()
	s.mu.Lock()
	if s.state == socketMade {
		s.state, s.err = socketClosed, ErrClosed
		close(s.done)
	}
	s.mu.Unlock()
	<-s.done
	return nil
}

// first takes the Socket from made to running with its first connection.
func (s *Socket) first(ctx context.Context) (*websocket.Conn, error) {
	s.mu.Lock()
	if s.state != socketMade {
		s.mu.Unlock()
		return nil, failure("connect", s.url, 0, false, errAlreadyRunning)
	}
	s.state = socketRunning
	s.mu.Unlock()

	ctx, cancel := s.joined(ctx)
	defer cancel()
	conn, err := s.dial(ctx)
	if err == nil {
		return conn, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAllLocked(err) // sent by others while this was dialling
	if s.life.Err() != nil {
		s.state, s.err = socketClosed, ErrClosed
		close(s.done)
	} else {
		s.state = socketMade
	}
	return nil, err
}

// joined returns ctx ended by Close, too.
func (s *Socket) joined(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// dial makes a connection.
func (s *Socket) dial(ctx context.Context) (*websocket.Conn, error) {
	header, err := s.opts.header(ctx)
	if err != nil {
		return nil, failure("connect", s.url, 0, false, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, s.url, &websocket.DialOptions{HTTPClient: s.http, HTTPHeader: header}) //nolint:bodyclose // the library closes it
	if err == nil {
		conn.SetReadLimit(s.opts.maxAnswer)
		return conn, nil
	}
	if res == nil || res.StatusCode == http.StatusSwitchingProtocols {
		return nil, failure("connect", s.url, 1, false, err)
	}
	body, _ := readAll(res.Body, 4096) // what there is of it; the status is what counts
	return nil, statusError(&answer{status: res.StatusCode, header: res.Header, body: body}, time.Now())
}

// permanent reports whether asking for a connection again is pointless.
func permanent(err error) bool {
	var remote *RemoteError
	if !errors.As(err, &remote) {
		return false
	}
	switch remote.HTTPStatus {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return remote.HTTPStatus < 500
}

// run owns everything a running Socket consists of.
func (s *Socket) run(ctx context.Context, conn *websocket.Conn) error {
	ctx, cancel := s.joined(ctx)
	defer cancel()
	var background sync.WaitGroup
	background.Go(func() { s.handleEvents(ctx) })
	keeping, stopKeeping := context.WithCancel(ctx)
	background.Go(func() { s.keep(keeping) })

	err := s.keepConnected(ctx, conn)
	stopped := ctx.Err() != nil
	if stopped {
		err = ErrClosed
	}
	s.mu.Lock()
	s.state, s.err = socketClosed, err
	s.failAllLocked(err)
	s.queue = nil
	s.mu.Unlock()

	stopKeeping()
	close(s.events)
	background.Wait()
	s.idle()
	close(s.done)
	if stopped {
		return nil
	}
	return err
}

// keepConnected serves one connection after the other.
func (s *Socket) keepConnected(ctx context.Context, conn *websocket.Conn) error {
	delay := reconnectBase
	for {
		s.resume()
		if h := s.opts.socket.handlers.Connected; h != nil {
			s.push(h)
		}
		since := time.Now()
		ended := s.session(ctx, conn)
		s.suspend()
		if ctx.Err() != nil {
			return ended
		}
		lost := failure("receive", s.url, 1, false, ended)
		if h := s.opts.socket.handlers.Disconnected; h != nil {
			s.push(func(ctx context.Context) { h(ctx, lost) })
		}
		if !s.opts.socket.reconnect {
			return lost
		}
		if errors.Is(lost, ErrAnswerTooLarge) { // asked again, it would come again
			s.failAll(lost)
		}
		if time.Since(since) >= reconnectMax {
			delay = reconnectBase
		}
		var err error
		if conn, delay, err = s.again(ctx, delay); err != nil {
			return err
		}
	}
}

// again makes a new connection, waiting before each try, and returns the delay
// with which to go on.
func (s *Socket) again(ctx context.Context, delay time.Duration) (*websocket.Conn, time.Duration, error) {
	for {
		if err := sleep(ctx, delay); err != nil {
			return nil, 0, err
		}
		delay = min(2*delay, reconnectMax)
		conn, err := s.dial(ctx)
		if err == nil || permanent(err) {
			return conn, delay, err
		}
	}
}

// session serves one connection until it ends, and returns why it did.
func (s *Socket) session(ctx context.Context, conn *websocket.Conn) error {
	// Detached from ctx, whose end would cut the connection without a close frame.
	g, live := errgroup.WithContext(context.WithoutCancel(ctx))
	g.Go(func() error { return s.read(live, conn) })
	g.Go(func() error { return s.write(live, conn) })
	g.Go(func() error { return ping(live, conn) })
	g.Go(func() error {
		select {
		case <-live.Done():
			return nil
		case <-ctx.Done():
			_ = conn.Close(websocket.StatusNormalClosure, "") // whether it was heard does not matter
			return ctx.Err()
		}
	})
	err := g.Wait()
	_ = conn.CloseNow() // closed already, or failing
	return err
}

func (s *Socket) read(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, b, err := conn.Read(ctx)
		if err != nil {
			return closeCause(err)
		}
		if kind != websocket.MessageText {
			_ = conn.Close(websocket.StatusUnsupportedData, "binary frames are reserved")
			return fmt.Errorf("%w: binary frame", ErrInvalidAnswer)
		}
		s.receive(b)
	}
}

// closeCause translates the errors of the WebSocket library.
func closeCause(err error) error {
	var frame websocket.CloseError
	switch {
	case errors.As(err, &frame):
		return &CloseError{Code: int(frame.Code), Reason: frame.Reason}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return fmt.Errorf("%w: %w", ErrAnswerTooLarge, err)
	}
	return err
}

func (s *Socket) write(ctx context.Context, conn *websocket.Conn) error {
	for {
		b, pause := s.next(time.Now())
		if b == nil {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := writeFrame(ctx, conn, b); err != nil {
			return err
		}
		if pause > 0 {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
	}
}

func writeFrame(ctx context.Context, conn *websocket.Conn, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, b)
}

// ping finds out that a silent connection is dead.
func ping(ctx context.Context, conn *websocket.Conn) error {
	t := time.NewTicker(pingInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		pong, cancel := context.WithTimeout(ctx, pongTimeout)
		err := conn.Ping(pong)
		cancel()
		if err != nil {
			return err
		}
	}
}

// keep looks after the calls that wait too long.
func (s *Socket) keep(ctx context.Context) {
	t := time.NewTicker(ackCheckInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			s.sweep(now)
		}
	}
}

// handleEvents calls the handlers.
func (s *Socket) handleEvents(ctx context.Context) {
	for event := range s.events {
		if ctx.Err() == nil {
			event(ctx)
		}
	}
}

// push queues an event for the handlers, or drops and counts it.
func (s *Socket) push(event func(context.Context)) {
	select {
	case s.events <- event:
	default:
		s.drops.Add(1)
	}
}

// receive deals with one text frame.
func (s *Socket) receive(b []byte) {
	h := &s.opts.socket.handlers
	f, err := parseFrame(b)
	if err != nil {
		s.invalid(err)
		return
	}
	switch method, id := text(f.Method), f.rpcID(); {
	case method == "asap.ack":
		s.receiveAck(f.Params)
	case method == "asap.send":
		s.receivePush(f.Params)
	case method != "":
		if h.Notification != nil {
			s.push(func(ctx context.Context) { h.Notification(ctx, method, f.Params) })
		}
	case text(f.Type) == "ping":
		s.mu.Lock()
		s.pongDue = true
		s.wakeWriter()
		s.mu.Unlock()
	case s.receiveReply(id, f), s.wasAnswered(id):
	case present(f.Error):
		remote, err := rpcError(f.Error)
		if err == nil && remote.Code == asap.RPCRateLimited {
			s.slowDown("")
		}
		if err != nil {
			s.invalid(err)
		} else if h.RemoteError != nil {
			s.push(func(ctx context.Context) { h.RemoteError(ctx, remote) })
		}
	case holdsEnvelope(f.Result):
		s.receivePush(f.Result)
	}
}

// holdsEnvelope reports whether v is an object: the result of a renewed
// subscription has no envelope, and is no push.
func holdsEnvelope(v jsontext.Value) bool {
	_, err := envelope(v)
	return err == nil
}

func (s *Socket) invalid(err error) {
	if h := s.opts.socket.handlers.Invalid; h != nil {
		s.push(func(ctx context.Context) { h(ctx, err) })
	}
}

// receiveReply ends the call with that id, if there is one.
func (s *Socket) receiveReply(id string, f *frame) bool {
	if id == "" {
		return false
	}
	result, err := f.outcome()
	var remote *RemoteError
	if errors.As(err, &remote) && remote.Code == asap.RPCRateLimited && s.slowDown(id) {
		return s.underWay(id)
	}
	if err != nil && remote == nil {
		err = failure("receive", s.url, 1, true, err)
	}
	return s.finish(id, reply{result: result, err: err})
}

// underWay reports whether there is a call with that id.
func (s *Socket) underWay(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[id] != nil
}

func (s *Socket) receiveAck(params jsontext.Value) {
	e, err := envelope(params)
	if err != nil {
		s.invalid(err)
		return
	}
	ack, err := asap.ParseMessageAck(e.Payload)
	if err != nil {
		s.invalid(fmt.Errorf("%w: acknowledgement: %w", ErrInvalidAnswer, err))
		return
	}
	s.acknowledge(ack)
}

func (s *Socket) receivePush(v jsontext.Value) {
	e, err := envelope(v)
	if err != nil {
		s.invalid(err)
		return
	}
	s.notifyWatchers(e)
	if h := s.opts.socket.handlers.Push; h != nil {
		s.push(func(ctx context.Context) { h(ctx, e) })
	}
}
