//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"shmconn"
	"shmconn/internal/shmtest"
)

func TestNettestExclusive(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			a, b, stop, err := s.Connect()
			if err != nil {
				return nil, nil, nil, err
			}
			return shmtest.NewExclusively(a), shmtest.NewExclusively(b), stop, nil
		})
	})
}

// TestExclusiveStream sends a long stream by a Producer's calls, at random, to
// a Consumer's.
func TestExclusiveStream(t *testing.T) {
	total := 4 << 20
	if shmtest.RaceEnabled || testing.Short() {
		total = 1 << 20
	}
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		longest := s.RingSize() / 2
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		sent := make(chan error, 1)
		go func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			sent <- a.Produce(func(p *shmconn.Producer) error {
				for done := 0; done < total; {
					n := min(1+int(rnd.ExpFloat64()*100), total-done)
					if rnd.IntN(100) == 0 {
						n = min(1+rnd.IntN(longest), total-done)
					}
					var err error
					switch rnd.IntN(4) {
					case 0:
						n, err = p.Write(shmtest.Pattern(done, n))
					case 1, 2:
						n, err = p.Put(shmtest.Pattern(done, n))
					case 3:
						n = min(n, longest)
						var room []byte
						if room, err = p.Reserve(n); err == nil {
							n = rnd.IntN(len(room)) + 1
							copy(room, shmtest.Pattern(done, n))
							err = p.Commit(n)
						}
					}
					if err != nil {
						return err
					}
					done += n
				}
				return nil // what was Put is flushed
			})
			a.CloseWrite()
		}()
		rnd := rand.New(rand.NewPCG(seed, 2))
		got := 0
		err := b.Consume(func(r *shmconn.Consumer) error {
			buf := make([]byte, longest)
			for {
				n := min(1+int(rnd.ExpFloat64()*100), longest)
				var err error
				switch rnd.IntN(3) {
				case 0:
					n, err = r.Read(buf[:n])
					shmtest.CheckPattern(t, buf[:n], got)
				case 1:
					var span []byte
					if span, err = r.Peek(n); err == io.EOF {
						err = nil // the rest is still to be discarded
					}
					if n = len(span); n == 0 {
						return nil
					}
					shmtest.CheckPattern(t, span, got)
					if err == nil {
						n, err = r.Discard(n)
					}
				case 2:
					var span []byte
					span, err = r.PeekAtLeast(1)
					shmtest.CheckPattern(t, span, got)
					if n = len(span); err == nil {
						n, err = r.Discard(rnd.IntN(n + 1))
					}
				}
				got += n
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
			}
		})
		if err := errors.Join(err, <-sent); err != nil || got != total {
			t.Errorf("got %d of %d bytes: %v", got, total, err)
		}
		if st := a.Stats(); st.BytesWritten != uint64(total) {
			t.Errorf("BytesWritten = %d, want %d", st.BytesWritten, total)
		}
	})
}

