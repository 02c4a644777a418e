package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

// startServer starts "http -serve demo" and returns its URL. When t ends,
// the server is interrupted, and has to end well.
func startServer(t *testing.T) string {
	t.Helper()
	var stderr bytes.Buffer
	server := exampletest.Command(t, "-serve", "demo")
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	server.Stderr = &stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not listen: %v\n%s", server.Wait(), &stderr)
	}
	t.Cleanup(func() {
		if err := server.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("server: %v\n%s", err, &stderr)
		}
	})
	return strings.TrimSpace(strings.TrimPrefix(line, "server: "))
}

func TestBoth(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t, "-n", "50").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := `(?s)^Hello, gopher! You asked http-\d+ for it, over (shm|unix)\.\nclient: 50 requests, \d+ requests/s\n$`
	if !regexp.MustCompile(want).Match(out) {
		t.Errorf("output is\n%s\nwant a match of %s", out, want)
	}
}

func TestTwoTerminals(t *testing.T) {
	exampletest.PrivateNames(t)
	url := startServer(t)
	if url != "http://demo/" {
		t.Errorf("URL is %q", url)
	}
	out, err := exampletest.Command(t, "-get", url+"hello/you", "-n", "2").CombinedOutput()
	if want := "Hello, you! You asked demo for it, over " + (shmconn.Addr{}).Network() + ".\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v\n%s\nwant %q", err, out, want)
	}
	out, err = exampletest.Command(t, "-get", url+"elsewhere").CombinedOutput()
	if want := "404 Not Found"; err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v\n%s\nwant %q", err, out, want)
	}
}

// Bodies larger than the ring go both ways at once, on several connections.
func TestEcho(t *testing.T) {
	exampletest.PrivateNames(t)
	url := startServer(t)
	client := newClient()
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			sent := bytes.Repeat([]byte{byte('a' + i), '\n'}, 1<<19)
			response, err := client.Post(url+"echo", "text/plain", bytes.NewReader(sent))
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("echo of %d bytes: %d bytes, %v", len(sent), len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	exampletest.PrivateNames(t)
	url := startServer(t)
	client := newClient()
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	never, end := io.Pipe() // a body that never comes
	defer end.Close()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"echo", never)
	if err != nil {
		t.Fatal(err)
	}
	// net/http waits, where the reply comes before the end, for the body to end.
	context.AfterFunc(ctx, func() { end.CloseWithError(context.Canceled) })
	go cancel()
	response, err := client.Do(request)
	if err == nil { // the reply may begin before the body has come
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-get", "http://nobody/"}, "connection refused"},
		{[]string{"-serve", "no good"}, "no good"},
		{[]string{"-serve", "a", "-get", "http://a/"}, "give one of them"},
		{[]string{"-n", "0"}, "-n 0: must be at least 1"},
		{[]string{"demo"}, `unexpected argument "demo"`},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			exampletest.PrivateNames(t)
			out, err := exampletest.Command(t, test.args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("%v\n%s\nwant %q", err, out, test.want)
			}
		})
	}
}
