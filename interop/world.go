package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// binary is the asap command.
type binary struct{ path, dir string }

// run runs the command in the folder of the run and returns its standard output
// without the line feed at the end. The error holds what it said on standard
// error.
func (b *binary) run(ctx context.Context, args ...string) (string, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, b.path, args...) //nolint:gosec // the binary under test
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("asap %s: %w: %s%s", args[0], err, out.String(), said.String())
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// process is a running server of either side.
type process struct {
	cmd       *exec.Cmd
	ended     chan struct{}
	url, data string
}

func start(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		cmd.Wait() //nolint:errcheck // it is ended by a signal
	}()
	return p, nil
}

func (p *process) stop() {
	p.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.ended
	}
}

// answers waits until a GET of the URL is answered with 200.
func (p *process) answers(ctx context.Context, url string, hc *http.Client) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := hc.Do(req)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it served", filepath.Base(p.cmd.Path))
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", url, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// world is everything that runs: our nodes, the agents of the
// Python release, and a server of files that the checks make.
type world struct {
	dir string
	cli *binary
	py  *python
	// node is ours as it comes; secure has TLS; strict demands credentials and
	// has limits on requests and messages.
	node, secure, strict *process
	// agents serves without limits at plain, with v1.3.0's kind of limits at
	// limited, and with a bearer token at guarded.
	agents                  *process
	plain, limited, guarded string
	files                   *http.Server
	filesURL                string
	// signedURL is where a manifest is that asap manifest sign made; signer is
	// the public key.
	signedURL, signer string
	closers           []func()
	// authority has signed itself, and signs client certificates; trusting trusts it.
	authority    *x509.Certificate
	authorityKey *ecdsa.PrivateKey
	trusting     *http.Client
}

func (w *world) close() {
	for _, f := range w.closers {
		defer f()
	}
}

// Agents whose keys our node knows. The key of each is in NAME.key.
var agentNames = []string{"go", "python", "helper"}

// start starts everything, or as much of it as it can: close stops that.
func (w *world) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	hc, err := w.certificate()
	if err != nil {
		return err
	}
	if w.node, err = w.startNode(ctx, hc, "node"); err != nil {
		return err
	}
	if w.secure, err = w.startNode(ctx, hc, "secure", "--set", "tls.certificate="+w.path("tls.pem"), "--set", "tls.key="+w.path("tls.key")); err != nil {
		return err
	}
	if w.strict, err = w.startNode(ctx, hc, "strict", "--set", "auth.required=true", "--set", "limits.requests_per_second=5", "--set", "limits.requests_burst=3",
		"--set", "limits.websocket_per_second=10"); err != nil {
		return err
	}
	if err := w.startAgents(ctx, hc); err != nil {
		return err
	}
	return w.serveFiles(ctx)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// startNode starts asap serve with a data directory of its own, in which the
// keys of the agents are.
func (w *world) startNode(ctx context.Context, hc *http.Client, name string, args ...string) (*process, error) {
	data := w.path(name)
	if err := os.MkdirAll(filepath.Join(data, "keys"), 0o700); err != nil {
		return nil, err
	}
	for _, agent := range agentNames {
		key := w.path(agent + ".key")
		if _, err := os.Stat(key); err != nil {
			if _, err := w.cli.run(ctx, "keys", "generate", "--out", key); err != nil {
				return nil, err
			}
		}
		public, err := w.cli.run(ctx, "keys", "show", key, "--format", "base64")
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(data, "keys", agent+".pub"), []byte(public+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(w.path(name + ".log")) //nolint:gosec // in the folder of the run
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(w.cli.path, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", data}, args...)...) //nolint:gosec,noctx // stopped by stop
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, log, log
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, p.stop, func() {
		log.Close() //nolint:errcheck // a log
	})
	p.data = data
	for {
		if url, err := os.ReadFile(filepath.Join(data, "node.url")); err == nil {
			p.url = strings.TrimSpace(string(url))
			return p, p.answers(ctx, p.url+"/ready", hc)
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("asap serve ended: see %s", log.Name())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *world) startAgents(ctx context.Context, hc *http.Client) error {
	ports := make([]string, 3)
	var listeners []net.Listener
	for i := range ports { // all at once, so that they differ
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		ports[i] = strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
		listeners = append(listeners, listener)
	}
	for _, listener := range listeners {
		if err := listener.Close(); err != nil {
			return err
		}
	}
	cmd := w.py.command(context.WithoutCancel(ctx), "server.py", ports...)
	cmd.Stdout = w.py.log
	p, err := start(cmd)
	if err != nil {
		return err
	}
	w.closers = append(w.closers, p.stop)
	w.agents = p
	url := func(i int) string { return "http://127.0.0.1:" + ports[i] }
	w.plain, w.limited, w.guarded = url(0), url(1), url(2)
	for i := range ports {
		if err := p.answers(ctx, url(i)+"/.well-known/asap/health", hc); err != nil {
			return err
		}
	}
	return nil
}

// serveFiles serves the folder "files" and puts a manifest there that
// asap manifest sign made.
func (w *world) serveFiles(ctx context.Context) error {
	dir := w.path("files")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(w.path("manifest.json"), []byte(manifestCases[0].text), 0o600); err != nil {
		return err
	}
	if _, err := w.cli.run(ctx, "manifest", "sign", "manifest.json", "--key", "go.key", "--out", filepath.Join(dir, "signed.json")); err != nil {
		return err
	}
	var err error
	if w.signer, err = w.cli.run(ctx, "keys", "show", "go.key", "--format", "base64"); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.files = &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	w.filesURL = "http://" + listener.Addr().String()
	w.signedURL = w.filesURL + "/signed.json"
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.files.Serve(listener) //nolint:errcheck // ends when it is closed
	}()
	w.closers = append(w.closers, func() {
		w.files.Close() //nolint:errcheck // nothing is under way
		<-done
	})
	return nil
}

// certificate makes a certificate for 127.0.0.1 that both sides trust, in
// tls.pem and tls.key, and returns a client that does.
func (w *world) certificate() (*http.Client, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for name, block := range map[string]*pem.Block{"tls.pem": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(w.path(name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	w.py.env = append(w.py.env, "SSL_CERT_FILE="+w.path("tls.pem"))
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	w.authority, w.authorityKey = certificate, key
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	w.closers = append(w.closers, transport.CloseIdleConnections)
	w.trusting = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	return w.trusting, nil
}

// get returns the body of a GET.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	hc := &http.Client{Timeout: 30 * time.Second}
	answer, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.200s", url, answer.Status, body)
	}
	return body, err
}
