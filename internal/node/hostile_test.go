//go:build heavy && linux

package node

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"golang.org/x/sys/unix"
)

// Heads that do not come to their end: others are served, and the node lets go of
// them by itself after ten seconds.
func TestHostileSlowHeads(t *testing.T) {
	g := newTarget(t, false)
	var conns []net.Conn
	for range 500 {
		conn := g.dial()
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "POST /asap HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	g.bears("slow heads")
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal("a head that does not come is waited for:", err)
		}
	}
	g.recovers("slow heads")
}

// Large bodies that stop shortly before their end: those for which there is no
// room are refused at once, the others hold what they may, and small requests of
// others are served.
func TestHostileSlowBodies(t *testing.T) {
	g := newTarget(t, false)
	const conns, size = 64, 9 << 20
	refused := make(chan int, conns)
	var all sync.WaitGroup
	var held []net.Conn
	for range conns {
		conn := g.dial()
		held = append(held, conn)
		all.Go(func() {
			_, _ = fmt.Fprintf(conn, "POST /asap HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
			_, _ = io.Copy(conn, spaces(size-1))
			_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second)) // a refusal waits five for the rest
			var answer [64]byte
			n, _ := io.ReadFull(conn, answer[:])
			status := 0
			_, _ = fmt.Sscanf(string(answer[:n]), "HTTP/1.1 %d", &status)
			refused <- status
		})
	}
	all.Wait()
	g.bears("slow bodies")
	statuses := map[int]int{}
	for range conns {
		statuses[<-refused]++
	}
	if statuses[0]+statuses[http.StatusServiceUnavailable] != conns || statuses[0] == 0 || statuses[0] > 16 {
		t.Errorf("answers by status (0 is none yet): %v", statuses)
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	g.recovers("slow bodies")
}

// Whatever is too large, too deep or too many has its answer.
func TestHostileFloodsOfBytes(t *testing.T) {
	g := newTarget(t, false)
	const kib = 1 << 10
	for _, c := range []struct {
		name, text string
		status     int
	}{
		{"a large header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 200*kib) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"many headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Y: z\r\n", 30_000) + "\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"a long target", "GET /" + strings.Repeat("x", 200*kib) + " HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
	} {
		if got := g.talk(c.text); len(got) != 1 || got[0] != c.status {
			t.Errorf("%s: %v, want %d", c.name, got, c.status)
		}
	}
	deep := strings.Repeat("[", 4<<20)
	nested := strings.Repeat(`{"a":`, 1<<20) + "1" + strings.Repeat("}", 1<<20)
	for _, c := range []struct {
		name   string
		body   io.Reader
		status int
		part   string
	}{
		{"a huge body", spaces(30 << 20), http.StatusRequestEntityTooLarge, `"request_too_large"`},
		{"a deep array", strings.NewReader(deep), http.StatusOK, "-32700"},
		{"a deep object", strings.NewReader(nested), http.StatusOK, "-32700"},
		{"many members", strings.NewReader("{" + strings.Repeat(`"a":1,`, 1<<20) + `"b":1}`), http.StatusOK, "-32700"},
	} {
		if status, text := g.post(c.body); status != c.status || !strings.Contains(text, c.part) {
			t.Errorf("%s: %d %.200s", c.name, status, text)
		}
	}
	g.bears("floods of bytes")
	g.recovers("floods of bytes")
}

// Bombs of a gigabyte are found out while they are inflated, however many.
func TestHostileDecompressionBombs(t *testing.T) {
	g := newTarget(t, false)
	pack := func(open func(io.Writer) io.WriteCloser, from io.Reader) []byte {
		var b bytes.Buffer
		w := open(&b)
		if _, err := io.Copy(w, from); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zip := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	br := func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 5) }
	gz, brs := pack(zip, spaces(1<<30)), pack(br, spaces(1<<30))
	for _, c := range []struct {
		name, encoding string
		body           []byte
		status         int
		part           string
	}{
		{"gzip", "gzip", gz, http.StatusRequestEntityTooLarge, `"request_too_large"`},
		{"brotli", "br", brs, http.StatusRequestEntityTooLarge, `"request_too_large"`},
		{"two encodings", "gzip, gzip", gz, http.StatusUnsupportedMediaType, `"unsupported_encoding"`},
		{"gzip in gzip", "gzip", pack(zip, bytes.NewReader(gz)), http.StatusOK, "-32700"},
		{"brotli in gzip", "gzip", pack(zip, bytes.NewReader(brs)), http.StatusOK, "-32700"},
		{"another encoding", "zstd", gz, http.StatusUnsupportedMediaType, `"unsupported_encoding"`},
	} {
		if status, text := g.post(bytes.NewReader(c.body), "Content-Encoding", c.encoding); status != c.status || !strings.Contains(text, c.part) {
			t.Errorf("%s: %d %.200s", c.name, status, text)
		}
	}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			body, encoding := gz, "gzip"
			if i%2 == 0 {
				body, encoding = brs, "br"
			}
			if status, text := g.post(bytes.NewReader(body), "Content-Encoding", encoding); status != http.StatusRequestEntityTooLarge && status != http.StatusServiceUnavailable {
				t.Errorf("one of many: %d %.200s", status, text)
			}
		})
	}
	g.bears("bombs")
	all.Wait()
	g.recovers("bombs")
}

