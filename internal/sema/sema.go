// Package sema has a token that works where channels do not: in and out of
// bubbles of testing/synctest.
package sema

import (
	"sync"
	"sync/atomic"
)

// A Sema holds at most one token. One goroutine waits for it, and any goroutine
// may put it there. The zero Sema has none.
//
// It is a channel of one element but for one thing: a channel belongs to the
// bubble of testing/synctest in which it was made, and ends the process when it
// is used from outside. A mutex does not, so a goroutine in a bubble and one
// outside may meet at a Sema, as they may at a socket.
type Sema struct {
	state atomic.Uint32

	// mu is locked while a goroutine waits, and Notify unlocks it: so to lock
	// it once more is to wait.
	mu sync.Mutex
}

const (
	semaEmpty   = iota
	semaToken   // the next Wait returns at once
	semaWaiting // a goroutine waits
)

// Wait waits for the token and takes it. One goroutine at a time may wait.
func (s *Sema) Wait() {
	if s.state.CompareAndSwap(semaToken, semaEmpty) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.CompareAndSwap(semaEmpty, semaWaiting) {
		s.mu.Lock()
		return
	}
	s.state.Store(semaEmpty) // the token has come meanwhile, and nobody else takes it
}

// Notify puts the token there unless there is one. It does not wait.
func (s *Sema) Notify() {
	for {
		switch s.state.Load() {
		case semaToken:
			return
		case semaEmpty:
			if s.state.CompareAndSwap(semaEmpty, semaToken) {
				return
			}
		case semaWaiting:
			if s.state.CompareAndSwap(semaWaiting, semaEmpty) {
				s.mu.Unlock()
				return
			}
		}
	}
}
