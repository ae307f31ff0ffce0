package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/andybalholm/brotli"
	asap "github.com/asap-protocol/asap-go"
)

// httpFailure is an answer below JSON-RPC: a status and a {"detail", "code"} body
// (core.md, section 12, steps 1 to 5).
type httpFailure struct {
	status int
	code   asap.Code
	detail string
}

func tooLarge(what string, size, limit int64) *httpFailure {
	return &httpFailure{http.StatusRequestEntityTooLarge, asap.CodeRequestTooLarge,
		fmt.Sprintf("%s (%d bytes) exceeds maximum (%d bytes)", what, size, limit)}
}

// What a refused request still sends is read and thrown away up to this much and
// for this long.
const (
	discardBytes = 64 << 20
	discardTime  = 5 * time.Second
)

// discardRest throws away what is left of the body of a request that has been
// refused, before the refusal, which is short and still buffered, goes out. A
// connection that is closed on a client that is still sending takes the answer
// with it (RFC 9112, section 9.6): most clients then see a reset, not a 413.
func discardRest(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength > discardBytes || r.Header.Get("Expect") != "" {
		return // a stream can be ended alone; who asks first has sent nothing
	}
	if !boundRest(w, r) {
		return
	}
	io.CopyN(io.Discard, r.Body, discardBytes) //nolint:errcheck // as much as there is
	r.Body = http.NoBody                       // its time is over
}

// boundRest bounds the time in which what is left of a request's body may arrive.
// Before it sends a short answer net/http reads some of what the handler left,
// and would wait for ever for a client that stopped. The next request on the
// connection has its own time.
func boundRest(w http.ResponseWriter, r *http.Request) bool {
	if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody {
		return false
	}
	return http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTime)) == nil
}

// bodyReader reads request bodies within a limit. The same limit holds for the
// bytes on the wire and, while they are being inflated, for what comes out of
// them; at most one byte more than the limit is ever held.
type bodyReader struct {
	limit int64
	room  *Room     // of all bodies together; nil: no bound
	gzips sync.Pool // *gzip.Reader
	brs   sync.Pool // *brotli.Reader
	// decoders holds a place for each brotli decoder at work.
	decoders chan struct{}
}

// errNoRoom says that other bodies hold all the memory there is for them.
var errNoRoom = errors.New("no room for the body")

// read returns the plain body of r, which holds its share of the room until that
// is ended.
func (br *bodyReader) read(r *http.Request, held *share) ([]byte, *httpFailure) {
	held.room = br.room
	if r.ContentLength > br.limit {
		return nil, tooLarge("Request size", r.ContentLength, br.limit)
	}
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ", ")))
	switch encoding {
	case "", "identity", "gzip", "br":
	default:
		return nil, &httpFailure{http.StatusUnsupportedMediaType, asap.CodeUnsupportedEncoding,
			fmt.Sprintf("Unsupported Content-Encoding: %.64s. Supported: br, gzip", encoding)}
	}
	raw := &limitedReader{r: r.Body, limit: br.limit}
	body, err := br.plain(raw, encoding, r.ContentLength, held)
	var over *overLimitError
	switch {
	case err == nil:
		return body, nil
	case raw.over:
		return nil, tooLarge("Request size", raw.n, br.limit)
	case errors.Is(err, errNoRoom):
		return nil, &httpFailure{http.StatusServiceUnavailable, asap.CodeOverloaded, asap.CodeOverloaded.Info().Sentence}
	case errors.As(err, &over):
		return nil, tooLarge("Decompressed request size", over.size, br.limit)
	case raw.err != nil:
		return nil, &httpFailure{http.StatusBadRequest, asap.CodeParseError, "Request body ended early"}
	default:
		return nil, &httpFailure{http.StatusBadRequest, asap.CodeInvalidEncoding, "Invalid compressed data: " + err.Error()}
	}
}

func (br *bodyReader) plain(raw io.Reader, encoding string, announced int64, held *share) ([]byte, error) {
	switch encoding {
	case "gzip":
		// A bufio.Reader keeps gzip from allocating one per body of its own.
		buffered := bufio.NewReaderSize(raw, 4096)
		if _, err := buffered.Peek(1); err == io.EOF {
			return nil, nil
		}
		z, _ := br.gzips.Get().(*gzip.Reader)
		if z == nil {
			z = new(gzip.Reader)
		}
		defer br.gzips.Put(z)
		if err := z.Reset(buffered); err != nil {
			return nil, err
		}
		return readAll(z, br.limit, announced, held)
	case "br":
		// A decoder takes up to 16 MiB for its window, whatever the text is, so
		// few are at work at once, and none waits for a client.
		packed := share{room: br.room}
		defer packed.end()
		whole, err := readAll(raw, br.limit, announced, &packed)
		if err != nil {
			return nil, err
		}
		br.decoders <- struct{}{}
		defer func() { <-br.decoders }()
		z, _ := br.brs.Get().(*brotli.Reader)
		if z == nil {
			z = new(brotli.Reader)
		}
		defer br.brs.Put(z)
		if err := z.Reset(bytes.NewReader(whole)); err != nil {
			return nil, err
		}
		return readAll(z, br.limit, announced, held)
	default:
		return readAll(raw, br.limit, announced, held)
	}
}

type overLimitError struct{ size int64 }

func (e *overLimitError) Error() string { return "the body is too large" }

// readAll reads r to its end, but not beyond limit. An announced length sizes
// the first buffer, within reason: memory follows what has really arrived.
func readAll(r io.Reader, limit, announced int64, held *share) ([]byte, error) {
	const first, trusted = 512, freeRoom
	buf := make([]byte, 0, max(first, min(announced+1, trusted)))
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, &overLimitError{int64(len(buf))}
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) == cap(buf) {
			size := min(2*int64(cap(buf)), limit+1)
			if !held.grow(size) {
				return nil, errNoRoom
			}
			grown := make([]byte, len(buf), size)
			copy(grown, buf)
			buf = grown
		}
	}
}

// limitedReader fails once more than limit bytes have come through it.
type limitedReader struct {
	r     io.Reader
	n     int64
	limit int64
	over  bool
	err   error // what the body itself failed with
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	if l.n > l.limit {
		l.over = true
		return 0, &overLimitError{l.n}
	}
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}
