package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// inbound is a request without its transport.
type inbound struct {
	caller     Caller
	authErr    error  // why there is no caller; nil if there is or none is needed
	idempotent string // the X-Idempotency-Key header
	delegation presented
	watcher    pusher // nil over HTTP

	delegationErr error // what is wrong with how the delegation came
}

// overload says that as many tasks are running as may.
type overload struct{ running, limit int }

func (o *overload) Error() string {
	return fmt.Sprintf("Thread pool exhausted: %d/%d threads in use. Service temporarily unavailable.", o.running, o.limit)
}

// call is a request on its way through the steps of core.md, section 12.
type call struct {
	inbound
	rpc      asap.RPCRequest // as far as it could be read
	envelope *asap.Envelope
	kind     string // label of the payload type
	failure  string // label of what went wrong
	began    time.Time
	use      *Delegation // the verified one, if the request brings one
}

// busy is an answer that is HTTP 503 and no JSON-RPC.
type busy struct {
	code    asap.Code
	message string
	details jsontext.Value
}

// check takes a parsed body, or what is wrong with it, through steps 6 to 13:
// to an envelope whose sender is known. The error answers the request.
func (s *Server) check(c *call, rpc asap.RPCRequest, bad *asap.RPCError) error {
	c.kind, c.began, c.rpc = otherType, time.Now(), rpc
	switch {
	case bad == nil:
	case bad.Code == asap.RPCParseError:
		s.metrics.parseErrors.Inc()
		return c.fail("parse_error", bad)
	default:
		s.metrics.invalid.WithLabelValues("json_rpc").Inc()
		return c.fail("invalid_request", bad)
	}
	if rpc.Method != asap.MethodSend {
		return c.fail("method_not_found", rpcError(asap.RPCMethodNotFound, object("method", clip(rpc.Method), "error", "There is no method of this name; the one there is is "+asap.MethodSend, "code", string(asap.CodeMethodNotFound))))
	}
	if c.authErr != nil {
		s.metrics.authFailures.Inc()
		return c.fail("auth_failed", authRefusal(authError(c.authErr)))
	}
	if c.envelope, bad = rpc.Envelope(); bad != nil {
		s.metrics.invalid.WithLabelValues("envelope").Inc()
		return c.fail("invalid_envelope", bad)
	}
	if kind, ok := asap.CanonicalPayloadType(c.envelope.PayloadType); ok {
		c.kind = kind.Type()
	}
	if c.caller.Verified && c.envelope.Sender != c.caller.URN {
		s.metrics.mismatch.Inc()
		return c.fail("sender_mismatch", asap.CodeSenderMismatch.Err(""))
	}
	return nil
}

func (c *call) fail(label string, err error) error {
	c.failure = label
	return err
}

// dispatch takes a parsed call through steps 14 to 18 and returns the answer
// envelope. ctx is that of the transport: when it ends nobody waits any more,
// and what has been started goes on.
func (s *Server) dispatch(ctx context.Context, c *call) (*asap.Envelope, error) {
	answer, err := s.serveCall(ctx, c)
	if err != nil {
		s.tellRefused(ctx, c, err)
	}
	return answer, err
}

func (s *Server) serveCall(ctx context.Context, c *call) (*asap.Envelope, error) {
	e := c.envelope
	now := s.now()
	if err := e.CheckTimestamp(now); err != nil {
		s.metrics.badTimestamp.Inc()
		return nil, c.fail("invalid_timestamp", err)
	}
	if s.cfg.CheckNonces {
		if err := s.nonces.take(e, now); err != nil {
			s.metrics.badNonce.Inc()
			return nil, c.fail("invalid_nonce", err)
		}
	}
	named := e.IDSet && e.ID != ""
	e.Complete(s.ids, now)
	a := s.recipient(e)
	kind, _ := asap.CanonicalPayloadType(e.PayloadType)
	if err := s.authorize(ctx, c, kind); err != nil {
		return nil, c.fail("delegation_refused", err)
	}
	var answer *asap.Envelope
	var err error
	switch kind {
	case asap.KindTaskRequest:
		answer, err = s.taskRequest(ctx, c, a, named)
	case asap.KindTaskCancel:
		answer, err = s.taskCancel(ctx, c, a)
	case asap.KindMessageSend:
		answer, err = s.messageSend(ctx, c, a)
	case asap.KindStateQuery:
		answer, err = s.stateQuery(ctx, c, a)
	case asap.KindStateRestore:
		answer, err = s.stateRestore(ctx, c, a)
	default:
		err = c.fail("handler_not_found", rpcError(asap.RPCMethodNotFound,
			object("payload_type", clip(e.PayloadType), "error", "No handler registered for payload type: "+clip(e.PayloadType), "code", string(asap.CodeHandlerNotFound))))
	}
	if err != nil && c.failure == "" {
		c.failure = "handler_error"
	}
	return answer, err
}

