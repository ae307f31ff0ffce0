package slawatch

import "context"

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
