package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// delegationHeader carries a delegation token beside an envelope.
const delegationHeader = "X-ASAP-Delegation-Token"

// maxIdempotencyKey bounds the X-Idempotency-Key header, in bytes.
const maxIdempotencyKey = 256

// Routes adds the server's routes to mux: /asap, /asap/ws, the documents under
// /.well-known/asap/, health, readiness and metrics. What they do not know is
// left to the rest of mux.
func (s *Server) Routes(mux *http.ServeMux) {
	get := func(path string, h http.HandlerFunc) { mux.Handle(path, s.route(h, http.MethodGet, http.MethodHead)) }
	mux.Handle("/asap", s.route(s.serveRPC, http.MethodPost))
	mux.HandleFunc("/asap/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/asap")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	get("/asap/ws", s.serveWebSocket)
	get("/.well-known/asap/manifest.json", s.serveManifest)
	get("/.well-known/asap/health", s.serveAgentHealth)
	for _, path := range []string{"/health", "/healthz"} {
		get(path, s.serveHealth)
	}
	for _, path := range []string{"/ready", "/readyz"} {
		get(path, s.serveReady)
	}
	metrics := metricsHandler(s.registry)
	for _, path := range []string{"/metrics", "/asap/metrics"} {
		get(path, func(w http.ResponseWriter, r *http.Request) {
			if s.cfg.AllowMetrics != nil && !s.cfg.AllowMetrics(r) {
				writeDetail(w, http.StatusForbidden, asap.CodeForbidden, "Forbidden")
				return
			}
			metrics.ServeHTTP(w, r)
		})
	}
}

// Handler returns the server's routes alone; everything else is NotFound.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	s.Routes(mux)
	mux.HandleFunc("/", NotFound)
	return mux
}

// NotFound answers as v1.3.0 does where there is nothing.
func NotFound(w http.ResponseWriter, _ *http.Request) {
	writeDetail(w, http.StatusNotFound, asap.CodeNotFound, "Not Found")
}

// route refuses other methods and oversized bodies before h sees the request.
func (s *Server) route(h http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer boundRest(w, r)
		allowed := false
		for _, m := range methods {
			allowed = allowed || r.Method == m
		}
		if !allowed {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			writeDetail(w, http.StatusMethodNotAllowed, asap.CodeMethodNotAllowed, "Method Not Allowed")
			return
		}
		if r.ContentLength > s.limits.BodyBytes {
			f := tooLarge("Request size", r.ContentLength, s.limits.BodyBytes)
			writeDetail(w, f.status, f.code, f.detail)
			discardRest(w, r)
			return
		}
		h(w, r)
	})
}

// serveRPC is POST /asap.
func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request) {
	c := &call{}
	c.delegation, c.delegationErr = headerDelegation(r)
	c.caller, c.authErr = s.authenticate(r)
	if !s.withinRate(w, r, c.caller) {
		discardRest(w, r)
		return
	}
	if c.authErr != nil && s.cfg.AuthStatus {
		s.refuseCaller(w, c.authErr)
		discardRest(w, r)
		return
	}
	// A body has its own time limit: one for the whole connection would also cut
	// off tasks that work for longer.
	timed := http.NewResponseController(w)
	timed.SetReadDeadline(time.Now().Add(s.limits.BodyTimeout)) //nolint:errcheck // not every writer can
	var held share
	defer held.end()
	body, failure := s.bodies.read(r, &held)
	timed.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	if failure != nil {
		held.end() // others have need of it, while the rest of this one is waited for
		if failure.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		writeDetail(w, failure.status, failure.code, failure.detail)
		discardRest(w, r)
		return
	}
	if key := r.Header.Get("X-Idempotency-Key"); len(key) <= maxIdempotencyKey {
		c.idempotent = key
	}
	c.delegation.proof = proofOf(r, body)
	rpc, bad := asap.ParseRPCRequest(body)
	err := s.check(c, rpc, bad)
	var answer *asap.Envelope
	if err == nil {
		answer, err = s.dispatch(r.Context(), c)
	}
	s.metrics.answered(c.kind, c.failure, time.Since(c.began))
	c.tellBudget(w.Header())
	if err == nil {
		writeJSON(w, http.StatusOK, asap.AppendRPCResult(make([]byte, 0, len(answer.Payload)+1024), c.rpc.ID, answer))
		return
	}
	if r.Context().Err() != nil && errors.Is(err, context.Cause(r.Context())) {
		return // nobody is there to be told; what was started goes on
	}
	refused, unavailable := s.failed(c, err)
	if unavailable != nil {
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, unavailable.json())
		return
	}
	if r := delegation.AsRefusal(err); r != nil && r.Code.Info().Retryable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, http.StatusOK, asap.AppendRPCError(nil, c.rpc.ID, refused))
}

