package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"
)

// request sends a request as whoever the header says.
func (n *securedNode) request(t testing.TB, certificate, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	res, err := n.http(t, certificate).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// rpc is the body of a task request from sender.
func rpc(sender string) string {
	e := asap.Envelope{ID: asap.NewIDSource().NewEnvelopeID(time.Now()), ASAPVersion: "0.1", Sender: asap.AgentURN(sender), Recipient: counterURN,
		PayloadType: "TaskRequest", Payload: jsontext.Value(`{"conversation_id":"c","skill_id":"count","input":{"n":1}}`)}
	return `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":` + string(e.AppendJSON(nil)) + `}}`
}

// Somebody else's web page and somebody behind a proxy are not the person at
// this machine, though their requests come from here.
func TestOnlyFromHere(t *testing.T) {
	n := startSecured(t, false)
	local := strings.TrimPrefix(n.URL(), "http://")
	_, port, _ := strings.Cut(local, ":")
	for _, c := range []struct {
		name   string
		header []string
		want   string
	}{
		{"a program", nil, `"completed"`},
		{"by name", []string{"Host", "localhost:" + port}, `"completed"`},
		{"by IPv6 address", []string{"Host", "[::1]:" + port}, `"completed"`},
		{"the node's own page", []string{"Origin", n.URL()}, `"completed"`},
		{"another site's page", []string{"Origin", "https://evil.example"}, "Authentication required"},
		{"another site's page, newer browser", []string{"Sec-Fetch-Site", "cross-site"}, "Authentication required"},
		{"a page without an origin", []string{"Origin", "null"}, "Authentication required"},
		{"a name made to mean this machine", []string{"Host", "evil.example:" + port, "Origin", "http://evil.example:" + port}, "Authentication required"},
		{"through a proxy", []string{"X-Forwarded-For", "192.0.2.7"}, "Authentication required"},
		{"through another", []string{"Forwarded", "for=192.0.2.7"}, "Authentication required"},
		{"bad credentials", []string{"Authorization", "Bearer x"}, "Invalid authentication token"},
		{"no credentials at all", []string{"Authorization", ""}, "Invalid authentication token"},
	} {
		if _, body := n.request(t, "", http.MethodPost, "/asap", rpc(callerURN), c.header...); !strings.Contains(body, c.want) {
			t.Errorf("%s: want %s: %s", c.name, c.want, body)
		}
		res, _ := n.request(t, "", http.MethodGet, "/metrics", "", c.header...)
		if strings.Contains(c.name, "prox") || strings.Contains(c.name, "a name made") {
			if res.StatusCode != http.StatusForbidden {
				t.Errorf("%s: metrics: %s", c.name, res.Status)
			}
		}
	}
	must := startSecured(t, false, func(c *Config) { c.Auth.Required = true })
	if _, body := must.request(t, "", http.MethodPost, "/asap", rpc(callerURN)); !strings.Contains(body, "Authentication required") || !strings.Contains(body, `"unauthenticated"`) {
		t.Errorf("where credentials are demanded: %s", body)
	}
}

// The sender of an envelope is who proved to be it, on both transports and
// however that was proved; it is recorded as verified.
func TestSenderIsCaller(t *testing.T) {
	n := startSecured(t, true)
	for name, c := range map[string]struct{ certificate, authorization string }{
		"key":         {"", n.token(t, taskOwner)},
		"provider":    {"", n.access(t, map[string]any{"sub": taskOwner})},
		"certificate": {taskOwner, ""},
	} {
		var header []string
		if c.authorization != "" {
			header = []string{"Authorization", c.authorization}
		}
		if _, body := n.request(t, c.certificate, http.MethodPost, "/asap", rpc(taskOwner), header...); !strings.Contains(body, `"completed"`) {
			t.Errorf("%s: %s", name, body)
		}
		if _, body := n.request(t, c.certificate, http.MethodPost, "/asap", rpc(stranger), header...); !strings.Contains(body, `"sender_mismatch"`) {
			t.Errorf("%s, in another's name: %s", name, body)
		}
		conn, res, err := websocket.Dial(t.Context(), "wss"+strings.TrimPrefix(n.URL(), "https")+"/asap/ws", &websocket.DialOptions{
			HTTPClient: n.http(t, c.certificate), HTTPHeader: http.Header{"Authorization": header[min(1, len(header)):]}})
		if err != nil {
			t.Fatal(name, err, res)
		}
		for sender, want := range map[string]string{taskOwner: `"completed"`, stranger: `"sender_mismatch"`} {
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(rpc(sender))); err != nil {
				t.Fatal(err)
			}
			if _, answer, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(answer), want) {
				t.Errorf("%s over a WebSocket as %s: %s, %v", name, sender, answer, err)
			}
		}
		_ = conn.CloseNow() // nothing is under way
	}
	_, records := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", n.operator(t))
	if !strings.Contains(records, `"consumer_verified":true`) || strings.Contains(records, `"consumer_verified":false`) || strings.Contains(records, stranger) {
		t.Errorf("recorded: %s", records)
	}
	// The operator may send for any agent, but that proves nothing about it.
	if _, body := n.request(t, "", http.MethodPost, "/asap", rpc("urn:asap:agent:somebody"), "Authorization", n.operator(t)); !strings.Contains(body, `"completed"`) {
		t.Error(body)
	}
	_, records = n.request(t, "", http.MethodGet, "/usage?consumer=urn:asap:agent:somebody", "", "Authorization", n.operator(t))
	if !strings.Contains(records, `"consumer_verified":false`) {
		t.Errorf("recorded for the operator: %s", records)
	}
}

