package httpapi

import (
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// described is a route that package agent serves on the same mux. It is in the
// document so that one page tells of everything a node answers; the forms are
// those of the protocol, not of this package.
type described struct {
	method, path, id, summary string
	body                      bool // a JSON-RPC request
	media                     string
	statuses                  []int
}

// agentRoutes are the routes of [agent.Server.Routes].
func agentRoutes() []described {
	const text = "text/plain"
	get := func(path, id, summary, media string, statuses ...int) described {
		return described{method: http.MethodGet, path: path, id: id, summary: summary, media: media, statuses: statuses}
	}
	return []described{
		{
			method: http.MethodPost, path: "/asap", id: "send", body: true, media: "application/json", statuses: []int{200, 400, 401, 403, 413, 415, 429, 503},
			summary: "An ASAP envelope as a JSON-RPC 2.0 request, method asap.send; errors of the protocol are JSON-RPC errors under 200",
		},
		get("/asap/ws", "connect", "The same over a WebSocket, with acknowledgements, updates and service-level notifications", "", 101, 401, 403, 426, 503),
		get("/.well-known/asap/manifest.json", "getManifest", "The manifest of the node's first agent", "application/json", 200, 304),
		get("/.well-known/asap/health", "getAgentHealth", "The agent's health as v1.3.0 tells it", "application/json", 200),
		get("/health", "getHealth", "Whether the process answers", "application/json", 200),
		get("/healthz", "getHealthz", "The same", "application/json", 200),
		get("/ready", "getReady", "Whether the node can take tasks: its ledger commits, its audit log is whole, its disk has room", "application/json", 200, 503),
		get("/readyz", "getReadyz", "The same", "application/json", 200, 503),
		get("/metrics", "getMetrics", "Prometheus metrics; beyond this machine for the operator only", text, 200, 403),
		get("/asap/metrics", "getAgentMetrics", "The same", text, 200, 403),
	}
}

// describe adds the route to the document.
func (d described) describe(api huma.API) {
	op := &huma.Operation{Method: d.method, Path: d.path, OperationID: d.id, Summary: d.summary, Responses: map[string]*huma.Response{}}
	object := &huma.Schema{Type: huma.TypeObject}
	if d.body {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: object}}}
	}
	for _, status := range d.statuses {
		response := &huma.Response{Description: http.StatusText(status)}
		switch {
		case status == http.StatusOK && d.media == "application/json", status >= 400:
			response.Content = map[string]*huma.MediaType{"application/json": {Schema: object}}
		case status == http.StatusOK:
			response.Content = map[string]*huma.MediaType{d.media: {}}
		}
		op.Responses[strconv.Itoa(status)] = response
	}
	api.OpenAPI().AddOperation(op)
}
