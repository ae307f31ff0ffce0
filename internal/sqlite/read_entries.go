package sqlite

import (
	"bytes"
	"encoding/hex"
	"iter"
	"sync"

	"github.com/asap-protocol/asap-go/audit"
)

// A log is verified row by row, and the driver is slow by the column: each takes
// locks, a copy and an allocation. So SQLite packs the rows of a page into one
// value, which a goroutine fetches while the page before is checked. A packed
// page is taken only if it can mean nothing else (see unpack); any other is read
// again, row by row.

// pageRows is how many rows are packed at once: enough to be worth a query, few
// enough that entries of the largest size fit into memory.
const pageRows = 128

// packedRows has the rows of a range as lines of columns between tabs, and how
// many rows these are. A null, of which nothing would be seen in a line, becomes
// a line feed, which is too many of them.
const packedRows = `SELECT count(*), CAST(group_concat(concat_ws(char(9), ifnull(octets, char(10)), seq, ifnull(id, char(10)),
		ifnull(event_type, char(10)), ifnull(actor, char(10)), ifnull(timestamp_us, char(10)), ifnull(subject, char(10)), hex(hash)), char(10)) AS BLOB)
	FROM audit_entries WHERE seq >= ? AND seq < ?`

// packed is a page as it was fetched: the rows with from <= seq < to.
type packed struct {
	from, to int64
	rows     int64
	text     []byte
	err      error // then nothing else is known of it
}

// Entries implements auditlog.Snapshot. The rows of a page share memory.
func (s *snapshot) Entries(from, to int64) iter.Seq2[audit.Row, error] {
	return func(yield func(audit.Row, error) bool) {
		pages := make(chan packed, 2)
		stop := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			defer close(pages)
			s.fetch(from, to, pages, stop)
		})
		defer reader.Wait()
		defer close(stop)
		var u unpacker
		for p := range pages {
			if err := s.ctx.Err(); err != nil {
				yield(audit.Row{}, err)
				return
			}
			if p.err == nil && u.unpack(&p) {
				for i := range u.rows {
					if !yield(u.rows[i], nil) {
						return
					}
				}
				continue
			}
			for row, err := range s.eachEntry(p.from, p.to) {
				if !yield(row, err) || err != nil {
					return
				}
			}
		}
	}
}

// fetch sends the pages of a range until it is told to stop.
func (s *snapshot) fetch(from, to int64, pages chan<- packed, stop <-chan struct{}) {
	for from < to && s.ctx.Err() == nil {
		p := packed{from: from, to: to}
		if to-from > pageRows {
			p.to = from + pageRows
		}
		p.err = s.c.query(packedRows, func(r *row) error {
			p.rows, p.text = r.int(0), r.blob(1)
			return nil
		}, p.from, p.to)
		select {
		case pages <- p:
		case <-stop:
			return
		}
		from = p.to
		if p.err == nil && p.rows == p.to-p.from {
			continue
		}
		// The end, or a gap, which may be of any size.
		next, err := s.c.one(`SELECT seq FROM audit_entries WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT 1`, from, to)
		if seq, ok := next.(int64); ok && err == nil {
			from = seq
		} else if err == nil {
			return
		}
	}
	if s.ctx.Err() != nil { // for the error's sake
		select {
		case pages <- packed{from: from, to: from}:
		case <-stop:
		}
	}
}

// eachEntry reads row by row, whatever the types of the columns are.
func (s *snapshot) eachEntry(from, to int64) iter.Seq2[audit.Row, error] {
	var columns audit.Columns
	return rows(s, `SELECT seq, CAST(octets AS BLOB), CAST(hash AS BLOB), CAST(id AS TEXT), CAST(timestamp_us AS TEXT), CAST(event_type AS TEXT),
			CAST(actor AS TEXT), CAST(subject AS TEXT) FROM audit_entries WHERE seq >= ? AND seq < ? ORDER BY seq`,
		func(r *row) (audit.Row, error) {
			columns = audit.Columns{ID: r.text(3), TimestampUS: -1, EventType: r.text(5), Actor: r.text(6), Subject: r.text(7)}
			if us, ok := decimal(r.text(4)); ok {
				columns.TimestampUS = us
			}
			return audit.Row{Seq: r.int(0), Octets: r.blob(1), Hash: r.blob(2), Columns: &columns}, nil
		}, from, to)
}

// unpacker holds the rows of one page.
type unpacker struct {
	rows    []audit.Row
	columns [pageRows]audit.Columns
	hashes  [pageRows][32]byte
	cuts    [pageRows][8]int // where each column ends
	short   []byte           // the columns that become strings, of all rows
}

// unpack reads the lines of a page. It refuses what could be packed from other
// rows too: n rows have n-1 line feeds between them and 7 tabs each, so if there
// are no more of either, none is part of a column.
func (u *unpacker) unpack(p *packed) bool {
	u.rows, u.short = u.rows[:0], u.short[:0]
	if p.rows < 0 || p.rows > pageRows || !u.cut(p) {
		return false
	}
	short := string(u.short) // their only copy
	at, last := 0, p.from-1
	for i := range int(p.rows) {
		cut := &u.cuts[i]
		shorts := cut[6] - cut[0] // with the tab ahead of each
		column := func(c int) string { return short[cut[c-1]-cut[0]+1 : cut[c]-cut[0]] }
		seq, seqOK := decimal(column(1))
		us, timeOK := decimal(column(5))
		if !seqOK || !timeOK || seq <= last || seq >= p.to || cut[7]-cut[6]-1 != 2*len(u.hashes[i]) {
			return false
		}
		last = seq
		if _, err := hex.Decode(u.hashes[i][:], p.text[cut[6]+1:cut[7]]); err != nil {
			return false
		}
		u.columns[i] = audit.Columns{ID: column(2), EventType: column(3), Actor: column(4), TimestampUS: us, Subject: column(6)}
		u.rows = append(u.rows, audit.Row{Seq: seq, Octets: p.text[at:cut[0]:cut[0]], Hash: u.hashes[i][:], Columns: &u.columns[i]})
		at, short = cut[7]+1, short[shorts:]
	}
	return true
}

// cut finds the ends of the columns.
func (u *unpacker) cut(p *packed) bool {
	at := 0
	for i := range int(p.rows) {
		if at > len(p.text) {
			return false
		}
		line := p.text[at:]
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line = line[:n]
		}
		cut, from := &u.cuts[i], 0
		for c := range cut {
			n := bytes.IndexByte(line[from:], '\t')
			if (n < 0) != (c == len(cut)-1) {
				return false
			}
			if n < 0 {
				n = len(line) - from
			}
			cut[c] = at + from + n
			from += n + 1
		}
		u.short = append(u.short, p.text[cut[0]:cut[6]]...)
		at = cut[7] + 1
	}
	return at == len(p.text)+1 || p.rows == 0
}

// decimal reads an integer that is not negative, in its only spelling.
func decimal(text string) (n int64, ok bool) {
	if text == "" || len(text) > 18 || text[0] == '0' && len(text) > 1 {
		return 0, false
	}
	for i := range len(text) {
		if text[i]-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(text[i]-'0')
	}
	return n, true
}
