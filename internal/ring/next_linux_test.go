package ring

import (
	"os"
	"syscall"
	"testing"
)

// TestNext has both ends go on over memory that is not there any more: a peer
// can truncate it at any moment.
func TestNext(t *testing.T) {
	page := os.Getpagesize()
	b, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(b)
	h, data := At(b), b[page:]
	p, c := NewProducer(h, data, 0), NewConsumer(h, data, 0)
	p.Put([]byte("first"))
	p.Publish()
	c.Refresh()
	c.Skip(5)
	c.Publish()
	if err := syscall.Mprotect(b, syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	p, c = p.Next(), c.Next() // which would end the process
	if err := syscall.Mprotect(b, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	if p.Written() != 0 || c.Consumed() != 0 || p.Free() != page || c.Ready() != 0 {
		t.Errorf("at first %d written, %d read, room for %d, %d to read", p.Written(), c.Consumed(), p.Free(), c.Ready())
	}
	p.Put([]byte("next"))
	p.Publish()
	got := make([]byte, 8)
	if _, err := c.Refresh(); err != nil {
		t.Fatal(err)
	}
	if n := c.Take(got); string(got[:n]) != "next" || p.Written() != 4 || c.Consumed() != 4 {
		t.Errorf("read %q; %d written, %d read", got[:n], p.Written(), c.Consumed())
	}
}
