package asap

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// rpcDifferences: docs/compatibility.md explains each row named here. accept
// says whether we take the request.
var rpcDifferences = map[string]difference{
	"rpc_id_float":                          {false, "rpc-id-kind"},
	"rpc_id_object":                         {false, "rpc-id-kind"},
	"envelope_bad_urn_gives_internal_error": {false, "custom-rules-invalid-params"},
	"envelope_TaskResponse_without_correlation_gives_internal_error": {false, "custom-rules-invalid-params"},
	"json_nan_in_input_becomes_null":                                 {false, "json-nan"},
	"json_infinity_as_id":                                            {false, "json-nan"},
	"json_duplicate_members_last_wins":                               {false, "json-duplicate-members"},
	"json_lone_surrogate_escape":                                     {false, "json-lone-surrogate"},
}

// laterSteps are recorded refusals of steps after the parsing of the request.
var laterSteps = map[string]bool{
	"rpc_method_unknown": true, "rpc_method_case": true, "rpc_method_empty": true, "rpc_method_sla_subscribe_over_http": true,
	"payload_type_unknown": true, "payload_type_class_name_not_routed": true, "payload_invalid_for_handler_gives_internal_error": true,
	"payload_extra_member_gives_internal_error": true, "handler_raises": true, "timestamp_stale": true, "timestamp_future_31s": true,
}

