package asap

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func TestTimestamps(t *testing.T) {
	var v struct {
		Parsing []struct {
			Input     jsontext.Value `json:"input"`
			Accepted  bool           `json:"accepted"`
			JSON      string         `json:"json_mode"`
			ISO       string         `json:"isoformat"`
			HasOffset bool           `json:"has_offset"`
			Unix      *float64       `json:"unix_if_aware"`
			Errors    []struct {
				Type string `json:"type"`
			} `json:"errors"`
		} `json:"parsing"`
	}
	load(t, "vectors/timestamps.json", &v)
	for _, c := range v.Parsing {
		got, issue := laxTime(c.Input)
		if (issue == "") != c.Accepted {
			t.Errorf("%s: issue %q, want accepted %v", c.Input, issue, c.Accepted)
			continue
		}
		if issue != "" {
			if issue != c.Errors[0].Type {
				t.Errorf("%s: %s, want %s", c.Input, issue, c.Errors[0].Type)
			}
			continue
		}
		if FormatTimestamp(got) != c.JSON || FormatISO(got) != c.ISO || Zoneless(got) == c.HasOffset {
			t.Errorf("%s: %s, %s, zoneless %v; want %s, %s", c.Input, FormatTimestamp(got), FormatISO(got), Zoneless(got), c.JSON, c.ISO)
		}
		if c.Unix != nil && float64(got.UnixMicro())/1e6 != *c.Unix {
			t.Errorf("%s: unix %f, want %f", c.Input, float64(got.UnixMicro())/1e6, *c.Unix)
		}
	}
	var fixtures struct {
		Timestamps []struct {
			Input      jsontext.Value `json:"input"`
			Accepted   bool           `json:"accepted"`
			Serialized string         `json:"serialized"`
		} `json:"timestamp"`
	}
	load(t, "fixtures/vectors.json", &fixtures)
	for _, c := range fixtures.Timestamps {
		got, issue := laxTime(c.Input)
		if (issue == "") != c.Accepted || (c.Accepted && FormatTimestamp(got) != c.Serialized) {
			t.Errorf("%s: %s %q, want %v %s", c.Input, FormatTimestamp(got), issue, c.Accepted, c.Serialized)
		}
	}
}

func TestTimestampEdges(t *testing.T) {
	for text, want := range map[string]string{
		"-0.25":                            "1969-12-31T23:59:59.750000Z",
		"1771588800000.5":                  "2026-02-20T12:00:00.000500Z",
		"-1500000000001":                   "1922-06-20T21:19:59.999000Z",
		"2024-02-29":                       "2024-02-29T00:00:00",
		"2026-02-20T12:00:00-05:30":        "2026-02-20T12:00:00-05:30",
		"2026-02-20T12:00:00.000000999Z":   "2026-02-20T12:00:00Z",
		"2026-02-20T12:00:00.12345678901Z": "2026-02-20T12:00:00.123456Z",
	} {
		got, err := ParseTimestamp(text)
		if err != nil || FormatTimestamp(got) != want {
			t.Errorf("%s: %s %v, want %s", text, FormatTimestamp(got), err, want)
		}
	}
	for _, text := range []string{
		"2023-02-29", "0000-01-01", "2026-00-01", "2026-01-00", "2026-01-01T", "2026-01-01T1", "2026-01-01T12:60", "2026-01-01T12:00+", "2026-01-01T12:00+1",
		"2026-01-01T12:00+12:60", "2026-01-01T12:00x", "-", ".", "-.", "99999999999999999999", "1e5", "-20000000000", "2026-01-01T12:00:", "2026-01-01T12:00:0", "1.5.5",
	} {
		if got, err := ParseTimestamp(text); err == nil {
			t.Errorf("%s: accepted as %s", text, FormatTimestamp(got))
		}
	}
}

func TestTimestampRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(-62135510400_000000, 253402214400_000000-1).Draw(t, "us") // a day from either end
		zone := time.UTC
		switch minutes := rapid.IntRange(-1439, 1440).Draw(t, "zone"); {
		case minutes == 1440:
			zone = zoneless
		case minutes != 0:
			zone = time.FixedZone("", minutes*60)
		}
		at := time.UnixMicro(us).In(zone)
		text := FormatTimestamp(at)
		back, err := ParseTimestamp(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !back.Equal(at) || FormatTimestamp(back) != text {
			t.Fatalf("%s came back as %s", text, FormatTimestamp(back))
		}
	})
}
