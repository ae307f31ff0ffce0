package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// agentKey is a key of one repeated byte; the owner of the world's task has
// ownerKey, the stranger strangerKey.
func agentKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

const (
	ownerKey    = 1
	strangerKey = 2
)

// authority is a throwaway certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "throwaway"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, key := a.sign(t, template)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a key and its certificate; without an issuer yet it signs itself.
func (a *authority) sign(t testing.TB, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// leaf makes a certificate for a server of that serial number, or for a client
// with that URI.
func (a *authority) leaf(t testing.TB, serial int64, uri string) (cert, key []byte) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if uri == "" {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.IPAddresses, template.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	} else {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtKeyUsage, template.URIs = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, []*url.URL{u}
	}
	der, private := a.sign(t, template)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// issuer is an OpenID provider on this machine, as far as a node sees one: its
// keys at a URL.
type issuer struct {
	server  *httptest.Server
	fetches atomic.Int64

	mu   sync.Mutex
	kid  string
	key  *rsa.PrivateKey
	down bool
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{}
	i.rotate(t, "first")
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		key, err := jwk.Import(i.key.Public())
		if err == nil {
			err = errors.Join(key.Set("kid", i.kid), key.Set("use", "sig"))
		}
		text, marshalErr := json.Marshal(map[string]any{"keys": []any{key}})
		if err = errors.Join(err, marshalErr); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
	}))
	t.Cleanup(i.server.Close)
	return i
}

// rotate replaces the key.
func (i *issuer) rotate(t testing.TB, kid string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kid, i.key = kid, key
}

// token signs an access token; kid is the present key's unless it is given.
func (i *issuer) token(t testing.TB, kid string, claims map[string]any) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if kid == "" {
		kid = i.kid
	}
	all := map[string]any{"iss": i.server.URL, "aud": "asap-node", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 300}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	h := jws.NewHeaders()
	if err := errors.Join(h.Set("kid", kid), h.Set("typ", "at+jwt")); err != nil {
		t.Fatal(err)
	}
	signed, err := jws.Sign(payload, jws.WithKey(jwa.RS256(), i.key, jws.WithProtectedHeaders(h)))
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

// securedNode is a node with everything there is to prove who one is.
type securedNode struct {
	*Node
	stop    func()
	ca      *authority
	issuer  *issuer
	dir     string
	log     *lockedBuffer
	clients map[string]*http.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startSecured runs a node. One that others can reach serves TLS on every
// address and takes the tokens of a provider; one that they cannot has neither.
func startSecured(t testing.TB, remote bool, change ...func(*Config)) *securedNode {
	t.Helper()
	n := &securedNode{dir: t.TempDir(), ca: newAuthority(t), log: &lockedBuffer{}, clients: map[string]*http.Client{}}
	c := testConfig(filepath.Join(n.dir, "data"))
	c.Auth.Keys = filepath.Join(n.dir, "keys")
	c.Log.Level = "debug"
	if err := os.Mkdir(c.Auth.Keys, 0o700); err != nil {
		t.Fatal(err)
	}
	n.writeKey(t, "task-owner", ownerKey)
	n.writeKey(t, "stranger", strangerKey)
	if remote {
		n.issuer = newIssuer(t)
		n.writeServerCertificate(t, 2)
		n.write(t, "ca.pem", n.ca.pem)
		c.Listen = "0.0.0.0:0"
		c.TLS = TLSConfig{Certificate: n.path("cert.pem"), Key: n.path("key.pem"), ClientCA: n.path("ca.pem")}
		c.Auth.OIDC = OIDCConfig{Issuer: n.issuer.server.URL, Audience: "asap-node", JWKSURL: n.issuer.server.URL + "/jwks"}
		c.Limits.RequestsPerSec, c.Limits.RequestsBurst = 100_000, 100_000
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if n.Node, err = Open(t.Context(), c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}, Log: n.log}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			for _, c := range n.clients {
				c.CloseIdleConnections()
			}
			cancel()
			if err := errors.Join(<-done, n.Close()); err != nil {
				t.Errorf("the node ended with %v", err)
			}
			for _, secret := range []string{"asap_op_", "eyJ"} {
				if strings.Contains(n.log.String(), secret) {
					t.Errorf("the log holds a credential:\n%s", n.log)
				}
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

func (n *securedNode) path(name string) string { return filepath.Join(n.dir, name) }

func (n *securedNode) write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(n.path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *securedNode) writeKey(t testing.TB, name string, keys ...byte) {
	t.Helper()
	var text strings.Builder
	for _, b := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString(asap.PublicKeyOf(agentKey(b))) + "\n")
	}
	n.write(t, "keys/"+name+".pub", []byte(text.String()))
}

func (n *securedNode) writeServerCertificate(t testing.TB, serial int64) {
	t.Helper()
	cert, key := n.ca.leaf(t, serial, "")
	n.write(t, "cert.pem", cert)
	n.write(t, "key.pem", key)
}

// URL is the address as this machine reaches it over IPv4.
func (n *securedNode) URL() string { return strings.Replace(n.Node.URL(), "localhost", "127.0.0.1", 1) }

// tlsConfig trusts the throwaway authority, and shows a certificate of it for
// agent if there is one.
func (n *securedNode) tlsConfig(t testing.TB, name string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(n.ca.cert)
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if name != "" {
		cert, key := n.ca.leaf(t, 3, name)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func (n *securedNode) http(t testing.TB, agent string) *http.Client {
	t.Helper()
	if n.clients[agent] == nil {
		n.clients[agent] = &http.Client{
			Transport:     &http.Transport{TLSClientConfig: n.tlsConfig(t, agent)},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return n.clients[agent]
}

// client is one of package client that sends as agent.
func (n *securedNode) client(t testing.TB, agent asap.AgentURN, opts ...client.Option) *client.Client {
	t.Helper()
	opts = append([]client.Option{client.WithSender(agent), client.WithTLSConfig(n.tlsConfig(t, "")), client.WithRetry(client.RetryPolicy{Attempts: 1})}, opts...)
	c, err := client.New(n.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// tokens is a source of tokens of the owner or the stranger, by name.
func (n *securedNode) tokens(t testing.TB, agent asap.AgentURN) client.TokenSource {
	t.Helper()
	key := agentKey(ownerKey)
	if agent == stranger {
		key = agentKey(strangerKey)
	}
	tokens, err := client.NewKeyTokens(key, agent, asap.AgentURN(n.config.URN), 0)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (n *securedNode) token(t testing.TB, agent asap.AgentURN) string {
	t.Helper()
	token, err := n.tokens(t, agent).Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

// signed is a token with any key, name and audience.
func (n *securedNode) signed(t testing.TB, key byte, agent asap.AgentURN, audience string) string {
	t.Helper()
	tokens, err := client.NewKeyTokens(agentKey(key), agent, asap.AgentURN(audience), 0)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tokens.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

func (n *securedNode) operator(t testing.TB) string {
	t.Helper()
	token, err := ReadOperatorToken(n.config.Data)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

func (n *securedNode) access(t testing.TB, claims map[string]any) string {
	t.Helper()
	return "Bearer " + n.issuer.token(t, "", claims)
}
