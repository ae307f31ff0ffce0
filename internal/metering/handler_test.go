package metering

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func TestSafeIntAsRecorded(t *testing.T) {
	vectors := recorded[struct {
		Cases []struct {
			Input  jsontext.Value `json:"input"`
			Result any            `json:"result"`
		} `json:"hook_safe_int"`
	}](t, "usage_model.json")
	if len(vectors.Cases) < 18 {
		t.Fatalf("only %d cases", len(vectors.Cases))
	}
	for _, c := range vectors.Cases {
		want := 0.0
		switch v := c.Result.(type) {
		case float64:
			want = v
		case bool: // Python's True is 1
			want = 1
		}
		if got, _ := safeInt(c.Input); float64(got) != want {
			t.Errorf("%s: %d, recorded %v", c.Input, got, want)
		}
	}
	for _, text := range []string{"1e400", "-1e400", "1e30", `"99999999999999999999"`, `"1__0"`, `"_1"`, `"-_1"`, "-2", "null"} {
		if n, ok := safeInt(jsontext.Value(text)); ok || n != 0 {
			t.Errorf("%s was read as %d", text, n)
		}
	}
	if n, ok := safeInt(jsontext.Value("false")); n != 0 || !ok {
		t.Errorf("false: %d, %t", n, ok)
	}
}

func TestTokensUsedIsATotal(t *testing.T) {
	const unknown = -1
	for _, c := range []struct {
		metrics        string
		in, out, calls int64
	}{
		{`{"tokens_in":5,"tokens_used":12}`, 5, 7, unknown}, // v1.3.0 made 17 of it
		{`{"tokens_in":5,"tokens_out":0,"tokens_used":12}`, 5, 7, unknown},
		{`{"tokens_out":5,"tokens_used":12}`, 7, 5, unknown},
		{`{"tokens_in":0,"tokens_out":5,"tokens_used":12,"api_calls":"3"}`, 7, 5, 3},
		{`{"tokens_used":12}`, unknown, 12, unknown},
		{`{"tokens_in":3,"tokens_out":4,"tokens_used":12}`, 3, 4, unknown},
		{`{"tokens_in":30,"tokens_used":12}`, 30, unknown, unknown},
		{`{"tokens_out":30,"tokens_used":12}`, unknown, 30, unknown},
		{`{"tokens_in":11,"tokens_used":22,"api_calls":3,"duration_ms":9}`, 11, 11, 3},
		{`{"tokens_in":-1,"tokens_out":"x","api_calls":null}`, unknown, unknown, unknown},
		{`{"tokens_in":2000000000000}`, unknown, unknown, unknown},
		{`{}`, unknown, unknown, unknown}, {`null`, unknown, unknown, unknown}, {`[]`, unknown, unknown, unknown}, {`{`, unknown, unknown, unknown}, {``, unknown, unknown, unknown},
	} {
		m := ReadMetrics(jsontext.Value(c.metrics))
		for _, q := range []struct {
			name string
			got  Count
			want int64
		}{{"in", m.TokensIn, c.in}, {"out", m.TokensOut, c.out}, {"calls", m.APICalls, c.calls}} {
			if (q.got == nil) != (q.want == unknown) || q.got != nil && *q.got != q.want {
				t.Errorf("%s: %s = %v, want %d", c.metrics, q.name, deref(q.got), q.want)
			}
		}
	}
}

// Whatever a handler reports, no more is counted than it said in total.
func TestNothingIsCountedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 20)
		in, out, used := n.Draw(t, "in"), n.Draw(t, "out"), n.Draw(t, "used")
		text := []byte{'{'}
		has := rapid.SliceOfN(rapid.Bool(), 3, 3).Draw(t, "has")
		for i, m := range []struct {
			name string
			n    int64
		}{{"tokens_in", in}, {"tokens_out", out}, {"tokens_used", used}} {
			if has[i] {
				text = memberCount(text, m.name, &m.n)
			} else if i == 0 {
				in = 0
			} else if i == 1 {
				out = 0
			} else {
				used = 0
			}
		}
		if len(text) > 1 {
			text = append([]byte{'{'}, text[2:]...)
		}
		m := ReadMetrics(append(text, '}'))
		if got := deref(m.TokensIn) + deref(m.TokensOut); got != max(in+out, used) && got != in+out {
			t.Fatalf("%s}: counted %d", text, got)
		}
	})
}
