package asap

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// BenchmarkRequest is what a node does with the bytes of every task: parse the
// request, the envelope and the payload, and write an answer.
func BenchmarkRequest(b *testing.B) {
	e, err := ParseEnvelope([]byte(goodEnvelope))
	if err != nil {
		b.Fatal(err)
	}
	e.Payload = jsontext.Value(`{"conversation_id":"01KHXZ000100000000000000AA","parent_task_id":null,"skill_id":"echo","input":{"message":"How many roads must a man walk down?","n":1,"list":[1,2,3,{"k":"v"}]},"config":null}`)
	request := AppendRPCSend(nil, StringID("req-1"), e, "01KHXZ000900000000000000AA")
	result := jsontext.Value(`{"task_id":"task_01KHXZ000200000000000000AA","status":"completed","result":{"echoed":{}},"final_state":null,"metrics":null}`)
	var out []byte
	b.SetBytes(int64(len(request)))
	b.ReportAllocs()
	for b.Loop() {
		r, refusal := ParseRPCRequest(request)
		if refusal != nil {
			b.Fatal(refusal)
		}
		in, refusal := r.Envelope()
		if refusal != nil {
			b.Fatal(refusal)
		}
		if _, err := ParseTaskRequest(in.Payload); err != nil {
			b.Fatal(err)
		}
		answer := in.Answer("01KHXZ000900000000000000AB", in.Timestamp, in.Recipient, TaskResponseType, result)
		out = AppendRPCResult(out[:0], r.ID, answer)
	}
}

func BenchmarkParseEnvelope(b *testing.B) {
	text := []byte(loadEnvelopes(b).Valid[0].Text)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEnvelope(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEnvelope(b *testing.B) {
	e, err := ParseEnvelope([]byte(loadEnvelopes(b).Valid[0].Text))
	if err != nil {
		b.Fatal(err)
	}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = e.AppendJSON(out[:0])
	}
}

func BenchmarkVerifyManifest(b *testing.B) {
	s, err := ParseSignedManifest(loadManifests(b).Manifests[1].Signed)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := VerifyManifest(s, VerifyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
