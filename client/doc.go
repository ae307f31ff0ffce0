// Package client calls ASAP agents: over HTTP with [Client], over a WebSocket
// with [Socket], and it finds them with [Discovery].
//
// The model: an envelope is sent under one id and answered at most once, however
// often it has to cross the network. A retry, a re-send for want of an
// acknowledgement and a resume after a lost connection carry identical bytes, so
// a server that remembers envelope ids runs the task once. What comes back is
// one of three things, and the error type tells which:
//
//   - an envelope: the agent did what was asked;
//   - a [*RemoteError]: the agent, or something in front of it, answered and said no;
//   - a [*TransportError]: no usable answer arrived. Its MayHaveExecuted says
//     whether the agent may have done the work all the same.
//
// A Client and a Discovery start no goroutines of their own. A Socket owns
// those of its connection, and Run or Close waits for them.
package client
