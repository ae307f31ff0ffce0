package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/identity"
)

// Severity of a finding.
type Severity string

// The severities: Fail is what stops a node or breaks a promise, Warn what will.
const (
	OK   Severity = "ok"
	Warn Severity = "warn"
	Fail Severity = "fail"
)

// Finding is one thing the doctor looked at. Its texts hold no secrets.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
}

// lowDiskBytes is where a full disk is near.
const lowDiskBytes = 512 << 20

// Diagnose looks at everything a support person would ask for about the data
// directory of a configuration, without changing any of it. A node may be
// serving from it.
func Diagnose(ctx context.Context, c Config, now time.Time) []Finding {
	d := &doctor{config: c, now: now, on: disk{freeBytes, readOnly}}
	d.directory()
	if c.NodeKey != "" {
		_, err := c.key(true)
		d.given("node_key", err)
	} else {
		d.secret(KeyFile, func(text []byte) error {
			_, err := asap.ReadPrivateKeyPEM(text)
			return err
		})
	}
	if c.Operator != "" {
		_, err := c.operatorToken()
		d.given("operator_token", err)
	} else {
		d.secret(OperatorTokenFile, func([]byte) error {
			_, err := ReadOperatorToken(c.Data)
			return err
		})
	}
	d.keys()
	d.certificate()
	d.room()
	d.ledger(ctx)
	d.upstreams(ctx)
	d.running(ctx)
	return d.findings
}

type doctor struct {
	config   Config
	now      time.Time
	on       disk
	trust    *x509.Certificate // the node's own, if it serves TLS
	findings []Finding
}

// given looks at a secret that the configuration names.
func (d *doctor) given(key string, err error) {
	if err != nil {
		d.say(key, Fail, "%v", err)
		return
	}
	d.say(key, OK, "what the configuration names can be read")
}

func (d *doctor) say(check string, s Severity, format string, args ...any) {
	d.findings = append(d.findings, Finding{check, s, fmt.Sprintf(format, args...)})
}

func (d *doctor) directory() {
	info, err := os.Stat(d.config.Data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.say("data directory", Fail, "%s is not there; asap serve makes it", d.config.Data)
	case err != nil:
		d.say("data directory", Fail, "%v", err)
	case !info.IsDir():
		d.say("data directory", Fail, "%s is not a directory", d.config.Data)
	case info.Mode().Perm()&0o077 != 0:
		d.say("data directory", Warn, "%s has mode %04o; others of this machine can look into it: chmod 700", d.config.Data, info.Mode().Perm())
	default:
		d.say("data directory", OK, "%s", d.config.Data)
	}
}

// secret checks a file that only its owner may read.
func (d *doctor) secret(name string, check func([]byte) error) {
	path := filepath.Join(d.config.Data, name)
	info, err := os.Stat(path)
	if err != nil {
		d.say(name, Fail, "%v", err)
		return
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = check(text)
	}
	switch {
	case err != nil:
		d.say(name, Fail, "%v", err)
	case info.Mode().Perm()&0o077 != 0:
		d.say(name, Warn, "mode %04o lets others of this machine read it: chmod 600", info.Mode().Perm())
	default:
		d.say(name, OK, "readable by its owner only")
	}
}

// keys reads the directory of agents' keys as a node would.
func (d *doctor) keys() {
	switch keys, err := identity.ReadKeys(os.DirFS(d.config.keysDir())); {
	case err != nil:
		d.say("agents' keys", Fail, "%s: %v", d.config.keysDir(), err)
	default:
		d.say("agents' keys", OK, "%d keys in %s", len(keys), d.config.keysDir())
	}
}

// certificateSoon is how long before its end a certificate is worth a word.
const certificateSoon = 14 * 24 * time.Hour

func (d *doctor) certificate() {
	if d.config.TLS.Certificate == "" {
		return
	}
	certs, err := openCertificates(d.config.TLS)
	if err != nil {
		d.say("certificate", Fail, "%v", err)
		return
	}
	switch end := certs.inUse.Certificates[0].Leaf.NotAfter; {
	case !d.now.Before(end):
		d.say("certificate", Fail, "%s ended at %s", d.config.TLS.Certificate, end.UTC().Format(time.RFC3339))
	case end.Sub(d.now) < certificateSoon:
		d.say("certificate", Warn, "%s ends soon, at %s", d.config.TLS.Certificate, end.UTC().Format(time.RFC3339))
	default:
		d.say("certificate", OK, "good until %s", end.UTC().Format(time.RFC3339))
	}
	d.trust = certs.inUse.Certificates[0].Leaf
}

// ledger reads the store as an auditor would: schema, chain, holds, clock.
func (d *doctor) ledger(ctx context.Context) {
	at, err := d.config.storePlace()
	if err == nil && at.memory() {
		d.say("ledger", OK, "in memory: there is nothing to look at")
		return
	}
	var store Store
	if err == nil {
		store, err = at.openReadOnly(ctx)
	}
	if err != nil {
		d.say("ledger", Fail, "%v", err)
		return
	}
	stats, err := store.UsageStats(ctx)
	if err != nil {
		d.say("ledger", Fail, "%v", err)
	} else {
		d.say("ledger", OK, "%s, schema up to date, %d usage records", store.Path(), stats.Records)
	}
	d.pages(ctx, store)
	d.chain(ctx, store)
	switch held, oldest, err := store.Holds(ctx); {
	case err != nil:
		d.say("holds", Fail, "%v", err)
	case held > 0 && d.now.Sub(oldest) > time.Duration(d.config.Limits.TaskTimeout):
		d.say("holds", Warn, "%d tasks are held, the oldest since %s, longer than a task may run; a restart settles them", held, oldest.UTC().Format(time.RFC3339))
	default:
		d.say("holds", OK, "%d tasks at work", held)
	}
	if err := store.Close(); err != nil {
		d.say("ledger", Fail, "close: %v", err)
	}
}

// running asks the node that serves from the directory, if there is one.
func (d *doctor) running(ctx context.Context) {
	url, err := ReadURL(d.config.Data)
	if err != nil {
		d.say("node", OK, "none serves from this directory")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		d.say("node", Fail, "%v", err)
		return
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if d.trust != nil { // the certificate in the configuration, whoever has signed it
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
		transport.TLSClientConfig.RootCAs.AddCert(d.trust)
		if names := d.trust.DNSNames; len(names) > 0 {
			transport.TLSClientConfig.ServerName = names[0]
		}
	}
	client := &http.Client{Transport: transport}
	res, err := client.Do(req)
	switch {
	case err != nil:
		d.say("node", Warn, "%s does not answer; a killed node leaves %s behind, the next start replaces it", url, URLFile)
		return
	case res.StatusCode != http.StatusOK:
		d.say("node", Fail, "%s is not ready: %s", url, res.Status)
	default:
		d.say("node", OK, "%s is ready", url)
	}
	_ = res.Body.Close() // nothing more to learn
}

// ReadURL returns the URL of the node that serves from a data directory, or
// served from it until it was killed.
func ReadURL(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, URLFile))
	return strings.TrimSpace(string(text)), err
}
