//go:build linux

package scarce

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// The campaign lets strace(1) answer system calls of one process with errors.
// That process, a helper, dials or listens, and goes through all that moves
// bytes. The other end is the test, which no error is injected into.
//
// strace attaches to the helper right before its first call of the library, and
// leaves it right after the last: so what the Go runtime does at the start of a
// process, and what the helper does to look for leaks, is not touched. strace
// counts for each thread by itself: when=3 is the third such call of each
// thread.

// injectOnly picks injections by a part of what a failure of the campaign
// prints.
var injectOnly = flag.String("inject", "", "of the injected errors only those whose name has this in it")

// injectErrors are the errors that are injected into each call.
var injectErrors = []string{"EINTR", "EAGAIN", "EINVAL", "ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EPERM", "EACCES", "ENOSYS", "EIO"}

// spared are the calls that no error is injected into, and why.
var spared = map[string]string{
	"geteuid":   "it cannot fail, and has no way to say so",
	"close":     "Linux frees the descriptor whatever close answers, and a call that strace answers is not made: the leak would be strace's",
	"getrandom": "crypto/rand ends the process when it fails, by its documentation",
}

// blockingStdin is what os.Stdin was: collected, it would close the descriptor.
var blockingStdin *os.File

func init() {
	for why, calls := range map[string]string{
		"the Go scheduler's, which ends the process when they fail": "futex epoll_wait epoll_pwait clone clone3 tgkill",
		"the Go scheduler's, which does not look at the answer": "nanosleep clock_nanosleep sched_yield madvise rt_sigprocmask rt_sigaction rt_sigreturn sigaltstack " +
			"getpid gettid set_robust_list rseq exit restart_syscall mprotect prctl arch_prctl timer_create timer_settime timer_delete sched_getaffinity",
	} {
		for _, call := range strings.Fields(calls) {
			spared[call] = why
		}
	}
	if os.Getenv(shmtest.RoleEnv) == "injected" {
		// No thread is to be in a read of standard input when strace attaches:
		// the read would begin again, and be taken for the library's.
		syscall.SetNonblock(0, true)
		blockingStdin, os.Stdin = os.Stdin, os.NewFile(0, "stdin")
	}
}

// runtimes reports whether a call, as strace writes it, is the Go runtime's own
// although the library makes calls of the name, too.
func runtimes(line string) bool {
	return strings.Contains(line, "MAP_ANONYMOUS") || strings.Contains(line, "<anon_inode:[eventfd]>") ||
		strings.Contains(line, " pread64(") && strings.Contains(line, "</sys/fs/cgroup/") // for GOMAXPROCS
}

const (
	injectBytes = 40 << 10 // that each of four calls moves
	injectRing  = 16 << 10

	injectTimeout = 6 * time.Second // the deadline of the helper's calls
	peerTimeout   = 9 * time.Second // of the test's
	injectHang    = 30 * time.Second
)

// The states of an injected helper, in KillStats.Serial.
const (
	injectReady = iota
	injectGo
	injectDone
	injectTell
)

// An injectResult is what an injected helper says of its run.
type injectResult struct {
	Steps   []string // what was called, and what it said
	Failed  string   // the first that did not succeed, "" if all did
	Late    string   // a call that ended by its deadline
	Refused bool     // the dialer was refused, so that Accept had nobody to wait for
	Wrote   int      // bytes that calls have said they wrote
	Read    int      // bytes that calls have said they read
	Wrong   string   // a byte that is not what was written
	Left    string   // what is left of the connection
	Reused  uint64   // for how many times the connection uses memory again
	Later   string   // what was wrong with the connection after it, "" if nothing was
}

