package agent

import (
	"net/http"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the series of core.md, section 16, as far as they concern a
// server, with histograms that add up. Payload types that are not the
// protocol's are counted as "other", so strangers cannot make series.
type metrics struct {
	requests       *prometheus.CounterVec // payload_type, status
	succeeded      *prometheus.CounterVec // payload_type
	errored        *prometheus.CounterVec // payload_type, error_type
	duration       *prometheus.HistogramVec
	executions     *prometheus.CounterVec // payload_type
	handlerErrors  *prometheus.CounterVec
	handlerSeconds *prometheus.HistogramVec
	transitions    *prometheus.CounterVec // from_status, to_status
	exhausted      prometheus.Counter
	parseErrors    prometheus.Counter
	authFailures   prometheus.Counter
	invalid        *prometheus.CounterVec // reason
	badTimestamp   prometheus.Counter
	badNonce       prometheus.Counter
	mismatch       prometheus.Counter
	replays        prometheus.Counter
	running        prometheus.Gauge
	sockets        prometheus.Gauge
	droppedUpdates prometheus.Counter
}

// otherType is the label of every payload type the protocol does not name.
const otherType = "other"

func newMetrics(reg *prometheus.Registry, started time.Time, clock func() time.Time) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.DefBuckets}, labels)
	}
	m := &metrics{
		requests:       vector("asap_requests_total", "Requests received.", "payload_type", "status"),
		succeeded:      vector("asap_requests_success_total", "Requests answered with a result.", "payload_type"),
		errored:        vector("asap_requests_error_total", "Requests answered with an error.", "payload_type", "error_type"),
		duration:       histogram("asap_request_duration_seconds", "Time from body to answer.", "payload_type", "status"),
		executions:     vector("asap_handler_executions_total", "Handlers run.", "payload_type"),
		handlerErrors:  vector("asap_handler_errors_total", "Handlers that did not complete their task.", "payload_type"),
		handlerSeconds: histogram("asap_handler_duration_seconds", "Time a handler ran.", "payload_type"),
		transitions:    vector("asap_state_transitions_total", "Task state transitions.", "from_status", "to_status"),
		exhausted:      counter("asap_thread_pool_exhausted_total", "Requests refused because too many tasks were running."),
		parseErrors:    counter("asap_parse_errors_total", "Bodies that were not JSON."),
		authFailures:   counter("asap_auth_failures_total", "Requests without valid credentials."),
		invalid:        vector("asap_validation_errors_total", "Requests that did not validate.", "reason"),
		badTimestamp:   counter("asap_invalid_timestamp_total", "Envelopes outside the replay window."),
		badNonce:       counter("asap_invalid_nonce_total", "Envelopes with a bad or repeated nonce."),
		mismatch:       counter("asap_sender_mismatch_total", "Envelopes whose sender was not the caller."),
		replays:        counter("asap_replayed_requests_total", "Retries that were joined or answered again."),
		running:        gauge("asap_tasks_running", "Tasks running now."),
		sockets:        gauge("asap_websocket_connections", "WebSocket connections open now."),
		droppedUpdates: counter("asap_websocket_dropped_frames_total", "Pushed frames dropped because the client read too slowly."),
	}
	uptime := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "asap_process_uptime_seconds", Help: "Seconds since the server started."},
		func() float64 { return clock().Sub(started).Seconds() })
	for _, c := range []prometheus.Collector{m.requests, m.succeeded, m.errored, m.duration, m.executions, m.handlerErrors, m.handlerSeconds,
		m.transitions, m.exhausted, m.parseErrors, m.authFailures, m.invalid, m.badTimestamp, m.badNonce, m.mismatch, m.replays, m.running,
		m.sockets, m.droppedUpdates, uptime} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answered counts one request. errorType is empty for a result.
func (m *metrics) answered(payloadType, errorType string, took time.Duration) {
	status := "success"
	if errorType == "" {
		m.succeeded.WithLabelValues(payloadType).Inc()
	} else {
		status = "error"
		m.errored.WithLabelValues(payloadType, errorType).Inc()
	}
	m.requests.WithLabelValues(payloadType, status).Inc()
	m.duration.WithLabelValues(payloadType, status).Observe(took.Seconds())
}

func (m *metrics) transition(from, to asap.TaskStatus) {
	m.transitions.WithLabelValues(string(from), string(to)).Inc()
}

// metricsHandler writes the registry in the format the client asks for, with
// the content type that belongs to it.
func metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
}
