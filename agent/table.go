package agent

import (
	"context"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// start returns the run for a request: the one it repeats, or a new one, which
// it sets going. joined tells which.
func (s *Server) start(r *run) (_ *run, joined bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.byKey[r.key]; known != nil {
		if known.digest != r.digest {
			return nil, false, ErrConflict
		}
		return known, true, nil
	}
	if s.stopping {
		return nil, false, asap.CodeShuttingDown.Err("")
	}
	if s.running >= s.limits.RunningTasks {
		return nil, false, &overload{running: s.running, limit: s.limits.RunningTasks}
	}
	timeout := r.timeout()
	r.server, r.began, r.clocked = s, s.now(), time.Now()
	r.deadline, r.expires = r.clocked.Add(timeout), r.began.Add(timeout+s.limits.CancelGrace+s.limits.LedgerTimeout)
	r.ticket, r.status, r.changed = s.ids.NewTaskID(r.began), asap.Submitted, make(chan struct{})
	r.id = r.ticket
	r.task.run = r
	timed, unbound := context.WithDeadlineCause(s.base, r.deadline, errTimeout)
	r.unbound = unbound
	r.ctx, r.cancel = context.WithCancelCause(timed)
	s.byKey[r.key], s.byID[r.id] = r, r
	s.running++
	s.open++
	s.metrics.running.Set(float64(s.running))
	go r.execute()
	return r, false, nil
}

// handlerReturned gives a running task's place free.
func (s *Server) handlerReturned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.metrics.running.Set(float64(s.running))
	s.move()
}

// runEnded keeps a settled run for questions and retries, or forgets the run.
func (s *Server) runEnded(r *run, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.move()
	if !keep {
		s.forget(r)
		return
	}
	s.retained.queue = append(s.retained.queue, r)
	s.retained.bytes += r.size
	for len(s.retained.queue) > s.retained.maxRuns || s.retained.bytes > s.retained.maxBytes {
		oldest := s.retained.queue[0]
		s.retained.queue[0] = nil
		s.retained.queue = s.retained.queue[1:]
		s.retained.bytes -= oldest.size
		s.forget(oldest)
	}
}

// forget takes a run out of the tables. s.mu is held.
func (s *Server) forget(r *run) {
	if s.byKey[r.key] == r {
		delete(s.byKey, r.key)
	}
	// A replay has taken on the id of the first run; its own was never told.
	for _, id := range [...]asap.TaskID{r.ticket, r.id} {
		if s.byID[id] == r {
			delete(s.byID, id)
		}
	}
}

// retained are settled runs, oldest first.
type retained struct {
	queue    []*run
	bytes    int64
	maxRuns  int
	maxBytes int64
}

// find returns the run of a task, if the sender of c asked for it or acts for who
// did. Tasks of others do not exist, nor do those of a verified caller for
// somebody who only uses its name.
func (s *Server) find(id asap.TaskID, c *call) (*run, error) {
	s.mu.Lock()
	r := s.byID[id]
	s.mu.Unlock()
	if r == nil {
		return nil, asap.CodeTaskNotFound.Err("")
	}
	if err := c.mayTouch(r.consumer, r.verified, r.use.principal()); err != nil {
		return nil, err
	}
	return r, nil
}

// abandonAll gives every running handler CancelGrace to return.
func (s *Server) abandonAll() {
	s.mu.Lock()
	runs := make([]*run, 0, len(s.byID))
	for _, r := range s.byID {
		runs = append(runs, r)
	}
	s.mu.Unlock()
	for _, r := range runs {
		r.hurry(s.limits.CancelGrace)
	}
}

// hurry brings forward the moment a running handler is given up.
func (r *run) hurry(grace time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reaper != nil && !r.ending {
		r.reaper.Reset(grace)
	}
}
