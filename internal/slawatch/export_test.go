package slawatch

import (
	"context"
	"time"
)

// Step does once what Run does again and again.
func (w *Watch) Step(ctx context.Context, to Recorder) error {
	for {
		more, err := w.step(ctx, to)
		if err != nil || !more {
			return err
		}
	}
}

// Keep stores the whole state.
func (w *Watch) Keep(ctx context.Context) error { return w.keepAll(ctx) }

// KeepParts makes a checkpoint, and tells how long each part of it took.
func (w *Watch) KeepParts(ctx context.Context) (parts []time.Duration, err error) {
	for more := true; more; {
		began := time.Now()
		if more, err = w.keep(ctx); err != nil {
			return nil, err
		}
		parts = append(parts, time.Since(began))
	}
	return parts, nil
}

// Taken is the last usage record that was taken.
func (w *Watch) Taken() int64 { return w.taken() }
