package metering

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"strconv"
	"strings"
)

// Format is a form of export.
type Format string

// The forms of export. All stream: memory does not grow with the records.
const (
	CSV    Format = "csv"
	JSON   Format = "json"
	NDJSON Format = "ndjson"
)

// Trailer closes an export, so that a cut or a changed one is noticed.
//
// Where it stands: in NDJSON it is the last line, {"trailer":{"count":…,
// "sha256":…,"complete":…}}; in JSON its members follow "data"; CSV has no place
// for it that a spreadsheet would not take for a row, so there it is only the
// return value, which HTTP sends as trailing header fields and the command line
// as a file beside.
type Trailer struct {
	Count int64 // records written
	// SHA256 is lower-case hex over the records as written: for JSON and NDJSON
	// each record's bytes and a line feed (so both forms of the same records
	// have the same hash, and for NDJSON it is that of the text before the
	// trailer line); for CSV the whole text, header included.
	SHA256 string
	// Complete is false if a limit left records out.
	Complete bool
}

// csvColumns are those of v1.3.0 in its order, then ours.
const csvHeader = "task_id,agent_id,consumer_id,tokens_in,tokens_out,duration_ms,api_calls,timestamp," +
	"id,kind,ref,outcome,skill,model,delegation_issuer,delegation_id,delegation_root_issuer,delegation_root_id," +
	"parent_task_id,trace_id,evidence,cost_usd,cost_status,price_list,overrun,indeterminate,reason,received_at,sequence\r\n"

// Export writes records in the form and returns the trailer. limit bounds how
// many are written; 0 is no bound. An error of the sequence or the writer ends
// it, and then what was written has no trailer and, in JSON, no end.
func Export(w io.Writer, form Format, records iter.Seq2[Record, error], limit int64) (Trailer, error) {
	buf := bufio.NewWriterSize(w, 64<<10)
	e := exporter{w: buf, sum: sha256.New()}
	var line func(r *Record) error
	switch form {
	case CSV:
		line = e.csv
		if err := e.write([]byte(csvHeader)); err != nil {
			return Trailer{}, err
		}
	case JSON:
		line = e.element
		_, _ = buf.WriteString(`{"data":[`) // an error stays and is met below
	case NDJSON:
		line = e.line
	default:
		return Trailer{}, fmt.Errorf("export: unknown form %q", form)
	}
	t := Trailer{Complete: true}
	for r, err := range records {
		if err != nil {
			return Trailer{}, fmt.Errorf("export after %d records: %w", t.Count, err)
		}
		if limit > 0 && t.Count == limit {
			t.Complete = false
			break
		}
		if err := line(&r); err != nil {
			return Trailer{}, err
		}
		t.Count++
	}
	t.SHA256 = hex.EncodeToString(e.sum.Sum(nil))
	switch form {
	case JSON:
		_, _ = buf.WriteString("],")
		_, _ = buf.Write(t.appendMembers(nil))
		_, _ = buf.WriteString("}")
	case NDJSON:
		_, _ = buf.WriteString(`{"trailer":{`)
		_, _ = buf.Write(t.appendMembers(nil))
		_, _ = buf.WriteString("}}\n")
	case CSV:
	}
	if err := buf.Flush(); err != nil {
		return Trailer{}, fmt.Errorf("write export: %w", err)
	}
	return t, nil
}

func (t Trailer) appendMembers(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, `"count":`...), t.Count, 10)
	dst = append(append(append(dst, `,"sha256":"`...), t.SHA256...), '"')
	return strconv.AppendBool(append(dst, `,"complete":`...), t.Complete)
}

// exporter writes record by record and hashes what it writes.
type exporter struct {
	w   *bufio.Writer
	sum hash.Hash
	row []byte
}

func (e *exporter) write(b []byte) error {
	e.sum.Write(b)
	if _, err := e.w.Write(b); err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	return nil
}

func (e *exporter) line(r *Record) error {
	e.row = append(r.AppendJSON(e.row[:0]), '\n')
	return e.write(e.row)
}

// element writes one element of the array; the comma is not part of the hash,
// and the line feed is part of the hash only.
func (e *exporter) element(r *Record) error {
	first := e.row == nil
	e.row = append(r.AppendJSON(e.row[:0]), '\n')
	e.sum.Write(e.row)
	if !first {
		_ = e.w.WriteByte(',')
	}
	if _, err := e.w.Write(e.row[:len(e.row)-1]); err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	return nil
}

func (e *exporter) csv(r *Record) error {
	b := e.row[:0]
	b = appendCell(b, string(r.TaskID))
	b = appendCell(append(b, ','), string(r.Agent))
	b = appendCell(append(b, ','), string(r.Consumer))
	b = appendCountCell(b, r.TokensIn)
	b = appendCountCell(b, r.TokensOut)
	b = appendCountCell(b, r.DurationMS)
	b = appendCountCell(b, r.APICalls)
	b = append(appendInstant(append(b, ','), r.Timestamp), "+00:00"...)
	d := r.Delegation
	if d == nil {
		d = &Delegation{}
	}
	for _, s := range [...]string{
		r.ID, string(r.Kind), r.Ref, string(r.Outcome), r.Skill, r.Model, string(d.Issuer), d.TokenID,
		string(d.RootIssuer), d.RootID, string(r.ParentTask), r.TraceID, string(r.Evidence),
	} {
		b = appendCell(append(b, ','), s)
	}
	b = append(b, ',')
	if r.CostNanoUSD == nil {
		b = append(b, ",unpriced"...)
	} else {
		b = append(r.CostNanoUSD.Append(b), ",priced"...)
	}
	b = appendCell(append(b, ','), r.PriceList)
	b = strconv.AppendBool(append(b, ','), r.Overrun)
	b = strconv.AppendBool(append(b, ','), r.Indeterminate)
	b = appendCell(append(b, ','), r.Reason)
	b = append(b, ',')
	if !r.ReceivedAt.IsZero() {
		b = append(appendInstant(b, r.ReceivedAt), "+00:00"...)
	}
	b = append(strconv.AppendInt(append(b, ','), r.Sequence, 10), "\r\n"...)
	e.row = b
	return e.write(b)
}

func appendCountCell(dst []byte, n Count) []byte {
	dst = append(dst, ',')
	if n == nil {
		return dst
	}
	return strconv.AppendInt(dst, *n, 10)
}

// appendCell writes a text cell: quoted where needed, and with an apostrophe
// before what a spreadsheet would run as a formula.
func appendCell(dst []byte, s string) []byte {
	if s == "" {
		return dst
	}
	formula := strings.IndexByte("=+-@\t\r", s[0]) >= 0
	if !formula && !strings.ContainsAny(s, ",\"\r\n") {
		return append(dst, s...)
	}
	quote := strings.ContainsAny(s, ",\"\r\n")
	if quote {
		dst = append(dst, '"')
	}
	if formula {
		dst = append(dst, '\'')
	}
	if !quote {
		return append(dst, s...)
	}
	for i := range len(s) {
		if s[i] == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}
