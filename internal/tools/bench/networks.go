//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"shmconn"
)

func init() {
	Register(Network{"shm", listenShm, dialShm})
	Register(Network{"shm-zerocopy", listenZeroCopy, dialZeroCopy})
	Register(Network{"unix", listenUnix, dialUnix})
	Register(Network{"tcp", listenTCP, dialTCP})
	Register(Network{"pipe", listenPipe, dialPipe})
	Register(Network{"none", func(Spec) (Listener, error) { return noListener{}, nil }, dialNone})
	Register(Network{"memory", listenMemory, dialMemory})
}

// unique returns a name that no other listener of this run has.
func unique() string { return fmt.Sprintf("bench-%d-%d", os.Getpid(), serial.Add(1)) }

var serial atomic.Int64

// netListener is a net.Listener as a Listener.
type netListener struct {
	net.Listener
	addr string
}

func (l netListener) Accept() (io.Closer, error) { return l.Listener.Accept() }
func (l netListener) Addr() string               { return l.addr }

// Shared memory.

func listenShm(s Spec) (Listener, error) {
	name := s.Dir + "/" + unique()
	lc := shmconn.ListenConfig{RingSize: s.RingSize, BusyPoll: s.BusyPoll}
	l, err := lc.Listen(name)
	if err != nil {
		return nil, err
	}
	return netListener{l, name}, nil
}

func dialShm(s Spec, addr string) (io.Closer, error) {
	d := shmconn.Dialer{BusyPoll: s.BusyPoll}
	c, err := d.Dial(addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// zeroCopy is a Messenger that works in the ring.
type zeroCopy struct {
	*shmconn.Conn
	data []byte // of a large message
}

func newZeroCopy(s Spec, c io.Closer) zeroCopy {
	return zeroCopy{c.(*shmconn.Conn), make([]byte, max(s.Size, 8))}
}

// large is from how many bytes on a message is not made in the ring: they have
// to come from somewhere, as they do with Write.
const large = 4 << 10

func (z zeroCopy) Send(size int, head uint64) error {
	b, err := z.Reserve(size)
	if err != nil {
		return err
	}
	if size >= large {
		copy(b, z.data)
	}
	PutHead(b, head)
	return z.Commit(size)
}

func (z zeroCopy) Receive(size int) (uint64, error) {
	b, err := z.Peek(size)
	if err != nil {
		return 0, err
	}
	head := Head(b)
	_, err = z.Discard(size)
	return head, err
}

type zeroCopyListener struct {
	Listener
	spec Spec
}

func (l zeroCopyListener) Accept() (io.Closer, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newZeroCopy(l.spec, c), nil
}

func listenZeroCopy(s Spec) (Listener, error) {
	l, err := listenShm(s)
	return zeroCopyListener{l, s}, err
}

func dialZeroCopy(s Spec, addr string) (io.Closer, error) {
	c, err := dialShm(s, addr)
	if err != nil {
		return nil, err
	}
	return newZeroCopy(s, c), nil
}

// Sockets.

// listenUnix listens on an abstract address, which leaves no file.
func listenUnix(Spec) (Listener, error) {
	addr := "@shmconn-" + unique()
	l, err := net.Listen("unix", addr)
	if err != nil {
		return nil, err
	}
	return netListener{l, addr}, nil
}

func dialUnix(_ Spec, addr string) (io.Closer, error) { return net.Dial("unix", addr) }

func listenTCP(Spec) (Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return netListener{l, l.Addr().String()}, nil
}

// Go sets TCP_NODELAY by itself.
func dialTCP(_ Spec, addr string) (io.Closer, error) { return net.Dial("tcp", addr) }

// Descriptors that the server makes and the client opens through /proc.

// madeListener is a Listener whose connections are made beforehand.
type madeListener struct {
	mu    sync.Mutex
	addrs []string // for the client, one a connection
	conns []io.Closer
	next  int
}

func (l *madeListener) Addr() string { return strings.Join(l.addrs, ",") }
func (l *madeListener) Close() error { return nil }

func (l *madeListener) Accept() (io.Closer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == len(l.conns) {
		return nil, errors.New("bench: no more connections")
	}
	l.next++
	return l.conns[l.next-1], nil
}

// procFile names a descriptor of this process for others.
func procFile(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }

// dialled says which of a madeListener's connections is dialled next.
var dialled sync.Map

func nextMade(addr string) (string, error) {
	n, _ := dialled.LoadOrStore(addr, new(atomic.Int64))
	addrs := strings.Split(addr, ",")
	i := int(n.(*atomic.Int64).Add(1)) - 1
	if i >= len(addrs) {
		return "", errors.New("bench: no more connections than " + strconv.Itoa(len(addrs)))
	}
	return addrs[i], nil
}

// pipes are two pipes, one in each direction.
type pipes struct{ r, w *os.File }

func (p pipes) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.r.Close(), p.w.Close()) }

func listenPipe(s Spec) (Listener, error) {
	l := new(madeListener)
	for range s.conns() {
		var to, from [2]int // of the client; read end, write end
		for _, p := range []*[2]int{&to, &from} {
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				return nil, os.NewSyscallError("pipe2", err)
			}
		}
		// The client's ends stay open here too, until the process ends, so
		// that the client can open them.
		l.addrs = append(l.addrs, procFile(to[0])+" "+procFile(from[1]))
		l.conns = append(l.conns, pipes{os.NewFile(uintptr(from[0]), "pipe"), os.NewFile(uintptr(to[1]), "pipe")})
	}
	return l, nil
}

func dialPipe(_ Spec, addr string) (io.Closer, error) {
	one, err := nextMade(addr)
	if err != nil {
		return nil, err
	}
	rname, wname, _ := strings.Cut(one, " ")
	r, err := os.OpenFile(rname, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(wname, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return pipes{r, w}, nil
}

// Nothing at all, to see what a loop costs by itself.

type noListener struct{}

func (noListener) Accept() (io.Closer, error) { return new(none), nil }
func (noListener) Addr() string               { return "" }
func (noListener) Close() error               { return nil }

type none struct{ head uint64 }

func (n *none) Send(_ int, head uint64) error  { n.head = head; return nil }
func (n *none) Receive(int) (uint64, error)    { return n.head, nil }
func (n *none) Close() error                   { return nil }
func dialNone(Spec, string) (io.Closer, error) { return new(none), nil }