// A WebSocket is refused before it is one: without credentials where they are
// demanded, with bad ones, and from other sites' pages. It ends when its
// credentials do.
func TestSocketsAreChecked(t *testing.T) {
	n := startSecured(t, true)
	here := startSecured(t, false)
	dial := func(n *securedNode, header http.Header) (*websocket.Conn, int) {
		t.Helper()
		conn, res, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(n.URL(), "http")+"/asap/ws",
			&websocket.DialOptions{HTTPClient: n.http(t, ""), HTTPHeader: header, Host: header.Get("Host")})
		if err == nil {
			return conn, http.StatusSwitchingProtocols
		}
		if res == nil {
			t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	for _, c := range []struct {
		name   string
		node   *securedNode
		header http.Header
		want   int
	}{
		{"no credentials", n, nil, 401},
		{"bad ones", n, http.Header{"Authorization": {"Bearer x.y.z"}}, 401},
		{"another site's page with good ones", n, http.Header{"Authorization": {n.token(t, taskOwner)}, "Origin": {"https://evil.example"}}, 403},
		{"another site's page, here", here, http.Header{"Origin": {"https://evil.example"}}, 403},
		{"a name made to mean this machine", here, http.Header{"Origin": {"http://evil.example"}, "Host": {"evil.example"}}, 401},
		{"bad ones, here", here, http.Header{"Authorization": {"Bearer x"}}, 401},
	} {
		conn, status := dial(c.node, c.header)
		if status != c.want {
			t.Errorf("%s: %d, want %d", c.name, status, c.want)
		}
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
	conn, status := dial(n, http.Header{"Authorization": {n.token(t, taskOwner)}})
	if status != http.StatusSwitchingProtocols {
		t.Fatal(status)
	}
	defer func() { _ = conn.CloseNow() }()
	send := func() (string, error) {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(rpc(taskOwner))); err != nil {
			return "", err
		}
		_, answer, err := conn.Read(t.Context())
		return string(answer), err
	}
	if answer, err := send(); err != nil || !strings.Contains(answer, `"completed"`) {
		t.Fatalf("%s, %v", answer, err)
	}
	if err := os.Remove(n.path("keys/task-owner.pub")); err != nil {
		t.Fatal(err)
	}
	n.Reload(t.Context(), n.config, nil)
	_, err := send()
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation {
		t.Errorf("after its key was withdrawn: %v", err)
	}
}

// A provider changes its keys while the node runs; garbage does not make the
// node ask it again and again; while it is down, nobody knows.
func TestProviderRotates(t *testing.T) {
	n := startSecured(t, true)
	get := func(token string) int {
		t.Helper()
		res, _ := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", "Bearer "+token)
		return res.StatusCode
	}
	first := n.issuer.token(t, "", map[string]any{"sub": taskOwner})
	for range 20 {
		if status := get(first); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	if fetches := n.issuer.fetches.Load(); fetches != 1 {
		t.Errorf("20 tokens caused %d fetches", fetches)
	}
	for i := range 500 {
		if status := get(n.issuer.token(t, fmt.Sprintf("garbage-%d", i), map[string]any{"sub": taskOwner})); status != http.StatusUnauthorized {
			t.Fatal(status)
		}
	}
	if fetches := n.issuer.fetches.Load(); fetches > 4 { // the back-off starts at 5 s
		t.Errorf("500 tokens of garbage caused %d fetches", fetches)
	}

	// A provider whose keys nobody has fetched yet, so that no back-off runs.
	n = startSecured(t, true)
	first = n.issuer.token(t, "", map[string]any{"sub": taskOwner})
	n.issuer.rotate(t, "second")
	second := n.issuer.token(t, "", map[string]any{"sub": taskOwner})
	if a, b := get(second), get(first); a != http.StatusOK || b != http.StatusUnauthorized {
		t.Errorf("the second key: %d; the first: %d", a, b)
	}

	n = startSecured(t, true)
	token := n.issuer.token(t, "", map[string]any{"sub": taskOwner})
	n.issuer.mu.Lock()
	n.issuer.down = true
	n.issuer.mu.Unlock()
	res, body := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", "Bearer "+token)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(body, `"authentication_unavailable"`) {
		t.Errorf("while it is down: %s %s", res.Status, body)
	}
	res, body = n.request(t, "", http.MethodPost, "/asap", rpc(taskOwner), "Authorization", "Bearer "+token)
	if res.StatusCode != http.StatusServiceUnavailable || body != `{"detail":"Authentication service unavailable","code":"authentication_unavailable"}` {
		t.Errorf("while it is down: %s %s", res.Status, body)
	}
	if res, _ := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", n.token(t, taskOwner)); res.StatusCode != http.StatusOK {
		t.Errorf("an agent's own token while it is down: %s", res.Status)
	}
}

