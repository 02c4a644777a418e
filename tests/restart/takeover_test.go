//go:build linux

package restart

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/segment"
	"shmconn/internal/shmtest"
	"shmconn/internal/tools/inspect"
)

// takes is what a server is that takes the name over, and lets it be taken.
var takes = &shmconn.ListenConfig{TakeOver: true}

// overtake is a server that starts its next process, which takes the name over
// by itself: nothing is passed down to it.
func overtake(_ shmtest.Shape, in *bufio.Scanner) {
	name := os.Getenv(nameEnv)
	left, _ := strconv.Atoi(os.Getenv(leftEnv))
	l, err := takes.Listen(name)
	must(err)
	if os.Getenv("SHMCONN_RESTART_CHILD") == "" {
		fmt.Println("listening")
	}
	s := server{l: l}
	running := s.start()
	if s.isLast(left, running, in) {
		return
	}
	exe, err := os.Executable()
	must(err)
	next := exec.Command(exe)
	next.Env = append(os.Environ(), leftEnv+"="+strconv.Itoa(left-1), "SHMCONN_RESTART_CHILD=1")
	next.Stdin, next.Stdout, next.Stderr = os.Stdin, os.Stdout, os.Stderr
	must(next.Start())
	<-running // Accept says that the next one has the name
	s.end(running, "replaced")
}

// TestTakeOver has each server take the name over from the one before. Whoever
// looks meanwhile sees one listener.
func TestTakeOver(t *testing.T) {
	n, name := restarts(40, 10000), shmtest.NewName()
	h := shmtest.StartHelper(t, "restarttakeover", shmtest.Shape{}, nameEnv+"="+name, leftEnv+"="+strconv.Itoa(n))
	h.Expect("listening")
	stop, looked := make(chan struct{}), make(chan map[string]int)
	go func() {
		notes := make(map[string]int) // how often each was seen
		for {
			select {
			case <-stop:
				looked <- notes
				return
			case <-time.After(5 * time.Millisecond):
			}
			snap, err := (&inspect.Scanner{Dirs: []string{os.Getenv("SHMCONN_DIR")}}).Scan()
			if err != nil {
				t.Errorf("ls: %v", err)
				continue
			}
			list := snap.Select(name).Listeners
			if len(list) != 1 || list[0].State != inspect.Listening {
				t.Errorf("ls shows %+v", list)
				continue
			}
			note, _, _ := strings.Cut(list[0].Note, "[") // without the PID
			notes[note]++
		}
	}()
	ask(t, h, name, n, func() {
		close(stop)
		t.Logf("figure: what ls has noted of the one listener: %v", <-looked)
	})
}

// take is a server that listens when it is told to, and says so, or why it
// cannot. Then it serves until another has taken the name over, or until its
// input ends.
func take(_ shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		verb, name, _ := strings.Cut(in.Text(), " ")
		lc := map[string]*shmconn.ListenConfig{"take": takes, "plain": {}, "open": {TakeOver: true, Mode: 0o666}}[verb]
		l, err := lc.Listen(name)
		if err != nil {
			fmt.Println(err)
			continue
		}
		s := server{l: l}
		running := s.start()
		fmt.Println("listening")
		ended := make(chan struct{})
		go func() { in.Scan(); close(ended) }()
		select {
		case <-running:
		case <-ended:
		}
		s.end(running, "ended")
		return
	}
}

func startTake(t *testing.T) *shmtest.Helper {
	t.Helper()
	return shmtest.StartHelper(t, "restarttake", shmtest.Shape{})
}

// wantServer has a request answered by h.
func wantServer(t *testing.T, name string, h *shmtest.Helper) {
	t.Helper()
	pid, err := request(new(shmconn.Dialer), name, 100, 0)
	if err != nil || pid != h.PID {
		t.Errorf("process %d has answered, %v, want %d", pid, err, h.PID)
	}
}

// wantEnded has h say that it has served all that it has accepted.
func wantEnded(t *testing.T, h *shmtest.Helper) {
	t.Helper()
	if line := h.Line(); !new(tally).add(t, line) {
		t.Errorf("a server says %q", line)
	}
}

