// Command reconnect is a client that outlives its server: when the connection
// ends it dials again, waits for the next server, and asks again what was not
// answered. Each request has a number, so that a server can tell one that it
// has seen.
//
//	go run ./examples/reconnect
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"shmconn"
)

// A Client asks the server that listens on a name, whichever that is now.
type Client struct {
	Name   string
	Dialer shmconn.Dialer // its Wait is how long to wait for the next server

	c     *shmconn.Conn
	lines *bufio.Reader
	Dials int
}

// Ask returns the answer to a line. When the connection ends, by the server's
// Close or by its death, it dials again and asks again.
func (k *Client) Ask(ctx context.Context, line string) (answer string, err error) {
	for {
		if k.c == nil {
			c, err := k.Dialer.DialConn(ctx, k.Name)
			if err != nil {
				return "", err
			}
			k.Dials++
			k.c, k.lines = c, bufio.NewReader(c)
		}
		answer, err = k.exchange(ctx, line)
		if err == nil {
			return answer, nil
		}
		k.Close()
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
}

func (k *Client) exchange(ctx context.Context, line string) (string, error) {
	stop := context.AfterFunc(ctx, func() { k.c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintln(k.c, line); err != nil {
		return "", err
	}
	return k.lines.ReadString('\n')
}

// Close ends the connection, if there is one.
func (k *Client) Close() {
	if k.c != nil {
		k.c.Close()
		k.c = nil
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "reconnect:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("reconnect", flag.ExitOnError)
	n := flags.Int("n", 20000, "how many `requests` to send")
	kills := flags.Int("kills", 5, "how often to kill the server meanwhile")
	listen := flags.String("listen", "", "be the server, on `name`")
	flags.Parse(args)
	if *listen != "" {
		return serve(*listen)
	}
	return ask(ctx, *n, *kills, stdout)
}

// serve answers each line by itself.
func serve(name string) error {
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		c, err := l.AcceptConn()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// ask asks n times while the server is killed and started again.
func ask(ctx context.Context, n, kills int, stdout io.Writer) error {
	name := fmt.Sprintf("reconnect-%d", os.Getpid())
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	start := func() (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, exe, "-listen", name)
		cmd.Stderr = os.Stderr
		return cmd, cmd.Start()
	}
	server, err := start()
	if err != nil {
		return err
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
		clean, err := shmconn.Listen(name) // takes over what the killed one has left
		if err == nil {
			clean.Close()
		}
	}()
	k := &Client{Name: name, Dialer: shmconn.Dialer{Wait: 10 * time.Second}}
	defer k.Close()
	for i := range n {
		if kills > 0 && i%(n/kills) == n/kills/2 {
			server.Process.Kill()
			server.Wait()
			if server, err = start(); err != nil {
				return err
			}
		}
		line := fmt.Sprintf("request %d", i)
		answer, err := k.Ask(ctx, line)
		if err != nil {
			return err
		}
		if answer != line+"\n" {
			return fmt.Errorf("%q is the answer to %q", answer, line)
		}
	}
	fmt.Fprintf(stdout, "%d requests answered, over %d connections\n", n, k.Dials)
	return nil
}
