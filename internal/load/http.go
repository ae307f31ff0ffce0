package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Poster sends POST requests over a bounded number of kept connections.
type Poster struct {
	url    string
	header http.Header
	client *http.Client
	close  func()
}

// maxAnswerBytes bounds an answer.
const maxAnswerBytes = 10 << 20

// NewPoster returns a poster to a URL. Close it when the run is over.
func NewPoster(url string, connections int, header http.Header) *Poster {
	transport := &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true}
	return &Poster{url: url, header: header, close: transport.CloseIdleConnections, client: &http.Client{
		Transport: transport, Timeout: time.Minute,
		// A redirect would carry tokens somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of the connections.
func (p *Poster) Close() { p.close() }

// Post sends a body and has the answer judged. What it returns as an error says
// the reason alone, so that equal ones can be counted.
func (p *Poster) Post(ctx context.Context, body []byte, judge func(answer []byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = p.header.Clone()
	res, err := p.client.Do(req)
	if err != nil {
		return unreached(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	switch {
	case err != nil:
		return unreached(ctx, err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("HTTP %d", res.StatusCode)
	}
	return judge(answer)
}

// unreached leaves out of an error what differs from request to request.
func unreached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return fmt.Errorf("no answer: %w", err)
}
