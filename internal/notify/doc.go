// Package notify is the live feed behind the write path: it follows the log of a
// ledger and hands on what becomes durable, whoever has committed it.
//
// The model: the store orders everything, and a position in its log is the one
// cursor. A [Follower] is woken by a commit of its own node or by a message of
// another, or looks by itself after a while, and reads what lies behind its
// position. A wake-up says only "look": a lost one costs latency, never data. How
// old its knowledge is it can always tell.
package notify
