package asap

import (
	"errors"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func drawURN(t *rapid.T, label string) AgentURN {
	return AgentURN("urn:asap:agent:" + rapid.StringMatching(`[a-z0-9-]{1,20}(:[a-z0-9-]{1,20})?`).Draw(t, label))
}

func drawOptional(t *rapid.T, label string) *string {
	if rapid.Bool().Draw(t, label+" present") {
		return new(rapid.String().Draw(t, label))
	}
	return nil
}

// TestEnvelopeRoundTrip: parsing what was written gives the same envelope.
func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Envelope{
			ID: EnvelopeID(rapid.String().Draw(t, "id")), IDSet: true, ASAPVersion: rapid.String().Draw(t, "version"),
			Timestamp: time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "time")).UTC(), TimestampSet: true,
			Sender: drawURN(t, "sender"), Recipient: drawURN(t, "recipient"), PayloadType: rapid.SampledFrom([]string{"", "x", TaskRequestType, TaskResponseType}).Draw(t, "type"),
			Payload: drawObject(t), CorrelationID: drawOptional(t, "correlation"), TraceID: drawOptional(t, "trace"), RequiresAck: rapid.Bool().Draw(t, "ack"),
		}
		if rapid.Bool().Draw(t, "extensions present") {
			e.Extensions = drawObject(t)
		}
		text := e.AppendJSON(nil)
		back, err := ParseEnvelope(text)
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if got := back.AppendJSON(nil); string(got) != string(text) {
			t.Fatalf("\n%s\n%s", text, got)
		}
		if back.ID != e.ID || !back.Timestamp.Equal(e.Timestamp) || back.Sender != e.Sender || (back.TraceID == nil) != (e.TraceID == nil) {
			t.Fatalf("%+v, want %+v", back, e)
		}
	})
}

// TestPayloadRoundTrip does the same for a payload of every field type.
func TestPayloadRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := []Payload{
			&TaskRequest{ConversationID: "c", ParentTaskID: drawOptional(t, "parent"), SkillID: rapid.String().Draw(t, "skill"), Input: drawObject(t)},
			&TaskResponse{TaskID: "t", Status: rapid.SampledFrom([]TaskStatus{Submitted, Working, Completed, Failed, Cancelled, InputRequired}).Draw(t, "status"), Result: drawObject(t)},
			&StateQuery{TaskID: "t", Version: new(rapid.Int64().Draw(t, "n"))},
			&MessageSend{Role: RoleSystem, Parts: rapid.SliceOf(rapid.String()).Draw(t, "parts")},
			&McpToolResult{RequestID: "r", Failure: new(rapid.String().Draw(t, "failure"))},
			&MessageAck{Status: AckRejected, Reason: drawOptional(t, "reason")},
		}
		for _, p := range payloads {
			text := p.AppendJSON(nil)
			back, err := ParsePayload(p.Kind(), text)
			if err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			if got := back.AppendJSON(nil); string(got) != string(text) {
				t.Fatalf("\n%s\n%s", text, got)
			}
		}
	})
}

func TestEntityRoundTrip(t *testing.T) {
	const at = `"2026-02-20T12:00:00.000001Z"`
	for class, text := range map[string]string{
		"Agent":         `{"id":"urn:asap:agent:a","manifest_uri":"","capabilities":["x"]}`,
		"Conversation":  `{"id":"c","participants":["a"],"created_at":` + at + `,"metadata":{}}`,
		"Task":          `{"id":"t","conversation_id":"c","parent_task_id":null,"status":"working","depth":10,"progress":null,"created_at":` + at + `,"updated_at":` + at + `}`,
		"Message":       `{"id":"m","task_id":"t","sender":"s","role":"user","parts":[],"timestamp":` + at + `}`,
		"Artifact":      `{"id":"a","task_id":"t","name":"n","parts":["p","q"],"created_at":` + at + `}`,
		"StateSnapshot": `{"id":"s","task_id":"t","version":1,"data":{"a":1.0},"checkpoint":true,"created_at":` + at + `}`,
	} {
		got, err := parseModel(class, jsontext.Value(text))
		if err != nil || string(got) != text {
			t.Errorf("%s: %v\n got %s\nwant %s", class, err, got, text)
		}
	}
	if _, err := ParseTask(jsontext.Value(`{"id":"t","conversation_id":"c","status":"working","depth":-1,"created_at":null,"updated_at":"1e5"}`)); err == nil ||
		err.Error() != "depth: Input should be greater than or equal to 0; created_at: Input should be a valid datetime; updated_at: Input should be a valid datetime or date" {
		t.Errorf("%v", err)
	}
}

func TestPayloadTypes(t *testing.T) {
	for k := KindTaskRequest; k <= KindMessageAck; k++ {
		for _, name := range []string{k.Type(), k.String()} {
			if got, ok := CanonicalPayloadType(name); !ok || got != k {
				t.Errorf("%q is %v", name, got)
			}
		}
	}
	for _, name := range []string{"", "TASK.REQUEST", "task-request", "taskRequest"} {
		if got, ok := CanonicalPayloadType(name); ok {
			t.Errorf("%q is %v", name, got)
		}
	}
	if PayloadKind(0).String() != "" || PayloadKind(99).Type() != "" || PayloadKind(99).String() != "" {
		t.Error("names of no kind")
	}
	if p, err := ParsePayload(0, jsontext.Value(`{}`)); p != nil || !errors.Is(err, ErrPayloadKind) {
		t.Errorf("%v %v", p, err)
	}
	if _, err := ParsePart(jsontext.Value(`[]`)); err == nil {
		t.Error("a list is no part")
	}
	if _, err := ParsePart(jsontext.Value(`{"type":5}`)); err == nil {
		t.Error("a number is no part type")
	}
	if _, err := ParsePart(jsontext.Value(`{`)); err == nil {
		t.Error("no JSON")
	}
	if _, err := ParsePart(jsontext.Value(`{"type":"file","uri":"x","mime_type":"a/b","inline_data":"YQ\n=="}`)); err == nil {
		t.Error("a line feed in base64")
	}
}

func TestIDs(t *testing.T) {
	ids := NewIDSource()
	now := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	last := ""
	for i := range 2000 {
		at := now
		if i%3 == 0 {
			at = now.Add(-time.Hour) // the clock may go back; ids do not
		}
		id := ids.New(at)
		if len(id) != 26 || id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
	if id := ids.NewTaskID(now); len(id) != 31 || id[:5] != "task_" {
		t.Error(id)
	}
}

func TestHostileRawValues(t *testing.T) {
	// What a program puts into a raw member by hand is not checked; walking it
	// must end all the same.
	for _, text := range []string{`{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":"`, `{"a":{`, `{"a":1,`, `{,}`, `{"\`, `{"a":}`, `{a:1}`, `{"a" 1}`, `{"nonce`, "{\"\xff\":1}"} {
		e := Envelope{Extensions: jsontext.Value(text)}
		_, _, _ = e.Nonce()
		r := RPCRequest{Params: jsontext.Value(text)}
		if _, refusal := r.Envelope(); refusal == nil {
			t.Errorf("%q holds an envelope", text)
		}
		_ = (&RPCError{Data: jsontext.Value(text)}).Error()
	}
}
