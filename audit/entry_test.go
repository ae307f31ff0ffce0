package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/go-json-experiment/json/jsontext"
)

const goldenOrigin = "audit.example.com/asap/main"

// golden are the three entries published with the format.
var golden = []struct {
	octets, hash, leaf string
}{
	{
		`{"actor":"urn:asap:agent:alice","details":{"task_kind":"summarize"},"event_type":"task.started","id":"01KGB7ZK00000000000000000A","previous_hash":"f1020d24a750bc03537279cb571c65a9a8b11e61b79d3ffa001236b40751a0ab","seq":0,"subject":"task_1","timestamp":"2026-02-01T00:00:00.000001Z"}`,
		"8498145efd6dc67d68c520d14d853006f04344ae69aa04b79ed7e4a4e79c1ca6",
		"c6Li1BJ5+0N8l9CT/KU89+sjiCK4BnoBilkqj0lq2cI=",
	},
	{
		`{"actor":"urn:asap:agent:alice","details":{"cost_micro":1250000,"currency":"USD","tokens_in":1200,"tokens_out":340},"event_type":"usage.recorded","id":"01KGB7ZK00000000000000000B","previous_hash":"8498145efd6dc67d68c520d14d853006f04344ae69aa04b79ed7e4a4e79c1ca6","seq":1,"subject":"task_1","timestamp":"2026-02-01T00:00:01.500000Z"}`,
		"ed197a007ffc7d5ae4f666545cca5b3e65bd0168ba835259eb506b3f2cbbea99",
		"rfBw68biLnoHte7nbaw+zuxlM3YpPT3z1Vf7/6Mf9Ck=",
	},
	{
		`{"actor":"urn:asap:agent:alice","details":{"note":"héllo \u0007 €","ratio":1e-7},"event_type":"task.completed","id":"01KGB7ZK00000000000000000C","previous_hash":"ed197a007ffc7d5ae4f666545cca5b3e65bd0168ba835259eb506b3f2cbbea99","seq":2,"subject":"task_1","timestamp":"2026-02-01T00:00:02.000000Z"}`,
		"480c6a41dfa40c71c0ae2e846551ada0336284cf8b8a762f244f084cc7775f8b",
		"91g/elACtOJbtuMPU16gtHZqWCAcnedjUrXQEITVqvw=",
	},
}

func TestGoldenEntries(t *testing.T) {
	h := GenesisHead(goldenOrigin)
	if got := hex.EncodeToString(h.Hash[:]); got != "f1020d24a750bc03537279cb571c65a9a8b11e61b79d3ffa001236b40751a0ab" {
		t.Fatalf("genesis %s", got)
	}
	for i, g := range golden {
		e, err := ParseEntry([]byte(g.octets))
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if got := hex.EncodeToString(e.Hash[:]); got != g.hash {
			t.Errorf("entry %d: hash %s, want %s", i, got, g.hash)
		}
		leaf := tlog.RecordHash(e.Hash[:])
		if got := base64.StdEncoding.EncodeToString(leaf[:]); got != g.leaf {
			t.Errorf("entry %d: leaf %s, want %s", i, got, g.leaf)
		}
		// Append makes the same entry, if the last id is the one before: the
		// published ids share one millisecond, so this works for the first only.
		if i > 0 {
			continue
		}
		from := h
		from.LastID = e.ID[:25] + "9"
		ev := Event{Type: e.Type, Actor: e.Actor, Subject: e.Subject, Details: e.Details}
		made, _, err := Append(from, e.Timestamp, ev, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, made); diff != "" {
			t.Errorf("entry %d: parsed and appended differ:\n%s", i, diff)
		}
	}
}

var at = time.Date(2026, 2, 1, 12, 0, 0, 123456789, time.UTC)

func started() Event {
	return Event{Type: TaskStarted, Actor: "urn:asap:agent:alice", Subject: "task_1", Details: jsontext.Value(`{"skill":"summarize"}`)}
}