// TestPut looks when the peer sees what was Put.
func TestPut(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		see := func(what string, want int) {
			t.Helper()
			if got := b.Buffered(); got != want {
				t.Errorf("after %s the peer sees %d bytes, want %d", what, got, want)
			}
			if want > 0 {
				b.Discard(want)
			}
		}
		err := a.Produce(func(p *shmconn.Producer) error {
			put := func(n int) {
				if m, err := p.Put(make([]byte, n)); m != n || err != nil {
					t.Errorf("Put(%d) = %d, %v", n, m, err)
				}
			}
			put(10)
			put(20)
			see("Put", 0)
			if err := p.Flush(); err != nil {
				t.Error(err)
			}
			see("Flush", 30)
			p.Flush()
			see("Flush of nothing", 0)
			put(5)
			p.Write(make([]byte, 6))
			see("Put and Write", 11)
			put(7)
			if room, err := p.Reserve(8); err != nil {
				t.Error(err)
			} else {
				clear(room)
			}
			see("Put and Reserve", 0)
			p.Commit(3)
			see("Put and Commit", 10)
			put(9)
			a.SetWriteDeadline(time.Unix(1, 0))
			if _, err := p.Put([]byte{1}); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Put after the deadline: %v", err)
			}
			see("the deadline", 9) // what was Put before is flushed by what fails
			a.SetWriteDeadline(time.Time{})
			put(4)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		see("the end of Produce", 4)

		own := errors.New("own")
		if err := a.Produce(func(p *shmconn.Producer) error { p.Put(make([]byte, 12)); return own }); err != own {
			t.Errorf("error of f: %v, want %v", err, own)
		}
		see("an error", 12)

		// More than the ring holds: the peer sees it before all is put.
		n := 3 * s.RingSize()
		done := make(chan error, 1)
		go func() {
			done <- a.Produce(func(p *shmconn.Producer) error {
				for i := range n {
					if _, err := p.Put(shmtest.Pattern(i, 1)); err != nil {
						return err
					}
				}
				return nil
			})
		}()
		buf := make([]byte, n)
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Error(err)
		}
		shmtest.CheckPattern(t, buf, 0)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestExclusiveErrors are those of a Conn, and two of their own.
func TestExclusiveErrors(t *testing.T) {
	a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
	var p *shmconn.Producer
	var r *shmconn.Consumer
	err := a.Produce(func(q *shmconn.Producer) error {
		p = q
		if _, err := p.Reserve(2049); err == nil || !strings.Contains(err.Error(), "half the ring size") {
			t.Errorf("Reserve(2049): %v", err)
		}
		if err := p.Commit(1); err == nil || !strings.Contains(err.Error(), "0 are reserved") {
			t.Errorf("Commit of nothing: %v", err)
		}
		if n, err := p.Write(nil); n != 0 || err != nil {
			t.Errorf("Write(nil) = %d, %v", n, err)
		}
		if n, err := p.Write(make([]byte, 4096)); n != 4096 || err != nil {
			t.Errorf("Write(4096) = %d, %v", n, err)
		}
		a.SetWriteDeadline(time.Now().Add(time.Millisecond))
		n, err := p.Write(make([]byte, 1))
		if shmtest.WantErr(t, "Write", err, "write timeout"); n != 0 {
			t.Errorf("Write to a full ring wrote %d bytes", n)
		}
		return err
	})
	shmtest.WantErr(t, "Produce", err, "write timeout")
	a.SetWriteDeadline(time.Time{})
	b.Discard(4096)

	err = b.Consume(func(q *shmconn.Consumer) error {
		r = q
		if _, err := r.Peek(2049); err == nil || !strings.Contains(err.Error(), "half the ring size") {
			t.Errorf("Peek(2049): %v", err)
		}
		if _, err := r.Discard(-1); err == nil || !strings.Contains(err.Error(), "negative") {
			t.Errorf("Discard(-1): %v", err)
		}
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Errorf("Read(nil) = %d, %v", n, err)
		}
		b.SetReadDeadline(time.Unix(1, 0))
		_, err := r.Read(make([]byte, 1))
		return err
	})
	shmtest.WantErr(t, "Consume", err, "read timeout")

	for what, f := range map[string]func() error{
		"Write":       func() error { _, err := p.Write([]byte{1}); return err },
		"Put":         func() error { _, err := p.Put([]byte{1}); return err },
		"Flush":       func() error { return p.Flush() },
		"Reserve":     func() error { _, err := p.Reserve(1); return err },
		"Commit":      func() error { return p.Commit(0) },
		"Read":        func() error { _, err := r.Read(make([]byte, 1)); return err },
		"Peek":        func() error { _, err := r.Peek(1); return err },
		"PeekAtLeast": func() error { _, err := r.PeekAtLeast(1); return err },
		"Discard":     func() error { _, err := r.Discard(1); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "has returned") {
			t.Errorf("%s after the function has returned: %v", what, err)
		}
	}
	if n := b.Buffered(); n != 0 {
		t.Errorf("%d bytes came through", n)
	}
	a.Close()
	shmtest.WantErr(t, "Produce after Close", a.Produce(func(*shmconn.Producer) error { t.Error("called"); return nil }), "write closed")
	shmtest.WantErr(t, "Consume after Close", a.Consume(func(*shmconn.Consumer) error { t.Error("called"); return nil }), "read closed")
}

