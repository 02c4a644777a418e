package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/transport"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestBoth(t *testing.T) {
	for _, network := range transport.Networks {
		for _, chunk := range []int{4, 8, 16, 32, 64, 12, 1 << 20} {
			t.Run(fmt.Sprintf("net=%s/chunk=%d", network, chunk), func(t *testing.T) {
				exampletest.PrivateNames(t)
				const count = 20_000
				out, err := exampletest.Command(t, "-net", network, "-chunk", fmt.Sprint(chunk), "-count", fmt.Sprint(count)).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				writes := (4*(count+1) + chunk - 1) / chunk
				for _, want := range []string{
					fmt.Sprintf(`(?m)^producer: %d writes of %d bytes over %s: [0-9.]+ million writes/s, [0-9.]+ MB/s$`, writes, chunk, network),
					`(?m)^consumer: 20000 integers in sequence, then the zero: [0-9.]+ MB/s$`,
				} {
					if !regexp.MustCompile(want).Match(out) {
						t.Errorf("output is\n%s\nwant a match of %s", out, want)
					}
				}
			})
		}
	}
}

// With a Producer and a Consumer it says the same.
func TestProducer(t *testing.T) {
	exampletest.PrivateNames(t)
	for _, chunk := range []int{4, 12} {
		out, err := exampletest.Command(t, "-producer", "-chunk", fmt.Sprint(chunk), "-count", "300000").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "consumer: 300000 integers in sequence, then the zero:") {
			t.Errorf("chunk %d: %v\n%s", chunk, err, out)
		}
	}
	out, err := exampletest.Command(t, "-producer", "-net", "unix").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "-producer is for shm, not for unix") {
		t.Errorf("over a Unix socket: %v\n%s", err, out)
	}
}

// A consumer is a running "ints -listen".
type consumer struct {
	*exec.Cmd
	out     *bufio.Reader
	stderr  bytes.Buffer
	address string // where it listens
}

func startConsumer(t *testing.T, network string) *consumer {
	t.Helper()
	c := &consumer{Cmd: exampletest.Command(t, "-net", network, "-listen", fmt.Sprintf("ints-test-%d", os.Getpid()))}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(stdout)
	c.Stderr = &c.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.Wait()
		t.Fatalf("the consumer did not listen: %s", &c.stderr)
	}
	c.address = strings.TrimSpace(strings.TrimPrefix(line, "consumer: listening on "))
	return c
}

// finish waits for the consumer and returns what it wrote.
func (c *consumer) finish(t *testing.T) (stdout, stderr string, err error) {
	t.Helper()
	b, readErr := io.ReadAll(c.out)
	if readErr != nil {
		t.Error(readErr)
	}
	err = c.Wait()
	return string(b), c.stderr.String(), err
}

func TestTwoTerminals(t *testing.T) {
	for _, network := range transport.Networks {
		t.Run("net="+network, func(t *testing.T) {
			exampletest.PrivateNames(t)
			c := startConsumer(t, network)
			out, err := exampletest.Command(t, "-net", network, "-dial", c.address, "-count", "5000", "-chunk", "16").CombinedOutput()
			if err != nil {
				t.Errorf("producer: %v\n%s", err, out)
			}
			stdout, stderr, err := c.finish(t)
			if err != nil || !strings.Contains(stdout, "5000 integers in sequence") {
				t.Errorf("consumer: %v\n%s%s", err, stdout, stderr)
			}
		})
	}
}

