// Command http is a net/http server and client over shared memory. The server's
// handlers and the client's requests are what they would be over TCP; what is
// different is one line each, with [shmconn.Listen] and with
// [shmconn.Dialer.DialContext].
//
// Run it as one command, which serves and starts itself again as the client:
//
//	go run ./examples/http
//
// or as two commands in two terminals:
//
//	go run ./examples/http -serve demo
//	go run ./examples/http -get http://demo/hello/gopher
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
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"shmconn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("http", flag.ExitOnError)
	name := flags.String("serve", "", "be the server only, and listen on `name`")
	url := flags.String("get", "", "be the client only, and get `url`, http://name/path")
	n := flags.Int("n", 10_000, "how many times to get the url")
	flags.Parse(args)
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *name != "" && *url != "":
		return errors.New("-serve and -get are for two processes: give one of them, or none")
	case *n < 1:
		return fmt.Errorf("-n %d: must be at least 1", *n)
	}
	switch {
	case *name != "":
		return runServer(ctx, *name, stdout)
	case *url != "":
		return runClient(ctx, *url, *n, stdout)
	}
	return runBoth(ctx, *n, stdout)
}

// handler is what is served. It does not know what it is served over.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello/{name}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello, %s! You asked %s for it, over %s.\n", r.PathValue("name"), r.Host, network(r))
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		// Without this, the HTTP/1 server reads the whole request before it
		// starts the reply.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.Copy(w, r.Body)
	})
	return mux
}

// network returns the network that r came over.
func network(r *http.Request) string {
	return r.Context().Value(http.LocalAddrContextKey).(net.Addr).Network()
}

// newClient returns a client for URLs whose host is the name of a listener.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: new(shmconn.Dialer).DialContext}}
}

// runServer serves until ctx is cancelled.
func runServer(ctx context.Context, name string, stdout io.Writer) error {
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "server: http://%s/\n", name)
	return serve(ctx, l)
}

// serve serves connections from l until ctx is cancelled, closes l, and gives
// requests that are under way some time to finish.
func serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: handler()}
	shutdown := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		shutdown <- server.Shutdown(grace)
	})
	err := server.Serve(l)
	if stop() {
		return err // Serve ended by itself
	}
	return <-shutdown
}

// runClient gets url n times, one after the other, and prints the last reply.
func runClient(ctx context.Context, url string, n int, stdout io.Writer) error {
	client := newClient()
	defer client.CloseIdleConnections()
	var body []byte
	start := time.Now()
	for range n {
		var err error
		if body, err = get(ctx, client, url); err != nil {
			return err
		}
	}
	elapsed := time.Since(start)
	stdout.Write(body)
	fmt.Fprintf(stdout, "client: %d requests, %.0f requests/s\n", n, float64(n)/elapsed.Seconds())
	return nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, response.Status)
	}
	return body, nil
}

// runBoth serves, starts this program again as the client, and ends when the
// client has ended.
func runBoth(ctx context.Context, n int, stdout io.Writer) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("http-%d", os.Getpid())
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l) }()

	client := exec.CommandContext(ctx, exe, "-get", "http://"+name+"/hello/gopher", "-n", strconv.Itoa(n))
	client.Stdout, client.Stderr = stdout, os.Stderr
	if err = client.Run(); err != nil {
		err = fmt.Errorf("client: %w", err)
	}
	cancel()
	return errors.Join(err, <-served)
}