// json is the body v1.3.0 gives with a 503.
func (b *busy) json() []byte {
	return object("error", "Service Temporarily Unavailable", "code", string(b.code), "message", b.message, "details", b.details)
}

// withinRate takes a request off the caller's rate, or answers that there is
// none left.
func (s *Server) withinRate(w http.ResponseWriter, r *http.Request, caller Caller) bool {
	if s.peers == nil {
		return true
	}
	wait, ok := s.peers.Allow(r, caller, s.now())
	if ok {
		return true
	}
	w.Header().Set("Retry-After", strconv.Itoa(wait))
	writeJSON(w, http.StatusTooManyRequests, object("jsonrpc", "2.0", "id", nil, "error",
		object("code", asap.RPCHTTPRateLimited, "message", asap.RPCMessage(asap.RPCHTTPRateLimited), "data", object("retry_after", wait, "limit", s.peers.String(), "code", string(asap.CodeRateLimited)))))
	return false
}

// refuseCaller answers a request whose credentials are missing or no good with
// an HTTP status.
func (s *Server) refuseCaller(w http.ResponseWriter, err error) {
	s.metrics.authFailures.Inc()
	e := authError(err)
	status := e.Code.Info().HTTP
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	writeDetail(w, status, e.Code, e.Message)
}

// authError gives the code and the constant text of why there is no caller.
func authError(err error) *asap.Error {
	var coded *asap.Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, ErrNoCredentials):
		return asap.CodeUnauthenticated.Err("Authentication required")
	}
	return asap.CodeUnauthenticated.Err("Invalid authentication token")
}

// authenticate tells who sends r.
func (s *Server) authenticate(r *http.Request) (Caller, error) {
	err := ErrNoCredentials
	if s.cfg.Authenticate != nil {
		var caller Caller
		if caller, err = s.cfg.Authenticate(r); err == nil {
			return caller, nil
		}
	}
	if errors.Is(err, ErrNoCredentials) && s.cfg.AllowUnverified != nil && s.cfg.AllowUnverified(r) {
		return Caller{}, nil
	}
	return Caller{}, err
}

// FromLoopback tells whether r came from this machine. Behind a proxy on this
// machine every request does: do not use it there.
func FromLoopback(r *http.Request) bool {
	ip := net.ParseIP(peer(r))
	return ip != nil && ip.IsLoopback()
}

// peer returns the address of the other side without its port.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the client is gone; nobody to tell
}

// writeDetail answers below JSON-RPC: v1.3.0's body, and the stable code.
func writeDetail(w http.ResponseWriter, status int, code asap.Code, detail string) {
	writeJSON(w, status, object("detail", detail, "code", string(code)))
}

// ListenAndServe serves cfg's agents on addr until ctx ends, then stops within
// the bounds of cfg.Limits. It is all a stand-alone agent needs; a program with
// more routes builds its own http.Server around [Server.Routes].
func ListenAndServe(ctx context.Context, addr string, cfg Config) error {
	s, err := NewServer(cfg)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return s.Serve(ctx, listener)
}

// Serve is ListenAndServe on a listener, which it closes.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	front := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 120 * time.Second, MaxHeaderBytes: 64 << 10}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- front.Serve(listener)
	}()
	drained := s.Run(ctx)
	stop, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), s.limits.DrainTimeout)
	defer cancelStop()
	closed := front.Shutdown(stop)
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, drained)
	}
	return errors.Join(drained, closed)
}
