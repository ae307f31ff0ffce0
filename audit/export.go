package audit

import (
	"bufio"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Format is a file format of exports.
type Format string

// The formats. JSONL and JSON can be verified; CSV is a projection to look at.
const (
	JSONL Format = "jsonl"
	JSON  Format = "json"
	CSV   Format = "csv"
)

// ParseFormat reads the name of a format; "ndjson" is another name of JSONL.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "json", "jsonl", "csv":
		return Format(s), nil
	case "ndjson":
		return JSONL, nil
	}
	return "", fmt.Errorf("export format %q is none of json, jsonl, ndjson, csv", clip(s))
}

// ContentType is the media type of the format.
func (f Format) ContentType() string {
	switch f {
	case JSON:
		return "application/json"
	case CSV:
		return "text/csv; charset=utf-8"
	}
	return "application/x-ndjson"
}

// Header begins an export: which log it is of and what it should hold.
type Header struct {
	Origin       string
	VKey         string // the log's verifier key; "" if it has none
	Size         int64  // entries of the log, pruned ones included
	MinIndex     int64  // seq of the first entry
	PreviousHash [32]byte
	// CompactRange is that of the pruned part; empty if MinIndex is 0.
	CompactRange []Hash
}

// NewHeader is the header of an export of a log of size entries; prune is nil
// if it was never pruned.
func NewHeader(origin, vkey string, size int64, prune *Prune) Header {
	h := Header{Origin: origin, VKey: vkey, Size: size, PreviousHash: GenesisHash(origin)}
	if prune != nil && prune.MinIndex > 0 {
		h.MinIndex, h.PreviousHash, h.CompactRange = prune.MinIndex, prune.HeadHash, prune.CompactRange
	}
	return h
}

// members writes the header without its braces, in canonical order.
func (h Header) members(b []byte) []byte {
	if len(h.CompactRange) > 0 {
		b = append(b, `"compact_range":[`...)
		for i, x := range h.CompactRange {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '"')
			b = base64.StdEncoding.AppendEncode(b, x[:])
			b = append(b, '"')
		}
		b = append(b, `],`...)
	}
	b = append(b, `"min_index":`...)
	b = strconv.AppendInt(b, h.MinIndex, 10)
	b = append(b, `,"origin":`...)
	b = append(b, quote(h.Origin)...)
	b = append(b, `,"previous_hash":"`...)
	b = appendHex(b, &h.PreviousHash)
	b = append(b, `","size":`...)
	b = strconv.AppendInt(b, h.Size, 10)
	b = append(b, `,"vkey":`...)
	return append(b, quote(h.VKey)...)
}

// trailer ends an export.
type trailer struct {
	Count    int64  `json:"count"`
	FirstSeq *int64 `json:"first_seq"`
	HeadHash string `json:"head_hash"`
	LastSeq  *int64 `json:"last_seq"`
}

func (t trailer) append(b []byte) []byte {
	number := func(n *int64) {
		if n == nil {
			b = append(b, "null"...)
			return
		}
		b = strconv.AppendInt(b, *n, 10)
	}
	b = append(b, `{"count":`...)
	b = strconv.AppendInt(b, t.Count, 10)
	b = append(b, `,"first_seq":`...)
	number(t.FirstSeq)
	b = append(b, `,"head_hash":`...)
	b = append(b, quote(t.HeadHash)...)
	b = append(b, `,"last_seq":`...)
	number(t.LastSeq)
	return append(b, '}')
}

// What stands between the parts of a JSON export. Each entry and checkpoint is
// a line of its own there too.
const (
	jsonEntries     = `,"entries":[`
	jsonCheckpoints = `],"checkpoints":[`
	jsonTrailer     = `],"trailer":`
	lineCheckpoint  = `{"checkpoint":`
	lineTrailer     = `{"trailer":`
)

// Exporter writes an export: the header, then entries in the order of their
// seq, then checkpoints in the order of their size, and on Close the trailer.
// It holds one line in memory. After an error it stays in error.
type Exporter struct {
	w           *bufio.Writer
	csv         *csv.Writer
	format      Format
	buf         []byte
	f           fields
	t           trailer
	first, last int64
	checkpoints int64
	inTail      bool // entries are over
	err         error
}

// NewExporter begins an export to w.
func NewExporter(w io.Writer, format Format, h Header) (*Exporter, error) {
	e := &Exporter{w: bufio.NewWriterSize(w, 64<<10), format: format}
	e.t.HeadHash = hex.EncodeToString(h.PreviousHash[:])
	switch format {
	case JSONL:
		e.buf = append(h.members(append(e.buf, '{')), "}\n"...)
	case JSON:
		e.buf = append(append(h.members(append(e.buf, '{')), jsonEntries...), '\n')
	case CSV:
		e.csv = csv.NewWriter(e.w)
		e.err = e.csv.Write(csvColumns)
	default:
		return nil, fmt.Errorf("export format %q", format)
	}
	e.flush()
	return e, e.err
}

// flush hands buf to the buffered writer.
func (e *Exporter) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}

