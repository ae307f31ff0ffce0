// Package ledger is the one write path: what a task used, how it ended, what
// budget it took and the audit entries that prove it commit together or not at
// all, and no caller is answered before that commit.
//
// The model: callers hand an [Operation] to the [Ledger] and wait. One committer
// goroutine takes every operation that has gathered, has the [Store] apply them
// in one durable transaction, and then wakes the callers. Each operation is
// atomic in itself (a refused one changes nothing and does not disturb its
// neighbours) and idempotent by its key.
package ledger
