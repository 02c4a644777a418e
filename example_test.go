//go:build linux

package shmconn_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"shmconn"
)

// A server that answers one line, and its client. They usually are two
// processes.
func Example() {
	l, err := shmconn.Listen("greeter")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		name, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprintf(c, "hello, %s", name)
	}()

	c, err := shmconn.Dial("greeter")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "gopher")
	io.Copy(os.Stdout, c)
	// Output: hello, gopher
}

// examplePair returns the two ends of a connection.
func examplePair(name string) (client, server *shmconn.Conn) {
	l, err := shmconn.Listen(name)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close() // connections outlive it
	if client, err = shmconn.Dial(name); err != nil {
		log.Fatal(err)
	}
	if server, err = l.AcceptConn(); err != nil {
		log.Fatal(err)
	}
	return client, server
}

func ExampleListen() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println(l.Addr())

	_, err = shmconn.Listen("feed")
	fmt.Println(errors.Is(err, syscall.EADDRINUSE))
	// Output:
	// feed
	// true
}

func ExampleDial() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	// Dial does not wait for Accept, nor does the first Write.
	c, err := shmconn.Dial("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("subscribe GOOG\n"))

	server, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	line, _ := bufio.NewReader(server).ReadString('\n')
	fmt.Print(line)
	// Output: subscribe GOOG
}

func ExampleListenConfig() {
	lc := &shmconn.ListenConfig{
		RingSize:  1 << 20, // for large writes
		Mode:      0o660,   // the group may dial
		Anonymous: true,    // does not take from the size of /dev/shm
		BusyPoll:  -1,      // never give the processor away
	}
	l, err := lc.Listen("gateway")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	c, err := shmconn.Dial("gateway")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Stats().RingSize)
	// Output: 1048576
}

func ExampleDialer() {
	d := &shmconn.Dialer{
		Timeout:  time.Second, // when the listener does not keep up with its backlog
		AllowUID: func(uid uint32) bool { return uid == uint32(os.Getuid()) },
	}
	_, err := d.Dial("nobody-home") // the error says where it was looked
	fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	// Output: true
}

func ExampleDialer_DialContext() {
	l, err := shmconn.Listen("web")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s", r.URL.Path, l.Addr())
	})}
	go srv.Serve(l)
	defer srv.Close()

	d := new(shmconn.Dialer)
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://web/prices")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: /prices from web
}

func ExampleDialer_DialContext_cancel() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := new(shmconn.Dialer).DialContext(ctx, "shm", "feed")
	fmt.Println(errors.Is(err, context.Canceled))
	// Output: true
}

// The two processes may start in any order.
func ExampleDialer_DialConn() {
	go func() {
		time.Sleep(10 * time.Millisecond)
		l, err := shmconn.Listen("late")
		if err != nil {
			log.Fatal(err)
		}
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprint(c, "better late than never")
		c.Close()
	}()

	d := &shmconn.Dialer{Wait: time.Minute}
	c, err := d.DialConn(context.Background(), "late")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	io.Copy(os.Stdout, c)
	// Output: better late than never
}

func ExampleListener_AcceptConn() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	client, err := shmconn.Dial("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	c, err := l.AcceptConn() // a *shmconn.Conn; Accept returns it as a net.Conn
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	client.Write([]byte("tick"))
	b, _ := c.Peek(4)
	fmt.Printf("%s\n", b)
	// Output: tick
}

func ExampleListener_SetDeadline() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(time.Millisecond))
	_, err = l.Accept()
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	// Output: true
}

// Small writes are joined by a bufio.Writer, as on any connection.
func ExampleConn_Write() {
	client, server := examplePair("ticks")
	defer server.Close()

	w := bufio.NewWriter(client)
	for i := range 3 {
		fmt.Fprintf(w, "GOOG %d\n", 100+i)
	}
	w.Flush()
	client.Close()

	ticks := bufio.NewScanner(server)
	for ticks.Scan() {
		fmt.Println(ticks.Text())
	}
	// Output:
	// GOOG 100
	// GOOG 101
	// GOOG 102
}

