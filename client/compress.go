package client

import (
	"bytes"
	"compress/gzip"

	"github.com/andybalholm/brotli"
)

// Compression names how larger request bodies are encoded.
type Compression string

// Encodings of request bodies. Every v1.3.0 server reads all three.
const (
	CompressNone   Compression = "identity"
	CompressGzip   Compression = "gzip"
	CompressBrotli Compression = "br"
)

// compressionThreshold is the size in bytes up to which a body is sent as it is.
const compressionThreshold = 1024

// compress returns the body to send and its Content-Encoding, which is empty if
// the body is small or does not shrink.
func compress(body []byte, how Compression) (out []byte, encoding string) {
	if len(body) <= compressionThreshold || how == CompressNone {
		return body, ""
	}
	var buf bytes.Buffer
	var err error
	if how == CompressBrotli {
		w := brotli.NewWriterLevel(&buf, 4)
		_, err = w.Write(body)
		if err == nil {
			err = w.Close()
		}
	} else {
		w := gzip.NewWriter(&buf)
		_, err = w.Write(body)
		if err == nil {
			err = w.Close()
		}
	}
	if err != nil || buf.Len() >= len(body) { // writing to memory does not fail; if it did, plain is right
		return body, ""
	}
	return buf.Bytes(), string(how)
}