// TestExclusiveWaits has others wait for f, and not longer than their deadline.
func TestExclusiveWaits(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	var write chan error
	err := a.Produce(func(p *shmconn.Producer) error {
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, err := a.Write([]byte("late"))
		shmtest.WantErr(t, "Write from within", err, "write timeout")
		a.SetWriteDeadline(time.Time{})
		if n, err := a.TryWrite([]byte("late")); n != 0 || err != nil {
			t.Errorf("TryWrite from within = %d, %v", n, err)
		}
		write = make(chan error, 1)
		go func() {
			_, err := a.Write([]byte("second"))
			write <- err
		}()
		for range 100 {
			runtime.Gosched()
		}
		time.Sleep(5 * time.Millisecond) // more than starvingAfter in turn: it asks for the lock
		for _, s := range []string{"fi", "rst"} {
			if _, err := p.Write([]byte(s)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, <-write); err != nil {
		t.Error(err)
	}
	buf := make([]byte, len("firstsecond"))
	io.ReadFull(b, buf)
	if string(buf) != "firstsecond" {
		t.Errorf("read %q", buf)
	}
}

// TestExclusiveEnds ends a connection in each way while f does not call: none
// waits for f, the peer is told at once, and f's next calls fail.
func TestExclusiveEnds(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		end                     func(c *shmconn.Conn) error
		peer, read, write, end2 string
	}{
		{"Close", (*shmconn.Conn).Close, "EOF", "read closed", "write closed", "close closed"},
		{"Abort", (*shmconn.Conn).Abort, "read ECONNRESET", "read closed", "write closed", "close closed"},
		{"CloseWrite", (*shmconn.Conn).CloseWrite, "EOF", "", "write EPIPE", ""},
		{"CloseRead", (*shmconn.Conn).CloseRead, "", "EOF", "ok", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
				a, b := s.ShmPair(t)
				err := a.Produce(func(p *shmconn.Producer) error {
					return a.Consume(func(r *shmconn.Consumer) error {
						b.Write([]byte("before"))
						if _, err := r.Read(make([]byte, 6)); err != nil {
							return err
						}
						if _, err := p.Write([]byte("before")); err != nil {
							return err
						}
						if err := tt.end(a); err != nil { // from this goroutine, so not in a call
							t.Errorf("%s: %v", tt.name, err)
						}
						if tt.peer != "" {
							got, err := io.ReadAll(b)
							if err == nil {
								err = io.EOF
							}
							if shmtest.WantErr(t, "the peer's Read", err, tt.peer); string(got) != "before" {
								t.Errorf("the peer has read %q", got)
							}
						} else if _, err := b.Write([]byte("more")); err == nil {
							t.Error("the peer's Write succeeds")
						}
						_, err := p.Write([]byte("after"))
						shmtest.WantErr(t, "Write", err, tt.write)
						_, err = p.Put([]byte("after"))
						shmtest.WantErr(t, "Put", err, tt.write)
						shmtest.WantErr(t, "Flush", p.Flush(), "ok") // nothing was put, or it is flushed
						if tt.read != "" {
							_, err = r.Read(make([]byte, 1))
							shmtest.WantErr(t, "Read", err, tt.read)
							_, err = r.Peek(1)
							shmtest.WantErr(t, "Peek", err, tt.read)
						}
						if tt.end2 != "" {
							shmtest.WantErr(t, "again", tt.end(a), tt.end2)
						}
						return nil
					})
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestExclusiveClosedWaiting closes while f waits, in each call that can.
func TestExclusiveClosedWaiting(t *testing.T) {
	for name, f := range map[string]func(c *shmconn.Conn) error{
		"Write": func(c *shmconn.Conn) error {
			return c.Produce(func(p *shmconn.Producer) error {
				for {
					if _, err := p.Write(make([]byte, 1000)); err != nil {
						return err
					}
				}
			})
		},
		"Put": func(c *shmconn.Conn) error {
			return c.Produce(func(p *shmconn.Producer) error {
				for {
					if _, err := p.Put(make([]byte, 10)); err != nil {
						return err
					}
				}
			})
		},
		"Reserve": func(c *shmconn.Conn) error {
			return c.Produce(func(p *shmconn.Producer) error {
				for {
					if _, err := p.Reserve(2000); err != nil {
						return err
					}
					if err := p.Commit(2000); err != nil {
						return err
					}
				}
			})
		},
		"Read": func(c *shmconn.Conn) error {
			return c.Consume(func(r *shmconn.Consumer) error { _, err := r.Read(make([]byte, 1)); return err })
		},
		"Peek": func(c *shmconn.Conn) error {
			return c.Consume(func(r *shmconn.Consumer) error { _, err := r.Peek(1); return err })
		},
		"PeekAtLeast": func(c *shmconn.Conn) error {
			return c.Consume(func(r *shmconn.Consumer) error { _, err := r.PeekAtLeast(1); return err })
		},
		"Discard": func(c *shmconn.Conn) error {
			return c.Consume(func(r *shmconn.Consumer) error { _, err := r.Discard(1); return err })
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []shmtest.Shape{{Ring: 4096}, shmtest.Shape{Ring: 4096}.Poll(1), shmtest.Shape{Ring: 4096}.Poll(-1)} {
				a, _ := s.ShmPair(t)
				var err error
				done := shmtest.Blocked(a, func() { err = f(a) })
				a.Close()
				<-done
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%v: %v", s, err)
				}
			}
		})
	}
}

// TestExclusiveRacingClose closes in the very moment of a Producer's Write,
// from another goroutine: whatever Write says to have written is read, and then
// the end, once and for all.
func TestExclusiveRacingClose(t *testing.T) {
	rounds := 3000
	if shmtest.RaceEnabled || testing.Short() {
		rounds = 300
	}
	for _, end := range []func(c *shmconn.Conn) error{(*shmconn.Conn).Close, (*shmconn.Conn).CloseWrite} {
		l := shmtest.Shape{Ring: 4096}.MustListen(t, shmtest.NewName())
		for i := range rounds {
			a := shmtest.Shape{}.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
			b := shmtest.MustAccept(t, l)
			written := make(chan int, 1)
			var started atomic.Bool
			go a.Produce(func(p *shmconn.Producer) (err error) {
				n := 0
				for msg := make([]byte, 8); err == nil; {
					var m int
					m, err = p.Write(msg)
					n += m
					started.Store(true)
				}
				written <- n
				return nil
			})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for !started.Load() {
				}
				for range i % 500 {
				}
				end(a)
			}()
			got, buf := 0, make([]byte, 512)
			var err error
			for err == nil {
				var n int
				n, err = b.Read(buf)
				got += n
			}
			<-ended
			n, again := b.Read(buf)
			if want := <-written; err != io.EOF || got != want || n != 0 || again != io.EOF {
				t.Fatalf("round %d: read %d of %d bytes, %v, then %d, %v", i, got, want, err, n, again)
			}
			a.Close()
			b.Close()
		}
		l.Close()
	}
}

// TestExclusiveRests closes in the very moment of a Producer's call, after
// which f rests until Close has returned: so that call, when it leaves, does
// what Close found it in the way of.
func TestExclusiveRests(t *testing.T) {
	rounds := 3000
	if shmtest.RaceEnabled || testing.Short() {
		rounds = 300
	}
	l := shmtest.Shape{Ring: 4096}.MustListen(t, shmtest.NewName())
	for i := range rounds {
		a := shmtest.Shape{}.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
		b := shmtest.MustAccept(t, l)
		var started atomic.Bool
		closed := make(chan error, 1)
		go func() {
			for !started.Load() {
			}
			for range i % 300 {
			}
			closed <- a.Close()
		}()
		read := make(chan int, 1)
		go func() {
			got, err := io.ReadAll(b)
			if err != nil {
				t.Error(err)
			}
			read <- len(got)
		}()
		written := 0
		a.Produce(func(p *shmconn.Producer) error {
			for msg := make([]byte, 8); ; {
				n, err := p.Write(msg)
				started.Store(true)
				if written += n; err != nil {
					return <-closed
				}
			}
		})
		if got := <-read; got != written {
			t.Fatalf("round %d: read %d of %d bytes", i, got, written)
		}
		b.Close()
	}
}

// TestExclusiveDone closes while f rests: the peer's Done says so at once.
func TestExclusiveDone(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		early := b.Done()
		if err := a.Produce(func(*shmconn.Producer) error {
			a.Close()
			<-early
			<-b.Done()
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// TestExclusivePanics has f end in other ways than by returning. The half is
// free afterwards, and what was put is not lost.
func TestExclusivePanics(t *testing.T) {
	a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		a.Produce(func(p *shmconn.Producer) error { p.Put([]byte("one")); panic("mine") })
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Produce(func(p *shmconn.Producer) error { p.Put([]byte("two")); runtime.Goexit(); return nil })
	}()
	<-done
	a.Write([]byte("three"))
	buf := make([]byte, 11)
	if _, err := io.ReadFull(b, buf); err != nil || string(buf) != "onetwothree" {
		t.Errorf("read %q, %v", buf, err)
	}
	go func() {
		b.Consume(func(r *shmconn.Consumer) error { runtime.Goexit(); return nil })
	}()
	a.Write([]byte("four"))
	if _, err := io.ReadFull(b, buf[:4]); err != nil || string(buf[:4]) != "four" {
		t.Errorf("read %q, %v", buf[:4], err)
	}
}

// TestExclusiveTruncated truncates the segment under f: f is ended, with its
// deferred calls, and the error names what was done.
func TestExclusiveTruncated(t *testing.T) {
	shmtest.SkipRaced(t)
	for name, f := range map[string]func(a *shmconn.Conn, deferred func()) error{
		"Produce": func(a *shmconn.Conn, deferred func()) error {
			return a.Produce(func(p *shmconn.Producer) error {
				defer deferred()
				for {
					p.Write([]byte("x"))
				}
			})
		},
		"in place": func(a *shmconn.Conn, deferred func()) error {
			return a.Produce(func(p *shmconn.Producer) error {
				defer deferred()
				for {
					room, err := p.Reserve(8)
					if err != nil {
						return err
					}
					binary.NativeEndian.PutUint64(room, 1)
				}
			})
		},
		"Consume": func(a *shmconn.Conn, deferred func()) error {
			return a.Consume(func(r *shmconn.Consumer) error {
				defer deferred()
				for {
					r.Read(make([]byte, 1))
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{Ring: 1 << 16}.Poll(-1))
			go io.Copy(io.Discard, b)
			go func() {
				for {
					if _, err := b.Write([]byte("x")); err != nil {
						return
					}
				}
			}()
			defers := 0
			done := make(chan error, 1)
			go func() { done <- f(a, func() { defers++ }) }()
			time.Sleep(time.Millisecond)
			if err := seg.Truncate(0); err != nil {
				t.Fatal(err)
			}
			err := <-done
			if _, ok := errors.AsType[*shmconn.CorruptError](err); !ok || defers != 1 {
				t.Errorf("%v, and %d deferred calls", err, defers)
			}
		})
	}
}

// TestExclusiveAllocs counts what a message costs the garbage collector.
func TestExclusiveAllocs(t *testing.T) {
	shmtest.SkipSockets(t, "calls allocate")
	if shmtest.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b := shmtest.Shape{}.ShmPair(t)
	buf := make([]byte, 100)
	a.Produce(func(p *shmconn.Producer) error {
		return b.Consume(func(r *shmconn.Consumer) error {
			for name, f := range map[string]func(){
				"Write and Read":      func() { p.Write(buf); r.Read(buf) },
				"Put, Flush, Read":    func() { p.Put(buf[:50]); p.Put(buf[:50]); p.Flush(); r.Read(buf) },
				"Reserve ... Discard": func() { p.Reserve(9); p.Commit(9); r.Peek(9); r.Discard(9) },
				"PeekAtLeast":         func() { p.Write(buf); s, _ := r.PeekAtLeast(9); r.Discard(len(s)) },
			} {
				if n := testing.AllocsPerRun(200, f); n != 0 {
					t.Errorf("%s: %v allocations, want 0", name, n)
				}
			}
			return nil
		})
	})
}

// TestExclusiveBufio wraps the handles as a Conn is wrapped.
func TestExclusiveBufio(t *testing.T) {
	a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
	go a.Produce(func(p *shmconn.Producer) error {
		w := bufio.NewWriter(p)
		for i := range 10000 {
			fmt.Fprintln(w, i)
		}
		return errors.Join(w.Flush(), a.CloseWrite())
	})
	var got bytes.Buffer
	err := b.Consume(func(r *shmconn.Consumer) error {
		_, err := io.Copy(&got, bufio.NewReader(r))
		return err
	})
	if want := 48890; err != nil || got.Len() != want || !strings.HasSuffix(got.String(), "\n9999\n") {
		t.Errorf("read %d bytes, %v, want %d", got.Len(), err, want)
	}
}

// TestPutUnsent has a Producer Put bytes that it cannot hand over any more,
// because the peer has closed: nobody counts them.
func TestPutUnsent(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		err := a.Produce(func(p *shmconn.Producer) error {
			if _, err := p.Put([]byte("sent")); err != nil {
				return err
			}
			if err := p.Flush(); err != nil {
				return err
			}
			if err := b.Close(); err != nil {
				return err
			}
			_, err := p.Put([]byte("not sent")) // which need not know of the end yet
			return err
		})
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Produce: %v", err)
		}
		for _, when := range []string{"before", "after"} {
			if n := a.Stats().BytesWritten; n != 4 {
				t.Errorf("%s Close BytesWritten = %d, want 4", when, n)
			}
			a.Close()
		}
	})
}