func ExampleConn_Read() {
	client, server := examplePair("ticks")
	defer server.Close()
	client.Write([]byte("last words"))
	client.Close()

	b := make([]byte, 4)
	for {
		n, err := server.Read(b)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", b[:n])
	}
	// Output:
	// "last"
	// " wor"
	// "ds"
}

func ExampleConn_SetReadDeadline() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	b := make([]byte, 64)
	client.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := client.Read(b)
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))

	client.SetReadDeadline(time.Time{}) // and on it goes
	server.Write([]byte("late"))
	n, _ := client.Read(b)
	fmt.Printf("%s\n", b[:n])
	// Output:
	// true
	// late
}

func ExampleConn_CloseWrite() {
	client, server := examplePair("sum")
	defer client.Close()
	go func() {
		defer server.Close()
		request, _ := io.ReadAll(server) // until the client's CloseWrite
		fmt.Fprintf(server, "%d bytes", len(request))
	}()

	client.Write([]byte("all that I have to say"))
	client.CloseWrite()
	reply, _ := io.ReadAll(client)
	fmt.Printf("%s\n", reply)
	// Output: 22 bytes
}

func ExampleConn_TryRead() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	b := make([]byte, 64)
	n, err := server.TryRead(b)
	fmt.Println(n, err) // nothing there, and no wait

	client.Write([]byte("tick"))
	n, err = server.TryRead(b)
	fmt.Println(n, err)
	// Output:
	// 0 <nil>
	// 4 <nil>
}

// A reader that is too slow does not hold up its feed, which counts what was
// dropped. This is for messages whose size divides the ring's: they fit or do
// not.
func ExampleConn_TryWrite() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	var sent, dropped int
	message := make([]byte, 1024)
	for range 300 {
		n, err := client.TryWrite(message)
		if err != nil {
			log.Fatal(err)
		}
		if n == 0 {
			dropped++
		} else {
			sent++
		}
	}
	fmt.Println(sent, "sent,", dropped, "dropped")
	// Output: 256 sent, 44 dropped
}

// A feed that drops what a slow consumer has no room for, and never half of it.
func ExampleConn_TryWriteAll() {
	feed, consumer := examplePair("quotes")
	defer feed.Close()
	defer consumer.Close()

	quote := make([]byte, 100)
	sent, dropped := 0, 0
	for range 10_000 {
		ok, err := feed.TryWriteAll(quote)
		switch {
		case err != nil:
			log.Fatal(err)
		case ok:
			sent++
		default:
			dropped++
		}
	}
	fmt.Println(sent == feed.RingSize()/100, sent+dropped, consumer.Buffered() == 100*sent)
	// Output: true 10000 true
}

func ExampleConn_Buffered() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	client.Write(make([]byte, 1000))
	fmt.Println(server.Buffered(), "of", server.Stats().RingSize)
	// Output: 1000 of 262144
}

func ExampleConn_Available() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	fmt.Println(client.Available())
	client.Write(make([]byte, 144))
	fmt.Println(client.Available())
	// Output:
	// 262144
	// 262000
}

// A header and a body become one message without being joined first.
func ExampleConn_WriteBuffers() {
	client, server := examplePair("frames")
	defer client.Close()
	defer server.Close()

	body := []byte("GOOG 150.25")
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	n, err := client.WriteBuffers(&net.Buffers{head, body})
	fmt.Println(n, err)

	b := make([]byte, 64)
	m, _ := server.Read(b)
	fmt.Printf("%q\n", b[:m])
	// Output:
	// 15 <nil>
	// "\x00\x00\x00\vGOOG 150.25"
}

func ExampleConn_ReadFrom() {
	client, server := examplePair("files")
	defer server.Close()

	n, err := client.ReadFrom(strings.NewReader("a file, or any Reader")) // as io.Copy does
	fmt.Println(n, err)
	client.Close()

	b, _ := io.ReadAll(server)
	fmt.Printf("%s\n", b)
	// Output:
	// 21 <nil>
	// a file, or any Reader
}

func ExampleConn_WriteTo() {
	client, server := examplePair("files")
	defer server.Close()
	client.Write([]byte("to the standard output\n"))
	client.Close()

	n, err := server.WriteTo(os.Stdout) // as io.Copy does
	fmt.Println(n, err)
	// Output:
	// to the standard output
	// 23 <nil>
}

