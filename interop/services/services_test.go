//go:build linux

package services

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// With -long the large transfers have their full size.
var long = flag.Bool("long", false, "send 100 MB where the default is 16")

// testDir is where names are, on /dev/shm.
var testDir string

func TestMain(m *testing.M) {
	Main()
	flag.Parse()
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own, and fails when they
// leave a file in it. By its name the tests of shmconn remove one that a run
// left which was killed.
func runTests(m *testing.M) int {
	var err error
	if testDir, err = os.MkdirTemp("/dev/shm", "shmconn-test-services-"); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(testDir)
	code := m.Run()
	if left, err := os.ReadDir(testDir); code == 0 && (err != nil || len(left) > 0) {
		fmt.Fprintln(os.Stderr, "FAIL: left in the directory:", left, err)
		return 1
	}
	return code
}

// networks are what every service runs over: the smallest ring, the default
// one, and what both are compared with.
var networks = []Network{{Name: "shm", RingSize: 4096}, {Name: "shm"}, {Name: "unix"}}

var nameCount atomic.Int64

// start starts a service in another process and returns what dials it. The
// server has to stop well when the test ends.
func start(t *testing.T, service string, n Network) (dial Dial, stop func() error) {
	t.Helper()
	s, ok := Named(service)
	if !ok {
		t.Fatalf("there is no service %q", service)
	}
	name := fmt.Sprintf("s%d-%d", os.Getpid(), nameCount.Add(1))
	ctx, cancel := context.WithCancel(context.Background())
	stop, err := s.Start(ctx, n, testDir, name)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			cancel() // what failed may keep it from stopping
		}
		if err := stop(); err != nil && !t.Failed() {
			t.Errorf("stopping the server: %v", err)
		}
		cancel()
		if t.Failed() { // and it may have left something, for the next test to see
			os.Remove(filepath.Join(testDir, name))
		}
	})
	return n.Dial(testDir, name), stop
}

// onNetworks runs test for a server of the service over each network.
func onNetworks(t *testing.T, service string, test func(t *testing.T, dial Dial, stop func() error)) {
	for _, n := range networks {
		t.Run("net="+n.String(), func(t *testing.T) {
			dial, stop := start(t, service, n)
			test(t, dial, stop)
		})
	}
}

// random returns n bytes that are the same for the same seed.
func random(n, seed int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// TestEcho has several clients of each service call it with requests smaller
// and larger than the ring, in another process.
func TestEcho(t *testing.T) {
	for _, s := range All {
		t.Run(s.Name, func(t *testing.T) {
			onNetworks(t, s.Name, func(t *testing.T, dial Dial, _ func() error) {
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() { callSizes(t, s, dial, i) })
				}
				wg.Wait()
			})
		})
	}
}

// callSizes calls s with a client of its own.
func callSizes(t *testing.T, s Service, dial Dial, client int) {
	c, err := s.NewClient(dial)
	if err != nil {
		t.Errorf("client %d: %v", client, err)
		return
	}
	for i, size := range []int{1, 100, 4095, 4096, 4097, 100_000, 600_000, 1} {
		want := random(size, 1000*client+i)
		if got, err := c.Call(want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("client %d, %d bytes: %d bytes that are equal: %v; %v", client, size, len(got), bytes.Equal(got, want), err)
			break
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("client %d: Close: %v", client, err)
	}
}

// connect dials and fails the test where that fails.
func (d Dial) connect(t *testing.T) net.Conn {
	t.Helper()
	c, err := d(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
