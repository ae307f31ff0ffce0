// Package delegation issues, narrows and verifies delegation tokens.
//
// The model: a token is a chain of one to eight signed links, root first, joined
// by "~". Each link lets one agent (the delegate) act for another (the
// delegator), within scopes, limits and a time; every link after the first is
// signed by the delegate of the one before it and may only narrow what it was
// given. A chain of one link is a v1.3.0 token, byte for byte.
//
// Everything here is a pure function of its arguments: time, keys, the roots of
// trust and the revocations are passed in, nothing is read or counted. Counting
// against max_tasks and max_cost_usd is the ledger's part; a [Grant] hands it
// the links to count on. The only state is the cache of a [Verifier], which can
// make an answer faster but never different.
//
// The rules are those of the specification's section 3 and of the delegation
// design: the first failing step decides, in the order of [Step], and each step
// has one stable code, the delegation_* of [asap.Code].
package delegation