// injected is the helper. Its order says whether it dials or listens, and the
// name.
func injected(s shmtest.Shape, in *bufio.Scanner) {
	unix.Prctl(unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY, 0, 0, 0)
	b, err := shmtest.MapKillStats(os.Getenv(shmtest.KillStatsEnv))
	if err != nil {
		panic(err)
	}
	y := shmtest.KillStatsIn(b)
	if !in.Scan() {
		return
	}
	how, name, _ := strings.Cut(in.Text(), " ")
	source, err := os.Open(filepath.Join(filepath.Dir(os.Getenv(shmtest.KillStatsEnv)), "source"))
	if err != nil {
		panic(err)
	}
	sink, err := os.Create(filepath.Join(filepath.Dir(os.Getenv(shmtest.KillStatsEnv)), "sink"))
	if err != nil {
		panic(err)
	}
	// The runtime has its poller, and memory enough, before.
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.SetReadDeadline(time.Now())
	r.Close()
	w.Close()
	debug.SetGCPercent(-1)
	heap := make([][]byte, 64)
	for i := range heap {
		heap[i] = make([]byte, 256<<10)
	}
	heap = nil
	runtime.GC()
	buf := make([]byte, injectBytes)
	before := shmtest.Hold()
	how, again := strings.CutSuffix(how, "-again")
	var l shmtest.Listener
	if again {
		if l, err = meetEarlier(s, how, name); err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	for y.Serial.Load() != injectGo {
		time.Sleep(200 * time.Microsecond)
	}
	rep := new(injectResult)
	rep.run(y, s, how, name, source, sink, buf, l)
	y.Serial.Store(injectDone)
	for y.Serial.Load() != injectTell {
		time.Sleep(200 * time.Microsecond)
	}
	if again {
		if err := meetLater(s, name, l); err != nil {
			rep.Later = err.Error()
		}
		handshake.DropSpares()
	}
	copied, err := os.ReadFile(sink.Name())
	if err != nil {
		panic(err)
	}
	if want := rep.Read - min(rep.Read, injectBytes); len(copied) != want {
		rep.Wrong = fmt.Sprintf("WriteTo said %d bytes, and %d are in the file", want, len(copied))
	} else if i := shmtest.FirstDiff(copied, injectBytes); i >= 0 {
		rep.Wrong = fmt.Sprintf("byte %d that WriteTo copied", i)
	}
	rep.Left = before.LeftWithin(2 * time.Second)
	js, err := json.Marshal(rep)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(js))
}

// greeting is all that is said over the connections before and after the one
// that errors are injected into.
const greeting = "clean"

// greet is such a connection, at the dialer's end, and answerGreeting at the
// listener's. They are closed in order, so that they leave spares.
func greet(c shmtest.Conn) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(injectTimeout))
	if _, err := io.WriteString(c, greeting); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && string(b) != greeting {
		err = fmt.Errorf("the answer is %q", b)
	}
	return err
}

func answerGreeting(c shmtest.Conn) error {
	defer c.Close()
	b := make([]byte, len(greeting))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != greeting {
		return fmt.Errorf("greeted with %q, %w", b, err)
	}
	_, err := c.Write(b)
	return err
}

// greets reports whether c is a connection for answerGreeting.
func greets(c *shmconn.Conn) bool {
	b, _ := c.Peek(len(greeting))
	return string(b) == greeting
}

// meetEarlier makes a connection that leaves a spare, and listens first if the
// helper is to listen.
func meetEarlier(s shmtest.Shape, how, name string) (l shmtest.Listener, err error) {
	if how == "dial" {
		c, err := s.Dial(name)
		if err != nil {
			return nil, err
		}
		return nil, greet(c)
	}
	if l, err = s.Listen(name); err != nil {
		return nil, err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	return l, answerGreeting(c.(shmtest.Conn))
}

// meetLater makes another connection, when no error is injected any more.
func meetLater(s shmtest.Shape, name string, l shmtest.Listener) error {
	if l == nil {
		c, err := s.DialContext(context.Background(), name, injectTimeout)
		if err != nil {
			return err
		}
		return greet(c)
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(injectTimeout))
	answered := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		select {
		case err := <-answered:
			return err
		default:
		}
		te, ok := err.(interface{ Temporary() bool })
		if ok && te.Temporary() && !errors.Is(err, os.ErrDeadlineExceeded) {
			continue // of a handshake that an error was injected into
		}
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(injectTimeout))
		defer c.Close() // nobody may have accepted it before: then it says nothing
		wg.Go(func() {
			if greets(c.(*shmconn.Conn)) {
				answered <- answerGreeting(c.(*shmconn.Conn))
				l.SetDeadline(time.Unix(1, 0))
			}
		})
	}
}

