package client

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

// frame is a JSON-RPC message as it arrives, its members still raw, so that a
// member of the wrong type spoils nothing but itself. Unknown members are
// ignored.
type frame struct {
	Type   jsontext.Value `json:"type"`
	Method jsontext.Value `json:"method"`
	Params jsontext.Value `json:"params"`
	Result jsontext.Value `json:"result"`
	Error  jsontext.Value `json:"error"`
	ID     jsontext.Value `json:"id"`
}

func parseFrame(b []byte) (*frame, error) {
	if jsontext.Value(b).Kind() != '{' {
		return nil, fmt.Errorf("%w: not a JSON object", ErrInvalidAnswer)
	}
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
	}
	return &f, nil
}

// present reports whether a member is there and not null.
func present(v jsontext.Value) bool { return len(v) > 0 && v.Kind() != 'n' }

// text returns the value of a JSON string, and "" for anything else.
func text(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	var s string
	if json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

// rpcID returns an id as text: ours are strings, but v1.3.0 matches by text, so
// a number counts too.
func (f *frame) rpcID() string {
	switch f.ID.Kind() {
	case '"':
		return text(f.ID)
	case '0':
		return string(f.ID)
	}
	return ""
}

// outcome returns the result, or the error that the frame states: a
// *RemoteError, or ErrInvalidAnswer if it holds neither.
func (f *frame) outcome() (jsontext.Value, error) {
	if present(f.Error) {
		remote, err := rpcError(f.Error)
		if err != nil {
			return nil, err
		}
		return nil, remote
	}
	if !present(f.Result) {
		return nil, fmt.Errorf("%w: neither result nor error", ErrInvalidAnswer)
	}
	return f.Result, nil
}

// envelope reads the envelope of a result or of params.
func envelope(v jsontext.Value) (*asap.Envelope, error) {
	var holder struct {
		Envelope jsontext.Value `json:"envelope"`
	}
	if v.Kind() != '{' || json.Unmarshal(v, &holder) != nil || holder.Envelope.Kind() != '{' {
		return nil, fmt.Errorf("%w: no envelope in it", ErrInvalidAnswer)
	}
	e, err := asap.ParseEnvelope(holder.Envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
	}
	return e, nil
}

// parseAnswer reads the body of a 2xx answer.
func parseAnswer(body []byte) (*asap.Envelope, error) {
	f, err := parseFrame(body)
	if err != nil {
		return nil, err
	}
	result, err := f.outcome()
	if err != nil {
		return nil, err
	}
	return envelope(result)
}

// rpcError reads the error member of a JSON-RPC answer.
func rpcError(v jsontext.Value) (*RemoteError, error) {
	var e struct {
		Code    jsontext.Value `json:"code"`
		Message jsontext.Value `json:"message"`
		Data    jsontext.Value `json:"data"`
	}
	if v.Kind() != '{' || json.Unmarshal(v, &e) != nil {
		return nil, fmt.Errorf("%w: error is not an object", ErrInvalidAnswer)
	}
	code, err := strconv.ParseInt(string(e.Code), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: error without an integer code", ErrInvalidAnswer)
	}
	remote := &RemoteError{Code: int(code), Message: text(e.Message)}
	if present(e.Data) {
		remote.Data = e.Data
	}
	if e.Data.Kind() == '{' {
		var data struct {
			Code       jsontext.Value `json:"code"`
			RetryAfter jsontext.Value `json:"retry_after"`
		}
		if json.Unmarshal(e.Data, &data) == nil {
			remote.DataCode = asap.Code(text(data.Code))
			if n, err := strconv.ParseUint(string(data.RetryAfter), 10, 31); err == nil {
				remote.RetryAfter = time.Duration(n) * time.Second
			}
		}
	}
	return remote, nil
}

// statusError makes an error of an answer with a status that is no success. The
// body may be a JSON-RPC error (429), {"detail": …} (4xx), v1.3.0's
// {"error", "code", "message"} (503), or problem details.
func statusError(ans *answer, now time.Time) *RemoteError {
	remote := &RemoteError{}
	var body struct {
		Error   jsontext.Value `json:"error"`
		Code    jsontext.Value `json:"code"`
		Message jsontext.Value `json:"message"`
		Detail  jsontext.Value `json:"detail"`
		Title   jsontext.Value `json:"title"`
	}
	if jsontext.Value(ans.body).Kind() == '{' && json.Unmarshal(ans.body, &body) == nil {
		if rpc, err := rpcError(body.Error); err == nil {
			remote = rpc
		} else {
			remote.Data = ans.body
			remote.DataCode = asap.Code(text(body.Code))
			for _, v := range []jsontext.Value{body.Message, body.Detail, body.Title, body.Error} {
				if remote.Message = text(v); remote.Message != "" {
					break
				}
			}
		}
	}
	if remote.Message == "" {
		remote.Message = http.StatusText(ans.status)
	}
	remote.HTTPStatus = ans.status
	if after := retryAfter(ans.header, now); after > 0 {
		remote.RetryAfter = after
	}
	remote.EarlierUnanswered = ans.lost
	return remote
}