// Messages with their length in front are parsed where they are, in the ring.
func ExampleConn_Peek() {
	client, server := examplePair("frames")
	defer server.Close() // which keeps server until then, and with it the slices of Peek
	for _, s := range []string{"buy", "sell", "hold"} {
		client.Write(append([]byte{byte(len(s))}, s...))
	}
	client.Close()

	for {
		head, err := server.Peek(1)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		size := 1 + int(head[0])
		message, err := server.Peek(size)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message[1:])
		server.Discard(size) // message is not valid after this
	}
	// Output:
	// buy
	// sell
	// hold
}

// Messages with their length before them, as many at a time as there are.
func ExampleConn_PeekAtLeast() {
	client, server := examplePair("frames")
	defer server.Close()
	for _, text := range []string{"buy", "sell", "cancel"} {
		client.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	}
	client.Close()

	need := 4 // bytes until there is something to do
	for {
		b, err := server.PeekAtLeast(need)
		if len(b) < need {
			fmt.Println(err)
			return
		}
		done := 0
		for need = 4; len(b)-done >= need; {
			need = 4 + int(binary.BigEndian.Uint32(b[done:]))
			if need > server.RingSize()/2 {
				log.Fatal("too long a message")
			}
			if len(b)-done < need {
				break // the rest of it is yet to come
			}
			fmt.Printf("%s\n", b[done+4:done+need])
			done += need
			need = 4
		}
		server.Discard(done)
	}
	// Output:
	// buy
	// sell
	// cancel
	// EOF
}

func ExampleConn_RingSize() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()
	fmt.Println(client.RingSize() == shmconn.DefaultRingSize, server.RingSize() == client.RingSize())
	// Output: true true
}

func ExampleConn_Discard() {
	client, server := examplePair("frames")
	defer server.Close()
	client.Write([]byte("header: body"))
	client.Close()

	server.Discard(len("header: "))
	b, _ := io.ReadAll(server)
	fmt.Printf("%s\n", b)
	// Output: body
}

// A message is built where the peer will read it, without a copy.
func ExampleConn_Reserve() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	b, err := client.Reserve(64) // as much as it can become
	if err != nil {
		log.Fatal(err)
	}
	b = append(b[:0], "GOOG "...)
	b = fmt.Appendf(b, "%.2f", 150.25)
	if err := client.Commit(len(b)); err != nil {
		log.Fatal(err)
	}

	got := make([]byte, 64)
	n, _ := server.Read(got)
	fmt.Printf("%s\n", got[:n])
	// Output: GOOG 150.25
}

func ExampleConn_Commit() {
	client, server := examplePair("ints")
	defer client.Close()
	defer server.Close()

	b, err := client.Reserve(4)
	if err != nil {
		log.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b, 42)
	fmt.Println(server.Buffered()) // nobody can see it yet
	client.Commit(4)
	fmt.Println(server.Buffered())
	// Output:
	// 0
	// 4
}

// Send messages in place, each published as soon as it is built, by one call a
// message.
func ExampleConn_CommitReserve() {
	client, server := examplePair("prices")
	defer client.Close()
	defer server.Close()

	var room []byte
	for _, price := range []uint64{150, 151, 149} {
		var err error
		if room == nil { // at first, and while the ring is full
			if room, err = client.Reserve(8); err != nil {
				log.Fatal(err)
			}
		}
		binary.LittleEndian.PutUint64(room, price)
		if room, err = client.CommitReserve(8, 8); err != nil {
			log.Fatal(err)
		}
	}

	b, err := server.PeekAtLeast(8)
	for ; len(b) > 0; b = b[8:] {
		fmt.Println(binary.LittleEndian.Uint64(b))
	}
	fmt.Println(err)
	// Output:
	// 150
	// 151
	// 149
	// <nil>
}

// Work on shared memory of a peer that is not trusted: when the peer truncates
// it, that is an error and not the end of this process.
func ExampleConn_Guard() {
	client, server := examplePair("untrusted")
	defer client.Close()
	defer server.Close()
	client.Write([]byte("1234"))

	b, err := server.Peek(4)
	if err != nil {
		log.Fatal(err)
	}
	sum := 0
	err = server.Guard(func() {
		for _, c := range b {
			sum += int(c - '0')
		}
	})
	fmt.Println(sum, err)
	// Output: 10 <nil>
}

