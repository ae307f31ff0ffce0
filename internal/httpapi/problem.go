package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// problem is an RFC 9457 problem document. Code is stable and listed by
// asap.CodeTable; Detail is where v1.3.0 puts its text.
type problem struct {
	Type   string        `json:"type" doc:"always about:blank: the code says what it is"`
	Title  string        `json:"title" doc:"the HTTP status in words"`
	Status int           `json:"status"`
	Code   asap.Code     `json:"code" doc:"stable name of the reason"`
	Detail string        `json:"detail" doc:"a sentence for people"`
	Errors []problemItem `json:"errors,omitempty" doc:"what is wrong where"`

	Link     *int      `json:"link,omitzero" doc:"of a delegation: the link that is refused, the root being 0"`
	Remedy   string    `json:"remedy,omitempty" doc:"what would help"`
	Shortage *shortage `json:"shortage,omitzero" doc:"of a limit: how it stands"`

	authenticate string // value of WWW-Authenticate of a 401

	retryAfterSeconds int
}

type problemItem struct {
	Location string `json:"location" doc:"dotted path of the member or parameter"`
	Type     string `json:"type,omitempty" doc:"kind of mistake, named as v1.3.0 does"`
	Message  string `json:"message"`
}

func (p *problem) Error() string { return string(p.Code) + ": " + p.Detail }

// problemOf returns the problem of a code; no detail means the table's sentence.
func problemOf(code asap.Code, detail string) *problem {
	info := code.Info()
	if detail == "" {
		detail = info.Sentence
	}
	p := &problem{Type: "about:blank", Title: http.StatusText(info.HTTP), Status: info.HTTP, Code: code, Detail: detail}
	if code == asap.CodeRecordInvalid { // v1.3.0 answers 400 to a bad body
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest)
	}
	if info.Retryable {
		p.retryAfterSeconds = 1
	}
	return p
}

// refusal returns the problem of a code with the table's sentence.
func refusal(code asap.Code) error { return problemOf(code, "") }

// refuse returns a problem about one parameter.
func refuse(code asap.Code, location, format string, args ...any) *problem {
	message := fmt.Sprintf(format, args...)
	p := problemOf(code, location+": "+message)
	p.Errors = []problemItem{{Location: location, Message: message}}
	return p
}

// fail answers with the problem that err is. What is nobody else's business goes
// to the log.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := asProblem(err)
	if p.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.cfg.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "code", string(p.Code), "error", err)
	}
	writeProblem(w, p)
}

// What a refused request still sends is read and thrown away up to this much and
// for this long.
const (
	discardBytes = 64 << 20
	discardTime  = 5 * time.Second
)