// WebSocket frames that no client sends: the close code tells what was wrong, and
// the connection is gone.
func TestHostileFrames(t *testing.T) {
	g := newTarget(t, false)
	flood := func(first, rest byte, payload []byte, n int) []byte {
		b := appendFrame(nil, first, payload)
		for range n {
			b = appendFrame(b, rest, payload)
		}
		return b
	}
	message := []byte(`{"jsonrpc":"2.0","id":1,"method":"nothing","params":{}}`)
	block := bytes.Repeat([]byte(" "), 64<<10)
	for _, c := range []struct {
		name   string
		frames []byte
		codes  []int // 0: without a word
	}{
		{"an unmasked frame", []byte{final | text, 1, 'x'}, []int{1002, 0}},
		{"a frame of 2^62 bytes", append([]byte{final | text, 0x80 | 127, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, bytes.Repeat(block, 300)...), []int{1009}},
		{"a reserved opcode", appendFrame(nil, final|3, nil), []int{1002, 0}},
		{"a reserved bit", appendFrame(nil, final|0x40|text, message), []int{1002, 0}},
		{"a fragmented ping", appendFrame(nil, ping, nil), []int{1002, 0}},
		{"a long ping", appendFrame(nil, final|ping, make([]byte, 126)), []int{1002, 0}},
		{"a continuation of nothing", appendFrame(nil, final, message), []int{1002, 0}},
		{"a message within another", append(appendFrame(nil, text, message), appendFrame(nil, text, message)...), []int{1002, 0}},
		{"bytes", appendFrame(nil, final|2, message), []int{1001}},
		{"no object", appendFrame(nil, final|text, []byte("[1]")), []int{1001}},
		{"fragments without end", flood(text, 0, block, 400), []int{1009, 0}},
		{"more messages than a second may have", flood(final|text, final|text, message, 1000), []int{1008}},
	} {
		w := g.wire()
		var sent sync.WaitGroup
		sent.Go(func() { _, _ = w.Write(c.frames) }) // it may be closed meanwhile
		code, _ := w.ending(t)
		ok := false
		for _, want := range c.codes {
			ok = ok || code == want
		}
		if !ok {
			t.Errorf("%s: closed with %d, want one of %v", c.name, code, c.codes)
		}
		_ = w.Close()
		sent.Wait()
	}
	g.bears("hostile frames")
	// Pings, and fragments of nothing, cost the node no memory and others no time.
	pings := flood(final|ping, final|ping, []byte("are you there"), 50_000)
	empty := flood(text, 0, nil, 50_000)
	var all sync.WaitGroup
	for _, frames := range [][]byte{pings, pings, empty, empty, flood(final|text, final|text, []byte(`{"type":"ping"}`), 50_000)} {
		w := g.wire()
		all.Go(func() {
			defer func() { _ = w.Close() }()
			var heard sync.WaitGroup
			heard.Go(func() { _, _ = io.Copy(io.Discard, w.in) })
			if _, err := w.Write(frames); err != nil {
				t.Error("pings and fragments are no reason to close:", err)
			}
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			heard.Wait()
		})
	}
	g.bears("floods of frames")
	all.Wait()
	// Somebody who pings and reads nothing is let go.
	deaf := g.wire()
	_ = deaf.SetWriteDeadline(time.Now().Add(time.Minute))
	for {
		if _, err := deaf.Write(pings); err != nil {
			break
		}
	}
	_ = deaf.Close()
	g.recovers("floods of frames")
}

// Ten thousand connections that say nothing, and then thousands that come and go.
func TestHostileIdleConnections(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Cur = files.Max // as far as one may
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	idle := 10_000
	if room := int(files.Cur) - 2*sparedFiles; room < idle { //nolint:gosec // far below
		idle = max(room, 200)
		t.Logf("NOTE: %d connections, as this system allows %d open files", idle, files.Cur)
	}
	g := newTarget(t, false)
	conns := make([]net.Conn, idle)
	for i := range conns {
		conns[i] = g.dial()
	}
	g.bears(fmt.Sprintf("%d idle connections", idle))
	for _, conn := range conns {
		_ = conn.Close()
	}
	g.recovers("idle connections")
	for range 3000 {
		conn := g.dial()
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset
		_ = conn.Close()
	}
	g.bears("connections that come and go")
	g.recovers("connections that come and go")
}

// A node takes no more connections than it is told to; the ones that wait longest
// go first, and callers are served.
func TestHostileMoreConnectionsThanAllowed(t *testing.T) {
	g := newTarget(t, false, "limits.connections=100")
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = g.dial()
		defer func() { _ = conns[i].Close() }()
	}
	_ = conns[0].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conns[0].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the first of a thousand: %v", err)
	}
	g.bears("more connections than allowed")
	if v := g.gauges(); v.files > g.base.files+110 {
		t.Errorf("%d files are open, %d before", v.files, g.base.files)
	}
}

