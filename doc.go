// Package asap is the core of the ASAP protocol, version 1.3.0: envelopes and
// their payloads, agent manifests and their signatures, URNs, ids, and the
// JSON-RPC 2.0 binding. It does no I/O. Everything that is read from outside
// is decoded strictly and validated while it is parsed, so a value of one of
// these types is a valid one.
package asap
