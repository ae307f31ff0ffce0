package audit

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
)

// maxLine is the longest line read of an export, in bytes.
const maxLine = 128 << 10

// VerifyExport checks an export in JSONL or JSON of size bytes, in one pass and
// constant memory. It reads entries and checkpoints side by side, which is why
// it needs random access. A damaged file is a verdict; the error is that it
// could not be read or an option is unusable.
func VerifyExport(r io.ReaderAt, size int64, o Options) (Verdict, error) {
	v, err := newVerifier(o)
	if err != nil {
		return Verdict{}, err
	}
	x := export{r: r, size: size, v: v}
	if err := x.verify(); err != nil {
		return Verdict{}, err
	}
	return v.verdict(), nil
}

// export is an export being read. Its parts are, in this order: a header line,
// entries, checkpoints, a trailer line.
type export struct {
	r      io.ReaderAt
	size   int64
	v      *verifier
	in     *bufio.Reader // reads header and entries
	isJSON bool
	header Header

	entriesFrom, entriesTo int64
	notesFrom, notesTo     int64 // checkpoints; the trailer begins at notesTo
	end                    int64 // after the last whole line
}

func (x *export) verify() error {
	ok, err := x.readHeader()
	if err != nil {
		return err
	}
	if !ok {
		return nil
	}
	if err := x.locate(); err != nil {
		return err
	}
	notes := lines{r: bufio.NewReaderSize(io.NewSectionReader(x.r, x.notesFrom, x.notesTo-x.notesFrom), 8<<10)}
	x.v.pull = func() (CheckpointRow, bool, error) { return x.nextNote(&notes) }
	if err := x.readEntries(); err != nil {
		return err
	}
	if err := x.v.drain(); err != nil {
		return err
	}
	return x.readTrailer()
}

// headerWire is the JSON of a Header.
type headerWire struct {
	CompactRange []Hash `json:"compact_range"`
	MinIndex     int64  `json:"min_index"`
	Origin       string `json:"origin"`
	PreviousHash string `json:"previous_hash"`
	Size         int64  `json:"size"`
	VKey         string `json:"vkey"`
}

