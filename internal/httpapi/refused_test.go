package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A refusal reaches clients that send the whole body before they look for an
// answer, over a real connection.
func TestRefusalReachesClientsThatStillSend(t *testing.T) {
	const size = 24 << 20 // more than the buffers of a connection hold
	for _, c := range []struct {
		name, method, path, caller string
		status                     int
	}{
		{"too large", http.MethodPost, "/usage/batch", "operator", http.StatusRequestEntityTooLarge},
		{"manifest too large", http.MethodPut, "/registry/agents/urn:asap:agent:a", "urn:asap:agent:a", http.StatusRequestEntityTooLarge},
		{"bad credentials", http.MethodPost, "/usage/batch", "forged", http.StatusUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			front := httptest.NewServer(newNode(t, nil).mux)
			defer front.Close()
			conn, err := net.Dial("tcp", front.Listener.Addr().String()) //nolint:noctx // a test on loopback
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", c.method, c.path, c.caller, size)
			if _, err := io.WriteString(conn, head+strings.Repeat(" ", size)); err != nil {
				t.Fatal("while sending:", err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal("no answer:", err)
			}
			defer answer.Body.Close()
			if answer.StatusCode != c.status {
				t.Errorf("status %d, want %d", answer.StatusCode, c.status)
			}
		})
	}
}