type rpcAnswer struct {
	Result jsontext.Value `json:"result"`
	ID     jsontext.Value `json:"id"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    struct {
			Error        string          `json:"error"`
			ReceivedType string          `json:"received_type"`
			Issues       []recordedIssue `json:"validation_errors"`
		} `json:"data"`
	} `json:"error"`
}

func TestRecordedRequests(t *testing.T) {
	var v struct {
		Exchanges []struct {
			Name   string `json:"name"`
			Body   string `json:"body"`
			Answer string `json:"answer"`
		} `json:"exchanges"`
	}
	load(t, "vectors/jsonrpc.json", &v)
	for _, c := range v.Exchanges {
		t.Run(c.Name, func(t *testing.T) {
			var want rpcAnswer
			if err := json.Unmarshal([]byte(c.Answer), &want); err != nil {
				t.Fatal(err)
			}
			r, refusal := ParseRPCRequest([]byte(c.Body))
			if refusal == nil {
				_, refusal = r.Envelope()
			}
			if d, ok := rpcDifferences[c.Name]; ok {
				if (refusal == nil) != d.accept {
					t.Errorf("listed difference (%s): accept=%v, got %v", d.why, d.accept, refusal)
				}
				if refusal != nil && want.Error != nil && refusal.Code == want.Error.Code {
					t.Errorf("listed as a difference, but the reference also answers %d", refusal.Code)
				}
				return
			}
			if want.Error == nil || laterSteps[c.Name] {
				if refusal != nil {
					t.Fatalf("refused: %v", refusal)
				}
			} else {
				compareRefusal(t, &want, refusal)
			}
			if got := string(r.ID.AppendJSON(nil)); got != string(want.ID) {
				t.Errorf("id %s, want %s", got, want.ID)
			}
		})
	}
}

func compareRefusal(t *testing.T, want *rpcAnswer, got *RPCError) {
	t.Helper()
	if got == nil {
		t.Fatalf("accepted, want %d", want.Error.Code)
	}
	if got.Code != want.Error.Code || got.Message != want.Error.Message {
		t.Errorf("%d %q, want %d %q", got.Code, got.Message, want.Error.Code, want.Error.Message)
	}
	var ours rpcAnswer
	if err := json.Unmarshal(AppendRPCError(nil, "", got), &ours); err != nil {
		t.Fatal(err)
	}
	if got.Code == RPCParseError {
		if !strings.HasPrefix(ours.Error.Data.Error, "Invalid JSON: ") {
			t.Errorf("data.error = %q", ours.Error.Data.Error)
		}
		return
	}
	if ours.Error.Data.Error != want.Error.Data.Error || ours.Error.Data.ReceivedType != want.Error.Data.ReceivedType {
		t.Errorf("data %q %q, want %q %q", ours.Error.Data.Error, ours.Error.Data.ReceivedType, want.Error.Data.Error, want.Error.Data.ReceivedType)
	}
	var a, b []string
	for _, issue := range want.Error.Data.Issues {
		a = append(a, issue.String())
	}
	for _, issue := range ours.Error.Data.Issues {
		b = append(b, issue.String())
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("validation_errors (-want +got):\n%s", diff)
	}
}

func TestRefusalsRepeatNothing(t *testing.T) {
	const secret = "hunter2"
	for _, body := range []string{
		`{"jsonrpc":"` + secret + `","method":5,"params":[],"id":{"a":"` + secret + `"}}`,
		`{"id":"` + secret + `"`,
		`{"a":1,"a":"` + secret + `"}`,
		`["` + secret + `"]`,
	} {
		_, refusal := ParseRPCRequest([]byte(body))
		if refusal == nil || strings.Contains(string(refusal.Data), secret) {
			t.Errorf("%s: %s", body, refusal.Data)
		}
	}
	r, _ := ParseRPCRequest([]byte(`{"method":"asap.send","params":{"envelope":{"sender":"` + secret + `","timestamp":"` + secret + `","payload":"` + secret + `"}},"id":1}`))
	if _, refusal := r.Envelope(); refusal == nil || strings.Contains(string(refusal.Data), secret) {
		t.Errorf("%s", refusal.Data)
	}
	if _, err := ParseManifest([]byte(`{"id":"` + secret + `","version":"` + secret + `","auth":{"schemes":["` + secret + `"]},"sla":{"availability":"` + secret + `"}}`)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
}

func TestRPCMessages(t *testing.T) {
	e, err := ParseEnvelope([]byte(goodEnvelope))
	if err != nil {
		t.Fatal(err)
	}
	send := AppendRPCSend(nil, StringID("req-1"), e, "01KEY")
	r, refusal := ParseRPCRequest(send)
	if refusal != nil {
		t.Fatal(refusal)
	}
	back, refusal := r.Envelope()
	if refusal != nil || r.Method != MethodSend || r.ID != `"req-1"` || string(back.AppendJSON(nil)) != string(e.AppendJSON(nil)) {
		t.Errorf("%s", send)
	}
	if b := AppendRPCRequest(nil, "7", MethodSLASubscribe, nil); string(b) != `{"jsonrpc":"2.0","method":"sla.subscribe","params":{},"id":7}` {
		t.Errorf("%s", b)
	}
	result, err := ParseRPCMessage(AppendRPCResult(nil, "1", e))
	if err != nil || result.ID != "1" || result.Error != nil {
		t.Fatalf("%+v %v", result, err)
	}
	if got, err := result.Envelope(); err != nil || got.ID != e.ID {
		t.Errorf("%v", err)
	}
	if _, err := result.PushedEnvelope(); err == nil {
		t.Error("an answer has no pushed envelope")
	}
	push, err := ParseRPCMessage(AppendRPCNotification(nil, MethodAck, append(append([]byte(`{"envelope":`), goodEnvelope...), '}')))
	if err != nil || push.Method != MethodAck {
		t.Fatalf("%+v %v", push, err)
	}
	if got, err := push.PushedEnvelope(); err != nil || got.ID != e.ID {
		t.Errorf("%v", err)
	}
	refused, err := ParseRPCMessage(AppendRPCError(nil, "", CodeSkillUnknown.Err("no skill x").RPC()))
	if err != nil || refused.Error.Code != RPCMethodNotFound || refused.Error.TextCode() != CodeSkillUnknown || refused.ID != "" {
		t.Fatalf("%+v %v", refused, err)
	}
	if want := "Method not found (-32601): " + CodeSkillUnknown.Info().Sentence; refused.Error.Error() != want {
		t.Errorf("%q, want %q", refused.Error.Error(), want)
	}
	if (&RPCError{Code: 1, Message: "m"}).Error() != "m (1)" || string(AppendRPCError(nil, "1", &RPCError{Code: 1, Message: "m"})) != `{"jsonrpc":"2.0","error":{"code":1,"message":"m"},"id":1}` {
		t.Error("an error without data")
	}
	for body, ok := range map[string]bool{
		`{"jsonrpc":"2.0","error":null,"result":{},"id":1,"later":5}`:        true,
		`{"error":{"code":1,"message":"m","data":null,"later":5},"id":null}`: true,
		`{"error":"text"}`:                             false,
		`{"error":{"code":"x"}}`:                       false,
		`{"error":{"code":1,"message":"m","data":[]}}`: false,
		`{"id":[]}`:                                    false,
		`[]`:                                           false,
		`{`:                                            false,
	} {
		if _, err := ParseRPCMessage([]byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestRPCIDs(t *testing.T) {
	for id, want := range map[string]string{
		`"x"`: `"x"`, `""`: `""`, `5`: "5", `-0`: "0", `false`: "0", `true`: "1", `2e3`: "2000", `-3.0`: "-3", `1e30`: "", `1.5`: "", `[]`: "", `1e999`: "",
	} {
		r, refusal := ParseRPCRequest([]byte(`{"method":"m","params":{},"id":` + id + `}`))
		if string(r.ID) != want || (refusal == nil) != (want != "") {
			t.Errorf("%s: %q %v", id, r.ID, refusal)
		}
	}
}