// Only certificates of the configured authority count, and a connection can be
// made to need one.
func TestClientCertificates(t *testing.T) {
	n := startSecured(t, true, func(c *Config) { c.TLS.ClientRequired = true })
	if res, body := n.request(t, taskOwner, http.MethodGet, "/usage", ""); res.StatusCode != http.StatusOK {
		t.Errorf("with a certificate: %s %s", res.Status, body)
	}
	foreign := newAuthority(t)
	cert, key := foreign.leaf(t, 9, taskOwner)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, certificates := range map[string][]tls.Certificate{"none": nil, "a foreign one": {pair}} {
		config := n.tlsConfig(t, "")
		config.Certificates = certificates
		transport := &http.Transport{TLSClientConfig: config}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := (&http.Client{Transport: transport}).Do(req); err == nil {
			_ = res.Body.Close()
			t.Errorf("with %s: %s", name, res.Status)
		}
		transport.CloseIdleConnections()
	}
}

// A renewed certificate is served as soon as its files are looked at again; a
// broken one is not.
func TestCertificateFollowsItsFiles(t *testing.T) {
	n := startSecured(t, true)
	serial := func() int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", strings.TrimPrefix(n.URL(), "https://"), n.tlsConfig(t, "")) //nolint:noctx // a test's own node
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 2 {
		t.Fatalf("serial number %d", got)
	}
	n.writeServerCertificate(t, 5)
	later := time.Now().Add(time.Minute) // file systems with coarse times
	if err := os.Chtimes(n.path("cert.pem"), later, later); err != nil {
		t.Fatal(err)
	}
	n.reloadCertificates(false)
	if got := serial(); got != 5 {
		t.Errorf("serial number %d after the renewal", got)
	}
	n.write(t, "cert.pem", []byte("half a fi"))
	n.reloadCertificates(false)
	n.Reload(t.Context(), n.config, errors.New("not valid"))
	if got := serial(); got != 5 || !strings.Contains(n.log.String(), "the last good one stays in use") {
		t.Errorf("serial number %d with a broken file; log:\n%s", got, n.log)
	}
	if err := os.Remove(n.path("ca.pem")); err != nil {
		t.Fatal(err)
	}
	n.reloadCertificates(false)
	n.writeServerCertificate(t, 6)
	n.write(t, "ca.pem", n.ca.pem)
	n.Reload(t.Context(), n.config, nil)
	if got := serial(); got != 6 {
		t.Errorf("serial number %d after SIGHUP", got)
	}
	old := n.tlsConfig(t, "")
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11                         //nolint:gosec // what must be refused
	if conn, err := tls.Dial("tcp", strings.TrimPrefix(n.URL(), "https://"), old); err == nil { //nolint:noctx // a test's own node
		_ = conn.Close()
		t.Error("TLS 1.1 is served")
	}
	for name, c := range map[string]TLSConfig{
		"no file":          {Certificate: n.path("none"), Key: n.path("key.pem")},
		"another key":      {Certificate: n.path("ca.pem"), Key: n.path("key.pem")},
		"no authority":     {Certificate: n.path("cert.pem"), Key: n.path("key.pem"), ClientCA: n.path("none")},
		"authority is key": {Certificate: n.path("cert.pem"), Key: n.path("key.pem"), ClientCA: n.path("key.pem")},
	} {
		config := testConfig(t.TempDir())
		config.TLS = c
		if node, err := Open(t.Context(), config, Options{Agents: n.hosted}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v %v", name, node, err)
		}
	}
}

