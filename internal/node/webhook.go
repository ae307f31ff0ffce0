package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// secret reads a secret by its reference, env:NAME or file:PATH. One that begins
// with "whsec_" is base64, as Standard Webhooks writes secrets.
func secret(reference string) ([]byte, error) {
	var text string
	switch kind, name, _ := strings.Cut(reference, ":"); {
	case reference == "":
		return nil, nil
	case kind == "env":
		if text = os.Getenv(name); text == "" {
			return nil, fmt.Errorf("the environment variable %s is empty", name)
		}
	case kind == "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text = strings.TrimSpace(string(b))
	default:
		return nil, fmt.Errorf("a reference env:NAME or file:PATH is needed")
	}
	if encoded, ok := strings.CutPrefix(text, "whsec_"); ok {
		return base64.StdEncoding.DecodeString(encoded)
	}
	return []byte(text), nil
}

// webhookURL checks where posts go: they leave this machine over TLS only.
func webhookURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname()))) {
		return fmt.Errorf("an https URL is needed, without a password in it")
	}
	return nil
}

// webhookSink is the name under which the webhook's position is kept: another URL
// begins anew. A URL may be a secret, so it is not the name.
func webhookSink(to string) string {
	sum := sha256.Sum256([]byte(to))
	return "webhook-" + hex.EncodeToString(sum[:6])
}

// deliver posts what happens to breaches until ctx ends.
func (n *Node) deliver(ctx context.Context) error {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 2}
	defer transport.CloseIdleConnections()
	to := n.config.SLA.WebhookURL
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return n.watch.Deliver(ctx, slawatch.Webhook{
		Name: webhookSink(to), Secret: n.webhookSecret, Now: n.now, Log: n.log,
		Send: func(ctx context.Context, p slawatch.Post) error { return sendPost(ctx, client, to, p) },
	}, n.store)
}

// sendPost posts once. A receiver that answers 410 wants nothing more of it.
func sendPost(ctx context.Context, client *http.Client, to string, p slawatch.Post) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(p.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", p.ID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(p.Timestamp.Unix(), 10))
	if p.Signature != "" {
		req.Header.Set("webhook-signature", p.Signature)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // only read
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)); err != nil {
		return err
	}
	switch {
	case res.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %s", slawatch.ErrGone, res.Status)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return fmt.Errorf("%s", res.Status)
	}
	return nil
}
