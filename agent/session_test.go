package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

func stageNetwork(t *testing.T, change func(*Config)) (*network, *memoryLedger) {
	t.Helper()
	ledger := newLedger()
	cfg := Config{Agents: []*Agent{stage()}, Ledger: ledger, AllowUnverified: anybody, Authenticate: byHeader}
	if change != nil {
		change(&cfg)
	}
	return newNetwork(t, cfg), ledger
}

func TestSocketUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := stageNetwork(t, func(c *Config) {
			c.AllowUnverified = nil
			c.AllowedOrigins = []string{"*.friends.example"}
			c.Limits.Sockets = 2
		})
		for _, c := range []struct {
			header http.Header
			status int
		}{
			{http.Header{}, 401},
			{http.Header{"Authorization": {"forged"}}, 401},
			{http.Header{"Authorization": {"caller"}, "Origin": {"https://evil.example"}}, 403},
			{http.Header{"Authorization": {"caller"}, "Origin": {"https://www.friends.example"}}, 101},
			{http.Header{"Authorization": {"caller"}, "Origin": {"http://agent.example.com"}}, 101},
			{http.Header{"Authorization": {"caller"}}, 503}, // two are open
		} {
			if _, status, _ := n.dial("/asap/ws", c.header); status != c.status {
				t.Errorf("%v: status %d, want %d", c.header, status, c.status)
			}
		}
		if status, _, _ := fetch(t, n.client, http.MethodGet, "http://agent.example.com/asap/ws", "", nil); status != 401 {
			t.Error(status)
		}
	})
}

// TestSocketSender: the caller of the upgrade is the caller of every frame.
func TestSocketSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ledger := stageNetwork(t, nil)
		c, _, err := n.dial("/asap/ws", http.Header{"Authorization": {"caller"}, "X-Asap-Delegation-Token": {"token"}})
		if err != nil {
			t.Fatal(err)
		}
		line := &socketLine{c, read(c)}
		line.say(t, strings.Replace(request("e1", "echo", ""), "agent:caller", "agent:other", 1))
		if got := line.hear(t); !strings.Contains(got, "sender_mismatch") {
			t.Error(got)
		}
		line.say(t, request("e2", "echo", ""))
		line.hear(t)
		if got := ledger.settled(); len(got) != 1 || !got[0].Verified || got[0].Delegation != "token" {
			t.Errorf("%+v", got)
		}
	})
}

// TestSocketFrames: odd frames, one after the other on one connection.
func TestSocketFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := stageNetwork(t, func(c *Config) { c.Limits.BodyBytes = 256 << 10 })
		c := n.mustDial()
		line := &socketLine{c, read(c)}
		vars := map[string]string{}
		for _, f := range []struct{ say, want string }{
			{`{"type":"ping"}`, `{"type":"pong"}`},
			{`{"type":"bong"}`, `{"error":{"code":-32600},"id":null}`},
			{`{"method":5,"id":4}`, `{"error":{"code":-32600},"id":4}`},
			{request("big", "echo", `,"extensions":{"x":"`+strings.Repeat("x", 100<<10)+`"}`), `{"result":"*"}`},
			{strings.Repeat(" ", 300<<10), `{"error":{"code":-32600,"data":{"code":"request_too_large","error":"Request size (307200 bytes) exceeds maximum (262144 bytes)","status_code":413}},"id":null}`},
			{request("e1", "echo", ""), `{"result":"*"}`},
		} {
			line.say(t, f.say)
			got := line.hear(t)
			if why := match([]byte(f.want), []byte(got), vars); why != "" {
				t.Errorf("%.60s: %s; got %.300s", f.say, why, got)
			}
		}
		write(t, c, string(make([]byte, maxFrameBytes+1)))
		for {
			if _, open := line.in.within(time.Minute); !open {
				break
			}
		}
		if code := <-line.in.code; code.Code != websocket.StatusMessageTooBig {
			t.Error("a frame beyond all bounds was taken", code)
		}
	})
}

// TestSocketProgress: what a long-running task tells comes by itself, before
// and after the first answer, and to the connection of a retry as well.
func TestSocketProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := stageNetwork(t, nil)
		c, late := n.mustDial(), n.mustDial()
		line, other := &socketLine{c, read(c)}, &socketLine{late, read(late)}
		line.say(t, request("e1", "long", ""))
		got := line.hear(t) + line.hear(t) // in either order
		for _, want := range []string{`"task.update"`, `"percent":40`, `"status":"working"`, `"id":1}`, `"id":null}`} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in %s", want, got)
			}
		}
		other.say(t, request("e1", "long", ""))
		if got := other.hear(t); !strings.Contains(got, `"working"`) {
			t.Error(got)
		}
		for _, l := range []*socketLine{line, other} {
			got := l.hear(t)
			if why := match([]byte(`{"result":{"envelope":{"payload_type":"task.response","correlation_id":"e1","payload":{"status":"completed","result":{"pages":3}},"extensions":{"asap-receipt":"*"}}},"id":null}`), []byte(got), map[string]string{}); why != "" {
				t.Error(why, got)
			}
		}
	})
}

// TestSocketInOrder: a task is answered before the next frame is looked at, and
// pings are answered meanwhile.
func TestSocketInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := stageNetwork(t, nil)
		c := n.mustDial()
		line := &socketLine{c, read(c)}
		line.say(t, request("e1", "sleep", ""))
		line.say(t, strings.Replace(request("e2", "echo", ""), `"id":1}`, `"id":2}`, 1))
		synctest.Wait()
		if err := c.Ping(context.Background()); err != nil {
			t.Error(err)
		}
		if got := line.hear(t); !strings.Contains(got, `"task_timeout"`) {
			t.Error(got)
		}
		if got := line.hear(t); !strings.Contains(got, `"echoed"`) {
			t.Error(got)
		}
	})
}

func TestSocketSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		news, limits := &newsDesk{}, &newsDesk{}
		n, _ := stageNetwork(t, func(c *Config) { c.Notifications, c.LimitNotifications = news, limits })
		c := n.mustDial()
		line := &socketLine{c, read(c)}
		for range 2 { // once is enough
			line.say(t, `{"method":"sla.subscribe","id":"s"}`)
			if got := line.hear(t); got != `{"jsonrpc":"2.0","result":{"subscribed":true},"id":"s"}` {
				t.Error(got)
			}
		}
		if len(news.push) != 1 {
			t.Error(len(news.push), "subscriptions")
		}
		news.publish(`{"news":1}`)
		if got := line.hear(t); got != `{"news":1}` {
			t.Error(got)
		}
		line.say(t, `{"method":"sla.unsubscribe","id":2}`)
		line.hear(t)
		if len(news.push) != 0 {
			t.Error("still subscribed")
		}
		// The topics do not know each other.
		line.say(t, `{"method":"delegation.subscribe","id":"d"}`)
		line.hear(t)
		line.say(t, `{"method":"sla.subscribe","id":3}`)
		line.hear(t)
		if len(limits.push) != 1 || len(news.push) != 1 {
			t.Errorf("%d and %d subscriptions", len(limits.push), len(news.push))
		}
		limits.publish(`{"limit":1}`)
		if got := line.hear(t); got != `{"limit":1}` {
			t.Error(got)
		}
		line.hangUp()
		synctest.Wait()
		if len(news.push)+len(limits.push) != 0 {
			t.Error("subscribed after the connection was closed")
		}
		for _, fail := range []error{ErrUnavailable, &Refusal{Code: "forbidden", Message: "not you"}, errors.New("x")} {
			news.fail = fail
			c := n.mustDial()
			line := &socketLine{c, read(c)}
			line.say(t, `{"method":"sla.subscribe","id":4}`)
			if got := line.hear(t); !strings.Contains(got, `"error":{"code":-326`) || !strings.Contains(got, `"id":4}`) {
				t.Error(got)
			}
		}
	})
}

// TestSlowReader: a client that does not read loses pushed frames, not answers,
// and its connection in the end.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		news := &newsDesk{}
		n, _ := stageNetwork(t, func(c *Config) { c.Notifications = news })
		c := n.mustDial()
		write(t, c, `{"method":"sla.subscribe","id":1}`)
		synctest.Wait()
		for range 200 {
			news.publish(strings.Repeat("x", 8<<10))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		n.server.mu.Lock()
		open := len(n.server.sockets)
		n.server.mu.Unlock()
		if open != 0 {
			t.Error("the connection is still open")
		}
	})
}

func TestPages(t *testing.T) {
	failing := errors.New("the disk is full")
	var notReady error
	cfg := Config{Agents: []*Agent{stage()}, Ledger: Unmetered(), AllowUnverified: anybody, Ready: func(context.Context) error { return notReady },
		AllowMetrics: func(r *http.Request) bool { return r.Header.Get("Authorization") == "operator" }}
	n := newNetwork(t, cfg)
	get := func(method, path, auth, accept string) (int, string, http.Header) {
		status, answered, text := fetch(t, n.client, method, "http://agent.example.com"+path, "", http.Header{"Authorization": {auth}, "Accept": {accept}})
		return status, text, answered
	}
	post(n.server, request("e1", "echo", ""))
	post(n.server, `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":{"asap_version":"0.1","sender":"urn:asap:agent:x","recipient":"urn:asap:agent:x","payload_type":"made-up","payload":{}}},"id":1}`)
	for _, path := range []string{"/metrics", "/asap/metrics"} {
		if status, _, _ := get("GET", path, "", ""); status != 403 {
			t.Error(path, status)
		}
		status, body, header := get("GET", path, "operator", "")
		if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Error(status, header)
		}
		for _, want := range []string{
			`asap_requests_total{payload_type="task.request",status="success"} 1`,
			`asap_requests_error_total{error_type="handler_not_found",payload_type="other"} 1`,
			`asap_state_transitions_total{from_status="submitted",to_status="working"} 1`,
			`asap_request_duration_seconds_bucket{payload_type="task.request",status="success",le="+Inf"} 1`,
			`asap_handler_executions_total{payload_type="task.request"} 1`,
			"asap_process_uptime_seconds",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %s", path, want)
			}
		}
		if strings.Contains(body, "made-up") {
			t.Error("a stranger made a series")
		}
	}
	if _, body, header := get("GET", "/metrics", "operator", "application/openmetrics-text;version=1.0.0"); !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(body, "# EOF\n") {
		t.Error(header, "not OpenMetrics")
	}
	for _, path := range []string{"/health", "/healthz", "/ready", "/readyz"} {
		if status, body, _ := get("GET", path, "", ""); status != 200 || body != `{"status":"ok"}` {
			t.Error(path, status, body)
		}
		if status, body, _ := get("HEAD", path, "", ""); status != 200 || body != "" {
			t.Error(path, status, body)
		}
	}
	notReady = failing
	if status, body, _ := get("GET", "/readyz", "", ""); status != 503 || strings.Contains(body, "disk") {
		t.Error(status, body)
	}
	if status, _, _ := get("GET", "/healthz", "", ""); status != 200 {
		t.Error("alive is not the same as ready")
	}
}
