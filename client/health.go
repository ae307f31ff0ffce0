package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// Health is what an agent says about itself (core.md, section 16).
type Health struct {
	// Status is "healthy" or "unhealthy".
	Status string `json:"status"`
	// AgentID is the agent's URN.
	AgentID asap.AgentURN `json:"agent_id"`
	// Version is that of its manifest.
	Version string `json:"version"`
	// ASAPVersion is that of the protocol it speaks.
	ASAPVersion string `json:"asap_version"`
	// UptimeSeconds is how long it has been running.
	UptimeSeconds float64 `json:"uptime_seconds"`
	// Load is what it is busy with, or nil if it does not say.
	Load *Load `json:"load"`
}

// Load is how much an agent has to do.
type Load struct {
	ActiveTasks int64 `json:"active_tasks"`
	QueueDepth  int64 `json:"queue_depth"`
}

// Healthy reports whether the agent says that it is well.
func (h *Health) Healthy() bool { return h.Status == "healthy" }

// Health asks the agent how it is, once. An agent that answers that it is
// unhealthy, with status 503, has answered: that is no error.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	target := below(c.base, wellKnownPath+"health")
	header := http.Header{"User-Agent": {c.opts.userAgent}, "Accept": {"application/json"}}
	var body jsontext.Value
	ans, err := c.transport.get(ctx, target, header, maxManifestBytes)
	var remote *RemoteError
	switch {
	case err == nil && ans.status == http.StatusOK:
		body = ans.body
	case err == nil:
		return nil, statusError(ans, time.Now())
	case errors.As(err, &remote) && remote.HTTPStatus == http.StatusServiceUnavailable && present(remote.Data):
		body = remote.Data
	default:
		return nil, err
	}
	var h Health
	if err := json.Unmarshal(body, &h); err != nil {
		err = fmt.Errorf("%w: health: %w", ErrInvalidAnswer, err)
		return nil, failure("receive", target, 1, false, err)
	}
	if h.Status != "healthy" && h.Status != "unhealthy" {
		if remote != nil {
			return nil, remote
		}
		err := fmt.Errorf("%w: health: status is neither healthy nor unhealthy", ErrInvalidAnswer)
		return nil, failure("receive", target, 1, false, err)
	}
	return &h, nil
}

// Manifest returns the agent's manifest; see [Discovery.Discover].
func (c *Client) Manifest(ctx context.Context) (*Discovered, error) {
	return c.discovery.Discover(ctx, c.URL())
}
