// Command restart is a net/http server that is replaced by its next process
// while clients open a connection for each request: none is refused or reset.
// Each process hands its socket to the next one, or lets it take the name over,
// waits until that serves, and ends when it has answered what it has accepted.
//
//	go run ./examples/restart
//	go run ./examples/restart -takeover
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"shmconn"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("restart", flag.ExitOnError)
	n := flags.Int("n", 20, "how many `times` to restart the server")
	clients := flags.Int("clients", 4, "how many `clients` ask meanwhile")
	listen := flags.String("listen", "", "be the first server, on `name`")
	takeOver := flags.Bool("takeover", false, "have each server take the name over by itself")
	inherit := flags.Bool("inherit", false, "be the next server, whose socket is descriptor 3")
	flags.Parse(args)
	switch {
	case *listen != "":
		lc := &shmconn.ListenConfig{TakeOver: *takeOver}
		l, err := lc.Listen(*listen)
		if err != nil {
			return err
		}
		return serve(l, *takeOver)
	case *inherit:
		f := os.NewFile(3, "socket")
		l, err := shmconn.FileListener(f)
		if err != nil {
			return err
		}
		f.Close()
		return serve(l, false)
	}
	return ask(ctx, *n, *clients, *takeOver, stdout)
}

// serve serves until the next server does so in its place, or the standard
// input ends.
func serve(l *shmconn.Listener, takeOver bool) error {
	end := make(chan error, 1)
	stop := sync.OnceFunc(func() { end <- l.Close() })
	go func() { io.Copy(io.Discard, os.Stdin); stop() }()

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/restart", func(w http.ResponseWriter, r *http.Request) {
		if err := startNext(l, takeOver); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		stop() // before the answer: whoever has that comes to the next server
	})
	var open sync.WaitGroup
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second, // which bounds the end, too
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Done()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Println("ready")
	// Where the next server has taken over, Serve may have closed the listener.
	if err := <-end; err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	// Serve accepts what the listener had taken off the socket, and ends then.
	// Shutdown would drop connections whose request it has not read yet.
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	srv.SetKeepAlivesEnabled(false)
	open.Wait()
	return nil
}

// startNext starts the next server and returns when it is ready.
func startNext(l *shmconn.Listener, takeOver bool) error {
	args, files := []string{"-takeover", "-listen", l.Addr().String()}, []*os.File(nil)
	if !takeOver {
		socket, err := l.File()
		if err != nil {
			return err
		}
		defer socket.Close()
		args, files = []string{"-inherit"}, []*os.File{socket}
	}
	next, ready, err := start(os.Stdin, files, args...)
	if err != nil {
		return err
	}
	next.Process.Release()
	return ready()
}

// start starts this program again. ready waits until it says that it is.
func start(stdin *os.File, files []*os.File, args ...string) (cmd *exec.Cmd, ready func() error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	cmd = exec.Command(exe, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdin, w, os.Stderr, files
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, nil, err
	}
	return cmd, func() error {
		defer r.Close()
		var word string
		if _, err := fmt.Fscan(r, &word); err != nil || word != "ready" {
			return fmt.Errorf("the server did not start: %q, %w", word, err)
		}
		return nil
	}, nil
}

// A tally is what came of the requests.
type tally struct {
	mu                       sync.Mutex
	answered, refused, other int
	seen                     map[string]bool
	first                    error
}

func (y *tally) count(pid string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	switch {
	case err == nil:
		y.answered++
		y.seen[pid] = true
		return
	case errors.Is(err, syscall.ECONNREFUSED):
		y.refused++
	default:
		y.other++
	}
	if y.first == nil {
		y.first = err
	}
}

// ask has clients ask while the server is restarted n times.
func ask(ctx context.Context, n, clients int, takeOver bool, stdout io.Writer) error {
	name := fmt.Sprintf("restart-%d", os.Getpid())
	// All servers have this as their standard input, and end with it.
	stdin, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stop.Close()
	server, ready, err := start(stdin, nil, "-listen", name, fmt.Sprintf("-takeover=%v", takeOver))
	stdin.Close()
	if err != nil {
		return err
	}
	defer server.Wait()
	defer stop.Close()
	if err := ready(); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext:       new(shmconn.Dialer).DialContext,
		DisableKeepAlives: true, // a connection for each request
	}}
	y := tally{seen: make(map[string]bool)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			for ctx.Err() == nil {
				y.count(get(client, "http://"+name+"/"))
			}
		})
	}
	for range n {
		if _, err = get(client, "http://"+name+"/restart"); err != nil {
			break
		}
	}
	cancel()
	asking.Wait()
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	fmt.Fprintf(stdout, "%d restarts: %d requests answered, %d refused, %d failed otherwise\n", n, y.answered, y.refused, y.other)
	return y.first
}

// get returns the body of an answer.
func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}
