package fallback_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"

	"shmconn"
	"shmconn/fallback"
)

// A client asks a server that is on the same machine.
func Example() {
	l, err := shmconn.Listen(fmt.Sprintf("fallback-example-%d", os.Getpid()))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		name, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "hello, ", name)
	}()

	s := &fallback.Server{
		Name:    l.Addr().String(),
		Address: "quotes.example.com:7001", // where it would be otherwise
	}
	defer s.Close()
	c, via, err := s.Get(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(c, "gopher")
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		log.Fatal(err)
	}
	s.Put(c)
	fmt.Printf("over %s: %s", via, answer)
	// Output: over shm: hello, gopher
}