// step records what a call has said, and reports whether it has succeeded.
func (r *injectResult) step(what string, err error) bool {
	said := "ok"
	if err != nil {
		said = err.Error()
		if r.Failed == "" {
			r.Failed = what
		}
		if !r.Refused && expired(err) {
			r.Late = what
		}
	}
	r.Steps = append(r.Steps, what+": "+said)
	return err == nil
}

// expired reports whether a deadline is why a call failed. Timeout would not
// tell: it is true of EAGAIN, too.
func expired(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// run is the part with strace attached.
func (r *injectResult) run(y *shmtest.KillStats, s shmtest.Shape, how, name string, source, sink *os.File, buf []byte, l shmtest.Listener) {
	var c *shmconn.Conn
	if how == "listen" {
		if l == nil {
			var err error
			if l, err = s.Listen(name); !r.step("Listen", err) {
				return
			}
			defer func() { r.step("Listener.Close", l.Close()) }()
		}
		l.SetDeadline(time.Now().Add(injectTimeout))
		var accepted atomic.Bool
		defer accepted.Store(true)
		go func() { // the only dialer may have been refused
			for !accepted.Load() {
				if y.Wrong.Load() == 1 {
					r.Refused = true
					l.SetDeadline(time.Unix(1, 0))
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
		y.Read.Store(1)
		for c == nil {
			conn, err := l.Accept()
			if err == nil {
				c = conn.(*shmconn.Conn)
				accepted.Store(true)
				break
			}
			te, ok := errors.AsType[interface {
				error
				Temporary() bool
			}](err)
			if !ok || !te.Temporary() || errors.Is(err, os.ErrDeadlineExceeded) {
				r.step("Accept", err)
				return
			}
			r.Steps = append(r.Steps, "Accept, temporary: "+err.Error())
			if len(r.Steps) > 50 {
				r.step("Accept, again and again", err)
				return
			}
			time.Sleep(5 * time.Millisecond) // as net/http does
		}
	} else {
		dialed, err := s.DialContext(context.Background(), name, injectTimeout)
		if !r.step("Dial", err) {
			return
		}
		c = dialed.(*shmconn.Conn)
	}
	defer func() { r.step("Close", c.Close()) }()
	r.Reused = c.Stats().Reused
	c.SetDeadline(time.Now().Add(injectTimeout))
	n, err := c.Write(shmtest.Pattern(0, injectBytes))
	r.Wrote += n
	if !r.step("Write", err) {
		return
	}
	n, err = io.ReadFull(c, buf)
	r.Read += n
	if i := shmtest.FirstDiff(buf[:n], 0); i >= 0 {
		r.Wrong = fmt.Sprintf("byte %d that Read returned", i)
	}
	if !r.step("Read", err) {
		return
	}
	m, err := c.ReadFrom(source)
	r.Wrote += int(m)
	if !r.step("ReadFrom", err) {
		return
	}
	m, err = c.WriteTo(sink)
	r.Read += int(m)
	if !r.step("WriteTo", err) {
		return
	}
	r.step("CloseWrite", c.CloseWrite())
}

// An injectPeer is the test's end of a run.
type injectPeer struct {
	connected bool
	wrote     int
	got       *shmtest.Gathered
	writeErr  error
	late      string
}

// serveAmong serves the one connection of l that does not greet, until l is
// closed.
func (p *injectPeer) serveAmong(l *shmconn.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		wg.Go(func() {
			c.SetDeadline(time.Now().Add(peerTimeout))
			if greets(c) {
				answerGreeting(c)
			} else {
				p.serve(c)
			}
		})
	}
}

// serve is the other end of run on c.
func (p *injectPeer) serve(c *shmconn.Conn) {
	defer c.Close()
	p.connected = true
	c.SetDeadline(time.Now().Add(peerTimeout))
	var first, second = make(chan struct{}), make(chan struct{})
	var total int
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.got = shmtest.Gather(c, nil, func(n int) {
			before := total
			total += n
			if before < injectBytes && total >= injectBytes {
				close(first)
			}
			if before < 2*injectBytes && total >= 2*injectBytes {
				close(second)
			}
		})
	}()
	for i, ready := range []chan struct{}{first, second} {
		select {
		case <-ready:
		case <-done:
		}
		time.Sleep(2 * time.Millisecond) // so that the other end parks
		n, err := c.Write(shmtest.Pattern(i*injectBytes, injectBytes))
		p.wrote += n
		if err != nil {
			p.writeErr = err
			break
		}
	}
	if p.writeErr == nil {
		p.writeErr = c.CloseWrite()
	}
	<-done
	for what, err := range map[string]error{"Read": p.got.Err, "Write": p.writeErr} {
		if expired(err) {
			p.late = what
		}
	}
}

func (p *injectPeer) errors() string {
	if p.got == nil {
		return "not connected"
	}
	return fmt.Sprintf("read %d: %v; wrote %d: %v", p.got.N, p.got.Err, p.wrote, p.writeErr)
}

// An injection is one run of the campaign.
type injection struct {
	role  string // "dial" or "listen"
	again bool   // into the second of three connections, which uses memory again
	shape shmtest.Shape
	call  string // "" for none: all calls are traced
	error string
	when  string
}

func (j injection) String() string {
	return fmt.Sprintf("%s, %v: %s:error=%s:when=%s", j.order(), j.shape, j.call, j.error, j.when)
}

// order is the role as the helper is told.
func (j injection) order() string {
	if j.again {
		return j.role + "-again"
	}
	return j.role
}

// A verdict is what came of an injection.
type verdict struct {
	kind  string   // "not reached", "runtime", "success", "error", "deadline", or "FAULT"
	why   string   // for FAULT
	calls []string // that strace has traced
	hit   []string // that strace has answered

	reused uint64 // for how many times memory was used again
}

var (
	tracedLine  = regexp.MustCompile(`^(\d+) +[\d.]+ (\w+)\(`)
	resumedLine = regexp.MustCompile(`^(\d+) +[\d.]+ <\.\.\. (\w+) resumed>(.*)$`)
)

// trace reads what strace has written.
func (j injection) trace(path string) (calls, hit []string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	unfinished := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if m := resumedLine.FindStringSubmatch(line); m != nil {
			line = unfinished[m[1]] + m[3]
		} else if m := tracedLine.FindStringSubmatch(line); m == nil {
			continue
		} else if head, cut := strings.CutSuffix(line, "<unfinished ...>"); cut {
			unfinished[m[1]] = head
			continue
		}
		if tracedLine.MatchString(line) {
			calls = append(calls, line)
			// What strace leaves at its entry has no answer but ENOSYS.
			if strings.HasSuffix(line, "(INJECTED)") || j.call != "" && strings.HasSuffix(line, "<detached ...>") {
				hit = append(hit, line)
			}
		}
	}
	return calls, hit, nil
}

// errNoTrace says that strace cannot attach here.
var errNoTrace = errors.New("strace cannot attach")

// run makes one run in dir, which is empty.
func (j injection) run(dir string) (v verdict, err error) {
	names := filepath.Join(dir, "names")
	if err := os.Mkdir(names, 0o700); err != nil {
		return v, err
	}
	defer os.RemoveAll(dir)
	name := names + "/feed"
	if err := os.WriteFile(filepath.Join(dir, "source"), shmtest.Pattern(injectBytes, injectBytes), 0o600); err != nil {
		return v, err
	}
	y, unmap, err := makeKillStats(filepath.Join(dir, "killstats"))
	if err != nil {
		return v, err
	}
	defer unmap()

	var peer injectPeer
	peerDone := make(chan struct{})
	var l *shmconn.Listener
	if j.role == "dial" {
		lc := &shmconn.ListenConfig{RingSize: j.shape.Ring, Anonymous: j.shape.Anonymous, BusyPoll: j.shape.ListenPoll, SpareBytes: j.shape.Spares, SpareTime: j.shape.SpareTime}
		if l, err = lc.Listen(name); err != nil {
			return v, err
		}
		defer l.Close()
		go func() {
			defer close(peerDone)
			if c, err := l.AcceptConn(); err == nil && !j.again {
				peer.serve(c)
			} else if err == nil {
				answerGreeting(c)
				peer.serveAmong(l)
			}
		}()
	}

	js, err := json.Marshal(j.shape)
	if err != nil {
		return v, err
	}
	exe, err := os.Executable()
	if err != nil {
		return v, err
	}
	h := exec.Command(exe)
	h.Env = append(os.Environ(), shmtest.RoleEnv+"=injected", shmtest.ShapeEnv+"="+string(js), shmtest.KillStatsEnv+"="+filepath.Join(dir, "killstats"), "GOTRACEBACK=all")
	h.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	h.Stderr = &said
	in, err := h.StdinPipe()
	if err != nil {
		return v, err
	}
	out, err := h.StdoutPipe()
	if err != nil {
		return v, err
	}
	if err := h.Start(); err != nil {
		return v, err
	}
	ended := make(chan struct{})
	lines := make(chan string, 10)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
		h.Wait()
		close(ended)
	}()
	defer func() {
		h.Process.Kill()
		in.Close()
		<-ended
	}()
	d := &shmconn.Dialer{BusyPoll: j.shape.DialPoll, Timeout: peerTimeout, SpareBytes: j.shape.Spares, SpareTime: j.shape.SpareTime}
	fmt.Fprintln(in, j.order(), name)
	line := <-lines
	if line == "listening" {
		if err := dialAndGreet(d, name); err != nil {
			return v, err
		}
		line = <-lines
	}
	if line != "ready" {
		return v, fmt.Errorf("helper says %q: %s", line, &said)
	}

	logPath := filepath.Join(dir, "log")
	args := []string{"-f", "-y", "-ttt", "-o", logPath, "-p", strconv.Itoa(h.Process.Pid)}
	if j.call != "" {
		args = append(args, "-e", "trace="+j.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%s", j.call, j.error, j.when))
	}
	tracer := exec.Command("strace", args...)
	tracer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	says, err := tracer.StderrPipe()
	if err != nil {
		return v, err
	}
	if err := tracer.Start(); err != nil {
		return v, err
	}
	attached := make(chan bool, 1)
	var complaint strings.Builder
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		once := false
		for sc := bufio.NewScanner(says); sc.Scan(); {
			if !once && strings.Contains(sc.Text(), "attached") {
				once = true
				attached <- true
			} else if !once {
				fmt.Fprintln(&complaint, sc.Text())
			}
		}
		if !once {
			attached <- false
		}
	}()
	detach := sync.OnceFunc(func() {
		tracer.Process.Signal(syscall.SIGTERM)
		<-drained
		tracer.Wait()
	})
	defer detach()
	if !<-attached {
		return v, fmt.Errorf("%w: %s", errNoTrace, strings.TrimSpace(complaint.String()))
	}
	y.Serial.Store(injectGo)

	hang, late := time.After(injectHang), time.After(injectTimeout+time.Second)
	crashed, hung := false, false
	dialing := j.role == "listen"
	for y.Serial.Load() != injectDone {
		if dialing && y.Read.Load() == 1 {
			dialing = false
			go func() {
				defer close(peerDone)
				defer y.Wrong.Store(1)
				c, err := d.Dial(name)
				if err == nil {
					peer.serve(c)
				} else if expired(err) {
					peer.late = "Dial"
				}
			}()
		}
		select {
		case <-ended:
			crashed = true
		case <-hang:
			hung = true
		case <-late: // the runtime may have lost its own wakeups: nothing to wait for
			_, hit, _ := j.trace(logPath)
			if hung = slices.ContainsFunc(hit, runtimes); !hung {
				continue
			}
		case <-time.After(200 * time.Microsecond):
			continue
		}
		break
	}
	detach()
	v.calls, v.hit, err = j.trace(logPath)
	if err != nil {
		return v, err
	}
	v.kind = "FAULT"
	own := len(v.hit) > 0 && slices.ContainsFunc(v.hit, runtimes)
	if hung || crashed {
		h.Process.Signal(syscall.SIGQUIT)
		<-ended
		if l != nil {
			l.Close()
		}
		if !dialing {
			<-peerDone
		}
		if own {
			v.kind = "runtime"
			return v, nil
		}
		how := "crashes"
		if hung {
			how = "hangs"
		}
		v.why = fmt.Sprintf("%s: %s\n  answered: %s", how, said.String(), strings.Join(v.hit, "\n            "))
		return v, nil
	}

	// The other end is told by now, or soon. It may not have been accepted at all.
	y.Serial.Store(injectTell)
	var later error
	laterDone := make(chan struct{})
	go func() {
		defer close(laterDone)
		if j.again && j.role == "listen" {
			later = dialAndGreet(d, name)
		}
	}()
	limit := injectHang
	if own { // a timer may wait for an eventfd for ever
		limit = 4 * time.Second
	}
	var r injectResult
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return v, err
		}
	case <-time.After(limit):
		h.Process.Signal(syscall.SIGQUIT)
		<-ended
		v.why = "no report: " + said.String()
		if own {
			v.kind = "runtime"
		}
		return v, nil
	}
	in.Close()
	<-ended
	<-laterDone
	v.reused = r.Reused
	if later != nil {
		r.Later = later.Error() + "; " + r.Later
	}
	if l != nil {
		if r.Wrote == 0 || j.again {
			l.Close()
		}
		<-peerDone
		l.Close()
	} else if !dialing {
		<-peerDone
	}
	v.kind, v.why = j.judge(&r, &peer, v, shmtest.ListDir(names))
	if own && (v.kind == "FAULT" || !slices.ContainsFunc(v.hit, func(line string) bool { return !runtimes(line) })) {
		v.kind = "runtime"
	}
	if v.kind == "FAULT" {
		v.why += fmt.Sprintf("\n  helper: %+v\n  test: %+v %s\n  answered: %s", r, peer, peer.errors(), strings.Join(v.hit, "\n            "))
	}
	return v, nil
}

