// Package audit is the tamper-evident log: the entry and its canonical bytes,
// the SHA-256 chain, the Merkle tree over it, signed checkpoints, proofs, and
// the verification of all of these by somebody who trusts nobody.
//
// The model: an entry is its octets, the RFC 8785 form of every field but the
// hash; its hash is the SHA-256 of the octets and is the previous_hash of the
// entry after it. The hashes are the leaves of an RFC 6962 Merkle tree, whose
// root the log's owner signs from time to time as a C2SP checkpoint. Whoever
// remembers one checkpoint can tell whether anything up to it was changed.
//
// Everything is a pure function of its arguments, except [SignerFile], which
// keeps the signer's memory on disk. The formats are described in
// docs/audit-format.md, well enough to write a verifier in another language.
package audit