// taskRequest starts a task, or joins the one this request repeats, and waits
// until there is something to say.
func (s *Server) taskRequest(ctx context.Context, c *call, a *Agent, named bool) (*asap.Envelope, error) {
	e := c.envelope
	request, err := asap.ParseTaskRequest(e.Payload)
	if err != nil {
		return nil, c.fail("payload_invalid", s.payloadError(err))
	}
	skill := a.skills[request.SkillID]
	if skill == nil {
		return nil, c.fail("skill_unknown", &asap.Error{Code: asap.CodeSkillUnknown,
			Message: fmt.Sprintf("agent %s has no skill %q", a.URN(), clip(request.SkillID)), Details: object("skill_id", clip(request.SkillID))})
	}
	if err := c.use.covers(skill); err != nil {
		return nil, c.fail("delegation_refused", err)
	}
	key := requestKey{e.Sender, e.ID}
	if !named {
		switch alias := c.alias(); {
		case alias != "":
			key.envelope = asap.EnvelopeID(alias)
		case e.ID == "":
			key.envelope = s.ids.NewEnvelopeID(s.now())
		}
	}
	fresh := &run{server: s, agent: a, skill: skill, key: key, digest: digest(a.URN(), c.caller.Verified, c.use.principal(), e), envelope: e, request: request,
		consumer: e.Sender, verified: c.caller.Verified, delegation: c.delegation.token, use: c.use}
	if request.ParentTaskID != nil {
		fresh.parent = asap.TaskID(*request.ParentTaskID)
	}
	if c.watcher != nil { // before the start, to miss nothing
		fresh.watchers = []pusher{c.watcher}
	}
	r, joined, err := s.start(fresh)
	if err != nil {
		return nil, s.startError(c, err)
	}
	if joined {
		s.metrics.replays.Inc()
		r.watch(c.watcher)
	}
	if r.use != nil {
		c.use = r.use // the one the task is counted on
	}
	if err := r.wait(ctx, func() bool { return r.over() || r.stops > 0 || (r.skill.long && r.phase == started) }); err != nil {
		return nil, err
	}
	return s.firstAnswer(c, r)
}

// startError counts why a task was not started.
func (s *Server) startError(c *call, err error) error {
	var full *overload
	switch {
	case errors.Is(err, ErrConflict):
		return c.fail("idempotency_conflict", asap.CodeIdempotencyConflict.Err("this envelope id was used before, with other content"))
	case errors.As(err, &full):
		s.metrics.exhausted.Inc()
		return c.fail("thread_pool_exhausted", err)
	}
	return err
}

// firstAnswer is the answer to the request that started r, and to every retry
// of it.
func (s *Server) firstAnswer(c *call, r *run) (*asap.Envelope, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.phase {
	case refused:
		return nil, s.startError(c, r.err)
	case settled:
		return r.answer, nil
	}
	return s.standing(c, r), nil
}

// standing answers c with how r stands. r.mu is held.
func (s *Server) standing(c *call, r *run) *asap.Envelope {
	if r.payload != nil { // settled
		e := s.answer(c, r.agent, r.payload)
		e.Extensions = r.answer.Extensions
		return e
	}
	payload := &asap.TaskResponse{TaskID: r.id, Status: r.status}
	switch {
	case r.status == asap.InputRequired && r.asking != nil:
		payload.Result = object("input_request", r.asking)
	case r.progress != nil:
		payload.Result = object("progress", r.progress)
	}
	if state, ok := r.snapshotLocked(0); ok {
		payload.FinalState = stateJSON(&state)
	}
	return s.answer(c, r.agent, payload)
}

func (s *Server) answer(c *call, a *Agent, payload *asap.TaskResponse) *asap.Envelope {
	now := s.now()
	return c.envelope.Answer(s.ids.NewEnvelopeID(now), now, a.URN(), asap.TaskResponseType, payload.AppendJSON(nil))
}