// discardRest throws away what is left of a refused body before the refusal,
// which is short and still buffered, goes out: a connection that is closed on a
// client that is still sending takes the answer with it (RFC 9112, section 9.6).
func discardRest(w http.ResponseWriter, r *http.Request, body io.Reader) {
	if body == nil || r.ProtoMajor != 1 || r.ContentLength == 0 || r.ContentLength > discardBytes || r.Header.Get("Expect") != "" {
		return // a stream can be ended alone; who asks first has sent nothing
	}
	timed := http.NewResponseController(w)
	if timed.SetReadDeadline(time.Now().Add(discardTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, body, discardBytes) // as much as there is
	r.Body = http.NoBody                            // its time is over: the server must not wait for more
}

// asProblem maps every error to what strangers are told about it.
func asProblem(err error) *problem {
	var (
		p       *problem
		refused *metering.Error
		item    *ledger.ItemError
		tooBig  *http.MaxBytesError
		invalid *asap.ValidationError
		coded   *asap.Error
	)
	if r := delegation.AsRefusal(err); r != nil {
		return delegationProblem(r)
	}
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &item):
		p := asProblem(item.Err)
		prefix := "events." + strconv.Itoa(item.Index)
		p.Detail = prefix + ": " + p.Detail
		if len(p.Errors) == 0 {
			p.Errors = []problemItem{{Location: prefix, Message: p.Code.Info().Sentence}}
		}
		return p
	case errors.As(err, &coded):
		return problemOf(coded.Code, coded.Message)
	case errors.As(err, &refused):
		p := problemOf(refused.Code, refused.Error())
		p.Errors = items("", refused)
		return p
	case errors.As(err, &invalid):
		p := problemOf(asap.CodeValidation, invalid.Error())
		for _, is := range invalid.Issues {
			p.Errors = append(p.Errors, problemItem{Location: strings.Join(is.Loc, "."), Type: is.Type, Message: is.Msg})
		}
		return p
	case errors.As(err, &coded):
		return problemOf(coded.Code, coded.Message)
	case errors.Is(err, registry.ErrUnknownAgent):
		return problemOf(asap.CodeNotFound, "")
	case errors.Is(err, registry.ErrNotLite):
		return problemOf(asap.CodeValidation, err.Error())
	case errors.As(err, &tooBig):
		return problemOf(asap.CodeRequestTooLarge, fmt.Sprintf("The body is larger than %d bytes.", tooBig.Limit))
	case errors.Is(err, metering.ErrAlreadyVoided):
		return problemOf(asap.CodeRecordConflict, "The record has been voided already.")
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, metering.ErrConflict):
		return problemOf(asap.CodeRecordConflict, "")
	case errors.Is(err, ledger.ErrUnknownRecord), errors.Is(err, metering.ErrNotFound), errors.Is(err, audit.ErrNoEntry):
		return problemOf(asap.CodeNotFound, "")
	case errors.Is(err, metering.ErrPurged):
		return problemOf(asap.CodeInvalidFilter, "The single records of a part of that time were purged. Ask for whole hours of UTC.")
	case errors.Is(err, audit.ErrPruned):
		return problemOf(asap.CodeNotFound, "That part of the log was pruned.")
	case errors.Is(err, auditlog.ErrRange), errors.Is(err, auditlog.ErrUnusable):
		return problemOf(asap.CodeInvalidFilter, err.Error())
	case errors.Is(err, ledger.ErrOverloaded):
		return problemOf(asap.CodeOverloaded, "")
	case errors.Is(err, ledger.ErrClosed):
		return problemOf(asap.CodeShuttingDown, "")
	case errors.Is(err, ledger.ErrUnavailable):
		return problemOf(asap.CodeLedgerUnavailable, "")
	case errors.Is(err, ledger.ErrOutcomeUnknown):
		return problemOf(asap.CodeInternal, "Whether this was recorded is not known. Send it again, unchanged: it counts once.")
	case errors.Is(err, ledger.ErrInvalid):
		return problemOf(asap.CodeRecordInvalid, "")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problemOf(asap.CodeShuttingDown, "The request was given up.")
	}
	return problemOf(asap.CodeInternal, "")
}

func items(prefix string, e *metering.Error) []problemItem {
	list := make([]problemItem, len(e.Issues))
	for i, is := range e.Issues {
		list[i] = problemItem{Location: join(prefix, is.Field), Type: is.Type, Message: is.Message}
	}
	return list
}

func join(prefix, field string) string {
	if prefix == "" || field == "" {
		return prefix + field
	}
	return prefix + "." + field
}

func writeProblem(w http.ResponseWriter, p *problem) {
	if p.Status == http.StatusUnauthorized {
		challenge := "Bearer"
		if p.authenticate != "" {
			challenge = p.authenticate
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if p.retryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfterSeconds))
	}
	b, err := json.Marshal(p, jsontext.AllowInvalidUTF8(true)) // it may repeat what was sent
	if err != nil {
		panic("httpapi: a problem does not marshal: " + err.Error()) // only texts and numbers
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(b) // the client went away
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return writeBytes(w, status, b)
}

func writeBytes(w http.ResponseWriter, status int, b []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client went away
	return nil
}
