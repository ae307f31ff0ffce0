package node

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// meters counts what this node commits. Package agent counts requests and tasks.
type meters struct {
	commits  prometheus.Histogram
	failures prometheus.Counter
	entries  prometheus.Counter
	records  *prometheus.CounterVec // outcome
	tokens   *prometheus.CounterVec // direction
	warnings *prometheus.CounterVec // unit, percent
}

func newMeters() *meters {
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts{Name: name, Help: help} }
	m := &meters{
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "asap_ledger_commit_seconds", Help: "Time that one commit of the ledger took, with everything that had gathered for it.",
			Buckets: prometheus.ExponentialBuckets(0.000_5, 2, 14)}),
		failures: prometheus.NewCounter(counter("asap_ledger_commit_failures_total", "Commits of the ledger that failed; nothing of them was answered as done.")),
		entries:  prometheus.NewCounter(counter("asap_audit_entries_total", "Entries that this process added to the audit log.")),
		records:  prometheus.NewCounterVec(counter("asap_usage_records_total", "Usage records that this process added, by outcome; corrections included."), []string{"outcome"}),
		tokens:   prometheus.NewCounterVec(counter("asap_usage_tokens_total", "Tokens in those records; direction is in or out."), []string{"direction"}),
		warnings: prometheus.NewCounterVec(counter("asap_delegation_warnings_total", "Limits of delegations that came to 80, 90 or 100 percent."), []string{"unit", "percent"}),
	}
	// What is known to come is there from the start, at 0.
	for _, outcome := range []metering.Outcome{metering.Completed, metering.Failed, metering.Cancelled, metering.TimedOut, metering.Rejected} {
		m.records.WithLabelValues(string(outcome))
	}
	for _, direction := range []string{"in", "out"} {
		m.tokens.WithLabelValues(direction)
	}
	for _, unit := range []ledger.Unit{ledger.UnitTasks, ledger.UnitCost} {
		for _, percent := range ledger.WarnAt() {
			m.warnings.WithLabelValues(string(unit), strconv.Itoa(percent))
		}
	}
	return m
}

// observed has the form of ledger.Options.Observed.
func (m *meters) observed(took time.Duration, added ledger.Batch, err error) {
	m.commits.Observe(took.Seconds())
	if err != nil {
		m.failures.Inc()
	}
	m.entries.Add(float64(len(added.Entries)))
	for i := range added.Records {
		r := &added.Records[i]
		m.records.WithLabelValues(string(r.Outcome)).Inc()
		for direction, n := range map[string]*int64{"in": r.TokensIn, "out": r.TokensOut} {
			if n != nil && *n > 0 { // a correction may take some back; counters only rise
				m.tokens.WithLabelValues(direction).Add(float64(*n))
			}
		}
	}
	for _, w := range added.Warnings {
		m.warnings.WithLabelValues(string(w.Unit), strconv.Itoa(w.Percent)).Inc()
	}
}

// metrics are all of the node's own; package agent adds those of requests.
func (n *Node) metrics() []prometheus.Collector {
	m := n.meters
	open := func(severity sla.Severity) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "asap_sla_open_breaches", Help: "Breaches of service levels that are open, by the highest severity they reached.",
			ConstLabels: prometheus.Labels{"severity": string(severity)}}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			yes := true
			_, total, err := n.store.Breaches(ctx, slawatch.BreachFilter{Open: &yes, Severity: severity, Limit: 1})
			if err != nil {
				n.log.Error("count open breaches", "error", err)
			}
			return float64(total)
		})
	}
	return append(n.auditMetrics(), m.commits, m.failures, m.entries, m.records, m.tokens, m.warnings,
		open(sla.Warning), open(sla.Critical), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