func dialAndGreet(d *shmconn.Dialer, name string) error {
	c, err := d.Dial(name)
	if err != nil {
		return err
	}
	return greet(c)
}

// judge says what came of a run that has ended.
func (j injection) judge(r *injectResult, p *injectPeer, v verdict, names []string) (kind, why string) {
	switch {
	case r.Wrong != "":
		return "FAULT", "wrong: " + r.Wrong
	case p.got != nil && p.got.Wrong != 0:
		return "FAULT", fmt.Sprintf("byte %d that the other end read is wrong", p.got.Wrong-1)
	case r.Read > p.wrote:
		return "FAULT", fmt.Sprintf("%d bytes were read of %d", r.Read, p.wrote)
	case p.connected && p.got.N != r.Wrote && p.late == "":
		return "FAULT", fmt.Sprintf("%d bytes were written, and the other end has %d", r.Wrote, p.got.N)
	case r.Failed == "" && (!p.connected || p.got.N != 2*injectBytes || p.got.Err != io.EOF || p.writeErr != nil || r.Read != 2*injectBytes):
		return "FAULT", "success, and the other end knows nothing of it"
	case r.Later != "":
		return "FAULT", "the connection after it: " + r.Later
	case r.Left != "" && j.call != "munmap":
		return "FAULT", "left: " + r.Left
	case slices.ContainsFunc(names, func(name string) bool { return !j.keeps(name) }):
		return "FAULT", fmt.Sprintf("names left: %q", names)
	case (r.Late != "" || p.late != "") && !j.waits():
		return "FAULT", fmt.Sprintf("ended by the deadline: %s, the other end: %s", r.Late, p.late)
	case len(v.hit) == 0 && r.Failed != "":
		return "FAULT", "an error without an injection"
	case len(v.hit) == 0:
		return "not reached", ""
	case r.Late != "" || p.late != "":
		return "deadline", ""
	case r.Failed != "":
		return "error", ""
	}
	return "success", ""
}

