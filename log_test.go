//go:build linux

package shmconn_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn"
)

// records is a slog.Handler that hands out what is logged.
type records chan map[string]string

func (records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r records) WithGroup(string) slog.Handler          { return r }

func (r records) Handle(_ context.Context, rec slog.Record) error {
	m := map[string]string{"msg": rec.Message, "level": rec.Level.String()}
	rec.Attrs(func(a slog.Attr) bool {
		m[a.Key] = a.Value.String()
		return true
	})
	r <- m
	return nil
}

// hungUp waits until the listener has closed p's socket.
func (p *rawPeer) hungUp() {
	p.t.Helper()
	fds := []unix.PollFd{{Fd: int32(p.sock), Events: unix.POLLRDHUP}}
	for {
		if n, err := unix.Poll(fds, -1); err != unix.EINTR {
			if n != 1 || err != nil {
				p.t.Fatal(n, err)
			}
			return
		}
	}
}

// refusals are dialers that are refused, and why.
var refusals = []struct {
	reason string
	do     func(p *rawPeer)
}{
	{"introduction is not understood", func(p *rawPeer) { p.say([]byte("hello"), nil) }},
	{"introduction is not understood", func(p *rawPeer) {
		message, fds := p.hello()
		p.say(message, fds[:2])
	}},
	{"introduction is not understood", func(p *rawPeer) { unix.Shutdown(p.sock, unix.SHUT_RDWR) }},
	{"said nothing in time", func(p *rawPeer) {}},
}

// A listener's Logger is told of each dialer that is refused, of none that is not, and
// not of the end of those that wait when the listener closes.
func TestLogger(t *testing.T) {
	name := newName()
	got := make(records, 16)
	l, err := (&shmconn.ListenConfig{Logger: slog.New(got)}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, tt := range refusals {
		p := rawDialer(t, name, shape{})
		tt.do(p)
		p.hungUp()
		want := map[string]string{
			"msg": "shmconn: dialer refused", "level": "WARN", "listener": name, "reason": tt.reason,
			"pid": fmt.Sprint(os.Getpid()), "uid": fmt.Sprint(os.Getuid()), "gid": fmt.Sprint(os.Getgid()),
		}
		if m := <-got; fmt.Sprint(m) != fmt.Sprint(want) {
			t.Errorf("refusal %d: %v\nwant %v", i, m, want)
		}
		shape{}.mustDial(t, name)
		mustAccept(t, l)
	}
	rawDialer(t, name, shape{}) // says nothing until the listener closes
	shape{}.mustDial(t, name)
	mustAccept(t, l) // so it has been taken off the backlog
	l.Close()
	if len(got) > 0 {
		t.Errorf("logged without a refusal: %v", <-got)
	}
}

// Without a Logger nothing is logged anywhere.
func TestNoLogger(t *testing.T) {
	got := make(records, 16)
	flags := log.Flags()
	defer func(old *slog.Logger) { // package log writes to what SetDefault is given
		slog.SetDefault(old)
		log.SetOutput(os.Stderr)
		log.SetFlags(flags)
	}(slog.Default())
	slog.SetDefault(slog.New(got))
	name := newName()
	l := shape{}.mustListen(t, name)
	p := rawDialer(t, name, shape{})
	refusals[0].do(p)
	p.hungUp()
	l.Close()
	if len(got) > 0 {
		t.Errorf("logged: %v", <-got)
	}
}
