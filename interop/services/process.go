//go:build linux

package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"shmconn"
)

// A Network is what connections are made of.
type Network struct {
	Name     string        // "shm" or "unix"
	RingSize int           // of shm; 0 is the default
	BusyPoll time.Duration // of both ends; the same
}

func (n Network) String() string {
	if n.RingSize == 0 {
		return n.Name
	}
	return fmt.Sprintf("%s,ring=%d", n.Name, n.RingSize)
}

// Listen listens on name in dir.
func (n Network) Listen(dir, name string) (net.Listener, error) {
	path := filepath.Join(dir, name)
	if n.Name == "unix" {
		return net.Listen("unix", path)
	}
	l, err := (&shmconn.ListenConfig{RingSize: n.RingSize, BusyPoll: n.BusyPoll}).Listen(path)
	if err != nil {
		return nil, err // and not a net.Listener that holds a nil *Listener
	}
	return l, nil
}

// Dial returns the dial function for the listener on name in dir.
func (n Network) Dial(dir, name string) Dial {
	path := filepath.Join(dir, name)
	return func(ctx context.Context) (net.Conn, error) {
		if n.Name == "unix" {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return (&shmconn.Dialer{BusyPoll: n.BusyPoll}).DialContext(ctx, "shm", path)
	}
}

// serverEnv tells this program, run again, what to serve.
const serverEnv = "SHMCONN_SERVICE"

// Main serves, and does not return, in a process that Start has started.
// Elsewhere it does nothing.
func Main() {
	role := os.Getenv(serverEnv)
	if role == "" {
		return
	}
	if err := serveRole(role); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveRole serves until standard input ends.
func serveRole(role string) error {
	var name, file string
	var n Network
	if _, err := fmt.Sscan(role, &name, &n.Name, &n.RingSize, &n.BusyPoll, &file); err != nil {
		return err
	}
	s, ok := Named(name)
	if !ok {
		return errors.New("there is no such service")
	}
	l, err := n.Listen(filepath.Split(file))
	if err != nil {
		return err
	}
	stop, err := s.Serve(l)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return stop()
}

// Start starts the service in another process, which listens on name in dir
// when Start returns. Stop ends it, once no client is left, and can be called
// again; ctx kills it.
func (s Service) Start(ctx context.Context, n Network, dir, name string) (stop func() error, err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d %s", serverEnv, s.Name, n.Name, n.RingSize, n.BusyPoll, filepath.Join(dir, name)))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = sync.OnceValue(func() error {
		in.Close()
		return cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return nil, fmt.Errorf("%s over %v says %q: %w", s.Name, n, strings.TrimSpace(line), errors.Join(err, stop()))
	}
	return stop, nil
}