func ExampleConn_Stats() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	client.Write(make([]byte, 100))
	server.Read(make([]byte, 60))
	fmt.Println(client.Stats().BytesWritten, server.Stats().BytesRead, server.Stats().ReadCalls)
	// Output: 100 60 1
}

func ExampleListener_Stats() {
	l, err := shmconn.Listen("counted")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	client, err := shmconn.Dial("counted")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	server, err := l.AcceptConn()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	st := l.Stats()
	fmt.Println(st.Accepted, "accepted,", st.Pending, "wait,", st.Refused, "refused")
	// Output: 1 accepted, 0 wait, 0 refused
}

func ExampleConn_PeerCred() {
	client, server := examplePair("who")
	defer client.Close()
	defer server.Close()

	pid, uid, gid := server.PeerCred()
	fmt.Println(pid == os.Getpid(), int(uid) == os.Getuid(), int(gid) == os.Getgid())
	// Output: true true true
}

// What a damaged connection says: no more can be done with it than closing it.
func ExampleCorruptError() {
	explain := func(err error) {
		var corrupt *shmconn.CorruptError
		if errors.As(err, &corrupt) {
			fmt.Println(corrupt.What, "was", corrupt.Seen, "and at most", corrupt.Allowed, "is right")
		}
	}
	explain(&net.OpError{Op: "read", Net: "shm", Err: &shmconn.CorruptError{
		What: "bytes in the ring", Seen: 1 << 40, Allowed: 1 << 18,
	}})
	// Output: bytes in the ring was 1099511627776 and at most 262144 is right
}

// A name with a slash says which directory it is in, and Mode who may dial.
func ExampleListenConfig_Listen() {
	dir, err := os.MkdirTemp("", "shared")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	lc := &shmconn.ListenConfig{Mode: 0o666}
	l, err := lc.Listen(dir + "/feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println(l.Addr().String() == dir+"/feed")
	_, err = lc.Listen("no good")
	fmt.Println(err != nil)
	// Output:
	// true
	// true
}

func ExampleDialer_Dial() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	d := &shmconn.Dialer{BusyPoll: 50 * time.Microsecond, Timeout: time.Second}
	c, err := d.Dial("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println("connected to", c.RemoteAddr())
	// Output: connected to feed
}

func ExampleListener_Accept() {
	l, err := shmconn.Listen("echo")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	defer l.Close()

	for i := range 2 {
		c, err := shmconn.Dial("echo")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprint(c, "client ", i)
		c.CloseWrite()
		reply, _ := io.ReadAll(c)
		fmt.Printf("%s\n", reply)
		c.Close()
	}
	// Output:
	// client 0
	// client 1
}

// Connections outlive their listener, but for those that wait for Accept.
func ExampleListener_Close() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	l.Close()
	_, err = l.Accept()
	fmt.Println(errors.Is(err, net.ErrClosed))
	_, err = shmconn.Dial("feed")
	fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	// Output:
	// true
	// true
}

func ExampleListener_Addr() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := shmconn.Dial(l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.RemoteAddr() == l.Addr())
	// Output: true
}

func ExampleConn_Close() {
	client, server := examplePair("ticks")
	defer server.Close()
	client.Write([]byte("last words"))
	client.Close()

	b, err := io.ReadAll(server) // what was written before
	fmt.Printf("%s, %v\n", b, err)
	_, err = server.Write([]byte("too late"))
	fmt.Println(errors.Is(err, syscall.EPIPE))
	fmt.Println(errors.Is(client.Close(), net.ErrClosed))
	// Output:
	// last words, <nil>
	// true
	// true
}

// A feed throws out a consumer that does not keep up, which is not to believe
// that it has seen everything.
func ExampleConn_Abort() {
	consumer, feed := examplePair("ticks")
	defer consumer.Close()
	for {
		n, err := feed.TryWrite(make([]byte, 1<<16))
		if err != nil {
			log.Fatal(err)
		}
		if n < 1<<16 {
			feed.Abort()
			break
		}
	}

	_, err := io.Copy(io.Discard, consumer) // what was written before, and then
	fmt.Println(errors.Is(err, syscall.ECONNRESET))
	// Output: true
}

