package asap

import "slices"

// JSON-RPC error numbers (core.md 12; the delegation band of delegation.md).
const (
	RPCParseError     = -32700
	RPCInvalidRequest = -32600
	RPCMethodNotFound = -32601
	RPCInvalidParams  = -32602
	RPCInternalError  = -32603
	// RPCRateLimited is the WebSocket rate limit.
	RPCRateLimited = -32001
	// RPCHTTPRateLimited is the number v1.3.0 puts into the body of an HTTP 429.
	RPCHTTPRateLimited = 429
	// RPCDelegationLimit: a task or cost limit of a delegation is used up or held.
	RPCDelegationLimit = -32041
	// RPCDelegationInvalid: the token is not a valid one.
	RPCDelegationInvalid = -32053
	// RPCDelegationDenied: the token is valid and does not permit this.
	RPCDelegationDenied = -32054
	// RPCDelegationEnded: the token is revoked or outside its time.
	RPCDelegationEnded = -32055
)

// RPCMessage is the standard message that goes with a JSON-RPC error number.
func RPCMessage(number int) string {
	switch number {
	case RPCParseError:
		return "Parse error"
	case RPCInvalidRequest:
		return "Invalid request"
	case RPCMethodNotFound:
		return "Method not found"
	case RPCInvalidParams:
		return "Invalid params"
	case RPCRateLimited, RPCHTTPRateLimited:
		return "Rate limit exceeded"
	case RPCDelegationLimit:
		return "Delegation limit reached"
	case RPCDelegationInvalid:
		return "Delegation token invalid"
	case RPCDelegationDenied:
		return "Delegation does not permit this"
	case RPCDelegationEnded:
		return "Delegation revoked or not in force"
	default:
		return "Internal error"
	}
}

// Code is a stable name for one reason of refusal. Those that begin with
// "asap:" are v1.3.0's; the others are this project's.
type Code string

