// Command sidecar is two containers that share nothing but a volume: a server
// that listens in it, and a client. They may run as different users and have no
// process, network or IPC namespace in common; compose.yaml and pod.yaml beside
// this file start them so.
//
//	go run ./examples/sidecar                          # both, in a directory of their own
//	go run ./examples/sidecar -listen /shared/feed
//	go run ./examples/sidecar -dial /shared/feed -uid 1000
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"shmconn"
	"shmconn/examples/internal/again"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("sidecar", flag.ExitOnError)
	listen := flags.String("listen", "", "listen on `path`, in the volume")
	dial := flags.String("dial", "", "dial `path`")
	uid := flags.Uint("uid", uint(os.Getuid()), "the `user` that the server has to run as")
	flags.Parse(args)
	switch {
	case *listen != "" && *dial == "":
		return serve(ctx, *listen, stdout)
	case *dial != "" && *listen == "":
		return client(ctx, *dial, uint32(*uid), stdout)
	case *dial == "":
		return both(ctx, stdout)
	}
	return errors.New("give one of -listen and -dial, or neither")
}

// both serves in a directory that it makes, and runs this command again as the
// client.
func both(ctx context.Context, stdout io.Writer) error {
	dir, err := os.MkdirTemp("", "sidecar-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "feed")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, path, stdout) }()
	err = again.Run(ctx, stdout, "-dial", path)
	cancel()
	return errors.Join(err, <-served)
}

// serve answers until ctx is cancelled.
func serve(ctx context.Context, path string, stdout io.Writer) error {
	lc := shmconn.ListenConfig{
		Mode:      0o666, // who sees the volume may dial; 0o660 is for a group that both have
		Anonymous: true,  // the rings take nothing from the volume's size
	}
	l, err := lc.Listen(path) // with a slash in it: the directory is not /dev/shm
	if err != nil {
		return err
	}
	defer l.Close()
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Fprintln(stdout, "listening")
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintln(c, strings.ToUpper(lines.Text()))
			}
		}()
	}
}

// client asks once, as soon as the server is there: containers start in any
// order.
func client(ctx context.Context, path string, server uint32, stdout io.Writer) error {
	d := shmconn.Dialer{Wait: -1, AllowUID: func(uid uint32) bool { return uid == server }}
	c, err := d.DialConn(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintln(c, "hello from the sidecar")
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Fprint(stdout, line)
	return err
}