// alias is the idempotency key of the request, which stands in for a missing
// envelope id.
func (c *call) alias() string {
	if raw, ok := member(c.rpc.Params, "idempotency_key"); ok && raw.Kind() == '"' {
		if text, err := jsontext.AppendUnquote(nil, raw); err == nil && len(text) > 0 {
			return string(text)
		}
	}
	return c.idempotent
}

// digest is [Admission.Digest]. Spacing, member order and the
// spelling of strings do not count, numbers count as they are written.
func digest(agent asap.AgentURN, verified bool, principal asap.AgentURN, e *asap.Envelope) [32]byte {
	payload := jsontext.Value(append(make([]byte, 0, len(e.Payload)+512), e.Payload...))
	if err := payload.Format(jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false), jsontext.PreserveRawStrings(false)); err != nil {
		payload = e.Payload // it is valid JSON, so this does not happen
	}
	buf := payload[len(payload):]
	buf = append(buf, 0)
	buf = append(buf, agent...)
	if verified {
		buf = append(buf, 0)
	}
	if principal != "" {
		buf = append(append(buf, 0), principal...)
	}
	h := sha256.New()
	h.Write(payload)
	h.Write(buf)
	return [32]byte(h.Sum(nil))
}

// timeout is how long the task may take: what the request asks for, within what
// the skill and the server allow.
func (r *run) timeout() time.Duration {
	l := r.server.limits
	limit, most := l.TaskTimeout, l.MaxTaskTimeout
	if r.skill.timeout > 0 {
		limit, most = r.skill.timeout, r.skill.timeout
	}
	raw, ok := member(r.request.Config, "timeout_seconds")
	var seconds float64
	if !ok || json.Unmarshal(raw, &seconds) != nil || !(seconds > 0) {
		return min(limit, most)
	}
	if seconds >= most.Seconds() {
		return most
	}
	return max(time.Millisecond, time.Duration(seconds*float64(time.Second)))
}

// failed turns an error into what the caller gets: a JSON-RPC error, or busy.
func (s *Server) failed(c *call, err error) (*asap.RPCError, *busy) {
	var full *overload
	var refusal *Refusal
	var coded *asap.Error
	var rpc *asap.RPCError
	if r := delegation.AsRefusal(err); r != nil {
		return delegationRefusal(r)
	}
	switch {
	case errors.As(err, &full):
		return nil, &busy{asap.CodeThreadPool, full.Error(), object("max_threads", full.limit, "active_threads", full.running)}
	case errors.Is(err, ErrUnavailable):
		return nil, &busy{asap.CodeLedgerUnavailable, asap.CodeLedgerUnavailable.Info().Sentence, jsontext.Value("{}")}
	case errors.Is(err, ErrOutcomeUnknown):
		return nil, &busy{asap.CodeTaskIndeterminate, "It is not known whether this task was recorded. Send it again with the same envelope id.", jsontext.Value("{}")}
	case errors.As(err, &rpc):
		return rpc, nil
	case errors.As(err, &coded):
		if coded.Code.Info().HTTP == http.StatusServiceUnavailable {
			return nil, &busy{coded.Code, coded.Code.Info().Sentence, jsontext.Value("{}")}
		}
		return coded.RPC(), nil
	case errors.As(err, &refusal):
		return (&asap.Error{Code: asap.Code(refusal.Code), Message: refusal.Message, Details: refusal.Details}).RPC(), nil
	}
	s.log.Error("request failed", "error", err, "payload_type", c.kind)
	return asap.CodeInternal.Err("").RPC(), nil
}

func (s *Server) payloadError(err error) error {
	s.metrics.invalid.WithLabelValues("payload").Inc()
	var invalid *asap.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	return &asap.Error{Code: asap.CodePayloadInvalid, Message: "the payload is not valid", Details: object("validation_errors", jsontext.Value(invalid.AppendJSON(nil)))}
}

func rpcError(number int, data jsontext.Value) *asap.RPCError {
	return &asap.RPCError{Code: number, Message: asap.RPCMessage(number), Data: data}
}

// authRefusal is the JSON-RPC error v1.3.0 gives for e, unless e is for later.
func authRefusal(e *asap.Error) error {
	info := e.Code.Info()
	if info.HTTP == http.StatusServiceUnavailable {
		return e
	}
	return rpcError(asap.RPCInvalidRequest, object("error", e.Message, "code", string(e.Code), "status_code", info.HTTP))
}

// clip keeps an error small that repeats what a stranger sent.
func clip(s string) string {
	most := 128
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) { // no part of a character
		most--
	}
	return s[:most] + "..."
}