// The codes. What each means is in [CodeTable].
const (
	CodeParseError         Code = "parse_error"
	CodeInvalidRequest     Code = "invalid_request"
	CodeMethodNotFound     Code = "method_not_found"
	CodeInvalidParams      Code = "invalid_params"
	CodeValidation         Code = "validation_failed"
	CodeInvalidEnvelope    Code = "asap:protocol/malformed_envelope"
	CodeInvalidState       Code = "asap:protocol/invalid_state"
	CodeInvalidTimestamp   Code = "asap:protocol/invalid_timestamp"
	CodeInvalidNonce       Code = "asap:protocol/invalid_nonce"
	CodeHandlerNotFound    Code = "asap:transport/handler_not_found"
	CodeThreadPool         Code = "asap:transport/thread_pool_exhausted"
	CodeCircuitOpen        Code = "asap:transport/circuit_open"
	CodeWebhookURL         Code = "asap:transport/webhook_url_rejected"
	CodeUnsupportedScheme  Code = "asap:auth/unsupported_scheme"
	CodeSignature          Code = "asap:error/signature-verification"
	CodeAgentTaskNotFound  Code = "asap:task/not_found"
	CodeAgentTaskCompleted Code = "asap:task/already_completed"

	CodeUnauthenticated     Code = "unauthenticated"
	CodeForbidden           Code = "forbidden"
	CodeAuthUnavailable     Code = "authentication_unavailable"
	CodeSenderMismatch      Code = "sender_mismatch"
	CodeNotFound            Code = "not_found"
	CodeMethodNotAllowed    Code = "method_not_allowed"
	CodeSkillUnknown        Code = "skill_unknown"
	CodePayloadInvalid      Code = "payload_invalid"
	CodeTaskNotFound        Code = "task_not_found"
	CodeTaskTerminal        Code = "task_terminal"
	CodeTaskFailed          Code = "task_failed"
	CodeTaskTimeout         Code = "task_timeout"
	CodeTaskIndeterminate   Code = "task_indeterminate"
	CodeSnapshotNotFound    Code = "snapshot_not_found"
	CodeEnvelopeStale       Code = "envelope_stale"
	CodeReplayedNonce       Code = "replayed_nonce"
	CodeIdempotencyConflict Code = "idempotency_conflict"

	CodeRequestTooLarge     Code = "request_too_large"
	CodeUnsupportedEncoding Code = "unsupported_encoding"
	CodeInvalidEncoding     Code = "invalid_encoding"
	CodeRateLimited         Code = "rate_limited"
	CodeOverloaded          Code = "overloaded"
	CodeLedgerUnavailable   Code = "ledger_unavailable"
	CodeShuttingDown        Code = "shutting_down"
	CodeInternal            Code = "internal"

	CodeInvalidTime    Code = "invalid_time"
	CodeInvalidFilter  Code = "invalid_filter"
	CodeInvalidCursor  Code = "invalid_cursor"
	CodeInvalidWindow  Code = "invalid_window"
	CodeRecordInvalid  Code = "record_invalid"
	CodeRecordInFuture Code = "record_in_future"
	CodeRecordTooLate  Code = "record_too_late"
	CodeRecordConflict Code = "record_conflict"
	CodeBatchTooLarge  Code = "batch_too_large"

	CodeManifestKey      Code = "manifest_key"
	CodeManifestOutdated Code = "manifest_outdated"
	CodeManifestConflict Code = "manifest_conflict"
	CodeTooManyKeys      Code = "too_many_keys"

	CodeDelegationTooLarge         Code = "delegation_too_large"
	CodeDelegationDepth            Code = "delegation_depth"
	CodeDelegationMalformed        Code = "delegation_malformed"
	CodeDelegationUnsupportedAlg   Code = "delegation_unsupported_alg"
	CodeDelegationUnknownIssuer    Code = "delegation_unknown_issuer"
	CodeDelegationRootUntrusted    Code = "delegation_root_untrusted"
	CodeDelegationBadSignature     Code = "delegation_bad_signature"
	CodeDelegationChainBroken      Code = "delegation_chain_broken"
	CodeDelegationChainRequired    Code = "delegation_chain_required"
	CodeDelegationEscalation       Code = "delegation_escalation"
	CodeDelegationNotYetValid      Code = "delegation_not_yet_valid"
	CodeDelegationExpired          Code = "delegation_expired"
	CodeDelegationRevoked          Code = "delegation_revoked"
	CodeDelegationAudience         Code = "delegation_audience"
	CodeDelegationScope            Code = "delegation_scope"
	CodeDelegationProofRequired    Code = "delegation_proof_required"
	CodeDelegationProofInvalid     Code = "delegation_proof_invalid"
	CodeDelegationLimitTasks       Code = "delegation_limit_tasks"
	CodeDelegationLimitCost        Code = "delegation_limit_cost"
	CodeDelegationCostUnbounded    Code = "delegation_cost_unbounded"
	CodeDelegationLimitHeld        Code = "delegation_limit_held"
	CodeDelegationStateUnavailable Code = "delegation_state_unavailable"
	CodeDelegationIDReused         Code = "delegation_id_reused"
	CodeDelegationNoKey            Code = "delegation_no_key"
)

// CodeInfo is the row of one code: its JSON-RPC number, its HTTP status on REST
// routes (on POST /asap a protocol refusal is HTTP 200), one sentence for the
// person who gets it, and whether the same request may succeed later.
type CodeInfo struct {
	Code      Code
	RPC       int
	HTTP      int
	Sentence  string
	Retryable bool
}

// Info returns the code's row. A code without one is treated as internal.
func (c Code) Info() CodeInfo {
	for i := range codeTable {
		if codeTable[i].Code == c {
			return codeTable[i]
		}
	}
	return CodeInfo{Code: c, RPC: RPCInternalError, HTTP: 500, Sentence: "The agent could not do this; the reason is in its own log."}
}

// Err is a refusal with this code; message may be empty.
func (c Code) Err(message string) *Error { return &Error{Code: c, Message: message} }

// CodeTable returns every code with its row, in the order of the documentation.
func CodeTable() []CodeInfo { return slices.Clone(codeTable[:]) }