// tookOver reports whether the listener on name has the socket of another.
func tookOver(t *testing.T, name string) bool {
	t.Helper()
	dir, err := segment.OpenDir(os.Getenv("SHMCONN_DIR"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	info, err := segment.Lookup(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Shared
}

// TestTakeOverKilled kills the old listener or the new one, or both, at a
// random moment of a take-over, under load. As long as one is not killed
// exactly one listens then, and nobody is refused or reset but by a listener
// that is killed.
func TestTakeOverKilled(t *testing.T) {
	n := restarts(60, 6000)
	outcomes := make(map[string]int)
	requests := 0
	for i := range n {
		name := shmtest.NewName()
		old, next := startTake(t), startTake(t)
		if line := old.Call("take %s", name); line != "listening" {
			t.Fatal(line)
		}
		load := startLoad(name, 2)
		next.Send("take %s", name)
		time.Sleep(time.Duration(rand.IntN(2500)) * time.Microsecond)
		var outcome string
		unhurt := false // no listener was killed
		switch i % 3 {
		case 0:
			old.Kill()
			if line := next.Line(); line != "listening" {
				t.Fatalf("round %d: the old one was killed, and the new one says %q", i, line)
			}
			wantServer(t, name, next)
			outcome = "the old one, before the new one had the socket"
			if tookOver(t, name) {
				outcome = "the old one, when the new one had the socket"
			}
		case 1:
			next.Kill()
			// A third tells who has the name now: it takes over what lives.
			third := startTake(t)
			if line := third.Call("take %s", name); line != "listening" {
				t.Fatalf("round %d: the new one was killed, and a third says %q", i, line)
			}
			wantEnded(t, old)
			wantServer(t, name, third)
			outcome = "the new one, which listened"
			if unhurt = tookOver(t, name); unhurt {
				outcome = "the new one, before it listened"
			}
			next = third
		case 2:
			old.Kill()
			next.Kill()
			next = startTake(t)
			if line := next.Call("take %s", name); line != "listening" || tookOver(t, name) {
				t.Fatalf("round %d: both were killed, and another says %q", i, line)
			}
			wantServer(t, name, next)
			outcome = "both"
		}
		outcomes[outcome]++
		load.stop.Store(true)
		load.wg.Wait()
		for class, k := range load.ends {
			if class != "ok" && (unhurt || class != "ECONNREFUSED" && class != "ECONNRESET" && class != "EOF" && class != "EPIPE") {
				t.Errorf("round %d, killed %s: %d of %d requests: %s, %v", i, outcome, k, load.total(), class, load.first)
			}
		}
		requests += load.ends["ok"]
		next.Stdin.Close()
		wantEnded(t, next)
		wantNoFiles(t, name)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("figure: %d take-overs with a kill, %d requests answered; killed: %v", n, requests, outcomes)
}

// TestTakeOverStopped stops the old listener at a random moment of a take-over,
// for longer than the new one waits. Whatever it was told, one listens then.
func TestTakeOverStopped(t *testing.T) {
	outcomes := make(map[string]int)
	for i := range restarts(2, 300) {
		name := shmtest.NewName()
		old, next := startTake(t), startTake(t)
		if line := old.Call("take %s", name); line != "listening" {
			t.Fatal(line)
		}
		next.Send("take %s", name)
		if i%4 == 0 {
			old.Stop()
		}
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond)
		old.Stop()
		line := next.Line()
		old.Cont()
		if line == "listening" {
			wantEnded(t, old)
			wantServer(t, name, next)
			outcomes["taken over"]++
			next.Stdin.Close()
			wantEnded(t, next)
		} else {
			if !strings.Contains(line, " "+name+": address already in use: ") || !strings.Contains(line, "has not answered within 5s") {
				t.Errorf("the new one says %q", line)
			}
			outcomes["refused"]++
			wantServer(t, name, old)
			if line := next.Call("take %s", name); line != "listening" { // now it may
				t.Errorf("the new one says %q at last", line)
			}
			wantEnded(t, old)
			wantServer(t, name, next)
			next.Stdin.Close()
			wantEnded(t, next)
		}
		wantNoFiles(t, name)
	}
	t.Logf("figure: the old listener was stopped for 5 s: %v", outcomes)
}

// TestTakeOverUnwilling has a listener in another process that has not set
// TakeOver, and one that has not beside one that has.
func TestTakeOverUnwilling(t *testing.T) {
	for _, verbs := range [][2]string{{"plain", "take"}, {"take", "plain"}} {
		name := shmtest.NewName()
		old, next := startTake(t), startTake(t)
		if line := old.Call("%s %s", verbs[0], name); line != "listening" {
			t.Fatal(line)
		}
		for range 3 {
			if line := next.Call("%s %s", verbs[1], name); !strings.Contains(line, " "+name+": ") || !strings.Contains(line, "address already in use") {
				t.Errorf("%v: the new one says %q", verbs, line)
			}
			wantServer(t, name, old)
		}
		old.Stdin.Close()
		wantEnded(t, old)
		if line := next.Call("%s %s", verbs[1], name); line != "listening" {
			t.Errorf("%v: the new one says %q once nobody listens", verbs, line)
		}
		next.Stdin.Close()
		wantEnded(t, next)
	}
}

// request a take-over by hand, and say what the listener answers.
func askForSocket(_ shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		must(err)
		must(unix.Connect(sock, &unix.SockaddrUnix{Name: os.Getenv("SHMCONN_DIR") + "/shmconn." + in.Text() + "@sock"}))
		must(unix.Sendmsg(sock, []byte("shmconn\x01a"), nil, nil, 0))
		b, oob := make([]byte, 64), make([]byte, 64)
		n, oobn, _, _, err := unix.Recvmsg(sock, b, oob, unix.MSG_CMSG_CLOEXEC)
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			unix.Close(fds[0]) // the names stay while it is open
		}
		fmt.Printf("%q, %d bytes of descriptors, %v\n", b[:max(n, 0)], oobn, err)
		unix.Close(sock)
	}
}

// TestTakeOverUsers has newcomers of another user, and root, at a listener that
// everybody may dial.
func TestTakeOverUsers(t *testing.T) {
	start := shmtest.OtherUsers(t)
	other := syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}
	root := syscall.Credential{}
	for _, tt := range []struct {
		old, next syscall.Credential
		want      string
	}{
		{root, other, "permission denied"},
		{other, root, "address already in use: "},
	} {
		name := shmtest.NewName()
		old := start(t, "restarttake", tt.old, shmtest.Shape{})
		if line := old.Call("open %s", name); line != "listening" {
			t.Fatal(line)
		}
		next := start(t, "restarttake", tt.next, shmtest.Shape{})
		if line := next.Call("take %s", name); !strings.Contains(line, name) || !strings.Contains(line, tt.want) {
			t.Errorf("user %d takes over from user %d: %q", tt.next.Uid, tt.old.Uid, line)
		}
		hand := start(t, "restartask", tt.next, shmtest.Shape{})
		if line := hand.Call("%s", name); line != `"", 0 bytes of descriptors, connection reset by peer` {
			t.Errorf("user %d asks user %d for the socket: %s", tt.next.Uid, tt.old.Uid, line)
		}
		// Without a difference the answer is another.
		own := start(t, "restartask", tt.old, shmtest.Shape{})
		if line := own.Call("%s", name); !strings.HasPrefix(line, `"shmconn\x01g", `) {
			t.Errorf("user %d asks itself for the socket: %s", tt.old.Uid, line)
		}
		d := &shmconn.Dialer{AllowUID: func(uint32) bool { return true }}
		if pid, err := request(d, name, 100, 0); pid != old.PID || err != nil {
			t.Errorf("%d answers, %v, want %d", pid, err, old.PID)
		}
		old.Stdin.Close()
		wantEnded(t, old)
		wantNoFiles(t, name)
	}
}
