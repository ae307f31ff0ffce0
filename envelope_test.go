package asap

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// envelopeDifferences: docs/compatibility.md explains each row named here.
var envelopeDifferences = map[string]difference{
	"sender_trailing_newline_accepted": {false, "urn-line-feed"},
}

type envelopeVectors struct {
	Valid []struct {
		Name         string         `json:"name"`
		Model        string         `json:"payload_model"`
		PayloadInput jsontext.Value `json:"payload_input"`
		PayloadJSON  jsontext.Value `json:"payload_json"`
		Envelope     jsontext.Value `json:"envelope"`
		Text         string         `json:"envelope_json_text"`
		RequiresAck  bool           `json:"websocket_sends_requires_ack"`
	} `json:"valid"`
	EnvelopeCases []struct {
		Name   string         `json:"name"`
		Input  jsontext.Value `json:"input"`
		Result struct {
			verdict
			Envelope  jsontext.Value `json:"envelope"`
			Generated []string       `json:"generated"`
		} `json:"result"`
	} `json:"envelope_cases"`
	PayloadCases []struct {
		Model  string         `json:"model"`
		Input  jsontext.Value `json:"input"`
		Result struct {
			verdict
			JSON jsontext.Value `json:"json"`
		} `json:"result"`
	} `json:"payload_cases"`
	PartCases []struct {
		Input  jsontext.Value `json:"input"`
		Result struct {
			verdict
			JSON jsontext.Value `json:"json"`
		} `json:"result"`
	} `json:"part_cases"`
	AutoAck []string `json:"payload_types_that_get_requires_ack_over_websocket"`
}

func loadEnvelopes(t testing.TB) *envelopeVectors {
	t.Helper()
	var v envelopeVectors
	load(t, "vectors/envelopes.json", &v)
	return &v
}

