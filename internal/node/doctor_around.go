package node

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// disk is what the doctor asks about the disk of the data directory.
type disk struct {
	free     func(path string) (uint64, error)
	readOnly func(path string) (bool, error)
}

// room looks at how much may still be written, where the data directory and where
// the ledger is.
func (d *doctor) room() {
	places := []string{d.config.Data}
	if path, err := d.config.StorePath(); err == nil && path != "" && filepath.Dir(path) != filepath.Clean(d.config.Data) {
		places = append(places, filepath.Dir(path))
	}
	for _, place := range places {
		free, err := d.on.free(place)
		readOnly, roErr := d.on.readOnly(place)
		switch {
		case errors.Is(err, fs.ErrNotExist): // said already
		case err != nil:
			d.say("disk", Warn, "free space of %s is not known: %v", place, err)
		case roErr == nil && readOnly:
			d.say("disk", Fail, "%s is on a file system that is mounted read-only: no task can be taken. Look for errors of the disk, and mount it to be written", place)
		case free < lowDiskBytes:
			d.say("disk", Fail, "%d MiB are free; without room the ledger takes no task", free>>20)
		default:
			d.say("disk", OK, "%d MiB free", free>>20)
		}
	}
}

// pages looks at the file of the ledger below its tables.
func (d *doctor) pages(ctx context.Context, opened Store) {
	store, ok := opened.(*sqlite.Store)
	if !ok {
		return // a server looks after its own pages
	}
	switch i, err := store.Integrity(ctx); {
	case err != nil:
		d.say("pages", Fail, "%v", err)
	case len(i.Faults) > 0:
		d.say("pages", Fail, "the file of the ledger is damaged: %s. Stop the node, and put a backup back or export what can be read", i.Faults[0])
	case i.Journal != "wal":
		d.say("pages", Warn, "whole, but in journal mode %s: something else than a node has written to the file; the next start sets it right", i.Journal)
	default:
		d.say("pages", OK, "every page is whole")
	}
}

// upstreamTimeout bounds how long the doctor waits for one of them.
const upstreamTimeout = 5 * time.Second

// clockTolerance is how far another machine's clock may be from this one's.
const clockTolerance = time.Minute

// upstreams asks what the node itself has to reach, and compares clocks.
func (d *doctor) upstreams(ctx context.Context) {
	for _, u := range []struct{ key, url string }{{"auth.oidc.jwks_url", d.config.Auth.OIDC.JWKSURL}, {"sla.canary", d.config.SLA.Canary}} {
		if u.url != "" {
			d.upstream(ctx, u.key, u.url)
		}
	}
	if hook := d.config.SLA.WebhookURL; hook != "" { // a request would be a message
		u, err := url.Parse(hook)
		if err != nil {
			return // refused with the configuration
		}
		port := u.Port()
		if port == "" {
			port = u.Scheme
		}
		ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
		if err != nil {
			d.say("sla.webhook_url", Warn, "%s cannot be reached: %v", u.Host, err)
			return
		}
		_ = conn.Close() // that it opened is all there is to learn
		d.say("sla.webhook_url", OK, "%s can be reached", u.Host)
	}
}

func (d *doctor) upstream(ctx context.Context, key, at string) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		d.say(key, Fail, "%v", err)
		return
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		d.say(key, Warn, "%s cannot be reached: %v", req.URL.Host, errors.Unwrap(err))
		return
	}
	_ = res.Body.Close() // the head is enough
	if res.StatusCode >= 300 {
		d.say(key, Warn, "%s answers %s", req.URL.Host, res.Status)
		return
	}
	d.say(key, OK, "%s answers", req.URL.Host)
	if theirs, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		if skew := d.now.Sub(theirs); skew.Abs() > clockTolerance {
			d.say("clock", Warn, "%s off that of %s: credentials and timestamps may be refused", skew.Round(time.Second), req.URL.Host)
		}
	}
}
