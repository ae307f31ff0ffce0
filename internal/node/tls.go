package node

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificates is the node's TLS: it follows its files, so that a renewed
// certificate is served without a restart. While a new one cannot be used, the
// last good one stays. It is safe for concurrent use.
type certificates struct {
	config TLSConfig

	mu     sync.Mutex
	inUse  *tls.Config
	stamps [3]fileStamp
}

// fileStamp tells whether a file is still the one that was read.
type fileStamp struct {
	modified time.Time
	size     int64
}

// openCertificates reads the files of c.
func openCertificates(c TLSConfig) (*certificates, error) {
	t := &certificates{config: c}
	_, err := t.reload(true)
	return t, err
}

// server returns the settings of an HTTP server. Every connection gets what is
// in use when it is made.
func (t *certificates) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			return t.inUse, nil
		},
	}
}

// reload reads the files again if one of them has changed since, or always.
func (t *certificates) reload(always bool) (changed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamps, err := t.stat()
	if err != nil || (!always && stamps == t.stamps) {
		return false, err
	}
	// A file that is being replaced is looked at again when it is complete.
	t.stamps = stamps
	next, err := t.read()
	if err != nil {
		return false, err
	}
	t.inUse = next
	return true, nil
}

func (t *certificates) stat() (stamps [3]fileStamp, err error) {
	for i, path := range []string{t.config.Certificate, t.config.Key, t.config.ClientCA} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return stamps, fmt.Errorf("tls: %w", err)
		}
		stamps[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (t *certificates) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.config.Certificate, t.config.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %s and %s: %w", t.config.Certificate, t.config.Key, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	if t.config.ClientCA == "" {
		return c, nil
	}
	text, err := os.ReadFile(t.config.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("tls: %s: %w", t.config.ClientCA, errors.New("no certificate in it"))
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	if t.config.ClientRequired {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// A resumed session would not see that an authority is no longer trusted.
	c.SessionTicketsDisabled = true
	return c, nil
}