func TestEnvelopesAsTheReferenceWritesThem(t *testing.T) {
	for _, c := range loadEnvelopes(t).Valid {
		t.Run(c.Name, func(t *testing.T) {
			e, err := ParseEnvelope([]byte(c.Text))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(e.AppendJSON(nil)); got != c.Text {
				t.Errorf("serialised differently:\n got %s\nwant %s", got, c.Text)
			}
			kind, ok := CanonicalPayloadType(e.PayloadType)
			if !ok || kind.String() != c.Model {
				t.Fatalf("payload type %q is %v, want %s", e.PayloadType, kind, c.Model)
			}
			p, err := ParsePayload(kind, c.PayloadInput)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind() != kind {
				t.Errorf("Kind() = %v, want %v", p.Kind(), kind)
			}
			if got, want := ordered(t, p.AppendJSON(nil)), ordered(t, c.PayloadJSON); got != want {
				t.Errorf("payload\n got %s\nwant %s", got, want)
			}
			again, err := ParsePayload(kind, e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(again.AppendJSON(nil)); got != string(e.Payload) {
				t.Errorf("payload serialised differently:\n got %s\nwant %s", got, e.Payload)
			}
			if got := AutoAck(e.PayloadType); got != c.RequiresAck {
				t.Errorf("AutoAck(%q) = %v, want %v", e.PayloadType, got, c.RequiresAck)
			}
		})
	}
}

func TestEnvelopeVerdicts(t *testing.T) {
	for _, c := range loadEnvelopes(t).EnvelopeCases {
		t.Run(c.Name, func(t *testing.T) {
			e, err := ParseEnvelope(c.Input)
			if differ(t, envelopeDifferences, c.Name, c.Result.verdict, err) {
				return
			}
			compareVerdict(t, c.Result.verdict, err)
			if err != nil {
				return
			}
			for _, name := range c.Result.Generated {
				switch name {
				case "id":
					if e.ID != "" || e.IDSet {
						t.Error("id is absent and yet set")
					}
					e.ID = "<generated>"
				case "timestamp":
					if e.TimestampSet || !e.Timestamp.IsZero() {
						t.Error("timestamp is absent and yet set")
					}
				default:
					t.Fatalf("generated member %q is unknown to this test", name)
				}
			}
			got := e.AppendJSON(nil)
			if !e.TimestampSet {
				got = []byte(strings.Replace(string(got), `"timestamp":null`, `"timestamp":"<generated>"`, 1))
			}
			if got, want := ordered(t, got), ordered(t, c.Result.Envelope); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestEnvelopeFieldsOfTheFixtures(t *testing.T) {
	var v struct {
		Fields []struct {
			Field    string         `json:"field"`
			Value    jsontext.Value `json:"value"`
			Accepted bool           `json:"accepted"`
		} `json:"envelope_field"`
		Correlation []struct {
			PayloadType   string         `json:"payload_type"`
			CorrelationID jsontext.Value `json:"correlation_id"`
			Accepted      bool           `json:"accepted"`
		} `json:"envelope_correlation"`
		URNs []struct {
			Value string `json:"value"`
			Valid bool   `json:"valid"`
		} `json:"agent_urn"`
	}
	load(t, "fixtures/vectors.json", &v)
	for _, c := range v.Fields {
		if _, err := ParseEnvelope(withMember(t, goodEnvelope, c.Field, c.Value)); (err == nil) != c.Accepted {
			t.Errorf("%s = %s: accepted %v, want %v (%v)", c.Field, c.Value, err == nil, c.Accepted, err)
		}
	}
	for _, c := range v.Correlation {
		b := withMember(t, goodEnvelope, "payload_type", jsontext.Value(appendString(nil, c.PayloadType)))
		b = withMember(t, string(b), "correlation_id", c.CorrelationID)
		if _, err := ParseEnvelope(b); (err == nil) != c.Accepted {
			t.Errorf("%s with correlation_id %s: accepted %v, want %v", c.PayloadType, c.CorrelationID, err == nil, c.Accepted)
		}
	}
	for _, c := range v.URNs {
		_, err := ParseAgentURN(c.Value)
		if strings.HasSuffix(c.Value, "a\n") {
			c.Valid = false // difference urn-line-feed
		}
		if (err == nil) != c.Valid {
			t.Errorf("ParseAgentURN(%q): %v, want valid %v", c.Value, err, c.Valid)
		}
	}
}

const goodEnvelope = `{"id":"e1","asap_version":"0.1","timestamp":"2026-02-20T12:00:00Z","sender":"urn:asap:agent:a","recipient":"urn:asap:agent:b","payload_type":"task.request","payload":{"conversation_id":"c","skill_id":"echo","input":{}}}`

// withMember returns the object with one member set.
func withMember(t testing.TB, object, name string, value jsontext.Value) []byte {
	t.Helper()
	var m map[string]jsontext.Value
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatal(err)
	}
	m[name] = value
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPayloadVerdicts(t *testing.T) {
	for _, c := range loadEnvelopes(t).PayloadCases {
		kind, ok := CanonicalPayloadType(c.Model)
		if !ok {
			t.Fatalf("model %s", c.Model)
		}
		t.Run(c.Model+" "+string(c.Input), func(t *testing.T) {
			p, err := ParsePayload(kind, c.Input)
			compareVerdict(t, c.Result.verdict, err)
			if err != nil {
				return
			}
			if got, want := ordered(t, p.AppendJSON(nil)), ordered(t, c.Result.JSON); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestPartVerdicts(t *testing.T) {
	for _, c := range loadEnvelopes(t).PartCases {
		t.Run(string(c.Input), func(t *testing.T) {
			p, err := ParsePart(c.Input)
			compareVerdict(t, c.Result.verdict, err)
			if err != nil {
				return
			}
			if got, want := ordered(t, p.AppendJSON(nil)), ordered(t, c.Result.JSON); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			if !strings.Contains(string(c.Input), `"`+p.PartType()+`"`) {
				t.Errorf("PartType() = %q", p.PartType())
			}
			if b, err := json.Marshal(p); err != nil || ordered(t, b) != ordered(t, p.AppendJSON(nil)) {
				t.Errorf("json.Marshal: %s, %v", b, err)
			}
		})
	}
}

func TestFixtureModels(t *testing.T) {
	var v struct {
		Payload []struct {
			Model      string         `json:"model"`
			Input      jsontext.Value `json:"input"`
			Accepted   bool           `json:"accepted"`
			Normalized jsontext.Value `json:"normalized"`
		} `json:"payload"`
		Part []struct {
			Input      jsontext.Value `json:"input"`
			Accepted   bool           `json:"accepted"`
			Normalized jsontext.Value `json:"normalized"`
		} `json:"part"`
	}
	load(t, "fixtures/vectors.json", &v)
	for _, c := range v.Payload {
		got, err := parseModel(c.Model, c.Input)
		if (err == nil) != c.Accepted {
			t.Errorf("%s %s: accepted %v, want %v (%v)", c.Model, c.Input, err == nil, c.Accepted, err)
		}
		if err == nil && ordered(t, got) != ordered(t, c.Normalized) {
			t.Errorf("%s\n got %s\nwant %s", c.Model, got, c.Normalized)
		}
	}
	for _, c := range v.Part {
		p, err := ParsePart(c.Input)
		if (err == nil) != c.Accepted {
			t.Errorf("%s: accepted %v, want %v (%v)", c.Input, err == nil, c.Accepted, err)
		}
		if err == nil && ordered(t, p.AppendJSON(nil)) != ordered(t, c.Normalized) {
			t.Errorf("\n got %s\nwant %s", p.AppendJSON(nil), c.Normalized)
		}
	}
}

// parseModel parses input as the class and returns what it is written as.
func parseModel(class string, input jsontext.Value) ([]byte, error) {
	if kind, ok := CanonicalPayloadType(class); ok {
		p, err := ParsePayload(kind, input)
		if err != nil {
			return nil, err
		}
		return p.MarshalJSON()
	}
	switch class {
	case "Agent":
		return written(ParseAgent(input))
	case "Conversation":
		return written(ParseConversation(input))
	case "Task":
		return written(ParseTask(input))
	case "Message":
		return written(ParseMessage(input))
	case "Artifact":
		return written(ParseArtifact(input))
	case "StateSnapshot":
		return written(ParseStateSnapshot(input))
	}
	panic("no model " + class)
}

func written[T json.Marshaler](v T, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return v.MarshalJSON()
}

func TestFreshness(t *testing.T) {
	var v struct {
		Clock  string `json:"clock"`
		Window []struct {
			Timestamp    string         `json:"timestamp"`
			Accepted     bool           `json:"accepted"`
			Code         Code           `json:"code"`
			Message      string         `json:"message"`
			Details      jsontext.Value `json:"details"`
			Reserialised string         `json:"reserialised"`
		} `json:"envelope_window"`
	}
	load(t, "vectors/timestamps.json", &v)
	now, err := ParseTimestamp(v.Clock)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Window {
		e, err := ParseEnvelope(withMember(t, goodEnvelope, "timestamp", jsontext.Value(`"`+c.Timestamp+`"`)))
		if err != nil {
			t.Fatal(err)
		}
		if c.Reserialised != "" && FormatTimestamp(e.Timestamp) != c.Reserialised {
			t.Errorf("%s is written as %s, want %s", c.Timestamp, FormatTimestamp(e.Timestamp), c.Reserialised)
		}
		err = e.CheckTimestamp(now)
		if (err == nil) != c.Accepted {
			t.Errorf("%s: %v, want accepted %v", c.Timestamp, err, c.Accepted)
		}
		if err == nil {
			continue
		}
		refusal := refusalOf(t, err)
		if refusal.Code != c.Code || refusal.Message != c.Message {
			t.Errorf("%s: %q %q, want %q %q", c.Timestamp, refusal.Code, refusal.Message, c.Code, c.Message)
		}
		got := withMember(t, string(refusal.Details), "envelope_id", jsontext.Value("0"))
		want := withMember(t, string(c.Details), "envelope_id", jsontext.Value("0"))
		canonical := func(b []byte) string {
			v := jsontext.Value(b)
			if err := v.Canonicalize(); err != nil {
				t.Fatal(err)
			}
			return string(v)
		}
		if canonical(got) != canonical(want) {
			t.Errorf("details\n got %s\nwant %s", got, want)
		}
	}
	for _, far := range []string{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"} {
		at, err := ParseTimestamp(far)
		if err != nil {
			t.Fatal(err)
		}
		e := Envelope{Timestamp: at, TimestampSet: true}
		if err := e.CheckTimestamp(now); err == nil || !refusalOf(t, err).Details.IsValid() {
			t.Errorf("%s: %v", far, err)
		}
	}
	absent := Envelope{Timestamp: now.Add(-time.Hour)}
	if err := absent.CheckTimestamp(now); err != nil {
		t.Errorf("a timestamp the sender left out must pass: %v", err)
	}
}

func TestNonce(t *testing.T) {
	for _, c := range []struct {
		extensions, nonce string
		found, refused    bool
	}{
		{"", "", false, false},
		{`{"a":1}`, "", false, false},
		{`{"a":{"nonce":5},"nonce":"n-1"}`, "n-1", true, false},
		{`{"\u006eonce":"n-1"}`, "n-1", true, false},
		{`{"nonce":""}`, "", false, true},
		{`{"nonce":5}`, "", false, true},
		{`{"nonce":null}`, "", false, true},
	} {
		e := Envelope{ID: "e1", Extensions: jsontext.Value(c.extensions)}
		nonce, found, err := e.Nonce()
		if nonce != c.nonce || found != c.found || (err != nil) != c.refused {
			t.Errorf("%s: %q %v %v", c.extensions, nonce, found, err)
		}
	}
	e := Envelope{ID: "e1"}
	d := e.DuplicateNonce(strings.Repeat("n", 100))
	if d.Code != CodeInvalidNonce || !d.Details.IsValid() || len(d.Details) > 200 {
		t.Errorf("%v %s", d, d.Details)
	}
}

func TestEnvelopeByHand(t *testing.T) {
	ids := NewIDSource()
	now := time.Date(2026, 2, 20, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	e := Envelope{ASAPVersion: "0.1", Sender: "urn:asap:agent:a", Recipient: "urn:asap:agent:b", PayloadType: TaskCancelType, TraceID: new("t")}
	if got := string(e.AppendJSON(nil)); !strings.HasPrefix(got, `{"id":null,"asap_version":"0.1","timestamp":null,`) || !strings.Contains(got, `"payload":{}`) {
		t.Errorf("absent members: %s", got)
	}
	e.Complete(ids, now)
	if len(e.ID) != 26 || e.TimestampSet || FormatTimestamp(e.Timestamp) != "2026-02-20T11:00:00.123456Z" {
		t.Errorf("completed: %+v", e)
	}
	before := e.ID
	e.Complete(ids, now.Add(time.Second))
	if e.ID != before {
		t.Error("Complete replaced an id")
	}
	if err := e.Validate(); err != nil {
		t.Error(err)
	}
	answer := e.Answer("a1", now, "urn:asap:agent:b", TaskResponseType, jsontext.Value(`{"task_id":"t","status":"completed"}`))
	if *answer.CorrelationID != string(e.ID) || answer.Recipient != e.Sender || *answer.TraceID != "t" {
		t.Errorf("answer: %s", answer.AppendJSON(nil))
	}
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	var back Envelope
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if string(back.AppendJSON(nil)) != string(b) {
		t.Errorf("came back as %s", back.AppendJSON(nil))
	}
	e.Sender = "nobody"
	if err := e.Validate(); err == nil {
		t.Error("a bad sender passed")
	}
	if err := json.Unmarshal([]byte(`{"id":1}`), &back); err == nil {
		t.Error("a bad envelope was unmarshalled")
	}
}

func TestEnvelopeEchoesNumbersUnchanged(t *testing.T) {
	const payload = `{"big":123456789012345678901234567890,"one":1.0,"e":1e400}`
	e, err := ParseEnvelope(withMember(t, goodEnvelope, "payload", jsontext.Value(payload)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(e.AppendJSON(nil)), payload) {
		t.Errorf("changed: %s", e.AppendJSON(nil))
	}
}

func TestTaskTransitions(t *testing.T) {
	var v struct {
		Transitions []struct {
			From    TaskStatus `json:"from"`
			To      TaskStatus `json:"to"`
			Allowed bool       `json:"allowed"`
		} `json:"task_transition"`
	}
	load(t, "fixtures/vectors.json", &v)
	if len(v.Transitions) != 36 {
		t.Fatalf("%d transitions", len(v.Transitions))
	}
	for _, c := range v.Transitions {
		if c.From.CanBecome(c.To) != c.Allowed {
			t.Errorf("%s to %s: want %v", c.From, c.To, c.Allowed)
		}
		if err := c.From.Transition("t1", c.To); (err == nil) != c.Allowed {
			t.Errorf("%s to %s: %v", c.From, c.To, err)
		} else if err != nil {
			if refusal := refusalOf(t, err); refusal.Code != CodeInvalidState || !strings.Contains(string(refusal.Details), `"task_id":"t1"`) {
				t.Errorf("%v", err)
			}
		}
		if !c.From.Valid() {
			t.Errorf("%s is not valid", c.From)
		}
		if c.From.Terminal() && c.Allowed {
			t.Errorf("a transition out of %s", c.From)
		}
	}
	if TaskStatus("done").Valid() || TaskStatus("done").CanBecome(Working) {
		t.Error("an unknown status")
	}
}
