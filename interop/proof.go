package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// proofs runs the release's OAuth2 client and its client certificates against a
// node that demands one or the other.
func proofs(ctx context.Context, r *report, w *world, hc *http.Client) error {
	provider, err := w.startProvider(ctx)
	if err != nil {
		return err
	}
	if err := w.clientCertificate("urn:asap:agent:holder"); err != nil {
		return err
	}
	node, err := w.startNode(ctx, hc, "proof", "--set", "auth.required=true", "--set", "auth.oidc.issuer="+provider, "--set", "auth.oidc.jwks_url="+provider+"/jwks",
		"--set", "auth.oidc.audience=asap-interop", "--set", "tls.certificate="+w.path("tls.pem"), "--set", "tls.key="+w.path("tls.key"), "--set", "tls.client_ca="+w.path("tls.pem"))
	if err != nil {
		return err
	}
	w.py.checks(ctx, r, "Python client", "proof.py", node.url, provider+"/token", w.path("client.pem"), w.path("client.key"), w.path("tls.pem"))
	return nil
}

// clientCertificate makes a certificate of the agent, in client.pem and
// client.key, that the one of the nodes has signed.
func (w *world) clientCertificate(agent string) error {
	name, err := url.Parse(agent)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "interop client"}, URIs: []*url.URL{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.authority, &key.PublicKey, w.authorityKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.path("client.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(w.path("client.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// startProvider serves an OAuth2 provider that gives the client "interop" tokens
// of the agent urn:asap:agent:holder, and returns its issuer.
func (w *world) startProvider(ctx context.Context) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	issuer := "http://" + listener.Addr().String()
	text := base64.RawURLEncoding.EncodeToString
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"k1","n":%q,"e":%q}]}`, text(key.N.Bytes()), text(big.NewInt(int64(key.E)).Bytes()))
	})
	mux.HandleFunc("POST /token", func(rw http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "interop" || secret != "secret" || r.FormValue("grant_type") != "client_credentials" {
			http.Error(rw, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		now := time.Now().Unix()
		signed := text([]byte(`{"alg":"RS256","kid":"k1","typ":"JWT"}`)) + "." +
			text(fmt.Appendf(nil, `{"iss":%q,"sub":"urn:asap:agent:holder","aud":"asap-interop","iat":%d,"exp":%d,"scope":"asap:execute"}`, issuer, now, now+600))
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":600}`, signed+"."+text(signature))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener) //nolint:errcheck // ends when it is closed
	}()
	w.closers = append(w.closers, func() {
		server.Close() //nolint:errcheck // nothing is under way
		<-done
	})
	return issuer, nil
}
