package metering

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"iter"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func sequence(records []Record, last error) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
		if last != nil {
			yield(Record{}, last)
		}
	}
}

type wireTrailer struct {
	Count    int64  `json:"count"`
	SHA256   string `json:"sha256"`
	Complete bool   `json:"complete"`
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestEveryFormCarriesEveryRecordAndItsProof(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := history(t)
		limit := rapid.Int64Range(0, 40).Draw(t, "limit")
		want := int64(len(records))
		if limit > 0 {
			want = min(want, limit)
		}
		complete := want == int64(len(records))
		export := func(form Format) ([]byte, Trailer) {
			var b bytes.Buffer
			trailer, err := Export(&b, form, sequence(records, nil), limit)
			if err != nil {
				t.Fatal(err)
			}
			if trailer.Count != want || trailer.Complete != complete {
				t.Fatalf("%s: %+v, want %d of %d", form, trailer, want, len(records))
			}
			return b.Bytes(), trailer
		}

		text, ofLines := export(NDJSON)
		cut := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
		var last struct {
			Trailer wireTrailer `json:"trailer"`
		}
		if err := json.Unmarshal(text[cut:], &last); err != nil || Trailer(last.Trailer) != ofLines || hexSum(text[:cut]) != ofLines.SHA256 {
			t.Fatalf("%v: %s", err, text[cut:])
		}
		if lines := bytes.Count(text[:cut], []byte("\n")); int64(lines) != want {
			t.Fatalf("%d lines", lines)
		}

		text, ofJSON := export(JSON)
		var doc struct {
			Data []jsontext.Value `json:"data"`
			wireTrailer
		}
		if err := json.Unmarshal(text, &doc); err != nil || Trailer(doc.wireTrailer) != ofJSON || int64(len(doc.Data)) != want {
			t.Fatalf("%v: %s", err, text)
		}
		if ofJSON != ofLines {
			t.Fatalf("the same records: %+v, %+v", ofJSON, ofLines)
		}

		text, ofCSV := export(CSV)
		if hexSum(text) != ofCSV.SHA256 {
			t.Fatal("hash of the CSV")
		}
		// encoding/csv turns CRLF within a cell into LF.
		rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
		if err != nil || int64(len(rows)) != want+1 {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		if h := strings.Join(rows[0][:8], ","); h != "task_id,agent_id,consumer_id,tokens_in,tokens_out,duration_ms,api_calls,timestamp" {
			t.Fatal(h)
		}
		for i, row := range rows[1:] {
			for at, cell := range row {
				if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
					if _, err := strconv.ParseFloat(cell, 64); err != nil {
						t.Fatalf("column %s runs as a formula: %q", rows[0][at], cell)
					}
				}
			}
			r := records[i]
			if got := strings.TrimPrefix(row[0], "'"); got != strings.TrimPrefix(string(r.TaskID), "'") {
				t.Fatalf("task %q, want %q", row[0], r.TaskID)
			}
			if (row[3] == "") != (r.TokensIn == nil) {
				t.Fatalf("tokens_in %q, want %v", row[3], r.TokensIn)
			}
		}
	})
}

func TestCSVAsRecorded(t *testing.T) {
	n, m, calls := int64(300), int64(600), int64(30)
	cost := NanoUSD(15e8)
	r := Record{
		ID: "i", Kind: Usage, TaskID: "a,b\"c\nd", Agent: "café", Consumer: "=cmd()", TokensIn: &n, TokensOut: &m, DurationMS: new(int64(3000)), APICalls: &calls,
		Timestamp: noon.Add(-60e9), Outcome: Completed, Evidence: Observed, CostNanoUSD: &cost, ReceivedAt: noon.Add(5e5),
	}
	var b bytes.Buffer
	if _, err := Export(&b, CSV, sequence([]Record{r}, nil), 0); err != nil {
		t.Fatal(err)
	}
	want := csvHeader + "\"a,b\"\"c\nd\",café,'=cmd(),300,600,3000,30,2026-02-20T11:59:00+00:00," +
		"i,usage,,completed,,,,,,,,,observed,1.5,priced,,false,false,,2026-02-20T12:00:00.000500+00:00,0\r\n"
	if b.String() != want {
		t.Errorf("%q\n%q", b.String(), want)
	}
}

// brokenWriter takes so many bytes.
type brokenWriter struct{ left int }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		return w.left, errors.New("disk full")
	}
	w.left -= len(b)
	return len(b), nil
}

func TestAnExportThatFailsHasNoTrailer(t *testing.T) {
	records := []Record{{ID: strings.Repeat("x", 200)}, {ID: "y"}}
	cause := errors.New("store went away")
	for _, form := range []Format{CSV, JSON, NDJSON} {
		var b bytes.Buffer
		trailer, err := Export(&b, form, sequence(records, cause), 0)
		if !errors.Is(err, cause) || trailer != (Trailer{}) || bytes.Contains(b.Bytes(), []byte("sha256")) {
			t.Errorf("%s: %+v, %v, %s", form, trailer, err, b.Bytes())
		}
		var many []Record
		for range 400 { // beyond the buffer
			many = append(many, records...)
		}
		for _, room := range []int{0, 70 << 10} {
			if _, err := Export(&brokenWriter{room}, form, sequence(many, nil), 0); err == nil {
				t.Errorf("%s: a writer that breaks after %d bytes went unnoticed", form, room)
			}
		}
		if _, err := Export(&brokenWriter{0}, form, sequence(nil, nil), 0); err == nil {
			t.Errorf("%s: a broken writer went unnoticed", form)
		}
	}
	if _, err := Export(&bytes.Buffer{}, "xml", sequence(records, nil), 0); err == nil {
		t.Error("an unknown form was written")
	}
}
