package node

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// Maintenance is planned by the operator and by the agent itself, announced an
// hour ahead, recorded as an act, and survives a restart; what of it has not begun
// can be taken back.
func TestMaintenanceIsPlanned(t *testing.T) {
	a := newAudience(t)
	c := a.config(t.TempDir())
	n, stop := a.start(c, agent.Echo("urn:asap:agent:echo"))
	const path = "/agents/urn:asap:agent:echo/sla/maintenance"
	ask := func(method, path, body string, want int) string {
		t.Helper()
		token, err := ReadOperatorToken(c.Data)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, n.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }() // only read
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != want {
			t.Fatalf("%s %s %s: %d, want %d: %s %v", method, path, body, res.StatusCode, want, text, err)
		}
		return string(text)
	}
	span := func(from, to time.Duration, more string) string {
		now := time.Now().UTC()
		return fmt.Sprintf(`{"start":%q,"end":%q%s}`, now.Add(from).Format(time.RFC3339), now.Add(to).Format(time.RFC3339), more)
	}
	a.until("the agent is known", n.watch.Idle)
	planned := decode[slawatch.Maintenance](t, []byte(ask("POST", path, span(2*time.Hour, 3*time.Hour, `,"reason":"new disks"`), 201)))
	if planned.Status != "planned" || planned.Reason != "new disks" || planned.Actor != c.URN || planned.Retroactive || planned.Excluded != 3_600_000 || planned.AnnouncedAt >= planned.Start-3_600_000 {
		t.Errorf("planned %+v", planned)
	}
	for body, why := range map[string]string{
		span(30*time.Minute, time.Hour, ""):                                         "announced 1h0m0s before",
		span(2*time.Hour, 2*time.Hour, ""):                                          "must end after it starts",
		span(2*time.Hour, 40*24*time.Hour, ""):                                      "at most 30 days",
		span(500*24*time.Hour, 500*24*time.Hour+time.Minute, ""):                    "within a year",
		`{"start":"2026-02-01T00:00:00","end":"2026-02-01"}`:                        "RFC 3339 with a zone",
		`{"start":"2026-02-01T00:00:00Z"}`:                                          "end",
		`{"begin":"2026-02-01T00:00:00Z"}`:                                          "form of planned maintenance",
		span(2*time.Hour, 3*time.Hour, `,"reason":"`+strings.Repeat("x", 2000)+`"`): "reason",
	} {
		if text := ask("POST", path, body, 422); !strings.Contains(text, why) {
			t.Errorf("%s: %s", body, text)
		}
	}
	ask("POST", "/agents/urn:asap:agent:nobody/sla/maintenance", span(2*time.Hour, 3*time.Hour, ""), 404)
	// It runs already, which only the operator may say, and it stays visible.
	late := decode[slawatch.Maintenance](t, []byte(ask("POST", path, span(-time.Minute, time.Hour, `,"retroactive":true`), 201)))
	if late.Status != "running" || !late.Retroactive {
		t.Errorf("retroactive %+v", late)
	}
	if _, err := n.watch.Maintenance(t.Context(), "urn:asap:agent:nobody"); !errors.Is(err, slawatch.ErrUnknownAgent) {
		t.Errorf("nobody's maintenance: %v", err)
	}
	stop()
	n, stop = a.start(c, agent.Echo("urn:asap:agent:echo"))
	defer stop()
	list := func() []slawatch.Maintenance {
		t.Helper()
		return decode[struct {
			Data []slawatch.Maintenance `json:"data"`
		}](t, get(t, n, path)).Data
	}
	if got := list(); len(got) != 2 || got[0] != late || got[1] != planned {
		t.Fatalf("after a restart: %+v", got)
	}
	ask("DELETE", path+"/"+planned.ID, "", 204)
	ask("DELETE", path+"/"+planned.ID, "", 404)
	ask("DELETE", path+"/"+late.ID, "", 204) // what has begun ends now
	a.until("it is over", func() bool { l := list(); return len(l) == 1 && l[0].Status == "over" && l[0].End < late.End })
	ask("DELETE", path+"/"+late.ID, "", 422)
	entries := string(get(t, n, "/audit/logs?event_type=sla.maintenance"))
	for want, times := range map[string]int{`"act":"announced"`: 2, `"act":"withdrawn"`: 2, `"retroactive":true`: 1, `"reason":"new disks"`: 1} {
		if strings.Count(strings.ReplaceAll(entries, `\"`, `"`), want) < times {
			t.Errorf("not %d times %s: %s", times, want, entries)
		}
	}
}
