package node

import (
	"fmt"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// Every registered agent is measured, whether it promises anything or not; what it
// begins to promise is judged from then on, and what it promises no more is
// over.
func TestPromisesChangeInARunningNode(t *testing.T) {
	a := newAudience(t)
	c := a.config(t.TempDir())
	n, stop := a.start(c, agent.Echo("urn:asap:agent:echo"))
	defer stop()
	const urn = "urn:asap:agent:changing"
	manifest := asap.Manifest{ID: urn, Name: "Changing", Version: "1.0.0", Description: "changes its mind", TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: asap.DefaultASAPVersion}, Endpoints: asap.Endpoint{ASAP: "http://127.0.0.1:1/asap"}}
	promising := func(version, text string) {
		t.Helper()
		manifest.Version = version
		if text != "" {
			def, err := asap.ParseSLADefinition([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			manifest.SLA = def
		}
		register(t, n, manifest)
	}
	tasks := 0
	work := func(count int, outcome metering.Outcome) {
		t.Helper()
		var reports []ledger.Report
		for range count {
			tasks++
			reports = append(reports, ledger.Report{Record: metering.Record{ID: fmt.Sprintf("r%d", tasks), TaskID: asap.TaskID(fmt.Sprintf("t%d", tasks)), Agent: urn,
				Consumer: callerURN, Skill: "work", Outcome: outcome, Evidence: metering.SelfReported, DurationMS: new(int64(100)), Timestamp: time.Now().UTC().Truncate(time.Microsecond)}})
		}
		if _, err := n.ledger.Record(t.Context(), reports, ledger.Atomic); err != nil {
			t.Fatal(err)
		}
	}
	status := func() sla.Status { return decode[sla.Status](t, get(t, n, "/agents/"+urn+"/sla?window=1h")) }

	promising("1.0.0", "")
	a.until("it is known", func() bool { _, err := n.watch.Status(t.Context(), urn, sla.LastHour); return err == nil })
	work(15, metering.Completed)
	work(15, metering.Failed)
	a.until("its tasks are counted", func() bool { return status().Metrics.TasksFailed == 15 })
	if s := status(); s.Metrics.TasksCompleted != 15 || *s.Metrics.ErrorRatePercent != 50 || *s.Metrics.LatencyP95MS != 100 || s.CompliancePercent != nil || len(s.Objectives)+len(s.OpenBreaches) > 0 {
		t.Errorf("without a promise: %+v", s)
	}
	promising("1.1.0", `{"max_error_rate":"1%"}`)
	opened := a.heard(sla.Firing)[0].Breach
	if opened.Threshold != "1.0%" || opened.AgentID != urn || opened.BreachType != sla.ErrorRate {
		t.Errorf("opened as %+v", opened)
	}
	promising("1.2.0", `{"max_error_rate":"60%"}`)
	ended := a.heard(sla.Firing, sla.Resolved)[1].Breach
	if *ended.CloseReason != sla.CloseSLAChanged || ended.Threshold != "1.0%" || ended.ID != opened.ID {
		t.Errorf("ended as %+v", ended)
	}
	if s := status(); len(s.Objectives) != 1 || s.Objectives[0].Promised != "60%" || !*s.Objectives[0].Met || len(s.OpenBreaches) > 0 {
		t.Errorf("under the new promise: %+v", s.Objectives)
	}
}