// Requests whose end can be read in two ways: they are refused, or read in one
// way, and what follows is never taken for another request when the request before
// was refused.
func TestHostileRequestSmuggling(t *testing.T) {
	g := newTarget(t, false)
	const start, next = "POST /asap HTTP/1.1\r\nHost: x\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		name, head, body string
		most             int // answers
	}{
		{"two lengths", "Content-Length: 4\r\nContent-Length: 50\r\n", "abcd", 1},
		{"a list of lengths", "Content-Length: 4, 50\r\n", "abcd", 1},
		{"a signed length", "Content-Length: +4\r\n", "abcd", 1},
		{"a negative length", "Content-Length: -1\r\n", "abcd", 1},
		{"a length in hex", "Content-Length: 0x4\r\n", "abcd", 1},
		{"another transfer coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", 1},
		{"two transfer codings", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", 1},
		{"two fields of transfer coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 1},
		{"a blank before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", 1},
		{"a folded field", "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "", 2},
		{"a bare CR", "X: a\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 1},
		{"a NUL", "X: a\x00\r\n", "", 1},
		{"a chunk size with a sign", "Transfer-Encoding: chunked\r\n", "+4\r\nabcd\r\n0\r\n\r\n", 1},
		{"a chunk size that overflows", "Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nabcd\r\n0\r\n\r\n", 1},
		{"a chunk without its end", "Transfer-Encoding: chunked\r\n", "4\r\nabcdX0\r\n\r\n", 1},
		{"endless chunk extensions", "Transfer-Encoding: chunked\r\n", strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 2000) + "0\r\n\r\n", 2},
		// RFC 9112, section 6.1: the transfer coding counts. A proxy that forwards
		// both is the one at fault.
		{"both", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 2},
	} {
		statuses := g.talk(start + c.head + "\r\n" + c.body + next)
		if len(statuses) == 0 || len(statuses) > c.most {
			t.Errorf("%s: answers %v, at most %d are expected", c.name, statuses, c.most)
			continue
		}
		if c.most == 1 && (statuses[0] < 400 || statuses[0] > 501) {
			t.Errorf("%s: %v", c.name, statuses)
		}
	}
	// Junk behind a request, and junk alone.
	for _, text := range []string{next + "\x16\x03\x01\x00\xa5\x01\x00\x00", "\x16\x03\x01\x00\xa5\x01\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", strings.Repeat("\r\n", 100_000), "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"} {
		if got := g.talk(text); len(got) > 2 {
			t.Errorf("%.20q: %v", text, got)
		}
	}
	// A thousand requests at once on one connection are answered one by one.
	if got := g.talk(strings.Repeat(next, 1000)); len(got) != 1000 {
		t.Errorf("%d of 1000 pipelined requests are answered", len(got))
	}
	g.bears("smuggling")
	g.recovers("smuggling")
}

// Streams that are begun and reset as fast as one can (CVE-2023-44487).
func TestHostileRapidReset(t *testing.T) {
	g := newTarget(t, true)
	config := g.roots.Clone()
	config.NextProtos = []string{"h2"}
	var all sync.WaitGroup
	for range 4 {
		conn := tlsClient(t, g.dial(), config)
		frame := func(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
			n := len(payload)
			b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags, byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
			return append(b, payload...)
		}
		// POST /asap by the static table of HPACK and two literals.
		head := append([]byte{0x83, 0x87, 0x04, 5}, "/asap"...)
		head = append(append(head, 0x01, 9), "127.0.0.1"...)
		frames := frame([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 4, 0, 0, nil)
		for i := range uint32(20_000) {
			frames = frame(frames, 1, 4, 2*i+1, head)               // HEADERS, END_HEADERS
			frames = frame(frames, 3, 0, 2*i+1, []byte{0, 0, 0, 8}) // RST_STREAM, CANCEL
		}
		all.Go(func() {
			defer func() { _ = conn.Close() }()
			var heard sync.WaitGroup
			heard.Go(func() { _, _ = io.Copy(io.Discard, conn) })
			_, _ = conn.Write(frames) // the node may close it before the end
			_ = conn.NetConn().Close()
			heard.Wait()
		})
	}
	g.bears("rapid resets")
	all.Wait()
	g.recovers("rapid resets")
}