// A producer that this test plays does everything wrong that one can.
func TestBadStream(t *testing.T) {
	ints := func(values ...uint32) []byte {
		var b []byte
		for _, v := range values {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	tests := []struct {
		name   string
		stream []byte
		want   string
	}{
		{"missing", ints(1, 2, 4, 5, 0), "integer at position 3 is 4, want 3"},
		{"doubled", ints(1, 1, 2, 0), "integer at position 2 is 1, want 2"},
		{"garbled", ints(1, 0xdeadbeef, 3, 0), "integer at position 2 is 3735928559, want 2"},
		{"no zero", ints(1, 2), "no zero at the end, after 2 integers: unexpected EOF"},
		{"half an integer", ints(1, 2, 3)[:10], "no zero at the end, after 2 integers: unexpected EOF"},
		{"nothing", nil, "no zero at the end, after 0 integers: unexpected EOF"},
		{"more", append(ints(1, 0), 'x'), "bytes after the zero"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			exampletest.PrivateNames(t)
			c := startConsumer(t, "shm")
			conn, err := shmconn.Dial(c.address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(test.stream); err != nil {
				t.Error(err)
			}
			conn.Close()
			stdout, stderr, err := c.finish(t)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("consumer: %v, want exit status 1", err)
			}
			if !strings.Contains(stderr, test.want) || strings.Contains(stdout, "in sequence") {
				t.Errorf("consumer wrote\n%s%s\nwant %q", stdout, stderr, test.want)
			}
		})
	}
}

func TestProducerKilled(t *testing.T) {
	exampletest.PrivateNames(t)
	c := startConsumer(t, "shm")
	producer := exampletest.Command(t, "-dial", c.address, "-count", "4294967295")
	if err := producer.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := c.out.ReadString('\n'); line != "consumer: connected\n" {
		t.Errorf("consumer wrote %q, %v", line, err)
	}
	producer.Process.Kill()
	producer.Wait()
	if stdout, stderr, err := c.finish(t); err == nil || !strings.Contains(stderr, "no zero at the end") {
		t.Errorf("consumer: %v\n%s%s", err, stdout, stderr)
	}
}

func TestInterrupt(t *testing.T) {
	exampletest.PrivateNames(t)
	c := startConsumer(t, "shm")
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, err := c.finish(t); err == nil || !strings.Contains(stderr, "interrupt") {
		t.Errorf("consumer: %v\n%s%s", err, stdout, stderr)
	}
}

func TestBadFlags(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-chunk", "0"}, "-chunk 0: must be a multiple of 4"},
		{[]string{"-chunk", "3"}, "-chunk 3: must be a multiple of 4"},
		{[]string{"-chunk", "-4"}, "-chunk -4: must be a multiple of 4"},
		{[]string{"-chunk", "6"}, "-chunk 6: must be a multiple of 4"},
		{[]string{"-chunk", "1073741828"}, "-chunk 1073741828: must be at most"},
		{[]string{"-chunk", "many"}, "invalid value"},
		{[]string{"-count", "4294967296"}, "-count 4294967296: must be at most 4294967295"},
		{[]string{"-count", "-1"}, "invalid value"},
		{[]string{"-net", "udp"}, `unknown network "udp": want one of shm, unix, tcp`},
		{[]string{"-listen", "a", "-dial", "b"}, "give one of them"},
		{[]string{"demo"}, `unexpected argument "demo"`},
		{[]string{"-listen", "no good"}, "no good"},
		{[]string{"-dial", "nobody"}, "connection refused"},
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

// The sequence in one process: where a chunk or a Read ends must not matter.
func TestSequence(t *testing.T) {
	for _, count := range []uint32{0, 1, 2, 3, readSize/4 - 1, readSize / 4, readSize/4 + 1} {
		for _, chunk := range []int{4, 8, 12, 4096} {
			var b bytes.Buffer
			writes, err := produce(&b, count, chunk)
			if want := (b.Len() + chunk - 1) / chunk; err != nil || writes != want {
				t.Errorf("count=%d,chunk=%d: %d writes, %v; want %d", count, chunk, writes, err, want)
			}
			for _, piece := range []int{1, 3, 5, readSize} {
				n, err := consume(&pieces{b: b.Bytes(), size: piece})
				if n != count || err != nil {
					t.Errorf("count=%d,chunk=%d,read=%d: %d integers, %v", count, chunk, piece, n, err)
				}
			}
		}
	}
}

// A Write that fails ends the producer.
func TestProduceError(t *testing.T) {
	a, b := net.Pipe()
	b.Close()
	if writes, err := produce(a, 10, 4); writes != 0 || err == nil {
		t.Errorf("%d writes, %v; want an error", writes, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := orCause(ctx, io.EOF); err != io.EOF {
		t.Error(err)
	}
	cancel(io.ErrNoProgress)
	if err := orCause(ctx, io.EOF); err != io.ErrNoProgress {
		t.Error(err)
	}
}

// pieces is a Reader that gives at most size bytes a Read.
type pieces struct {
	b    []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(p.size, len(b))], p.b)
	p.b = p.b[n:]
	return n, nil
}
