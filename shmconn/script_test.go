//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"shmconn"
	"shmconn/internal/tools/bench"
)

// TestMain makes this binary the command shmconn, in $PATH, and helpers of the
// scripts.
func TestMain(m *testing.M) {
	bench.Main()
	testscript.Main(tests{m}, map[string]func(){
		"shmconn":     main,
		"http-server": httpServer,
		"http-get":    httpGet,
		"victim":      victim,
	})
}

// tests runs the tests with a directory of their own for names, which is held
// so that nobody takes it for one that was left.
type tests struct{ *testing.M }

func (t tests) Run() int {
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("SHMCONN_DIR", dir)
	// With the race detector each process sleeps for a second before it exits.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	held, err := os.Open(dir)
	if err == nil {
		err = syscall.Flock(int(held.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		log.Print(err)
		return 1
	}
	defer held.Close()
	return t.M.Run()
}

// TestScript runs the command as a user would. A script has a directory of
// names to itself; these commands are there beside those of testscript:
//
//	status N program [args...]   runs a program, whose exit status must be N
//	random FILE SIZE             makes a file of random bytes
//	lines FILE N                 makes a file of N lines
//	listening FILE VAR           waits until a proxy that logs to FILE in JSON listens, and sets $VAR to where
//	until REGEXP program ...     runs a program time and again until its output matches
//	signal NAME WORDS            sends a signal to the command in the background whose arguments hold WORDS
//	swept                        checks that the directory of names is empty
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp(os.Getenv("SHMCONN_DIR"), "script-")
			e.Setenv("SHMCONN_DIR", dir)
			e.Setenv("COLUMNS", "80")
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			e.Defer(func() {
				if tmux := filepath.Join(e.WorkDir, "tmux"); exists(tmux) {
					exec.Command("tmux", "-S", tmux, "kill-server").Run()
				}
			})
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":    cmdStatus,
			"random":    cmdRandom,
			"lines":     cmdLines,
			"listening": cmdListening,
			"until":     cmdUntil,
			"signal":    cmdSignal,
			"swept":     cmdSwept,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if args[0] != strconv.Itoa(code) {
		ts.Fatalf("exit status %d", code)
	}
}

func cmdRandom(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func cmdLines(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte("A line of text.\n"), n), 0o600))
}

func cmdListening(ts *testscript.TestScript, neg bool, args []string) {
	for {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		line, _, whole := bytes.Cut(b, []byte("\n"))
		if !whole {
			time.Sleep(time.Millisecond)
			continue
		}
		var entry struct{ Msg, From string }
		if err := json.Unmarshal(line, &entry); err != nil || entry.Msg != "listening" {
			ts.Fatalf("it logged %q", b)
		}
		_, addr, _ := strings.Cut(entry.From, ":")
		ts.Setenv(args[1], addr)
		return
	}
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("that is not so after a minute")
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL,
		"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}
	n := 0
	for _, c := range ts.BackgroundCmds() {
		if strings.Contains(strings.Join(c.Args, " "), args[1]) {
			if args[0] == "STOP" {
				ts.Defer(func() { c.Process.Signal(syscall.SIGCONT) }) // so that it can be ended
			}
			ts.Check(c.Process.Signal(signals[args[0]]))
			n++
		}
	}
	if n != 1 {
		ts.Fatalf("%d commands are %q", n, args[1])
	}
}

func cmdSwept(ts *testscript.TestScript, neg bool, args []string) {
	left, err := filepath.Glob(filepath.Join(ts.Getenv("SHMCONN_DIR"), "*"))
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left behind: %v", left)
	}
}

// httpServer serves HTTP on the name os.Args[1]: /hello, /echo, /big.
func httpServer() {
	l, err := shmconn.Listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from", r.Host) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			log.Print(err)
		}
		w.Write(b)
	})
	log.Fatal(http.Serve(l, mux))
}

// httpGet prints what http://os.Args[1] says, where the host is a name.
func httpGet() {
	client := http.Client{Transport: &http.Transport{DialContext: new(shmconn.Dialer).DialContext}}
	resp, err := client.Get("http://" + os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(os.Stdout, resp.Body)
}
