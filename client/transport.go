package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// transport sends one request as often as the policy says.
type transport struct {
	http      *http.Client
	closeIdle func()
	opts      *options
}

func newTransport(o *options) *transport {
	c, closeIdle := o.newHTTPClient()
	return &transport{http: c, closeIdle: closeIdle, opts: o}
}

// request is what every attempt sends, byte for byte.
type request struct {
	method, url string
	header      http.Header
	body        []byte
	maxAnswer   int64
}

// answer is an HTTP answer that was read to its end.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	attempts int
	// lost: an earlier attempt left this process and was never answered
	lost bool
}

// do sends req until there is an answer with a status that is final, and
// returns it. The error is a *RemoteError if the last word was a status that is
// worth a retry, else a *TransportError.
func (t *transport) do(ctx context.Context, req request, policy RetryPolicy) (*answer, error) {
	lost := false
	for n := 1; ; n++ {
		ans, sent, err := t.attempt(ctx, req)
		var refusal error
		wait := policy.wait(n, policy.Jitter())
		if err == nil {
			ans.attempts, ans.lost = n, lost
			if !retryable(ans.status) {
				return ans, nil
			}
			remote := statusError(ans, time.Now())
			refusal = remote
			if remote.RetryAfter > policy.Max {
				return nil, remote
			}
			wait = max(wait, remote.RetryAfter)
		} else {
			lost = lost || sent
			op := "connect"
			if sent {
				op = "receive"
			}
			refusal = failure(op, req.url, n, lost, err)
			if ctx.Err() != nil || !worthRetry(err) {
				return nil, refusal
			}
		}
		if n >= policy.Attempts {
			return nil, refusal
		}
		// A wait that outlasts the call is not begun: the refusal says more than a time-out.
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return nil, refusal
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, failure("wait", req.url, n, lost, fmt.Errorf("%w (last attempt: %s)", err, refusal.Error()))
		}
	}
}

func failure(op, url string, attempts int, lost bool, err error) *TransportError {
	return &TransportError{Op: op, URL: url, Attempts: attempts, MayHaveExecuted: lost, Err: err}
}

// attempt sends req once and reads the whole answer. sent reports whether any
// of it left this process.
func (t *transport) attempt(ctx context.Context, req request) (ans *answer, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.opts.timeout)
	defer cancel()
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { wrote.Store(true) },
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil {
				wrote.Store(true)
			}
		},
	})
	hr, err := http.NewRequestWithContext(ctx, req.method, req.url, bytes.NewReader(req.body))
	if err != nil {
		return nil, false, err
	}
	hr.Header = req.header.Clone()
	res, err := t.http.Do(hr)
	if err != nil {
		var outer *url.Error // repeats method and URL, which the caller states
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return nil, wrote.Load(), err
	}
	defer func() { _ = res.Body.Close() }() // nothing to do about it: the body has been read
	body, err := readAll(res.Body, req.maxAnswer)
	if err != nil {
		return nil, true, err
	}
	return &answer{status: res.StatusCode, header: res.Header, body: body}, true, nil
}

// readAll reads r to its end, at most limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrAnswerTooLarge, limit)
	}
	return body, nil
}

// worthRetry reports whether an attempt that got no answer may get one later.
func worthRetry(err error) bool {
	var certificate *tls.CertificateVerificationError
	return !errors.Is(err, ErrAnswerTooLarge) && !errors.As(err, &certificate)
}
