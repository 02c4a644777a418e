package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"shmconn/examples/internal/exampletest"
)

// A running is a command that runs.
type running struct {
	*exec.Cmd
	out    *bufio.Reader
	said   strings.Builder // what was read of out
	stderr bytes.Buffer
	orders string // file
}

func startMachines(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{orders: filepath.Join(t.TempDir(), "orders.csv")}
	r.Cmd = exampletest.Command(t, append(args, "-orders", r.orders)...)
	r.Cmd.Stderr = &r.stderr
	stdout, err := r.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(stdout)
	return r
}

// waitFor waits until the command has written a line that matches.
func (r *running) waitFor(t *testing.T, pattern string) []string {
	t.Helper()
	line := regexp.MustCompile(pattern)
	for {
		text, err := r.out.ReadString('\n')
		r.said.WriteString(text)
		if err != nil {
			t.Fatalf("%v\n%s%s", r.Wait(), &r.said, &r.stderr)
		}
		if m := line.FindStringSubmatch(strings.TrimSuffix(text, "\n")); m != nil {
			return m
		}
	}
}

// finish waits until the command has ended well, and returns the orders.
func (r *running) finish(t *testing.T) []byte {
	t.Helper()
	orders, err := r.result()
	if err != nil {
		t.Fatal(err)
	}
	return orders
}

func (r *running) result() ([]byte, error) {
	rest, _ := io.ReadAll(r.out)
	r.said.Write(rest)
	if err := r.Wait(); err != nil || r.stderr.Len() > 0 {
		return nil, fmt.Errorf("%w\n%s%s", err, &r.said, &r.stderr)
	}
	return os.ReadFile(r.orders)
}

// children returns the processes of parent that have role.
func children(parent int, role string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, _ := os.ReadFile(file) // if it is gone, it was none
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) || fields[0] == "Z" {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if !bytes.HasSuffix(args, []byte("\x00"+role+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// What may die is killed at any time, again and again, whatever it is doing: also
// when it has just been started, and several at once.
func TestKilledAtRandom(t *testing.T) {
	exampletest.PrivateNames(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const loops = 12
	r := startMachines(t, "-kill", "0", "-loops", fmt.Sprint(loops), "-rate", "2500")
	r.waitFor(t, `^some away: `)
	var orders []byte
	ended := make(chan error, 1)
	go func() {
		var err error
		orders, err = r.result()
		ended <- err
	}()
	kills := make(map[string]int)
	var roles []string
	for running := true; running; {
		if len(roles) == 0 {
			roles = []string{roleBridge, roleAway, roleServer}
			random.Shuffle(3, func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("after %v: %v", kills, err)
			}
			running = false
		case <-time.After(time.Duration(random.IntN(150)) * time.Millisecond):
			pids := children(r.Process.Pid, roles[0])
			if len(pids) > 0 && syscall.Kill(pids[random.IntN(len(pids))], syscall.SIGKILL) == nil {
				kills[roles[0]]++
			}
			roles = roles[1:]
		}
	}
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, loops, subscriptions...))
	t.Logf("%v\n%s", kills, &r.said)
	checkOutput(t, r.said.String(), `^The orders are the same, byte for byte\.$`)
	for _, role := range []string{roleBridge, roleAway, roleServer} {
		if kills[role] == 0 {
			t.Errorf("no %s was killed", role)
		}
	}
}

// A process that may not die makes the command fail, with what became of it.
func TestProcessKilled(t *testing.T) {
	for _, what := range []string{"feed handler", "order gateway", "strategies here"} {
		t.Run(what, func(t *testing.T) {
			exampletest.PrivateNames(t)
			r := startMachines(t, "-kill", "0", "-loops", "1000", "-rate", "100")
			m := r.waitFor(t, `^all here: .*`+what+` (\d+)`)
			pid, _ := strconv.Atoi(m[1])
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, r.out)
			if err := r.Wait(); err == nil {
				t.Error("the command did not fail")
			}
			want := map[string]string{"feed handler": "feed handler", "order gateway": "order gateway", "strategies here": "strategy 0"}[what]
			checkOutput(t, r.stderr.String(), want+`: .*signal: killed`)
		})
	}
}

// When the command is interrupted, it stops its processes.
func TestInterrupt(t *testing.T) {
	exampletest.PrivateNames(t)
	r := startMachines(t, "-kill", "0", "-loops", "5", "-rate", "5000")
	m := r.waitFor(t, `^some away: .* server (\d+), strategies away (\d+)`)
	if err := r.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, r.out)
	if err := r.Wait(); err == nil {
		t.Error("the command did not fail")
	}
	checkOutput(t, r.stderr.String(), `^machines: some away: interrupt signal received\n$`)
	for _, text := range m[1:] {
		if _, err := os.Stat("/proc/" + text); err == nil {
			t.Errorf("process %s is there still", text)
		}
	}
}