// Entry writes an entry from its stored octets and hash. What was found at seq
// is exported as it is; if it is no entry at all, the line holds the octets in
// base64, and verifying the export will say so.
func (e *Exporter) Entry(seq int64, octets []byte, hash [32]byte) error {
	if e.inTail {
		return fmt.Errorf("entry %d after a checkpoint", seq)
	}
	if e.t.Count == 0 {
		e.first = seq
	}
	e.last = seq
	e.t.Count++
	e.t.HeadHash = hex.EncodeToString(hash[:])
	if e.format == CSV {
		return e.record(seq, octets, hash)
	}
	if e.format == JSON && e.t.Count > 1 {
		e.buf = append(e.buf, ",\n"...)
	}
	if err := e.f.parse(octets, false); err != nil {
		e.buf = append(e.buf, `{"hash":"`...)
		e.buf = appendHex(e.buf, &hash)
		e.buf = append(e.buf, `","octets_base64":"`...)
		e.buf = base64.StdEncoding.AppendEncode(e.buf, octets)
		e.buf = append(e.buf, `"}`...)
	} else {
		e.buf = appendLine(e.buf, octets, e.f.hashFrom, &hash)
	}
	if e.format == JSONL {
		e.buf = append(e.buf, '\n')
	}
	e.flush()
	return e.err
}

// AppendLine appends the JCS form of the whole entry, hash included: what an
// export and the REST interface show. octets must be those of an entry.
func AppendLine(b, octets []byte, hash [32]byte) ([]byte, error) {
	var f fields
	if err := f.parse(octets, false); err != nil {
		return b, err
	}
	return appendLine(b, octets, f.hashFrom, &hash), nil
}

func appendLine(b, octets []byte, at int, hash *[32]byte) []byte {
	b = append(b, octets[:at]...)
	b = append(b, `"hash":"`...)
	b = appendHex(b, hash)
	b = append(b, `",`...)
	return append(b, octets[at:]...)
}

// Checkpoint writes a signed checkpoint; no entry can follow. CSV leaves them out.
func (e *Exporter) Checkpoint(signed []byte) error {
	if e.format == CSV {
		return e.err
	}
	e.tail()
	switch e.format {
	case JSONL:
		e.buf = append(append(append(e.buf, lineCheckpoint...), quote(string(signed))...), "}\n"...)
	case JSON:
		if e.checkpoints > 0 {
			e.buf = append(e.buf, ",\n"...)
		}
		e.buf = append(e.buf, quote(string(signed))...)
	}
	e.checkpoints++
	e.flush()
	return e.err
}

// tail ends the entries.
func (e *Exporter) tail() {
	if e.inTail {
		return
	}
	e.inTail = true
	if e.format == JSON {
		if e.t.Count > 0 {
			e.buf = append(e.buf, '\n')
		}
		e.buf = append(append(e.buf, jsonCheckpoints...), '\n')
	}
}

// Close writes the trailer. It does not close the writer underneath.
func (e *Exporter) Close() error {
	if e.t.Count > 0 {
		e.t.FirstSeq, e.t.LastSeq = &e.first, &e.last
	}
	switch e.format {
	case JSONL:
		e.buf = append(e.t.append(append(e.buf, lineTrailer...)), "}\n"...)
	case JSON:
		e.tail()
		if e.checkpoints > 0 {
			e.buf = append(e.buf, '\n')
		}
		e.buf = append(e.t.append(append(e.buf, jsonTrailer...)), "}\n"...)
	case CSV:
		if e.csv.Flush(); e.err == nil {
			e.err = e.csv.Error()
		}
	}
	e.flush()
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return e.err
}

var csvColumns = []string{"seq", "id", "timestamp", "event_type", "actor", "subject", "parties", "details", "row_hash", "previous_hash", "hash"}

func (e *Exporter) record(seq int64, octets []byte, hash [32]byte) error {
	cells := []string{strconv.FormatInt(seq, 10), "", "", "", "", "", "", "", "", "", hex.EncodeToString(hash[:])}
	if entry, err := ParseEntry(octets); err != nil {
		cells[7] = "not an entry, octets in base64: " + base64.StdEncoding.EncodeToString(octets)
	} else {
		cells[1], cells[2] = entry.ID, entry.Timestamp.Format(time.RFC3339Nano)
		cells[3], cells[4], cells[5] = entry.Type, entry.Actor, entry.Subject
		cells[6], cells[7] = strings.Join(entry.Parties, " "), string(entry.Details)
		if entry.RowHash != nil {
			cells[8] = hex.EncodeToString(entry.RowHash[:])
		}
		cells[9] = hex.EncodeToString(entry.PreviousHash[:])
	}
	for i := range cells {
		cells[i] = neutral(cells[i])
	}
	if e.err == nil {
		e.err = e.csv.Write(cells)
	}
	return e.err
}

// neutral keeps a spreadsheet from taking text for a formula.
func neutral(cell string) string {
	if cell != "" && strings.IndexByte("=+-@\t\r\n", cell[0]) >= 0 {
		return "'" + cell
	}
	return cell
}
