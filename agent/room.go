package agent

import "sync/atomic"

// freeRoom is how much of each body needs no room: small requests are taken
// however many large ones are on their way.
const freeRoom = 16 << 10

// Room bounds the memory that request bodies hold together while they arrive and
// are answered, so that many large ones at once, however slow, cannot take all
// there is. It is safe for concurrent use, and may be shared with other routes.
type Room struct {
	limit int64
	taken atomic.Int64
}

// NewRoom returns room for so many bytes, more than 0.
func NewRoom(bytes int64) *Room { return &Room{limit: bytes} }

// Take takes n bytes, or nothing and returns false if there are not so many.
func (r *Room) Take(n int64) bool {
	if r.taken.Add(n) > r.limit {
		r.taken.Add(-n)
		return false
	}
	return true
}

// Give gives n bytes back.
func (r *Room) Give(n int64) { r.taken.Add(-n) }

// Taken returns how many bytes are taken.
func (r *Room) Taken() int64 { return r.taken.Load() }

// share is what one body has taken of the room.
type share struct {
	room *Room // nil: there is no bound
	n    int64
}

// grow makes sure that a buffer of so many bytes has its room.
func (s *share) grow(size int64) bool {
	if more := size - freeRoom - s.n; s.room != nil && more > 0 {
		if !s.room.Take(more) {
			return false
		}
		s.n += more
	}
	return true
}

// end gives back what was taken.
func (s *share) end() {
	if s.n > 0 {
		s.room.Give(s.n)
		s.n = 0
	}
}