// waits reports whether the error says that the call cannot be done yet, so
// that to wait until the deadline is right. The kernel never says so of what it
// has just called ready, and of a pipe that is not full; strace does.
func (j injection) waits() bool {
	return j.error == "EAGAIN" && slices.Contains([]string{"read", "write", "recvmsg", "sendmsg", "accept4", "connect"}, j.call)
}

// keeps reports whether a name may be left because of what the call has said.
// Where the kernel does not remove a name, or does not say which file has it,
// it stays: it could be somebody else's. So does the page of a listener that
// could not be locked.
func (j injection) keeps(name string) bool {
	switch j.call {
	case "unlinkat", "fstat", "newfstatat":
		return true
	case "fcntl":
		return name == "shmconn.feed"
	}
	return false
}

func makeKillStats(path string) (*shmtest.KillStats, func(), error) {
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		return nil, nil, err
	}
	b, err := shmtest.MapKillStats(path)
	if err != nil {
		return nil, nil, err
	}
	return shmtest.KillStatsIn(b), func() { unix.Munmap(b) }, nil
}

// injectScenes are the roles and shapes of the campaign.
var injectScenes = []injection{
	{role: "dial", shape: shmtest.Shape{Ring: injectRing, Spares: -1}.Poll(shmtest.PollNever)},
	{role: "listen", shape: shmtest.Shape{Ring: injectRing, Spares: -1}.Poll(shmtest.PollNever)},
	{role: "dial", shape: shmtest.Shape{Ring: injectRing, Anonymous: true, Spares: -1}},
	{role: "listen", shape: shmtest.Shape{Ring: injectRing, Anonymous: true, Spares: -1}},
	{role: "dial", shape: shmtest.Shape{Ring: injectRing, Spares: -1}.Poll(shmtest.PollAlways)},
	{role: "listen", shape: shmtest.Shape{Ring: injectRing, Spares: -1}.Poll(shmtest.PollAlways)},
	{role: "dial", again: true, shape: shmtest.Shape{Ring: injectRing, SpareTime: time.Minute}.Poll(shmtest.PollNever)},
	{role: "listen", again: true, shape: shmtest.Shape{Ring: injectRing, SpareTime: time.Minute}.Poll(shmtest.PollNever)},
}

