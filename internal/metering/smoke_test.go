package metering

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

func TestReportRoundTrip(t *testing.T) {
	now := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	r, err := ParseReport(jsontext.Value(`{"task_id":"t","agent":"urn:asap:agent:a","consumer_id":"urn:asap:agent:c","tokens_in":"1_000","tokens_out":5.0,"timestamp":"2026-02-20T12:00:00.5","tokens":{"output.text":5}}`), now)
	if err != nil {
		t.Fatal(err)
	}
	b := r.AppendCanonical(nil)
	v := jsontext.Value(append([]byte(nil), b...))
	if err := v.Canonicalize(); err != nil || string(v) != string(b) {
		t.Fatalf("%v\n%s\n%s", err, b, v)
	}
	back, err := ParseRecord(b)
	if err != nil || string(back.AppendCanonical(nil)) != string(b) {
		t.Fatalf("%v %s", err, b)
	}
	t.Logf("%s\n%s", b, r.AppendJSON(nil))
	for _, s := range []string{"0.00215", "12", "-3.5", "0.000000001", "0.1", "9223372036.854775807", "-9223372036.854775808"} {
		n, err := ParseUSD(s)
		if err != nil || n.String() != s {
			t.Errorf("%s %s %v", s, n, err)
		}
	}
}