// codeTable is never changed. Every code stands in it once.
var codeTable = [...]CodeInfo{
	{CodeParseError, RPCParseError, 400, "The body is not valid JSON.", false},
	{CodeInvalidRequest, RPCInvalidRequest, 400, "The body is not a JSON-RPC 2.0 request.", false},
	{CodeMethodNotFound, RPCMethodNotFound, 404, "This JSON-RPC method does not exist here.", false},
	{CodeInvalidParams, RPCInvalidParams, 422, "The parameters do not have the form this method needs.", false},
	{CodeValidation, RPCInvalidParams, 422, "Some fields are missing, unknown or of the wrong form.", false},
	{CodeInvalidEnvelope, RPCInvalidParams, 422, "Invalid envelope structure", false},
	{CodeInvalidState, RPCInvalidParams, 409, "A task cannot go from its present state to that one.", false},
	{CodeInvalidTimestamp, RPCInvalidParams, 400, "Invalid envelope timestamp", false},
	{CodeInvalidNonce, RPCInvalidParams, 400, "Invalid envelope nonce", false},
	{CodeHandlerNotFound, RPCMethodNotFound, 404, "No handler is registered for this payload type.", false},
	{CodeThreadPool, RPCInternalError, 503, "Service Temporarily Unavailable", true},
	{CodeCircuitOpen, RPCInternalError, 503, "The circuit breaker for this agent is open; calls are not being tried.", true},
	{CodeWebhookURL, RPCInvalidParams, 422, "This webhook address is not allowed.", false},
	{CodeUnsupportedScheme, RPCInvalidParams, 422, "A manifest may offer the authentication schemes bearer and basic only.", false},
	{CodeSignature, RPCInvalidParams, 422, "The signature does not verify.", false},
	{CodeAgentTaskNotFound, RPCInvalidParams, 404, "There is no such task.", false},
	{CodeAgentTaskCompleted, RPCInvalidParams, 409, "The task is already finished.", false},

	{CodeUnauthenticated, RPCInvalidRequest, 401, "Authentication required", false},
	{CodeForbidden, RPCInvalidRequest, 403, "The caller may not do this.", false},
	{CodeAuthUnavailable, RPCInternalError, 503, "Authentication service unavailable", true},
	{CodeSenderMismatch, RPCInvalidParams, 403, "Sender does not match authenticated identity", false},
	{CodeNotFound, RPCInvalidParams, 404, "There is nothing under this name.", false},
	{CodeMethodNotAllowed, RPCMethodNotFound, 405, "This address does not take that HTTP method.", false},
	{CodeSkillUnknown, RPCMethodNotFound, 404, "The agent does not have this skill.", false},
	{CodePayloadInvalid, RPCInvalidParams, 422, "The payload does not have the form its type demands.", false},
	{CodeTaskNotFound, RPCInvalidParams, 404, "There is no such task.", false},
	{CodeTaskTerminal, RPCInvalidParams, 409, "The task is finished; it cannot be changed any more.", false},
	{CodeTaskFailed, RPCInternalError, 500, "The agent tried and failed.", false},
	{CodeTaskTimeout, RPCInternalError, 504, "The task did not finish in time.", true},
	{CodeTaskIndeterminate, RPCInternalError, 500, "The node stopped during this task, so nobody knows whether it was done; it is charged in full.", false},
	{CodeSnapshotNotFound, RPCInvalidParams, 404, "There is no such snapshot of this task.", false},
	{CodeEnvelopeStale, RPCInvalidParams, 400, "The envelope is too old or too far in the future.", false},
	{CodeReplayedNonce, RPCInvalidParams, 409, "This nonce was used before.", false},
	{CodeIdempotencyConflict, RPCInvalidParams, 409, "This id was used before, with other content.", false},

	{CodeRequestTooLarge, RPCInvalidRequest, 413, "The request is larger than allowed, before or after decompression.", false},
	{CodeUnsupportedEncoding, RPCInvalidRequest, 415, "This Content-Encoding is not supported.", false},
	{CodeInvalidEncoding, RPCInvalidRequest, 400, "The compressed body is damaged.", false},
	{CodeRateLimited, RPCRateLimited, 429, "Too many requests; try again later.", true},
	{CodeOverloaded, RPCInternalError, 503, "The node has more work than it can queue; try again later.", true},
	{CodeLedgerUnavailable, RPCInternalError, 503, "The ledger cannot be written, so nothing was done; try again later.", true},
	{CodeShuttingDown, RPCInternalError, 503, "The node is shutting down; try again later.", true},
	{CodeInternal, RPCInternalError, 500, "Internal server error", false},

	{CodeInvalidTime, RPCInvalidParams, 422, "A time must be RFC 3339 with a zone.", false},
	{CodeInvalidFilter, RPCInvalidParams, 422, "A filter or parameter is unknown or of the wrong form.", false},
	{CodeInvalidCursor, RPCInvalidParams, 422, "The cursor is not one this node gave out for this list.", false},
	{CodeInvalidWindow, RPCInvalidParams, 400, "This window is not one of those that are kept.", false},
	{CodeRecordInvalid, RPCInvalidParams, 422, "The usage record has a field of the wrong form or out of range.", false},
	{CodeRecordInFuture, RPCInvalidParams, 422, "The usage record lies in the future.", false},
	{CodeRecordTooLate, RPCInvalidParams, 422, "The usage record is older than the node accepts.", false},
	{CodeRecordConflict, RPCInvalidParams, 409, "A usage record with this id exists and says something else.", false},
	{CodeBatchTooLarge, RPCInvalidParams, 413, "The batch has more items than allowed.", false},

	{CodeManifestKey, RPCInvalidParams, 403, "The manifest is not signed with a key that is known to be this agent's.", false},
	{CodeManifestOutdated, RPCInvalidParams, 409, "A newer version of this manifest is or was registered.", false},
	{CodeManifestConflict, RPCInvalidParams, 409, "This version of the manifest is registered with other content; raise the version.", false},
	{CodeTooManyKeys, RPCInvalidParams, 409, "The agent has as many keys as it may have.", false},

	{CodeDelegationTooLarge, RPCDelegationInvalid, 431, "The delegation token is too large.", false},
	{CodeDelegationDepth, RPCDelegationDenied, 403, "The chain of delegations is longer than allowed.", false},
	{CodeDelegationMalformed, RPCDelegationInvalid, 400, "The delegation token cannot be read.", false},
	{CodeDelegationUnsupportedAlg, RPCDelegationInvalid, 401, "The delegation token is signed with another algorithm than Ed25519.", false},
	{CodeDelegationUnknownIssuer, RPCDelegationInvalid, 401, "The key of an issuer in the chain is not known here.", false},
	{CodeDelegationRootUntrusted, RPCDelegationDenied, 403, "The first issuer of the chain has no authority here.", false},
	{CodeDelegationBadSignature, RPCDelegationInvalid, 401, "A signature in the chain does not verify.", false},
	{CodeDelegationChainBroken, RPCDelegationInvalid, 403, "The links of the chain do not belong together.", false},
	{CodeDelegationChainRequired, RPCDelegationInvalid, 401, "The node no longer holds the rest of this chain; send all of it.", true},
	{CodeDelegationEscalation, RPCDelegationDenied, 403, "A link grants more than the link before it.", false},
	{CodeDelegationNotYetValid, RPCDelegationEnded, 401, "The delegation is not valid yet.", true},
	{CodeDelegationExpired, RPCDelegationEnded, 401, "The delegation has expired.", false},
	{CodeDelegationRevoked, RPCDelegationEnded, 401, "The delegation was revoked.", false},
	{CodeDelegationAudience, RPCDelegationDenied, 403, "The delegation was given to another agent.", false},
	{CodeDelegationScope, RPCDelegationDenied, 403, "The delegation does not cover this action.", false},
	{CodeDelegationProofRequired, RPCDelegationInvalid, 401, "The holder must prove possession of its key.", false},
	{CodeDelegationProofInvalid, RPCDelegationInvalid, 401, "The proof of possession does not verify.", false},
	{CodeDelegationLimitTasks, RPCDelegationLimit, 403, "The delegation's number of tasks is used up.", false},
	{CodeDelegationLimitCost, RPCDelegationLimit, 403, "The delegation's budget does not cover this task.", false},
	{CodeDelegationCostUnbounded, RPCDelegationLimit, 403, "The delegation limits cost, and no upper bound is known for this task.", false},
	{CodeDelegationLimitHeld, RPCDelegationLimit, 429, "What is left of the delegation is held by tasks still running; try again later.", true},
	{CodeDelegationIDReused, RPCDelegationInvalid, 409, "The issuer has used this token id before, for another token.", false},
	{CodeDelegationNoKey, RPCInternalError, 503, "Delegation key not configured for this agent", false},
	{CodeDelegationStateUnavailable, RPCInternalError, 503, "Whether the delegation still holds cannot be read now; try again later.", true},
}
