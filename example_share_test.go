//go:build linux && !shmconn_sockets

package shmconn_test

import (
	"errors"
	"fmt"
	"log"
	"net"

	"shmconn"
)

// A server hands its socket to the next one, here in the same process, and
// closes. Nobody who dials meanwhile is refused.
func ExampleListener_File() {
	old, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	f, err := old.File() // to exec.Cmd.ExtraFiles, say
	if err != nil {
		log.Fatal(err)
	}
	old.Close()
	c, err := shmconn.Dial("feed")
	fmt.Println("dialed:", err)
	defer c.Close()

	next, err := shmconn.FileListener(f) // os.NewFile(3, "feed"), in the next process
	if err != nil {
		log.Fatal(err)
	}
	f.Close()
	defer next.Close()
	accepted, err := next.Accept()
	fmt.Println("accepted:", err)
	accepted.Close()
	// Output:
	// dialed: <nil>
	// accepted: <nil>
}

func ExampleFileListener() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		log.Fatal(err)
	}
	l.Close()
	next, err := shmconn.FileListener(f)
	if err != nil {
		log.Fatal(err)
	}
	f.Close()
	fmt.Println(next.Addr())
	next.Close() // the last one removes the files
	// Output: feed
}

func ExampleListenConfig_FileListener() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	lc := &shmconn.ListenConfig{RingSize: 1 << 20} // dialers know other rings
	_, err = lc.FileListener(f)
	fmt.Println(err != nil)
	lc = &shmconn.ListenConfig{Backlog: 1024}
	next, err := lc.FileListener(f)
	if err != nil {
		log.Fatal(err)
	}
	next.Close()
	// Output: true
}

// Package tableflip takes the socket so.
func ExampleListener_SyscallConn() {
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) { fmt.Println(fd > 2) })
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// A server takes the name over from the one before, here in the same process.
// Nobody who dials meanwhile is refused.
func ExampleListenConfig_takeOver() {
	lc := &shmconn.ListenConfig{TakeOver: true}
	old, err := lc.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := old.Accept()
		ended <- err
	}()
	next, err := lc.Listen("feed") // in the next process, say
	if err != nil {
		log.Fatal(err)
	}
	defer next.Close()
	fmt.Println(errors.Is(<-ended, net.ErrClosed))
	// Output: true
}
