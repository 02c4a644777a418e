//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

// How a proxy passes on that a peer has died. The peers and the proxy are
// processes that are killed.

// victim listens at the endpoint os.Args[1], says where on standard output,
// takes one connection, answers "partial" when two bytes have arrived, of which
// it takes none, and waits to be killed. What a process that is killed has not
// read makes its sockets send a reset.
func victim() {
	var at endpoint
	if err := at.UnmarshalText([]byte(os.Args[1])); err != nil {
		log.Fatal(err)
	}
	l, err := at.listen(new(shmconn.ListenConfig))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(endpoint{at.net, l.Addr().String()})
	c, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	switch c := c.(type) {
	case *shmconn.Conn:
		_, err = c.Peek(2)
	case syscall.Conn:
		err = peek(c, 2)
	}
	if err == nil {
		_, err = io.WriteString(c, "partial")
	}
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, os.Stdin) // which never ends
}

// peek waits until n bytes can be read from the socket c.
func peek(c syscall.Conn, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		got, _, err := unix.Recvfrom(int(fd), make([]byte, n), unix.MSG_PEEK)
		return got >= n || err != nil && err != unix.EAGAIN
	})
}

// startVictim starts a victim, and returns where it listens.
func startVictim(t *testing.T, kind string) (*process, endpoint) {
	t.Helper()
	p := startProgram(t, "victim", spot(t, kind).String())
	line := make([]byte, 256)
	n, err := p.out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	var at endpoint
	if err := at.UnmarshalText(bytes.TrimSpace(line[:n])); err != nil {
		t.Fatal(err)
	}
	return p, at
}

// proxyProcess starts a proxy in a process of its own.
func proxyProcess(t *testing.T, from, to endpoint) (kill func(), at endpoint, log <-chan entry) {
	t.Helper()
	p, log := startLogging(t, "shmconn", "proxy", "--json", from.String(), to.String())
	if err := at.UnmarshalText([]byte(await(t, log, "listening").From)); err != nil {
		t.Fatal(err)
	}
	return func() {
		p.Process.Kill()
		p.Wait()
	}, at, log
}

// wantReset reads from c, which is of a kind, and wants nothing but the reset
// that the proxy gives it. A Unix socket can have none: all that its peer did
// send was read.
func wantReset(t *testing.T, c conn, kind string) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if kind == "unix" {
		if n != 0 || err != io.EOF {
			t.Errorf("over a Unix socket: %d bytes and %v, want EOF", n, err)
		}
		return
	}
	if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("over %s: %d bytes and %v, want a reset", kind, n, err)
	}
}

// A copy from a server that is killed does not look whole.
func TestProxyServerKilled(t *testing.T) {
	pairs(t, func(t *testing.T, from, to string) {
		server, at := startVictim(t, to)
		stop, at, log := proxyProcess(t, spot(t, from), at)
		defer stop()
		c := dial(t, at)
		io.WriteString(c, "ab")
		b := make([]byte, 7)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "partial" {
			t.Fatalf("%q, %v", b, err)
		}
		server.Process.Kill()
		wantReset(t, c, from)
		server.end(t, -1, "")
		if e := await(t, log, "ended"); e.Up != 2 || e.Down != 7 || e.Level != "WARN" || !strings.Contains(e.Error, "connection reset") {
			t.Errorf("the log has %+v", e)
		}
	})
}

// Nor does one from a client that is killed: cat over shared memory. What it
// had sent arrives.
func TestProxyClientKilled(t *testing.T) {
	for _, to := range kinds {
		t.Run("shm-"+to, func(t *testing.T) {
			begun, done := make(chan bool), make(chan bool)
			server := serve(t, to, func(c conn) {
				defer close(done)
				io.ReadFull(c, make([]byte, 5))
				begun <- true
				wantReset(t, c, to)
			})
			stop, at, log := proxyProcess(t, spot(t, "shm"), server)
			defer stop()
			client := start(t, "cat", at.addr)
			io.WriteString(client.in, "hello")
			<-begun
			client.Process.Kill()
			client.end(t, -1, "")
			<-done
			if e := await(t, log, "ended"); e.Up != 5 || e.Level != "WARN" || !strings.Contains(e.Error, "connection reset") {
				t.Errorf("the log has %+v", e)
			}
		})
	}
}