// readHeader reads the first line and begins the verification; ok is false if
// the file is no export, which it has then reported.
func (x *export) readHeader() (ok bool, err error) {
	x.in = bufio.NewReaderSize(io.NewSectionReader(x.r, 0, x.size), maxLine)
	ls := lines{r: x.in}
	line, _, err := ls.next()
	if errors.Is(err, io.EOF) {
		if len(line) == 0 {
			x.v.report(Truncated, 0, "the file is empty")
		} else {
			x.v.complain(Malformed, "the first line has no end")
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	x.entriesFrom = ls.read
	text := line
	if cut, found := bytes.CutSuffix(line, []byte(jsonEntries)); found {
		x.isJSON = true
		text = append(bytes.Clone(cut), '}')
	}
	var w headerWire
	if err := json.Unmarshal(text, &w, json.RejectUnknownMembers(true)); err != nil {
		x.v.complain(Malformed, "the header is not one of an export: "+err.Error())
		return false, nil
	}
	hash, hexErr := hex.DecodeString(w.PreviousHash)
	if hexErr != nil || len(hash) != 32 || w.Size < 0 || w.MinIndex < 0 || w.MinIndex > w.Size || w.Size > maxSafeInteger {
		x.v.complain(Malformed, "the header holds impossible values")
		return false, nil
	}
	h := Header{Origin: w.Origin, VKey: w.VKey, Size: w.Size, MinIndex: w.MinIndex, PreviousHash: [32]byte(hash), CompactRange: w.CompactRange}
	if !bytes.Equal(append(h.members([]byte("{")), '}'), text) {
		x.v.complain(NotCanonical, "the header is not spelled as exports spell it")
		return false, nil
	}
	x.header = h
	return x.begin()
}

func (x *export) begin() (ok bool, err error) {
	h, v := x.header, x.v
	var prune *Prune
	switch {
	case h.MinIndex > 0:
		prune = &Prune{MinIndex: h.MinIndex, HeadHash: h.PreviousHash, CompactRange: h.CompactRange}
	case h.PreviousHash != GenesisHash(h.Origin):
		v.report(GenesisMismatch, 0, "previous_hash of the header is not how the log named "+clip(h.Origin)+" begins")
	case len(h.CompactRange) > 0:
		v.complain(PruneInvalid, "a compact range although nothing was pruned")
	}
	switch {
	case !v.o.Keys.Empty() && h.VKey != "" && !v.o.Keys.holds(h.VKey):
		v.complain(UnknownKey, "the export names a key that is not a trusted one")
	case h.VKey != "":
		keys, err := ParseKeys(h.VKey)
		if err != nil {
			v.complain(Malformed, "vkey of the header: "+err.Error())
			break
		}
		v.selfKeys = keys
	}
	return true, v.begin(h.Origin, prune)
}

// locate finds the parts of the file, from its end.
func (x *export) locate() error {
	b := backward{r: x.r, from: x.entriesFrom, pos: x.size}
	note, tail := lineCheckpoint, lineTrailer
	if x.isJSON {
		note, tail = `"`, jsonTrailer
	}
	if err := b.dropPartial(); err != nil {
		return err
	}
	x.end = b.pos
	x.notesTo = x.end
	if line, err := b.peek(); err != nil {
		return err
	} else if bytes.HasPrefix(line, []byte(tail)) {
		b.pos -= int64(len(line))
		x.notesTo = b.pos
	}
	for {
		line, err := b.peek()
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(line, []byte(note)) {
			break
		}
		b.pos -= int64(len(line))
	}
	x.notesFrom, x.entriesTo = b.pos, b.pos
	if !x.isJSON {
		return nil
	}
	line, err := b.peek()
	if err == nil && string(line) == jsonCheckpoints+"\n" {
		x.entriesTo -= int64(len(line))
	} else if x.notesTo < x.end || x.notesFrom < x.notesTo {
		x.v.complain(Malformed, "entries and checkpoints are not separated as exports separate them")
	}
	return err
}

// readEntries checks the lines of the entries.
func (x *export) readEntries() error {
	x.in.Reset(io.NewSectionReader(x.r, x.entriesFrom, x.entriesTo-x.entriesFrom))
	ls := lines{r: x.in}
	var buf []byte
	comma := true // whether the entry before had one, or there was none
	for {
		line, long, err := ls.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		v := x.v
		if long {
			v.settle(v.next, LimitsExceeded, "a line of more than 128 KiB", false, false, nil, nil)
			continue
		}
		if !x.isJSON && bytes.HasPrefix(line, []byte(lineCheckpoint)) {
			v.complain(Malformed, "checkpoints do not stand at the end")
			break
		}
		if x.isJSON {
			if !comma {
				v.report(Malformed, v.next, "no comma before the entry")
			}
			line, comma = bytes.CutSuffix(line, []byte(","))
		}
		if buf, err = v.addLine(line, buf); err != nil {
			return err
		}
	}
	if x.isJSON && comma && x.v.checked > 0 && x.notesTo < x.end {
		x.v.complain(Malformed, "a comma after the last entry")
	}
	return nil
}

// nextNote reads a checkpoint line.
func (x *export) nextNote(ls *lines) (CheckpointRow, bool, error) {
	for {
		line, long, err := ls.next()
		if errors.Is(err, io.EOF) {
			return CheckpointRow{}, false, nil
		}
		if err != nil {
			return CheckpointRow{}, false, err
		}
		text, ok := line, !long
		if x.isJSON {
			// All but the last have a comma.
			var comma bool
			text, comma = bytes.CutSuffix(line, []byte(","))
			ok = ok && comma == (x.notesFrom+ls.read < x.notesTo)
		} else {
			text = bytes.TrimPrefix(text, []byte(lineCheckpoint))
			text = bytes.TrimSuffix(text, []byte("}"))
		}
		var signed string
		if !ok || json.Unmarshal(text, &signed) != nil || !bytes.Equal(quote(signed), text) || (!x.isJSON && len(line) != len(lineCheckpoint)+len(text)+1) {
			x.v.complain(Malformed, "a checkpoint line is damaged")
			continue
		}
		c, err := ParseCheckpoint([]byte(signed))
		if err != nil {
			x.v.complain(Malformed, "a checkpoint line is damaged: "+err.Error())
			continue
		}
		return CheckpointRow{Size: c.Size, Root: c.Root, Note: []byte(signed)}, true, nil
	}
}

// readTrailer compares header and trailer with what was read.
func (x *export) readTrailer() error {
	v := x.v
	switch {
	case v.next < x.header.Size:
		v.report(Truncated, v.next, fmt.Sprintf("the header says %d entries, there are %d", x.header.Size, v.next))
	case v.next > x.header.Size:
		v.report(TrailerMismatch, x.header.Size, fmt.Sprintf("the header says %d entries, there are %d", x.header.Size, v.next))
	}
	if x.notesTo == x.end {
		v.report(TrailerMismatch, v.next, "the trailer is missing: the file was cut")
		return nil
	}
	line := make([]byte, min(x.end-x.notesTo, maxLine))
	if _, err := x.r.ReadAt(line, x.notesTo); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read trailer: %w", err)
	}
	prefix := lineTrailer
	if x.isJSON {
		prefix = jsonTrailer
	}
	var t trailer
	text, ok := bytes.CutSuffix(bytes.TrimPrefix(line, []byte(prefix)), []byte("}\n"))
	if !ok || json.Unmarshal(text, &t, json.RejectUnknownMembers(true)) != nil || !bytes.Equal(t.append(nil), text) {
		v.complain(TrailerMismatch, "the trailer is damaged")
		return nil
	}
	if x.end < x.size {
		v.complain(TrailerMismatch, "something follows the trailer")
	}
	switch {
	case t.LastSeq != nil && *t.LastSeq >= v.next:
		v.report(TrailerMismatch, v.next, fmt.Sprintf("the trailer says the last entry is %d, it is %d", *t.LastSeq, v.next-1))
	case t.Count != v.checked,
		(t.FirstSeq == nil) != (v.checked == 0), (t.LastSeq == nil) != (v.checked == 0),
		t.FirstSeq != nil && *t.FirstSeq != v.min,
		t.LastSeq != nil && *t.LastSeq != v.next-1,
		v.linked && t.HeadHash != string(v.previous[:]):
		v.complain(TrailerMismatch, "the trailer does not fit the entries")
	}
	return nil
}

// lines reads lines of at most the reader's buffer.
type lines struct {
	r    *bufio.Reader
	read int64 // bytes consumed
}

// next returns a line without its line feed. long tells that it did not fit;
// its content is not returned then. At the end, or if the last line has no line
// feed, the error is io.EOF.
func (l *lines) next() (line []byte, long bool, err error) {
	line, err = l.r.ReadSlice('\n')
	l.read += int64(len(line))
	for errors.Is(err, bufio.ErrBufferFull) {
		long = true
		line, err = l.r.ReadSlice('\n')
		l.read += int64(len(line))
	}
	if err != nil {
		return line, long, err
	}
	if long {
		return nil, true, nil
	}
	return line[:len(line)-1], false, nil
}

// backwardBlocks are the sizes of the blocks in which backward looks for the
// beginning of a line: most are short.
var backwardBlocks = [...]int64{8 << 10, maxLine}

// backward reads lines from the end of a file.
type backward struct {
	r         io.ReaderAt
	from, pos int64 // lines between from and pos remain
	block     []byte
	at        int64 // where block begins
}

// peek returns the last line before pos with its line feed; empty at the
// beginning, or if the line is too long to be one of an export's tail.
func (b *backward) peek() ([]byte, error) {
	for try := 0; ; try++ {
		if held := b.pos - b.at; b.block != nil && held > 0 && held <= int64(len(b.block)) {
			text := b.block[:held]
			if i := bytes.LastIndexByte(text[:held-1], '\n'); i >= 0 {
				return text[i+1:], nil
			}
			if b.at == b.from {
				return text, nil
			}
		}
		if try == len(backwardBlocks) || b.pos <= b.from {
			return nil, nil
		}
		b.at = max(b.from, b.pos-backwardBlocks[try])
		b.block = make([]byte, b.pos-b.at)
		if _, err := b.r.ReadAt(b.block, b.at); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the end of the export: %w", err)
		}
	}
}

// dropPartial moves pos behind the last line feed.
func (b *backward) dropPartial() error {
	line, err := b.peek()
	if err == nil && !bytes.HasSuffix(line, []byte("\n")) {
		b.pos -= int64(len(line))
	}
	return err
}