// pollingCalls are those that an end that never parks makes in another way than
// one that does.
var pollingCalls = []string{"poll", "ppoll", "read", "write", "membarrier"}

// TestInjected answers each system call of Dial, Listen, Accept, Read, Write,
// ReadFrom, WriteTo and Close with each error, once and from then on. What
// comes of it is an error or success: no call goes on beyond its deadline,
// nothing crashes, nothing is left, and what either end says that it wrote the
// other one has read. So it is over memory that is used again, too, and the
// connection after that one works.
func TestInjected(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("not tried: strace is not installed")
	}
	if shmtest.RaceEnabled {
		t.Skip("not tried: the race detector's calls cannot be told from the library's")
	}
	before := shmtest.HoldStill()
	var serial atomic.Int64
	do := func(j injection) (verdict, error) {
		dir := filepath.Join(os.Getenv("SHMCONN_DIR"), fmt.Sprintf("inject-%d", serial.Add(1)))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return verdict{}, err
		}
		return j.run(dir)
	}

	// What there is to inject into: without an injection all goes well.
	var todo []injection
	excluded := map[string]string{}
	for _, scene := range injectScenes {
		v, err := do(scene)
		if errors.Is(err, errNoTrace) {
			t.Skipf("not tried: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if v.kind != "not reached" {
			t.Fatalf("%v: %s %s", scene, v.kind, v.why)
		}
		if scene.again != (v.reused == 1) {
			t.Fatalf("%v: used again for the %d. time", scene, v.reused)
		}
		most := map[string]int{} // of a thread
		counts, left := map[string]int{}, map[string]string{}
		for _, line := range v.calls {
			m := tracedLine.FindStringSubmatch(line)
			if why := spared[m[2]]; why != "" {
				left[m[2]] = why
			} else if runtimes(line) {
				left["some of "+m[2]] = "the Go runtime's, by what it is about: anonymous memory, its eventfd, the quota for GOMAXPROCS"
			} else {
				counts[m[1]+" "+m[2]]++
				most[m[2]] = max(most[m[2]], counts[m[1]+" "+m[2]])
			}
		}
		t.Logf("%s, %v: injected into, with the most of a thread: %v", scene.order(), scene.shape, most)
		for _, call := range slices.Sorted(maps.Keys(left)) {
			excluded[call] = left[call]
		}
		for _, call := range slices.Sorted(maps.Keys(most)) {
			if scene.shape.DialPoll == shmtest.PollAlways && !slices.Contains(pollingCalls, call) {
				continue
			}
			for _, e := range injectErrors {
				// One more than what was seen: which thread does what differs.
				for n := 1; n <= min(most[call]+1, maxWhen); n++ {
					j := scene
					j.call, j.error, j.when = call, e, strconv.Itoa(n)
					todo = append(todo, j)
					j.when += "+"
					if e == "EINTR" { // for ever it would be for os.File, too
						j.when = fmt.Sprintf("%d..%d", n, n+20)
					}
					todo = append(todo, j)
				}
			}
		}
	}
	for _, call := range slices.Sorted(maps.Keys(excluded)) {
		t.Logf("not injected into: %s: %s", call, excluded[call])
	}
	all := len(todo)
	if *injectOnly != "" {
		todo = slices.DeleteFunc(todo, func(j injection) bool { return !strings.Contains(j.String(), *injectOnly) })
	} else if !*shmtest.Long {
		todo = slices.DeleteFunc(todo, injection.waits)
		t.Logf("%d of %d are done with -long alone: they wait for their deadlines", all-len(todo), all)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(todo), func(i, k int) { todo[i], todo[k] = todo[k], todo[i] })
	start := time.Now()
	budget := 10 * time.Second
	if *shmtest.Long {
		budget = 10 * time.Hour
	}

	var mu sync.Mutex // guards the following
	next, faults := 0, 0
	kinds := map[string]int{}
	table := map[string]map[string]int{} // the same for each call
	hits := 0
	var wg sync.WaitGroup
	workers := runtime.NumCPU()
	if *shmtest.Long {
		workers = 4 // most of which sleep
	}
	for range workers {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(todo) || time.Since(start) > budget || faults > 200 {
					mu.Unlock()
					return
				}
				j := todo[next]
				next++
				mu.Unlock()
				v, err := do(j)
				mu.Lock()
				if err != nil {
					t.Errorf("%v: %v", j, err)
				}
				kinds[v.kind]++
				if *shmtest.Long && next%500 == 0 {
					t.Logf("%d of %d: %v", next, len(todo), kinds)
				}
				hits += len(v.hit)
				if table[j.call] == nil {
					table[j.call] = map[string]int{}
				}
				table[j.call][v.kind]++
				if v.kind == "FAULT" {
					faults++
					t.Errorf("%v: %s", j, v.why)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, call := range slices.Sorted(maps.Keys(table)) {
		t.Logf("figure: %s: %v", call, table[call])
	}
	t.Logf("figure: injected: %d runs of %d (seed %#x) in %v, %d calls answered: %v", next, all, seed, time.Since(start).Round(time.Second), hits, kinds)
	if *injectOnly == "" && (kinds["error"] == 0 || kinds["success"] == 0) {
		t.Errorf("nothing was tried: %v", kinds)
	}
	if left := before.Left(); left != "" {
		t.Errorf("left behind in the test: %s", left)
	}
}

// maxWhen is the last call of a thread that is the first to fail.
const maxWhen = 8
