//go:build linux

package shmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

// Agent is an end in another process, told what to do line by line. Connections
// are numbered from 0. An answer is "ok", or what went wrong.
func Agent(s Shape, in *bufio.Scanner) {
	var (
		l     Listener
		conns []Conn
		sent  []int // per connection: bytes of the pattern written and read
		got   []int
	)
	add := func(c Conn) {
		conns = append(conns, c)
		sent = append(sent, 0)
		got = append(got, 0)
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		num := func(i int) int {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				panic(err)
			}
			return n
		}
		var err error
		switch f[0] {
		case "listen":
			l, err = s.Listen(f[1])
		case "listenmode":
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: fs.FileMode(num(2))}
			var sl *shmconn.Listener
			sl, err = lc.Listen(f[1])
			l = sl
		case "unlisten":
			err = l.Close()
		case "accept":
			var c net.Conn
			if c, err = l.Accept(); err == nil {
				add(c.(Conn))
			}
		case "dial":
			var c Conn
			if c, err = s.Dial(f[1]); err == nil {
				add(c)
			}
		case "write": // connection, bytes
			i, n := num(1), num(2)
			var m int
			m, err = conns[i].Write(Pattern(sent[i], n))
			sent[i] += m
			if err == nil && m != n {
				err = fmt.Errorf("wrote %d of %d", m, n)
			}
		case "read": // connection, bytes
			i, n := num(1), num(2)
			b := make([]byte, n)
			var m int
			m, err = io.ReadFull(conns[i], b)
			if d := FirstDiff(b[:m], got[i]); d >= 0 {
				err = fmt.Errorf("byte %d differs", got[i]+d)
			}
			got[i] += m
		case "readall": // connection
			i := num(1)
			var b []byte
			b, err = io.ReadAll(conns[i])
			if d := FirstDiff(b, got[i]); d >= 0 {
				err = fmt.Errorf("byte %d differs", got[i]+d)
			}
			got[i] += len(b)
			fmt.Println(len(b))
		case "close":
			err = conns[num(1)].Close()
		case "abort":
			err = conns[num(1)].(*shmconn.Conn).Abort()
		case "closewrite":
			err = conns[num(1)].CloseWrite()
		case "done": // connection: waits for Done
			select {
			case <-conns[num(1)].(*shmconn.Conn).Done():
			case <-time.After(30 * time.Second):
				err = errors.New("the connection is not done")
			}
		case "cred":
			pid, uid, gid := conns[num(1)].(*shmconn.Conn).PeerCred()
			fmt.Println(pid, uid, gid)
			continue
		case "return": // from main, without Close
			return
		case "os.Exit", "panic", "log.Fatal": // likewise
			unix.Dup2(int(os.Stdin.Fd()), 2) // what it says is of no interest
			switch f[0] {
			case "os.Exit":
				os.Exit(3)
			case "panic":
				panic("asked to")
			}
			log.Fatal("asked to")
		case "child": // which lives until the input ends
			child := exec.Command("/bin/cat")
			child.Stdin = os.Stdin
			if err = child.Start(); err == nil {
				fmt.Println(child.Process.Pid)
				continue
			}
		case "watch": // connection: waits in a Read, and says when that ended
			i := num(1)
			var at int64
			ended := Blocked(conns[i], func() { _, err = conns[i].Read(make([]byte, 8)); at = Monotonic() })
			fmt.Println("waiting")
			<-ended
			fmt.Println(Class(err), at)
			continue
		case "exec": // the process goes on as another program, without Close
			err = syscall.Exec("/bin/cat", []string{"cat"}, nil)
		default:
			err = errors.New("what?")
		}
		fmt.Println(Class(err))
	}
	if l != nil {
		l.Close()
	}
}

// relay joins connections two and two: what goes into one comes out of the
// other, closing included, so that the ends that the test has are in effect two
// ends of one connection that crosses processes twice. The first line is
// "listen NAME" or "dial NAME"; then there is a line "pair" for each pair.
func relay(s Shape, in *bufio.Scanner) {
	say := func(err error) bool {
		fmt.Println(Class(err))
		return err == nil
	}
	if !in.Scan() {
		return
	}
	how, name, _ := strings.Cut(in.Text(), " ")
	connect := func() (Conn, error) { return s.Dial(name) }
	if how == "listen" {
		l, err := s.Listen(name)
		if !say(err) {
			return
		}
		defer l.Close()
		connect = func() (Conn, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(Conn), nil
		}
	} else {
		fmt.Println("ok")
	}
	for in.Scan() {
		a, err := connect()
		if err != nil {
			say(err)
			return
		}
		b, err := connect()
		if !say(err) {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { relayOneWay(a, b) })
		wg.Go(func() { relayOneWay(b, a) })
		go func() { wg.Wait(); a.Close(); b.Close() }()
	}
}

// relayOneWay copies until src ends or dst does, and passes that on.
func relayOneWay(dst, src Conn) {
	defer dst.CloseWrite()
	defer src.CloseRead()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
