package prober

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/asap-protocol/asap-go/internal/sla"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const agentX = "urn:asap:agent:x"

// U15 of the design's cases, and the other answers there are.
func TestWhatAnswersMean(t *testing.T) {
	healthy := `{"status":"healthy","agent_id":"` + agentX + `"}`
	for name, c := range map[string]struct {
		status int
		body   string
		want   sla.State
	}{
		"healthy":       {200, healthy, sla.StateUp},
		"busy":          {429, "", sla.StateUp},
		"redirect":      {302, "", sla.StateDown},
		"unhealthy":     {503, `{"status":"unhealthy"}`, sla.StateDown},
		"says so in OK": {200, `{"status":"unhealthy","agent_id":"` + agentX + `"}`, sla.StateDown},
		"another agent": {200, `{"status":"healthy","agent_id":"urn:asap:agent:y"}`, sla.StateDown},
		"not JSON":      {200, "fine", sla.StateDown},
		"too long":      {200, strings.Repeat(" ", maxHealthBytes) + healthy, sla.StateDown},
		"error":         {500, "", sla.StateDown},
		"not found":     {404, "", sla.StateDown},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if c.status == 302 {
					w.Header().Set("Location", "/elsewhere")
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer s.Close()
			p := New(Config{AllowPrivate: true, Report: func(Result) {}})
			target, err := HealthURL(s.URL + "/asap")
			if err != nil {
				t.Fatal(err)
			}
			if r := p.Probe(t.Context(), Target{Agent: agentX, URL: target, Expect: agentX}); r.State != c.want || (r.Why == "") != (c.want == sla.StateUp) {
				t.Errorf("%+v", r)
			}
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	url := gone.URL
	gone.Close()
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer canary.Close()
	for name, c := range map[string]struct {
		config Config
		url    string
		want   sla.State
	}{
		"refused":                      {Config{AllowPrivate: true}, url, sla.StateDown},
		"refused, canary lives":        {Config{AllowPrivate: true, Canary: canary.URL}, url, sla.StateDown},
		"refused, canary is gone too":  {Config{AllowPrivate: true, Canary: url}, url, sla.StateUnknown},
		"private":                      {Config{}, canary.URL, sla.StateUnknown},
		"no such name":                 {Config{}, "http://nowhere.invalid/", sla.StateUnknown}, // down where a name service answers
		"private, but the node itself": {Config{}, canary.URL, sla.StateDown},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(c.config)
			r := p.Probe(t.Context(), Target{Agent: agentX, URL: c.url, Own: strings.Contains(name, "itself")})
			if r.State != c.want && !(name == "no such name" && r.State == sla.StateDown) {
				t.Errorf("%+v, want %s", r, c.want)
			}
		})
	}
}

func TestGuard(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"} {
		if guard(net.JoinHostPort(ip, "80"), false) == nil {
			t.Errorf("%s is asked", ip)
		}
		if guard(net.JoinHostPort(ip, "80"), true) != nil {
			t.Errorf("%s is not asked although that is allowed", ip)
		}
	}
	if err := guard("93.184.216.34:443", false); err != nil {
		t.Error(err)
	}
}

func TestTimeout(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	p := New(Config{AllowPrivate: true, Timeout: 20 * time.Millisecond})
	if r := p.Probe(t.Context(), Target{Agent: agentX, URL: s.URL}); r.State != sla.StateDown {
		t.Errorf("%+v", r)
	}
}

func TestRunAsksEveryoneAgainAndAgain(t *testing.T) {
	var asked [3]atomic.Int32
	mux := http.NewServeMux()
	for i := range asked {
		mux.HandleFunc(fmt.Sprintf("/%d", i), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"status":"healthy"}`))
		})
	}
	s := httptest.NewServer(mux)
	defer s.Close()
	enough := make(chan struct{}, 1000)
	p := New(Config{AllowPrivate: true, Interval: 20 * time.Millisecond, Timeout: time.Second, Report: func(r Result) {
		if i := int(r.Agent[0] - '0'); r.State == sla.StateUp {
			asked[i].Add(1)
			enough <- struct{}{}
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for i := range asked {
		p.Set(Target{Agent: fmt.Sprint(i), URL: fmt.Sprintf("%s/%d", s.URL, i)})
	}
	for asked[0].Load() < 3 || asked[1].Load() < 3 || asked[2].Load() < 3 {
		<-enough
	}
	p.Remove("0")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