func TestAppendCanonicalises(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`1.0`, `1`}, {`-0`, `0`}, {`1e21`, `1e+21`}, {`1e-7`, `1e-7`}, {`0.000001`, `0.000001`}, {`9007199254740991`, `9007199254740991`},
		{`-9007199254740991`, `-9007199254740991`}, {`"\/"`, `"/"`}, {`"\u0007\u000A"`, `"\u0007\n"`}, {`"e\u0301"`, "\"e\u0301\""}, {`"\u00e9"`, "\"\u00e9\""}, {` [ 1 , {} ] `, `[1,{}]`},
		{`{"\u20ac":1,"\r":2,"\ud83d\ude00":3,"\ufb33":4,"1":5,"\u0080":6,"\u00f6":7}`, "{\"\\r\":2,\"1\":5,\"\u0080\":6,\"ö\":7,\"€\":1,\"\U0001F600\":3,\"\uFB33\":4}"},
		{`9007199254740993`, ""}, {`123456789012345680000`, ""}, {`-9007199254740992`, ""}, {`1e17`, ""}, {`1e400`, ""}, {`NaN`, ""}, {`"\ud800"`, ""}, {"\"\xff\"", ""}, {`{"a":1,"a":1}`, ""},
		{strings.Repeat("[", 30) + strings.Repeat("]", 30), strings.Repeat("[", 30) + strings.Repeat("]", 30)},
		{strings.Repeat("[", 31) + strings.Repeat("]", 31), ""},
		{` ` + strings.Repeat("[", 31) + strings.Repeat("]", 31), ""},
	} {
		ev := started()
		ev.Details = jsontext.Value(`{"v":` + c.in + `}`)
		e, _, err := Append(GenesisHead("o"), at, ev, rand.Reader)
		switch {
		case c.want == "" && !errors.Is(err, ErrEvent):
			t.Errorf("%s: not refused: %s %v", c.in, e.Octets, err)
		case c.want != "" && err != nil:
			t.Errorf("%s: %v", c.in, err)
		case c.want != "" && string(e.Details) != `{"v":`+c.want+`}`:
			t.Errorf("%s: %s, want %s", c.in, e.Details, c.want)
		}
	}
	for _, whole := range []string{`{} {}`, `[]`, `1`, `null`, `{`, ` `, `{}{}`} {
		ev := started()
		ev.Details = jsontext.Value(whole)
		if _, _, err := Append(GenesisHead("o"), at, ev, rand.Reader); !errors.Is(err, ErrEvent) {
			t.Errorf("details %q: %v", whole, err)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	h := GenesisHead("o")
	for what, change := range map[string]func(*Event){
		"no type":           func(e *Event) { e.Type = "" },
		"long type":         func(e *Event) { e.Type = strings.Repeat("a", 65) },
		"type in capitals":  func(e *Event) { e.Type = "Task" },
		"actor not ASCII":   func(e *Event) { e.Actor = "urn:asap:agent:älice" },
		"actor with quote":  func(e *Event) { e.Actor = `urn:asap:"` },
		"no actor":          func(e *Event) { e.Actor = "" },
		"party not a URN":   func(e *Event) { e.Parties = []string{"bob"} },
		"parties unsorted":  func(e *Event) { e.Parties = []string{"urn:b", "urn:a"} },
		"parties twice":     func(e *Event) { e.Parties = []string{"urn:a", "urn:a"} },
		"subject not UTF-8": func(e *Event) { e.Subject = "\xff" },
		"too large":         func(e *Event) { e.Subject = strings.Repeat("x", MaxOctets) },
		"details too large": func(e *Event) { e.Details = jsontext.Value(`{ "a":"` + strings.Repeat("x", 9*MaxOctets) + `"}`) },
	} {
		ev := started()
		change(&ev)
		_, after, err := Append(h, at, ev, rand.Reader)
		if !errors.Is(err, ErrEvent) || after != h {
			t.Errorf("%s: head %v, error %v", what, after, err)
		}
	}
	for _, now := range []time.Time{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if _, _, err := Append(h, now, started(), rand.Reader); !errors.Is(err, ErrEvent) {
			t.Errorf("%v: %v", now, err)
		}
	}
	if _, _, err := Append(Head{Size: maxSafeInteger}, at, started(), rand.Reader); !errors.Is(err, ErrEvent) {
		t.Error(err)
	}
	if _, _, err := Append(h, at, started(), strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, _, err := Append(Head{LastID: "x"}, at, started(), rand.Reader); !errors.Is(err, ulid.ErrDataSize) {
		t.Error(err)
	}
	if _, _, err := Append(Head{LastID: "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"}, at, started(), rand.Reader); !errors.Is(err, ErrEvent) {
		t.Error(err)
	}
}

func TestAppendIDsAndTimes(t *testing.T) {
	h := GenesisHead("o")
	src := bytes.NewReader(bytes.Repeat([]byte{0xff}, 1000))
	var last Entry
	for i, now := range []time.Time{at, at, at.Add(-time.Hour), at.Add(time.Microsecond), at.Add(time.Second)} {
		e, next, err := Append(h, now, started(), src)
		if err != nil {
			t.Fatal(err)
		}
		if e.ID <= last.ID || e.Timestamp.Before(last.Timestamp) || !isULID([]byte(e.ID)) {
			t.Errorf("entry %d: %s %v after %s %v", i, e.ID, e.Timestamp, last.ID, last.Timestamp)
		}
		if e.Timestamp != time.UnixMicro(next.TimestampUS).UTC() || next.LastID != e.ID || next.Hash != e.Hash || next.Size != int64(i+1) {
			t.Errorf("head %+v does not follow from %+v", next, e)
		}
		h, last = next, e
	}
}

func TestParseEntryRefuses(t *testing.T) {
	good := golden[0].octets
	cut := func(from, to string) string {
		i := strings.Index(good, from)
		return good[:i] + good[i+strings.Index(good[i:], to):]
	}
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	details := func(v string) string { return swap(`{"task_kind":"summarize"}`, v) }
	for _, c := range []struct {
		octets string
		reason Reason
	}{
		{"", Malformed},
		{"[]", Malformed},
		{"{}", Malformed},
		{good + "\n", NotCanonical},
		{good + "x", Malformed},
		{"\ufeff" + good, Malformed},
		{swap(":0,", ": 0,"), NotCanonical},
		{swap(":0,", ":00,"), Malformed},
		{swap(":0,", ":-0,"), NotCanonical},
		{swap(":0,", ":-1,"), Malformed},
		{swap(":0,", ":1.5,"), Malformed},
		{swap(":0,", ":1e+21,"), Malformed},
		{swap(":0,", `:"0",`), Malformed},
		{swap("alice", "\u0430lice"), Malformed},
		{swap("alice", `a\u006cice`), NotCanonical},
		{swap("alice", "al\x00ice"), Malformed},
		{swap("alice", "al\xffice"), Malformed},
		{swap("task_1", `\ud800`), Malformed},
		{swap(`"task_1"`, `7`), Malformed},
		{swap("task.started", "Task"), Malformed},
		{swap("f1020d", "F1020d"), Malformed},
		{swap("f1020d", "1020d"), Malformed},
		{swap("2026-02-01", "2026-02-29"), Malformed},
		{swap("2026-02-01", "2026-13-01"), Malformed},
		{swap("2026-02-01T00", "2026-02-01 00"), Malformed},
		{swap("2026-02-01T00", "2026-02-01T24"), Malformed},
		{swap("2026-02-01T00", "2026-02-0aT00"), Malformed},
		{swap(".000001Z", ".0001Z"), Malformed},
		{swap(`,"previous`, `,"hash":"0000000000000000000000000000000000000000000000000000000000000000","previous`), NotCanonical},
		{swap(`"id"`, `"hash":"0000000000000000000000000000000000000000000000000000000000000000","id"`), Malformed},
		{swap(`"id"`, `"hash":1,"id"`), Malformed},
		{swap(`"id":"01KGB7ZK00000000000000000A"`, `"id":1`), Malformed},
		{swap(`,"previous`, `,"parties":[],"previous`), Malformed},
		{swap(`,"previous`, `,"parties":{},"previous`), Malformed},
		{swap(`,"previous`, `,"parties":["urn:b","urn:a"],"previous`), Malformed},
		{swap(`,"previous`, `,"parties":["urn:a" ,"urn:b"],"previous`), NotCanonical},
		{swap(`,"previous`, `,"parties":["urn:a","urn:b"],"previous`), ""},
		{swap(`,"seq`, `,"row_hash":"xx","seq`), Malformed},
		{swap(`,"seq`, `,"row_hash":"8498145efd6dc67d68c520d14d853006f04344ae69aa04b79ed7e4a4e79c1ca6","seq`), ""},
		{swap(`,"seq`, `,"quantum":[null,true,false],"seq`), ""},
		{swap(`,"seq`, `,"quantum":nil,"seq`), Malformed},
		{swap(`,"seq`, `,"seq":0,"seq`), Malformed},
		{cut(`"actor"`, `"details"`), Malformed},
		{cut(`"seq"`, `"subject"`), Malformed},
		{details(`[]`), Malformed},
		{details(`{"a":1,"a":2}`), Malformed},
		{details(`{"b":1,"a":2}`), NotCanonical},
		{details(`{"a":9007199254740993}`), Malformed},
		{details(`{"a":123456789012345680000}`), Malformed},
		{details(`{"a":1e17}`), NotCanonical},
		{details(`{"a":1.0}`), NotCanonical},
		{details(`{"a":1E21}`), NotCanonical},
		{details(`{"a":1e21}`), NotCanonical},
		{details(`{"a":1e+21}`), ""},
		{details(`{"a":1e999}`), Malformed},
		{details(`{"a":"\u0008"}`), NotCanonical},
		{details(`{"a":"\u001F"}`), NotCanonical},
		{details(`{"a":"\u001f\b\f\n\r\t\"\\"}`), ""},
		{details(`{"a":"\/"}`), NotCanonical},
		{details(`{"a":"\`), Malformed},
		{details("{\"a\":\"tab\there\"}"), Malformed},
		{details(`{"a":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`), ""},
		{details(`{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`), LimitsExceeded},
		{details(`{"a":` + strings.Repeat(`{"a":`, 31) + "1" + strings.Repeat("}", 31) + `}`), LimitsExceeded},
		{details(`{"a":"` + strings.Repeat("x", MaxOctets) + `"}`), LimitsExceeded},
	} {
		_, err := ParseEntry([]byte(c.octets))
		var e *EntryError
		errors.As(err, &e)
		switch {
		case c.reason == "" && err != nil:
			t.Errorf("%s: %v", c.octets, err)
		case c.reason != "" && (e == nil || e.Reason != c.reason || e.Error() == ""):
			t.Errorf("%.400s: got %v, want %s", c.octets, err, c.reason)
		}
	}
	e, err := ParseEntry([]byte(swap(`,"seq`, `,"quantum":[null,true,false],"row_hash":"8498145efd6dc67d68c520d14d853006f04344ae69aa04b79ed7e4a4e79c1ca6","seq`)))
	if err != nil || len(e.Unknown) != 1 || e.Unknown[0] != "quantum" || e.RowHash == nil || e.RowHash[0] != 0x84 {
		t.Errorf("%+v %v", e, err)
	}
}

// Whatever Append makes, ParseEntry reads back the same.
func TestAppendParseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var details jsontext.Value
		if rapid.Bool().Draw(t, "with details") {
			details = jsontext.Value(`{`)
			keys := rapid.SliceOfNDistinct(rapid.String(), 0, 6, rapid.ID[string]).Draw(t, "keys")
			for i, k := range keys {
				if i > 0 {
					details = append(details, ',')
				}
				details, _ = jsontext.AppendQuote(details, k)
				details = append(details, ':')
				switch rapid.IntRange(0, 3).Draw(t, "kind") {
				case 0:
					details, _ = jsontext.AppendQuote(details, rapid.String().Draw(t, "s"))
				case 1:
					details = jsontext.AppendFloat(details, rapid.Float64Range(-1e15, 1e15).Draw(t, "f"), 64)
				case 2:
					details = append(details, ` [true, {"x":null}]`...)
				case 3:
					details = append(details, "1e-300"...)
				}
			}
			details = append(details, '}')
		}
		ev := Event{
			Type: TaskCompleted, Actor: "urn:asap:agent:a", Subject: rapid.String().Draw(t, "subject"), Details: details,
			Parties: rapid.SampledFrom([][]string{nil, {"urn:asap:agent:a"}, {"urn:asap:agent:a", "urn:asap:agent:b"}}).Draw(t, "parties"),
		}
		if rapid.Bool().Draw(t, "row") {
			ev.RowHash = &[32]byte{1, 2, 3}
		}
		h := GenesisHead("o")
		h.TimestampUS = rapid.Int64Range(0, maxTimestampUS).Draw(t, "last time")
		h.Size = rapid.Int64Range(0, maxSafeInteger-1).Draw(t, "size")
		e, _, err := Append(h, at, ev, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseEntry(e.Octets)
		if err != nil {
			t.Fatalf("%s: %v", e.Octets, err)
		}
		if diff := cmp.Diff(e, back); diff != "" {
			t.Fatal(diff)
		}
		again := jsontext.Value(bytes.Clone(e.Octets))
		if err := again.Canonicalize(); err != nil || !bytes.Equal(again, e.Octets) {
			t.Fatalf("not canonical: %s", e.Octets)
		}
	})
}

func TestTimestamps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(0, maxTimestampUS).Draw(t, "us")
		text := appendTimestamp(nil, us)
		if want := time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000000Z"); string(text) != want {
			t.Fatalf("%s, want %s", text, want)
		}
		if back, ok := parseTimestamp(text); !ok || back != us {
			t.Fatalf("%s: %d, want %d", text, back, us)
		}
	})
}

func TestCheckOrigin(t *testing.T) {
	if err := CheckOrigin(goldenOrigin); err != nil {
		t.Error(err)
	}
	for _, o := range []string{"", "a b", "a+b", "a\n", "\xff", "a\u00a0b", strings.Repeat("a", 257)} {
		if CheckOrigin(o) == nil {
			t.Errorf("%q passes", o)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	h := GenesisHead("o")
	ev := started()
	b.ReportAllocs()
	for b.Loop() {
		_, next, err := Append(h, at, ev, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		h = next
	}
}

func BenchmarkAppendForeignDetails(b *testing.B) {
	h := GenesisHead("o")
	ev := started()
	ev.Details = jsontext.Value(`{"skill": "summarize", "a": 1.0}`)
	b.ReportAllocs()
	for b.Loop() {
		_, next, err := Append(h, at, ev, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		h = next
	}
}

func TestHexDigits(t *testing.T) {
	for c := range 256 {
		want := strings.IndexByte("0123456789abcdef", byte(c)) >= 0
		for at := range 8 {
			b := []byte("0f9a1e8b")
			b[at] = byte(c)
			if isHex(b) != want {
				t.Errorf("%q: %v", b, !want)
			}
		}
		h := [32]byte{0: byte(c), 13: byte(c), 31: byte(c)}
		if got := string(appendHex(nil, &h)); got != hex.EncodeToString(h[:]) {
			t.Errorf("%s", got)
		}
	}
	if isHex([]byte("0f9a1e8")) {
		t.Error("seven digits")
	}
}
