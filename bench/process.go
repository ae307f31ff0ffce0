package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/asap-protocol/asap-go/internal/load"
)

// process is P14: the released binary, from its start to its first answer, idle,
// and as it does tasks, all with everything on.
func process(ctx context.Context, b *bench) (_ outcome, err error) {
	tasks := pick(b, 1_000_000, 40_000)
	atMost := pick(b, 6*time.Minute, 40*time.Second)
	dir, err := os.MkdirTemp("", "asap-bench-")
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := filepath.Join(dir, "asap")
	if _, err := b.goTool(ctx, ".", []string{"CGO_ENABLED=0"}, "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/asap"); err != nil {
		return outcome{}, err
	}
	info, err := os.Stat(binary)
	if err != nil {
		return outcome{}, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return outcome{}, err
	}
	defer log.Close() //nolint:errcheck // processes have their own
	// From nothing to an answer, five times; the last node goes on.
	var first []float64
	var p *load.Process
	var target *load.Target
	defer func() {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	var do func(context.Context, int, int) error
	for i := range b.rounds() {
		home := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(home, 0o700); err != nil {
			return outcome{}, err
		}
		scene, err := load.NewScene(home, time.Now())
		if err != nil {
			return outcome{}, err
		}
		if p != nil {
			if err := p.Stop(); err != nil {
				return outcome{}, err
			}
		}
		begun := time.Now()
		if p, err = load.Start(ctx, log, binary, "serve", "--config", scene.Config); err != nil {
			return outcome{}, err
		}
		if target, err = scene.Target(ctx, p.URL); err != nil {
			return outcome{}, err
		}
		var end func()
		do, end = target.Tasks(connections)
		defer end()
		if err := do(ctx, 0, 0); err != nil {
			return outcome{}, err
		}
		first = append(first, float64(time.Since(begun).Microseconds())/1000)
	}
	idle, ok := p.Effort()
	if !ok {
		return outcome{}, errors.New("this system does not tell what a process uses")
	}
	c := chart{Title: "P14: resident memory of a node (shorter is better)", Unit: "MiB", Line: 100, LineName: "100 MiB",
		Bars: []bar{{"idle", idle.ResidentMiB, true}}}
	// Eight parts, so that growth shows.
	const parts = 8
	done, served := 0, 1
	var resident []float64
	for range parts {
		r, err := load.Run(ctx, load.Plan{Tasks: tasks / parts, Duration: atMost / parts, Connections: connections, Do: do})
		if err != nil {
			return outcome{}, err
		}
		if len(r.Failures) > 0 {
			return outcome{}, fmt.Errorf("%d × %s", r.Failed()[0].Count, r.Failed()[0].Reason)
		}
		done += r.Done
		served += r.Done
		now, _ := p.Effort()
		resident = append(resident, now.ResidentMiB)
		c.Bars = append(c.Bars, bar{fmt.Sprintf("after %s tasks", thousands(done)), now.ResidentMiB, true})
	}
	accounts, err := target.Accounts(ctx)
	if err != nil {
		return outcome{}, err
	}
	last, half := resident[parts-1], resident[parts/2-1]
	o := outcome{
		Reached: fmt.Sprintf("%.0f ms; %.1f MiB; idle %.0f MiB; after %s tasks %.0f MiB (%.0f at half)", median(first), float64(info.Size())/(1<<20), idle.ResidentMiB, thousands(done), last, half),
		Met:     metIf(median(first) < 1000, info.Size() < 40<<20, last < 100, last <= half*1.15, done >= tasks),
		Charts:  []chart{c},
		Details: []string{fmt.Sprintf("%s tasks served, %s recorded, audit log of %s entries verified: %s.", thousands(served), thousands(int(accounts.Recorded)), thousands(int(accounts.AuditEntries)), yesNo(accounts.AuditValid))},
	}
	if done < tasks {
		o.Details = append(o.Details, fmt.Sprintf("Of %s tasks as many were done as %v allow.", thousands(tasks), atMost))
	}
	return o, nil
}
