// Package postgres keeps the ledger in a PostgreSQL database, for any number of
// nodes at once.
//
// The model: every store has one connection that writes, and a pool that reads.
// A commit of the ledger takes the chain lock, an advisory lock, before it reads
// anything, and holds it until it has committed: so whoever holds it sees all
// there is, nobody changes it meanwhile, and READ COMMITTED is as good as
// serial. What a commit needs is read in one round trip or two, and written,
// with the COMMIT, in one more. All rules are in package ledger; here is SQL,
// beside the method that runs it.
//
// When the connection breaks, the store finds out what is true before it
// answers: the lock outlives no connection, so whoever has taken it again sees
// whether the entries are there (see resolve).
package postgres