// Each caller has its own rate, the same on both interfaces, and is told when to
// come again.
func TestRatePerCaller(t *testing.T) {
	n := startSecured(t, true, func(c *Config) { c.Limits.RequestsPerSec, c.Limits.RequestsBurst = 0.01, 6 })
	owner := n.token(t, taskOwner)
	for i := range 3 {
		if res, _ := n.request(t, "", http.MethodPost, "/asap", rpc(taskOwner), "Authorization", owner); res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s", i, res.Status)
		}
		if res, _ := n.request(t, taskOwner, http.MethodGet, "/usage", ""); res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s", i, res.Status)
		}
	}
	res, body := n.request(t, "", http.MethodPost, "/asap", rpc(taskOwner), "Authorization", owner)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" ||
		!strings.Contains(body, `"error":{"code":429,"message":"Rate limit exceeded","data":{"retry_after":`) || !strings.Contains(body, `"limit":"0.01 per 1 second"`) {
		t.Errorf("/asap: %s %v %s", res.Status, res.Header, body)
	}
	res, body = n.request(t, "", http.MethodGet, "/usage", "", "Authorization", owner)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || res.Header.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(body, `"rate_limited"`) {
		t.Errorf("/usage: %s %v %s", res.Status, res.Header, body)
	}
	if res, _ := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", n.token(t, stranger)); res.StatusCode != http.StatusOK {
		t.Errorf("another agent: %s", res.Status)
	}
	// Guesses are counted by address, whatever they guess.
	statuses := map[int]int{}
	for i := range 20 {
		res, _ := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", fmt.Sprintf("Bearer guess-%d", i))
		statuses[res.StatusCode]++
	}
	if statuses[http.StatusUnauthorized] != 6 || statuses[http.StatusTooManyRequests] != 14 {
		t.Errorf("20 guesses: %v", statuses)
	}
}

