package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
)

// nodeFlags says which node a command talks to: one that runs, by its URL, or
// the data directory of one, running or stopped, which is read directly.
type nodeFlags struct {
	url       string
	data      string
	tokenFile string
}

func (f *nodeFlags) add(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.url, "node", "", "URL of a running node (default: ASAP_NODE, else the data directory is read)")
	cmd.PersistentFlags().StringVar(&f.data, "data", node.Defaults().Data, "data directory of a node; with --node, where the operator token is")
	cmd.PersistentFlags().StringVar(&f.tokenFile, "token-file", "", "file with a bearer token (default: ASAP_TOKEN, else the operator token in the data directory)")
}

// nodeAPI is the REST surface of a node, over the network or, for a data
// directory, in this process; commands cannot tell which.
type nodeAPI struct {
	base  string
	token string
	// accept is the media type to ask for, empty for whatever comes.
	accept string
	// remote tells that a node answers, not this process.
	remote bool
	http   *http.Client
	close  func() error
}

// errNoNode says that something needs a node that runs.
func errNoNode(data string) error {
	return stateErrorf("this needs a running node, and none serves from %s; start it, or give its URL with --node", data)
}

// openNode connects to the node the flags name. To write it takes one that runs,
// also when only its data directory is named.
func (a *app) openNode(ctx context.Context, f *nodeFlags, write bool) (*nodeAPI, error) {
	base := f.url
	if base == "" {
		base = a.getenv("ASAP_NODE")
	}
	if base == "" && write {
		running, err := node.ReadURL(f.data)
		if err != nil {
			return nil, errNoNode(f.data)
		}
		base = running
	}
	if base == "" {
		return openDirectory(ctx, f.data)
	}
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, usageErrorf("--node: %q is not a URL such as http://127.0.0.1:8080", base)
	}
	token, err := a.bearer(f)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	return &nodeAPI{
		base: strings.TrimRight(base, "/"), token: token, remote: true, http: &http.Client{
			Transport: transport,
			// A redirect would carry the operator's token somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		close: func() error { transport.CloseIdleConnections(); return nil },
	}, nil
}

// openDirectory reads the data directory of a node, running or stopped.
func openDirectory(ctx context.Context, dir string) (*nodeAPI, error) {
	reader, err := node.OpenReadOnly(ctx, dir)
	if err != nil {
		return nil, &statusError{status: exitState, err: err}
	}
	return &nodeAPI{
		base: "http://data-directory",
		http: &http.Client{Transport: handlerTransport{reader.Handler()}}, close: reader.Close,
	}, nil
}

// bearer finds the token to present to a running node; none is not an error,
// the node will say what it wants.
func (a *app) bearer(f *nodeFlags) (string, error) {
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return "", usageErrorf("--token-file: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	if token := a.getenv("ASAP_TOKEN"); token != "" {
		return token, nil
	}
	token, err := node.ReadOperatorToken(f.data)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	return token, err
}

// Close lets go of the node.
func (n *nodeAPI) Close() error { return n.close() }

// do sends a request and returns the answer's body, to be closed by the caller.
// An answer that is no success becomes an error with the node's own words.
func (n *nodeAPI) do(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) (*http.Response, error) {
	target := n.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if n.token != "" {
		req.Header.Set("Authorization", "Bearer "+n.token)
	}
	if n.accept != "" {
		req.Header.Set("Accept", n.accept)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := n.http.Do(req)
	if err != nil {
		return nil, stateErrorf("cannot reach the node: %w", err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, problem(res)
}

// problem turns an RFC 9457 answer into an error: 5xx means that the node's
// state could not be read, the rest that it refused.
func problem(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Errors []struct {
			Location string `json:"location"`
			Message  string `json:"message"`
		} `json:"errors"`
	}
	message := res.Status
	if json.Unmarshal(text, &p) == nil && p.Detail != "" {
		message = p.Detail
		if p.Code != "" {
			message += " (" + p.Code + ")"
		}
		for _, e := range p.Errors[min(1, len(p.Errors)):] { // the first is the detail
			message += fmt.Sprintf("\n  %s: %s", e.Location, e.Message)
		}
	}
	switch {
	case res.StatusCode >= 500:
		return stateErrorf("%s", message)
	case res.StatusCode == http.StatusUnprocessableEntity || res.StatusCode == http.StatusBadRequest:
		return usageErrorf("%s", message)
	}
	return refusedErrorf("%s", message)
}

// get reads a JSON answer into v.
func (n *nodeAPI) get(ctx context.Context, path string, query url.Values, v any) error {
	res, err := n.do(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.UnmarshalRead(res.Body, v); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	return nil
}

// handlerTransport serves requests from a handler in this process. Bodies are
// streamed: an export of any size takes constant memory.
type handlerTransport struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper. The goroutine that runs the handler
// ends when the handler does; closing the answer's body makes its writes fail.
func (t handlerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	r, w := io.Pipe()
	answer := &pipeWriter{body: w, header: http.Header{}, started: make(chan struct{})}
	go func() {
		// A handler that breaks off in the middle of an answer panics.
		defer func() {
			if broken := recover(); broken != nil {
				if broken != http.ErrAbortHandler { //nolint:errorlint // a value that was panicked with, not a chain
					panic(broken)
				}
				answer.WriteHeader(http.StatusInternalServerError)
				_ = w.CloseWithError(io.ErrUnexpectedEOF) // never fails
			}
		}()
		t.handler.ServeHTTP(answer, req)
		answer.WriteHeader(http.StatusOK)
		// Trailers are in the header by now; the pipe's end is the body's end.
		_ = w.Close() // never fails
	}()
	select {
	case <-answer.started:
	case <-req.Context().Done():
		_ = r.Close() // never fails
		return nil, req.Context().Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", answer.status, http.StatusText(answer.status)), StatusCode: answer.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: answer.sent, Body: r, ContentLength: -1, Request: req,
	}, nil
}

type pipeWriter struct {
	body    *io.PipeWriter
	header  http.Header
	sent    http.Header // what header was when the answer started
	status  int
	started chan struct{}
}

func (p *pipeWriter) Header() http.Header { return p.header }

func (p *pipeWriter) WriteHeader(status int) {
	if p.status == 0 {
		p.status, p.sent = status, p.header.Clone()
		close(p.started)
	}
}

func (p *pipeWriter) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return p.body.Write(b)
}
