package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/asap-protocol/asap-go/internal/load"
)

// connections is how many P1 has.
const connections = 64

// contender is one server of P1.
type contender struct {
	name string
	// start starts the server anew.
	start func(ctx context.Context, dir string) (*contest, error)
}

// contest is a contender that runs.
type contest struct {
	process *load.Process
	do      func(context.Context, int, int) error
	end     func()
	target  *load.Target // of a node: its accounts are compared
}

// measured is what came out for a contender.
type measured struct {
	perSecond, cpuMicros, p50, p99 []float64
	failed                         int
	served, recorded               int64
	auditValid                     bool
}

// saturate is P1: how many tasks a second the node does with everything on, and
// its peers the same, each in a process of its own, one after the other in every
// round.
func saturate(ctx context.Context, b *bench) (outcome, error) {
	each := 4 * time.Second
	if b.quick {
		each = 1500 * time.Millisecond
	}
	contenders, python := b.contenders()
	got := make([]measured, len(contenders))
	for range b.rounds() {
		for i, c := range contenders {
			if err := b.compete(ctx, c, each, &got[i]); err != nil {
				return outcome{}, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return saturationOutcome(contenders, got, python), nil
}

// contenders are the servers of P1; python tells whether the Python release is
// among them.
func (b *bench) contenders() (contenders []contender, python bool) {
	peer := func(kind, path string, body func([]byte, int) []byte, done string) func(context.Context, string) (*contest, error) {
		return func(ctx context.Context, _ string) (*contest, error) {
			process, err := load.Start(ctx, os.Stderr, b.self, "serve", kind)
			if err != nil {
				return nil, err
			}
			do, end := tasksOf(process.URL+path, connections, body, func(answer []byte) error {
				if !bytes.Contains(answer, []byte(done)) {
					return fmt.Errorf("answers %.200s", answer)
				}
				return nil
			})
			return &contest{process: process, do: do, end: end}, nil
		}
	}
	contenders = []contender{
		{"plain net/http", peer("floor", "/", floorTask, `"result"`)},
		{"asap-go, everything on", b.startNode},
		{"asap-go, agent only", peer("bare", "/asap", bareTask(), `"status":"completed"`)},
		{"a2a-go, full task in memory", peer("a2a", "/", a2aTask, `"TASK_STATE_COMPLETED"`)},
	}
	start, version := b.python()
	if start != nil {
		contenders = append(contenders, contender{"Python release " + version, start})
	}
	return contenders, start != nil
}

// compete puts a contender to work once.
func (b *bench) compete(ctx context.Context, c contender, each time.Duration, m *measured) (err error) {
	dir, err := os.MkdirTemp("", "asap-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := c.start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.process.Stop()) }()
	defer s.end()
	warm, err := load.Run(ctx, load.Plan{Tasks: 1 << 20, Duration: each / 8, Connections: connections, Do: s.do})
	if err != nil {
		return err
	}
	before, _ := s.process.Effort()
	r, err := load.Run(ctx, load.Plan{Tasks: 1 << 22, Duration: each, Connections: connections, Do: s.do})
	if err != nil {
		return err
	}
	after, _ := s.process.Effort()
	failures := append(warm.Failed(), r.Failed()...)
	for _, f := range failures {
		m.failed += f.Count
	}
	if len(failures) > 0 && (s.target != nil || r.Done == 0) {
		return fmt.Errorf("%d × %s", failures[0].Count, failures[0].Reason)
	}
	m.perSecond = append(m.perSecond, r.DonePerSecond())
	m.cpuMicros = append(m.cpuMicros, float64((after.CPU-before.CPU).Microseconds())/float64(r.Done))
	m.p50 = append(m.p50, float64(r.Quantile(0.50).Microseconds())/1000)
	m.p99 = append(m.p99, float64(r.Quantile(0.99).Microseconds())/1000)
	if s.target != nil {
		accounts, err := s.target.Accounts(ctx)
		if err != nil {
			return err
		}
		m.auditValid = accounts.AuditValid && (m.served == 0 || m.auditValid)
		m.served += int64(warm.Done + r.Done)
		m.recorded += accounts.Recorded
	}
	return nil
}

// startNode starts a node with everything on.
func (b *bench) startNode(ctx context.Context, dir string) (*contest, error) {
	scene, err := load.NewScene(dir, time.Now())
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the process has its own handle
	process, err := load.Start(ctx, log, b.self, "serve", "node", dir, b.profile)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	target, err := scene.Target(ctx, process.URL)
	if err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	do, end := target.Tasks(connections)
	return &contest{process: process, do: do, end: end, target: target}, nil
}

// bareTask makes the tasks of an agent without a ledger, which remembers
// envelopes in memory: each has an id of its own.
func bareTask() func([]byte, int) []byte {
	target := load.Target{Recipient: "urn:asap:agent:echo", Skill: "echo", Sender: "urn:asap:agent:bench-3"}
	return target.Task()
}

func saturationOutcome(contenders []contender, got []measured, python bool) outcome {
	floor, own, a2a := &got[0], &got[1], &got[3]
	ratios := func(base []float64) []float64 {
		out := make([]float64, len(own.perSecond))
		for i := range out {
			out[i] = own.perSecond[i] / base[i]
		}
		return out
	}
	toFloor, toA2A := median(ratios(floor.perSecond)), median(ratios(a2a.perSecond))
	complete := own.served == own.recorded && own.auditValid
	o := outcome{
		Met: metIf(toFloor >= 0.30, toA2A >= 5, complete),
		Reached: fmt.Sprintf("%.2f × the floor; %.2f × a2a-go; %d tasks served, %d recorded, audit log verified: %s",
			toFloor, toA2A, own.served, own.recorded, yesNo(own.auditValid)),
	}
	rates := chart{Title: "P1: tasks a second, 64 connections (longer is better)", Unit: "tasks/s"}
	cpu := chart{Title: "P1: CPU time of the server for one task (shorter is better)", Unit: "µs"}
	for i, c := range contenders {
		m := &got[i]
		low, high := spread(m.perSecond)
		rates.Bars = append(rates.Bars, bar{Name: c.name, Value: median(m.perSecond), Own: i == 1})
		cpu.Bars = append(cpu.Bars, bar{Name: c.name, Value: median(m.cpuMicros), Own: i == 1})
		o.Details = append(o.Details, fmt.Sprintf("%s: %.0f tasks/s (%.0f to %.0f), p50 %.1f ms, p99 %.1f ms, %.0f µs of the server's CPU a task",
			c.name, median(m.perSecond), low, high, median(m.p50), median(m.p99), median(m.cpuMicros)))
		if m.failed > 0 {
			o.Details = append(o.Details, fmt.Sprintf("%s: %d tasks failed in all rounds together; they do not count.", c.name, m.failed))
		}
	}
	if !python {
		o.Details = append(o.Details, "The Python release was not installed (make interop installs it).")
	}
	o.Charts = []chart{rates, cpu}
	return o
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
