package agent

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/andybalholm/brotli"
)

// FuzzCompressed: a body is inflated to what an unbounded reader of its encoding
// gives, if that is within the limit; and never is more than the limit held.
func FuzzCompressed(f *testing.F) {
	const limit = 4 << 10
	pack := func(open func(io.Writer) io.WriteCloser, text []byte) []byte {
		var b bytes.Buffer
		w := open(&b)
		if _, err := w.Write(text); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	zip := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	br := func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }
	for _, text := range [][]byte{[]byte(request("e", "echo", "")), make([]byte, limit), make([]byte, limit+1), make([]byte, 1<<20), nil} {
		f.Add(pack(zip, text), "gzip")
		f.Add(pack(br, text), "br")
		f.Add(append(pack(zip, text), pack(zip, text)...), "GZip ") // two members are one text
		f.Add(pack(zip, pack(zip, text)), "gzip, gzip")
		f.Add(text, "identity")
	}
	bodies := &bodyReader{limit: limit, room: NewRoom(1 << 20), decoders: make(chan struct{}, 1)}
	f.Fuzz(func(t *testing.T, sent []byte, encoding string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/asap", bytes.NewReader(sent))
		r.Header.Set("Content-Encoding", encoding)
		var held share
		got, failure := bodies.read(r, &held)
		if failure != nil {
			switch failure.status {
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
			default:
				t.Fatalf("%+v", failure)
			}
		} else if len(got) > limit || cap(got) > 2*limit {
			t.Fatalf("%d bytes, room for %d", len(got), cap(got))
		}
		if held.end(); bodies.room.Taken() != 0 {
			t.Fatalf("%d bytes are held for ever", bodies.room.Taken())
		}
		var plain io.Reader
		switch encoding {
		case "gzip":
			z, err := gzip.NewReader(bytes.NewReader(sent))
			if len(sent) == 0 {
				err, z = nil, nil
			}
			if err != nil {
				if failure == nil {
					t.Fatalf("no gzip, and taken: %v", err)
				}
				return
			}
			if plain = bytes.NewReader(nil); z != nil {
				plain = z
			}
		case "br":
			plain = brotli.NewReader(bytes.NewReader(sent))
		case "", "identity":
			plain = bytes.NewReader(sent)
		default:
			return
		}
		want, err := io.ReadAll(io.LimitReader(plain, limit+1))
		fits := err == nil && len(want) <= limit && len(sent) <= limit
		if errors.Is(err, io.ErrUnexpectedEOF) && failure == nil {
			t.Fatal("a body that ends early is taken")
		}
		if fits != (failure == nil) {
			t.Fatalf("%s of %d bytes, %d inflated (%v): %+v", encoding, len(sent), len(want), err, failure)
		}
		if fits && !bytes.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}
