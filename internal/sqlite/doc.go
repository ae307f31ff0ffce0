// Package sqlite keeps the ledger in one SQLite file.
//
// The model: one connection writes, inside BEGIN IMMEDIATE, durable with
// synchronous=FULL in WAL mode; a small pool reads and cannot write. All rules
// are in package ledger; here is SQL, beside the method that runs it. A store in
// memory is the same code on a database that has no file. One process at a time
// writes to a file: a lock file says which.
package sqlite
