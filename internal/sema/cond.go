package sema

import "sync"

// A Cond is what goroutines wait at until what L guards has changed. It does
// what a sync.Cond does, in and out of bubbles of testing/synctest.
type Cond struct {
	L sync.Mutex

	waiting []*Sema // guarded by L
}

// Wait waits for the next Broadcast. The caller has L, and has it again when
// Wait returns; meanwhile others may.
func (c *Cond) Wait() {
	var s Sema
	c.waiting = append(c.waiting, &s)
	c.L.Unlock()
	s.Wait()
	c.L.Lock()
}

// Broadcast wakes all that wait. The caller has L.
func (c *Cond) Broadcast() {
	for _, s := range c.waiting {
		s.Notify()
	}
	c.waiting = nil
}
