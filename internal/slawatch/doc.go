// Package slawatch keeps a running node's eye on what agents promised: it feeds
// the engine of package sla with what the ledger committed and the prober saw,
// has breaches recorded, and tells those who listen.
//
// The model: everything that goes into the engine - probe results, registrations,
// promises, maintenance, and which records of the ledger were taken - is first
// written to a journal, with the instant at which the engine is told. Once a
// minute the state of the engine is stored and the journal begins anew. After a
// crash the engine is restored and told the same again at the same instants, and
// so comes to the same figures and the same breaches under the same ids; what was
// recorded of them already is not recorded twice.
package slawatch