// A feed that writes now and then learns of a consumer that has gone.
func ExampleConn_Done() {
	consumer, feed := examplePair("ticks")
	defer feed.Close()
	time.AfterFunc(10*time.Millisecond, func() { consumer.Close() })

	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			feed.TryWriteAll([]byte("tick"))
		case <-feed.Done():
			fmt.Println("the consumer has gone")
			return
		}
	}
	// Output: the consumer has gone
}

func ExampleConn_CloseRead() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	server.CloseRead()
	_, err := client.Write([]byte("anybody?"))
	fmt.Println(errors.Is(err, syscall.EPIPE))

	server.Write([]byte("I only talk")) // the other direction goes on
	b := make([]byte, 64)
	n, _ := client.Read(b)
	fmt.Printf("%s\n", b[:n])
	// Output:
	// true
	// I only talk
}

func ExampleConn_LocalAddr() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()
	fmt.Println(client.LocalAddr())
	// Output: ticks
}

func ExampleConn_RemoteAddr() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()
	fmt.Println(client.RemoteAddr()) // the listener's

	dialer := fmt.Sprintf("ticks#1(pid=%d,uid=%d)", os.Getpid(), os.Getuid())
	fmt.Println(server.RemoteAddr().String() == dialer)
	// Output:
	// ticks
	// true
}

// A deadline for a request and its reply together.
func ExampleConn_SetDeadline() {
	client, server := examplePair("ask")
	defer client.Close()
	defer server.Close()

	client.SetDeadline(time.Now().Add(time.Millisecond))
	fmt.Fprintln(client, "anybody?")
	_, err := bufio.NewReader(client).ReadString('\n')
	var timeout net.Error
	fmt.Println(errors.As(err, &timeout) && timeout.Timeout())
	// Output: true
}

// A peer that does not read holds up a writer until its deadline.
func ExampleConn_SetWriteDeadline() {
	client, server := examplePair("ticks")
	defer client.Close()
	defer server.Close()

	client.Write(make([]byte, client.Stats().RingSize)) // as much as there is room for
	client.SetWriteDeadline(time.Now().Add(time.Millisecond))
	n, err := client.Write([]byte("tick"))
	fmt.Println(n, errors.Is(err, os.ErrDeadlineExceeded))
	// Output: 0 true
}

func ExampleAddr_Network() {
	switch (shmconn.Addr{Name: "feed"}).Network() {
	case "shm", "unix": // on Linux, elsewhere
		fmt.Println("one of two")
	}
	// Output: one of two
}

func ExampleAddr_String() {
	fmt.Println(shmconn.Addr{Name: "/shared/feed"})
	fmt.Println(shmconn.Addr{Name: "feed", PID: 4711, UID: 1000, Number: 17}) // of a dialer
	// Output:
	// /shared/feed
	// feed#17(pid=4711,uid=1000)
}

func ExampleCorruptError_Error() {
	err := &shmconn.CorruptError{What: "bytes in the ring", Seen: 1 << 40, Allowed: 1 << 18}
	fmt.Println(err)
	// Output: segment is corrupt: bytes in the ring is 1099511627776, allowed is 262144
}

