package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"strings"

	asap "github.com/asap-protocol/asap-go"
)

// document is a body that does not change, with its entity tag.
type document struct {
	body []byte
	etag string
}

func newDocument(m *asap.Manifest) (document, error) {
	body, err := m.MarshalJSON()
	if err != nil {
		return document{}, fmt.Errorf("agent: encode the manifest of %s: %w", m.ID, err)
	}
	if _, err := asap.ParseManifest(body); err != nil {
		return document{}, fmt.Errorf("agent: the manifest of %s is not valid: %w", m.ID, err)
	}
	digest := sha256.Sum256(body)
	return document{body, `"` + hex.EncodeToString(digest[:]) + `"`}, nil
}

// serveManifest shows the manifest of the first agent, plain and unsigned
// (core.md, section 16). A tag of If-None-Match must be the very one.
func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", s.manifest.etag)
	h.Set("Cache-Control", "public, max-age=300")
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimSpace(tag) == s.manifest.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	writeJSON(w, http.StatusOK, s.manifest.body)
}

func (s *Server) serveAgentHealth(w http.ResponseWriter, _ *http.Request) {
	m := &s.first.manifest
	uptime := max(0, math.Round(s.now().Sub(s.started).Seconds()*100)/100)
	writeJSON(w, http.StatusOK, object("status", "healthy", "agent_id", string(m.ID), "version", m.Version,
		"asap_version", m.Capabilities.ASAPVersion, "uptime_seconds", uptime, "load", nil))
}

// serveHealth says that the process answers.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
}

// serveReady says whether requests should be sent here.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		writeJSON(w, http.StatusServiceUnavailable, object("status", "unavailable", "reason", "the server is stopping"))
		return
	}
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(r.Context()); err != nil {
			s.log.Warn("not ready", "error", err)
			writeJSON(w, http.StatusServiceUnavailable, object("status", "unavailable", "reason", "the server is not ready"))
			return
		}
	}
	writeJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
}