// A client over TCP that resets its connection, and a server that does.
func TestProxyResetTCP(t *testing.T) {
	for _, to := range kinds {
		t.Run("tcp-"+to, func(t *testing.T) {
			begun, done := make(chan bool), make(chan bool)
			server := serve(t, to, func(c conn) {
				defer close(done)
				c.Read(make([]byte, 1))
				begun <- true
				wantReset(t, c, to)
			})
			c := dial(t, startProxy(t, spot(t, "tcp"), server).at)
			c.Write([]byte{1})
			<-begun
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			<-done
		})
	}
}

// The end of the proxy itself is no orderly one, either.
func TestProxyKilled(t *testing.T) {
	pairs(t, func(t *testing.T, from, to string) {
		begun, done := make(chan bool), make(chan bool)
		server := serve(t, to, func(c conn) {
			defer close(done)
			c.Read(make([]byte, 1))
			c.Write([]byte{2})
			<-begun
			wantReset(t, c, to)
		})
		kill, at, _ := proxyProcess(t, spot(t, from), server)
		c := dial(t, at)
		c.Write([]byte{1})
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		kill()
		close(begun)
		<-done
		wantReset(t, c, from)
	})
}

// stopProcess stops p, and returns when it stands still.
func stopProcess(t *testing.T, p *os.Process) {
	t.Helper()
	p.Signal(syscall.SIGSTOP)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, _ := bytes.Cut(stat, []byte(") ")); bytes.HasPrefix(rest, []byte("T")) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A target that refuses: the client over a Unix socket gets a reset if it has
// sent something before the proxy closes.
func TestProxyRefused(t *testing.T) {
	for _, from := range kinds {
		for _, to := range kinds {
			t.Run(from+"-"+to, func(t *testing.T) {
				nobody := spot(t, to)
				if to == "tcp" {
					nobody.addr = "127.0.0.1:1"
				}
				p, log := startLogging(t, "shmconn", "proxy", "--json", spot(t, from).String(), nobody.String())
				var at endpoint
				if err := at.UnmarshalText([]byte(await(t, log, "listening").From)); err != nil {
					t.Fatal(err)
				}
				if from != "shm" {
					stopProcess(t, p.Process) // the kernel connects nevertheless
				}
				c := dial(t, at)
				if from == "unix" {
					io.WriteString(c, "request")
				}
				p.Process.Signal(syscall.SIGCONT)
				if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client reads %d bytes and %v, want a reset", n, err)
				}
				if e := await(t, log, "cannot connect"); e.Level != "ERROR" || !strings.Contains(e.Error, "connection refused") && !strings.Contains(e.Error, "no such file") {
					t.Errorf("the log has %+v", e)
				}
				p.Process.Kill()
				p.Wait()
			})
		}
	}
}

// What was carried arrives before the reset, also where the kernel has not sent
// it all when the client dies.
func TestProxyDeliversBeforeReset(t *testing.T) {
	const size = 1 << 20 // more than a socket's buffers take at first
	for _, to := range kinds {
		t.Run("shm-"+to, func(t *testing.T) {
			dead, done := make(chan bool), make(chan bool)
			server := serve(t, to, func(c conn) {
				defer close(done)
				if to == "tcp" {
					<-dead
				}
				if n, err := io.CopyN(io.Discard, c, size); err != nil {
					t.Errorf("%d of %d bytes arrived, %v", n, size, err)
					return
				}
				wantReset(t, c, to)
			})
			c := dial(t, startProxy(t, spot(t, "shm"), server).at).(*shmconn.Conn)
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			c.Abort()
			close(dead)
			<-done
		})
	}
}

// A reset that a call that writes has found out, and taken away from the
// kernel, is seen by the state of the connection.
func TestWasReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, reset := range []bool{true, false} {
		peer, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if reset {
			peer.(*net.TCPConn).SetLinger(0)
		}
		peer.Close()
		if reset {
			for err = nil; err == nil; _, err = c.Write([]byte{1}) {
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Write: %v", err)
			}
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read: %d bytes, %v", n, err)
		}
		link := &leg{conn: c.(conn)}
		if link.wasReset() != reset {
			t.Errorf("wasReset is %v, want %v", !reset, reset)
		}
	}
	// Both ends have closed in order.
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	end := &leg{conn: c.(conn)}
	end.sentAll.Store(true)
	end.CloseWrite()
	io.Copy(io.Discard, peer)
	peer.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF || end.wasReset() {
		t.Errorf("closed in order: %d bytes, %v; wasReset is %v", n, err, end.wasReset())
	}
}