func ExampleConn_Produce() {
	client, server := examplePair("ticks")
	defer server.Close()

	// This goroutine alone writes to client until the function returns.
	err := client.Produce(func(p *shmconn.Producer) error {
		for i := range 4 {
			if _, err := p.Write([]byte{byte(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	client.Close()

	b, err := io.ReadAll(server)
	fmt.Println(b, err)
	// Output: [0 1 2 3] <nil>
}

func ExampleConn_Consume() {
	client, server := examplePair("ticks")
	defer server.Close()
	client.Write([]byte("tick tick tick"))
	client.Close()

	// This goroutine alone reads from server until the function returns.
	words := 0
	err := server.Consume(func(c *shmconn.Consumer) error {
		for s := bufio.NewScanner(c); s.Scan(); {
			words += len(strings.Fields(s.Text()))
		}
		return nil
	})
	fmt.Println(words, err)
	// Output: 3 <nil>
}

func ExampleProducer_Write() {
	client, server := examplePair("ticks")
	defer server.Close()
	defer client.Close()
	client.Produce(func(p *shmconn.Producer) error {
		n, err := p.Write([]byte("tick"))
		fmt.Println(n, err, server.Buffered())
		return err
	})
	// Output: 4 <nil> 4
}

func ExampleProducer_Put() {
	client, server := examplePair("ticks")
	defer server.Close()
	defer client.Close()
	client.Produce(func(p *shmconn.Producer) error {
		for range 8 {
			if _, err := p.Put([]byte("tick")); err != nil {
				return err
			}
		}
		fmt.Println("the server sees", server.Buffered(), "bytes")
		return nil
	})
	fmt.Println("the server sees", server.Buffered(), "bytes")
	// Output:
	// the server sees 0 bytes
	// the server sees 32 bytes
}

func ExampleProducer_Flush() {
	client, server := examplePair("ticks")
	defer server.Close()
	defer client.Close()
	client.Produce(func(p *shmconn.Producer) error {
		p.Put([]byte("tick"))
		p.Put([]byte("tock"))
		err := p.Flush()
		fmt.Println(server.Buffered(), err)
		return err
	})
	// Output: 8 <nil>
}

func ExampleProducer_Reserve() {
	client, server := examplePair("prices")
	defer server.Close()
	client.Produce(func(p *shmconn.Producer) error {
		b, err := p.Reserve(8)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b, 10125) // in the ring itself
		return p.Commit(8)
	})
	client.Close()
	b, err := io.ReadAll(server)
	fmt.Println(binary.LittleEndian.Uint64(b), err)
	// Output: 10125 <nil>
}

func ExampleProducer_Commit() {
	client, server := examplePair("lines")
	defer server.Close()
	client.Produce(func(p *shmconn.Producer) error {
		b, err := p.Reserve(100) // as much as it can be
		if err != nil {
			return err
		}
		return p.Commit(copy(b, "and as much as it is"))
	})
	client.Close()
	b, err := io.ReadAll(server)
	fmt.Printf("%s, %v\n", b, err)
	// Output: and as much as it is, <nil>
}

func ExampleConsumer_Read() {
	client, server := examplePair("ticks")
	defer server.Close()
	client.Write([]byte("tick"))
	client.Close()
	server.Consume(func(c *shmconn.Consumer) error {
		b := make([]byte, 100)
		n, err := c.Read(b)
		fmt.Printf("%s, %v\n", b[:n], err)
		_, err = c.Read(b)
		fmt.Println(err)
		return nil
	})
	// Output:
	// tick, <nil>
	// EOF
}

func ExampleConsumer_Peek() {
	client, server := examplePair("frames")
	defer server.Close()
	client.Write([]byte("\x03buy\x04sell"))
	client.Close()
	server.Consume(func(c *shmconn.Consumer) error {
		for {
			head, err := c.Peek(1)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			size := 1 + int(head[0])
			message, err := c.Peek(size)
			if err != nil {
				return err
			}
			fmt.Printf("%s\n", message[1:])
			c.Discard(size)
		}
	})
	// Output:
	// buy
	// sell
}

func ExampleConsumer_PeekAtLeast() {
	client, server := examplePair("prices")
	defer server.Close()
	client.Write([]byte{1, 0, 2, 0, 3, 0})
	client.Close()
	server.Consume(func(c *shmconn.Consumer) error {
		b, err := c.PeekAtLeast(2) // all whole messages that are there
		for i := 0; i+2 <= len(b); i += 2 {
			fmt.Println(binary.LittleEndian.Uint16(b[i:]))
		}
		c.Discard(len(b))
		return err
	})
	// Output:
	// 1
	// 2
	// 3
}

func ExampleConsumer_Discard() {
	client, server := examplePair("lines")
	defer server.Close()
	client.Write([]byte("header: body"))
	client.Close()
	server.Consume(func(c *shmconn.Consumer) error {
		c.Discard(len("header: "))
		b, err := io.ReadAll(c)
		fmt.Printf("%s\n", b)
		return err
	})
	// Output: body
}
