// Package identity tells who sends a request.
//
// The model: a transport hands over what the caller presented, as values: the
// Authorization header and the client certificates that TLS verified. An
// [Authenticator] turns them into a [Caller] - an agent, the operator, or nobody
// - or into an error. Four things prove a caller: a token that an agent signed
// with its own key ([KeyRing]), an access token of an OpenID provider ([OIDC]),
// the operator's token ([OperatorToken]), and a certificate with an agent's URN
// in it. Who may do what is not decided here.
//
// Every refusal says the same to strangers. The reason is in the error, for the
// log, and never holds a credential. An unknown agent costs as much work as a
// wrong signature, so that time tells nothing either.
package identity