// What one asks for in another's name is not there, and odd ids are only ids.
func TestAnothersRows(t *testing.T) {
	w := newWorld(t)
	n := w.remote
	as := n.token(t, stranger)
	for _, path := range []string{
		"/usage?agent=" + counterURN, "/usage?consumer=" + taskOwner, "/usage?agent_id=" + counterURN, "/usage/aggregate?group_by=consumer",
		"/usage/export?format=csv", "/usage/export?format=ndjson&consumer=" + taskOwner, "/usage/summary?consumer=" + taskOwner,
		"/usage/" + w.ids[n.URL()+"{task_id}"], "/audit/logs?actor=" + taskOwner, "/audit/logs?subject=" + w.ids[n.URL()+"{task_id}"],
		"/audit/logs/" + w.ids[n.URL()+"{id}"],
	} {
		res, body := n.request(t, "", http.MethodGet, path, "", "Authorization", as)
		if res.StatusCode >= 500 || strings.Contains(body, `"consumer":"`+taskOwner) || strings.Contains(body, counterURN+",") || strings.Contains(body, `"total_tasks":1`) || strings.Contains(body, `"actor"`) {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
	// What is another's, and what is nobody's, get one answer.
	for _, pair := range [][2]string{
		{"/usage/" + w.ids[n.URL()+"{task_id}"], "/usage/task_none"},
		{"/audit/logs/" + w.ids[n.URL()+"{id}"], "/audit/logs/01ARZ3NDEKTSV4RRFFQ69G5FAV"},
	} {
		a, bodyA := n.request(t, "", http.MethodGet, pair[0], "", "Authorization", as)
		b, bodyB := n.request(t, "", http.MethodGet, pair[1], "", "Authorization", as)
		if a.StatusCode != b.StatusCode || strings.ReplaceAll(bodyA, strings.TrimPrefix(pair[0], "/usage/"), "X") != strings.ReplaceAll(bodyB, strings.TrimPrefix(pair[1], "/usage/"), "X") {
			t.Errorf("%s: %s %s\n%s: %s %s", pair[0], a.Status, bodyA, pair[1], b.Status, bodyB)
		}
	}
	for _, id := range []string{"..", "%2e%2e", "%2e%2e%2fusage", "..%2f..%2fdata%2foperator.token", "%00", "a%0a", "%ff", "%2F", strings.Repeat("x", 8000), "'%20OR%201=1--"} {
		for _, prefix := range []string{"/usage/", "/audit/logs/"} {
			res, body := n.request(t, "", http.MethodGet, prefix+id, "", "Authorization", as)
			if res.StatusCode >= 500 || (res.StatusCode == http.StatusOK && strings.Contains(body, taskOwner)) || strings.Contains(body, "asap_op_") {
				t.Errorf("%s%.40s: %s %.200s", prefix, id, res.Status, body)
			}
		}
	}
	for _, filter := range []string{"agent=" + counterURN + "%0a", "consumer=urn:asap:agent:..%2f", "agent=%ff"} {
		if res, body := n.request(t, "", http.MethodGet, "/usage?"+filter, "", "Authorization", n.operator(t)); res.StatusCode >= 500 || strings.Contains(body, taskOwner) {
			t.Errorf("%s: %s %s", filter, res.Status, body)
		}
	}
	// Usage in another's name is not taken.
	res, body := n.request(t, "", http.MethodPost, "/usage", fmt.Sprintf(`{"task_id":"t","agent":%q,"consumer":%q,"timestamp":%q}`, taskOwner, stranger, time.Now().UTC().Format(time.RFC3339)), "Authorization", as)
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, `"forbidden"`) {
		t.Errorf("a report in another's name: %s %s", res.Status, body)
	}
}

// Keys are read again on SIGHUP, several at once, and broken files leave the
// ones before; a rotated operator token is good at once.
func TestKeysReload(t *testing.T) {
	n := startSecured(t, false)
	status := func(authorization string) int {
		t.Helper()
		res, _ := n.request(t, "", http.MethodGet, "/usage", "", "Authorization", authorization)
		return res.StatusCode
	}
	fresh := n.signed(t, 7, taskOwner, n.config.URN)
	if got := status(fresh); got != http.StatusUnauthorized {
		t.Errorf("before it is there: %d", got)
	}
	n.writeKey(t, "task-owner", ownerKey, 7)
	n.Reload(t.Context(), n.config, nil)
	if a, b := status(fresh), status(n.token(t, taskOwner)); a != http.StatusOK || b != http.StatusOK {
		t.Errorf("while both are good: %d, %d", a, b)
	}
	n.write(t, "keys/broken.pub", []byte("no key"))
	n.Reload(t.Context(), n.config, nil)
	if got := status(fresh); got != http.StatusOK || !strings.Contains(n.log.String(), "broken.pub") {
		t.Errorf("with a broken file: %d, log:\n%s", got, n.log)
	}
	old := n.operator(t)
	if _, err := NewOperatorToken(n.config.Data); err != nil {
		t.Fatal(err)
	}
	if a, b := status(n.operator(t)), status(old); a != http.StatusOK || b != http.StatusUnauthorized {
		t.Errorf("the new operator token: %d, the old one: %d", a, b)
	}
	n.Reload(t.Context(), n.config, nil) // tells the log of the token; the broken file changes nothing
	_, body := n.request(t, "", http.MethodGet, "/audit/logs?event_type=keys.changed", "", "Authorization", n.operator(t))
	entries := decode[struct {
		Data []struct {
			Subject string `json:"subject"`
		} `json:"data"`
	}](t, []byte(body)).Data
	if len(entries) != 2 || entries[0].Subject != "agent-keys" || entries[1].Subject != "operator-token" {
		t.Errorf("changes of keys in the log: %+v", entries)
	}
	config := testConfig(t.TempDir())
	config.Auth.Keys = n.path("keys")
	if _, err := Open(t.Context(), config, Options{Agents: n.hosted}); err == nil || !strings.Contains(err.Error(), "broken.pub") {
		t.Errorf("a node that starts with a broken file: %v", err)
	}
}

// A client that proves itself and its tokens' renewal need nothing else.
func TestClientOverTLS(t *testing.T) {
	n := startSecured(t, true)
	c := n.client(t, taskOwner, client.WithTokenSource(n.tokens(t, taskOwner)))
	if result, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil || result.Status != asap.Completed {
		t.Errorf("%+v, %v", result, err)
	}
	_, err := n.client(t, taskOwner).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
	var remote *client.RemoteError
	if !errors.As(err, &remote) || remote.HTTPStatus != http.StatusUnauthorized {
		t.Errorf("without credentials: %v", err)
	}
}

// The doctor looks at what proves callers and the node, too.
func TestDoctorOfSecuredNode(t *testing.T) {
	n := startSecured(t, true)
	findings := func(now time.Time) string {
		var b strings.Builder
		for _, f := range Diagnose(t.Context(), n.config, now) {
			fmt.Fprintf(&b, "%s %s %s\n", f.Severity, f.Check, f.Text)
		}
		return b.String()
	}
	for _, want := range []string{"ok agents' keys 2 keys in", "warn certificate", "ok node https://localhost:"} {
		if got := findings(time.Now()); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := findings(time.Now().Add(2 * time.Hour)); !strings.Contains(got, "fail certificate") {
		t.Errorf("after its end:\n%s", got)
	}
	n.write(t, "keys/broken.pub", []byte("x"))
	n.write(t, "key.pem", nil)
	if got := findings(time.Now()); !strings.Contains(got, "fail agents' keys") || !strings.Contains(got, "fail certificate") {
		t.Errorf("with broken files:\n%s", got)
	}
}