// On a terminal there is a progress bar, and what is left of it is cleared.
func TestProgress(t *testing.T) {
	exampletest.PrivateNames(t)
	master, slave := exampletest.OpenTerminal(t)
	defer master.Close()
	cmd := exampletest.Command(t, "-loops", "4", "-kill", "0")
	cmd.Stderr = slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown, _ := io.ReadAll(master) // EIO when no process has the terminal open any more
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, shown)
	}
	checkOutput(t, string(shown), `all here +0% `, `some away +0% `, `/2240\)`, `\r$`)
}

// startServer runs a NATS server in this process, and returns its URL.
func startServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server does not get ready")
	}
	return s.ClientURL()
}

// The strategies that are away are started as the command says, by others, and one
// of them is killed and started again.
func TestElsewhere(t *testing.T) {
	url := startServer(t)
	exampletest.PrivateNames(t)
	const loops = 8
	r := startMachines(t, "-nats", url, "-elsewhere", "-loops", fmt.Sprint(loops), "-rate", "2500", "-kill", "0")
	far := make(map[string]*exec.Cmd)
	start := func(args []string) {
		cmd := exampletest.Command(t, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		far[args[4]] = cmd
	}
	var again []string
	for range 2 {
		m := r.waitFor(t, `^to be started elsewhere: machines (strategy .*)$`)
		args := strings.Fields(strings.ReplaceAll(m[1], "'", ""))
		if want := []string{"strategy", "-nats", url, "-number"}; !slices.Equal(args[:4], want) {
			t.Fatalf("%q, want %q and so on", args, want)
		}
		start(args)
		again = args
	}
	number := again[4]
	awaitOrders(t, url, number)
	if err := far[number].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := far[number].Wait(); err == nil {
		t.Errorf("strategy %s had ended before it was killed", number)
	}
	start(again)
	orders := r.finish(t)
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, loops, subscriptions...))
	for number, cmd := range far {
		if err := cmd.Wait(); err != nil {
			t.Errorf("strategy %s: %v", number, err)
		}
	}
}

// awaitOrders waits until some orders of a strategy are in their stream.
func awaitOrders(t *testing.T, url, number string) {
	t.Helper()
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	s, err := connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for {
		stored, err := storedOrders(s, n)
		if err != nil {
			t.Fatal(err)
		}
		if stored >= 5 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A run does not mix with what another one has left in the server; -remove removes
// that. Afterwards nothing is left.
func TestOldStreams(t *testing.T) {
	url := startServer(t)
	exampletest.PrivateNames(t)
	if err := createStreams(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	args := []string{"-nats", url, "-kill", "0", "-loops", "1"}
	out, err := exampletest.Command(t, args...).CombinedOutput()
	if err == nil {
		t.Errorf("no error\n%s", out)
	}
	checkOutput(t, string(out), `^machines: some away: stream PRICES is there already; if no other run needs it, give -remove$`)
	runMachines(t, "", append(args, "-remove")...)
	if err := createStreams(t.Context(), url); err != nil {
		t.Errorf("after the run: %v", err)
	}
}

func TestNoServer(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t, "-nats", "nats://127.0.0.1:1", "-kill", "0", "-loops", "1").CombinedOutput()
	if err == nil {
		t.Errorf("no error\n%s", out)
	}
	checkOutput(t, string(out), `^machines: some away: nats://127\.0\.0\.1:1: nats: no servers available`)
}
