//go:build linux

package scarce

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// lateDialer dials twice, and says what it has read over the second connection,
// which uses the first one's memory again.
func lateDialer(s shmtest.Shape, in *bufio.Scanner) {
	unix.Prctl(unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY, 0, 0, 0)
	in.Scan()
	name := in.Text()
	c, err := (&shmconn.Dialer{SpareTime: s.SpareTime, Wait: 20 * time.Second}).Dial(name)
	if err == nil {
		err = greet(c)
	}
	fmt.Println(shmtest.Class(err))
	in.Scan() // strace has attached
	c, err = (&shmconn.Dialer{SpareTime: s.SpareTime, Wait: 20 * time.Second}).Dial(name)
	if err != nil {
		fmt.Println(shmtest.Class(err))
		return
	}
	b, err := io.ReadAll(c)
	fmt.Printf("%q, again %d, %s\n", b, c.Stats().Reused, shmtest.Class(err))
	c.Close()
	handshake.DropSpares()
	in.Scan()
}

// delayed attaches strace to a helper, so that it delays the system calls.
func delayed(t *testing.T, h *shmtest.Helper, inject string) {
	t.Helper()
	call, _, _ := strings.Cut(inject, ":")
	tracer := exec.Command("strace", "-f", "-o", "/dev/null", "-p", strconv.Itoa(h.PID), "-e", "trace="+call, "-e", "inject="+inject)
	tracer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	says, err := tracer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("not tried: strace is not installed")
	} else if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	attached := false
	sc := bufio.NewScanner(says)
	for !attached && sc.Scan() {
		fmt.Fprintln(&complaint, sc.Text())
		attached = strings.Contains(sc.Text(), "attached")
	}
	go io.Copy(io.Discard, says)
	t.Cleanup(func() {
		tracer.Process.Signal(os.Interrupt)
		tracer.Wait()
	})
	if !attached {
		t.Skipf("not tried: %v: %s", errNoTrace, &complaint)
	}
}

// TestServedBeforeTheDialerKnows has a listener write and close, or abort,
// before the dialer returns from the system call by which it has told that it
// uses memory again. It reads what was written, and dials no second time.
func TestServedBeforeTheDialerKnows(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, SpareTime: time.Minute}
	for _, tt := range []struct {
		how  string
		end  func(c *shmconn.Conn) error
		want string
	}{
		{"closes", (*shmconn.Conn).Close, `"served 2", again 1, ok`},
		{"closes, and keeps nothing", func(c *shmconn.Conn) error {
			return c.Guard(func() { c.Close() })
		}, `"served 2", again 1, ok`},
		{"aborts", (*shmconn.Conn).Abort, `"served 2", again 1, ECONNRESET`},
	} {
		t.Run(strings.ReplaceAll(tt.how, " ", "_"), func(t *testing.T) {
			l := s.MustListen(t, shmtest.NewName()).(*shmconn.Listener)
			h := shmtest.StartHelper(t, "latedialer", s)
			h.Send("%s", shmtest.NameOf(l))
			if err := answerGreeting(shmtest.MustAccept(t, l)); err != nil {
				t.Fatal(err)
			}
			h.Expect("ok")
			delayed(t, h, "sendmsg:delay_exit=300000")
			h.Send("")
			c := shmtest.MustAccept(t, l).(*shmconn.Conn)
			fmt.Fprintf(c, "served %d", l.Stats().Accepted)
			if err := tt.end(c); err != nil {
				t.Error(err)
			}
			another := make(chan string)
			go func() {
				if c, err := l.AcceptConn(); err == nil {
					fmt.Fprintf(c, "served %d", l.Stats().Accepted)
					c.Close()
				}
				close(another)
			}()
			h.Expect(tt.want)
			l.Close()
			<-another
			if n := l.Stats().Accepted; n != 2 {
				t.Errorf("%d connections for two dials", n)
			}
		})
	}
}

// TestTooLate has a dialer stop for so long before it tells that it has taken a
// spare that the listener lets go of it, or closes: it dials anew.
func TestTooLate(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, SpareTime: time.Minute}
	l := s.MustListen(t, shmtest.NewName()).(*shmconn.Listener)
	h := shmtest.StartHelper(t, "latedialer", s)
	h.Send("%s", shmtest.NameOf(l))
	if err := answerGreeting(shmtest.MustAccept(t, l)); err != nil {
		t.Fatal(err)
	}
	h.Expect("ok")
	how := "lets go"
	if *shmtest.Long {
		delayed(t, h, "socket:delay_enter=4000000")
	} else {
		how = "closes, and another one listens"
		delayed(t, h, "socket:delay_enter=300000")
	}
	h.Send("")
	if !*shmtest.Long {
		time.Sleep(100 * time.Millisecond) // in the middle of the delay, mostly
		l.Close()
		l = s.MustListen(t, shmtest.NameOf(l)).(*shmconn.Listener)
	}
	c := shmtest.MustAccept(t, l).(*shmconn.Conn)
	fmt.Fprint(c, "served")
	c.Close()
	t.Logf("figure: the listener %s", how)
	h.Expect(`"served", again 0, ok`)
}
