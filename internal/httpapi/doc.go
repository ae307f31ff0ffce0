// Package httpapi is the REST interface of a node: usage and audit over HTTP,
// described by an OpenAPI 3.1 document.
//
// The model: a route reads parameters, asks one of the readers or the writer it
// was given, and writes the answer in the wire form of v1.3.0 with our members
// added. There are no rules in here: what adds up is decided in metering, what
// is stored in ledger. Every route says in one table who may call it; a caller
// that is no operator sees the records in which it is the agent or the consumer.
// Errors are RFC 9457 problem documents whose member "code" is stable.
package httpapi
