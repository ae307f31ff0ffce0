// Package agent serves ASAP agents over HTTP and WebSocket.
//
// The model: an [Agent] is a name and a set of skills, each a Go function. A
// [Server] hosts one or several of them behind one endpoint. A task is admitted
// by the [Ledger], then run, then settled by the ledger, and only then
// answered, so an answer never exists without its record; a retry of a request
// joins the run it repeats or gets the answer that run gave, and never starts a
// second one. HTTP and WebSocket end in the same dispatch and differ in nothing
// but framing. What a task used - tokens, calls, time - is collected beside the
// handler: by [Usage] what it says, by [Task.HTTPClient] what can be seen.
//
// The wire is that of ASAP v1.3.0; docs/compatibility.md lists where this
// server answers otherwise on purpose.
package agent
