//go:build linux

package soak

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
	"shmconn/internal/wait"
)

var messages = flag.Int("messages", 0, "how many messages TestMessages sends; 0 means 10^6, and 10^9 with -long")

// soakCount returns n, and full with -long.
func soakCount(n, full int) int {
	if *shmtest.Long {
		return full
	}
	return n
}

// spinUntil waits for another goroutine, so that both go on at the same time.
func spinUntil(b *atomic.Bool) {
	for spins := 0; !b.Load(); spins++ {
		if spins > 10_000 {
			runtime.Gosched()
		}
	}
}

// What one end of a connection of TestCloseInWrite has done.
type closeCounts struct {
	Wrote int    // what its Writes said, those that failed included
	Read  int    // up to io.EOF
	Met   int    // 1 if a Write returned success after Close, or CloseWrite, had begun
	Fault string // what went wrong, if anything
}

// writeAndClose writes until shut, which is Close or CloseWrite, comes in
// between from another goroutine, or calls shut itself right after its last
// byte. refused is what a Write returns after it.
func (y *closeCounts) writeAndClose(c *shmconn.Conn, r *rand.Rand, shut func() error, refused string) {
	race := r.IntN(2) == 0
	writes := r.IntN(16)
	var writing, begun atomic.Bool
	done := make(chan error, 1)
	if race {
		writes = math.MaxInt
		looks := r.IntN(1 << (4 + r.IntN(10)))
		var there atomic.Bool
		go func() {
			there.Store(true)
			spinUntil(&writing)
			for range looks {
				begun.Load()
			}
			begun.Store(true)
			done <- shut()
		}()
		spinUntil(&there)
	}
	writing.Store(true)
	for range writes {
		m, err := c.Write(shmtest.TapeAt(y.Wrote, 1+r.IntN(1<<r.IntN(9))))
		y.Wrote += m
		if err != nil {
			if got := "write " + shmtest.Class(err); !race || got != refused {
				y.Fault += fmt.Sprintf("Write: %v; ", err)
			}
			break
		}
		if begun.Load() {
			y.Met = 1
		}
	}
	if !race {
		done <- shut()
	}
	if err := <-done; err != nil {
		y.Fault += fmt.Sprintf("close: %v; ", err)
	}
}

// readToEnd reads up to io.EOF, and begins sooner or later.
func (y *closeCounts) readToEnd(c *shmconn.Conn, r *rand.Rand) {
	var looks atomic.Bool
	for range r.IntN(1 << r.IntN(16)) {
		looks.Load()
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if !bytes.Equal(buf[:n], shmtest.TapeAt(y.Read, n)) {
			y.Fault += fmt.Sprintf("of %d bytes, from the %d. on, some differ; ", n, y.Read)
		}
		y.Read += n
		if err == io.EOF {
			return
		}
		if err != nil {
			y.Fault += fmt.Sprintf("Read: %v; ", err)
			return
		}
	}
}

// firstToClose is the end that writes first, and closes that half;
// secondToClose then writes and closes all.
func firstToClose(c *shmconn.Conn, r *rand.Rand) (y closeCounts) {
	y.writeAndClose(c, r, c.CloseWrite, "write EPIPE")
	y.readToEnd(c, r)
	if err := c.Close(); err != nil {
		y.Fault += fmt.Sprintf("Close: %v; ", err)
	}
	return y
}

func secondToClose(c *shmconn.Conn, r *rand.Rand) (y closeCounts) {
	y.readToEnd(c, r)
	y.writeAndClose(c, r, c.Close, "write closed")
	return y
}

// closer is the first to close connections, in another process. The order is
// "NAME ROUNDS SEED". It tells what it did over a connection of its own.
func closer(s shmtest.Shape, in *bufio.Scanner) {
	var name string
	var rounds int
	var seed uint64
	if !in.Scan() {
		return
	}
	fmt.Sscan(in.Text(), &name, &rounds, &seed)
	connect := func() (shmtest.Conn, error) { return s.Dial(name) }
	if !s.Swap {
		l, err := s.Listen(name)
		fmt.Println(shmtest.Class(err))
		if err != nil {
			return
		}
		defer l.Close()
		connect = func() (shmtest.Conn, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(shmtest.Conn), nil
		}
	}
	report, err := connect()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer report.Close()
	enc := json.NewEncoder(report)
	for i := range rounds {
		c, err := connect()
		if err != nil {
			enc.Encode(closeCounts{Fault: err.Error()})
			return
		}
		enc.Encode(firstToClose(c.(*shmconn.Conn), rand.New(rand.NewPCG(seed, uint64(i)))))
	}
	in.Scan()
}

// closeSum adds up what the ends of many connections did.
type closeSum struct{ closes, bytes, met int }

// add checks that each end has read all that the other one's Writes took.
func (z *closeSum) add(t *testing.T, round int, first, second closeCounts) {
	t.Helper()
	if first.Fault+second.Fault != "" || first.Wrote != second.Read || second.Wrote != first.Read {
		t.Fatalf("round %d: first end %+v, second end %+v", round, first, second)
	}
	z.closes += 2
	z.bytes += first.Wrote + second.Wrote
	z.met += first.Met + second.Met
}

func (z *closeSum) plus(y closeSum) {
	z.closes += y.closes
	z.bytes += y.bytes
	z.met += y.met
}

// TestCloseInWrite closes, and half closes, in the very moment of a Write and
// right after the last byte: what Writes have said that they took is read, all
// of it and no more.
func TestCloseInWrite(t *testing.T) {
	shapes := []shmtest.Shape{
		{Ring: 4096, Anonymous: true},
		{Ring: 4096, Swap: true},
		shmtest.Shape{Ring: 4096, Anonymous: true}.Poll(shmtest.PollAlways),
		shmtest.Shape{Ring: 4096, Anonymous: true, Swap: true}.Poll(shmtest.PollNever),
	}
	rounds := soakCount(4_000, 1_000_000) / 2 / len(shapes)
	var sums [2]closeSum
	for i, process := range []string{"same", "other"} {
		run := [2]func(*testing.T, shmtest.Shape, int) closeSum{closeInWrite, closeInWriteAcross}[i]
		t.Run("process="+process, func(t *testing.T) {
			sum, start := &sums[i], time.Now()
			shmtest.OnShapes(t, shapes, func(t *testing.T, s shmtest.Shape) { sum.plus(run(t, s, rounds)) })
			if *shmtest.Long && sum.met == 0 && runtime.NumCPU() > 1 {
				t.Error("no close met a Write")
			}
			t.Logf("%d closes, %d bytes, %d Writes met, %.2f ms for a connection with two closes",
				sum.closes, sum.bytes, sum.met, time.Since(start).Seconds()*1e3/float64(rounds*len(shapes)))
		})
	}
	same, other := sums[0], sums[1]
	t.Logf("figure: %d closes in one process and %d across two, half of them in a Write and half right after one; %d Writes returned success while the close was under way; "+
		"%d bytes taken by Writes, all read", same.closes, other.closes, same.met+other.met, same.bytes+other.bytes)
}

func closeInWrite(t *testing.T, s shmtest.Shape, rounds int) (sum closeSum) {
	l := s.MustListen(t, shmtest.NewName())
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	for i := range rounds {
		a, err := s.Dial(shmtest.NameOf(l))
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if s.Swap {
			a, b = b.(shmtest.Conn), a
		}
		first := make(chan closeCounts)
		go func() { first <- firstToClose(b.(*shmconn.Conn), rand.New(rand.NewPCG(seed, uint64(i)))) }()
		second := secondToClose(a.(*shmconn.Conn), rand.New(rand.NewPCG(seed, uint64(rounds+i))))
		sum.add(t, i, <-first, second)
	}
	return sum
}

func closeInWriteAcross(t *testing.T, s shmtest.Shape, rounds int) (sum closeSum) {
	h := shmtest.StartHelper(t, "closer", s)
	name, seed := shmtest.NewName(), rand.Uint64()
	t.Logf("seed %#x", seed)
	connect := func() (net.Conn, error) { return s.Dial(name) }
	if s.Swap {
		l := s.MustListen(t, name)
		connect = l.Accept
	}
	h.Send("%s %d %d", name, rounds, seed)
	if !s.Swap {
		h.Expect("ok")
	}
	report, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	dec := json.NewDecoder(report)
	for i := range rounds {
		c, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		second := secondToClose(c.(*shmconn.Conn), rand.New(rand.NewPCG(seed, uint64(rounds+i))))
		var first closeCounts
		if err := dec.Decode(&first); err != nil {
			t.Fatal(err)
		}
		sum.add(t, i, first, second)
	}
	return sum
}

// A message is its header and a piece of the tape. Both ends know what the n-th
// is.
//
//	offset  size  field
//	     0     4  size of the piece
//	     4     4  its checksum, begun with the number
//	     8     8  number
const (
	messageHead = 16
	longest     = messageHead + shmtest.TapePiece
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(number uint64, piece []byte) uint32 {
	return crc32.Update(uint32(number^number>>32), castagnoli, piece)
}

// messagePiece returns what the message of that number says: mostly less than 2
// KiB, and more than fits into a small ring now and then.
func messagePiece(number uint64) []byte {
	x := number + 1
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	size := int(x>>16) & (1<<(x%12) - 1)
	if x%4096 == 1 {
		size = int(x>>16) & (shmtest.TapePiece - 1)
	}
	return shmtest.TapeAt(int(x>>40), size)
}

// putHead stores the header of the message of that number.
func putHead(b []byte, number uint64, piece []byte) {
	binary.LittleEndian.PutUint32(b[0:], uint32(len(piece)))
	binary.LittleEndian.PutUint32(b[4:], checksum(number, piece))
	binary.LittleEndian.PutUint64(b[8:], number)
}

func appendMessage(b []byte, number uint64) []byte {
	piece := messagePiece(number)
	n := len(b)
	b = append(b, make([]byte, messageHead)...)
	putHead(b[n:], number, piece)
	return append(b, piece...)
}

// A sender sends the messages from next to end, by all ways there are.
type sender struct {
	c         *shmconn.Conn
	r         *rand.Rand
	half      int // of the ring
	next, end uint64
	buf       []byte
	buffered  *bufio.Writer
	file      *os.File
	used      [9]uint64 // messages by way
}

// batch returns some messages in a row.
func (s *sender) batch() []byte {
	s.buf = s.buf[:0]
	for range s.some() {
		s.buf = appendMessage(s.buf, s.next)
		s.next++
	}
	return s.buf
}

// some returns how many messages to send next.
func (s *sender) some() int { return int(min(s.end-s.next, 1+s.r.Uint64N(1<<s.r.IntN(8)))) }

// send sends all messages, and then closes that half.
func (s *sender) send() error {
	ways := [...]func() error{s.write, s.writeLong, s.writeBuffers, s.readFrom, s.readFromFile, s.reserve, s.commitReserve, s.tryWrite, s.bufio}
	for s.next < s.end {
		way, before := s.r.IntN(len(ways)), s.next
		if err := ways[way](); err != nil {
			return fmt.Errorf("way %d of sending, message %d: %w", way, s.next, err)
		}
		s.used[way] += s.next - before
	}
	return s.c.CloseWrite()
}

// counted returns err, or what is wrong with n where want was to be written.
func counted[T int | int64](n T, err error, want int) error {
	if err == nil && int(n) != want {
		err = fmt.Errorf("wrote %d of %d and no error", n, want)
	}
	return err
}

func (s *sender) write() error {
	for range s.some() {
		s.buf = appendMessage(s.buf[:0], s.next)
		s.next++
		n, err := s.c.Write(s.buf)
		if err := counted(n, err, len(s.buf)); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) writeLong() error {
	b := s.batch()
	n, err := s.c.Write(b)
	return counted(n, err, len(b))
}

func (s *sender) writeBuffers() error {
	var v net.Buffers
	total := 0
	for range s.some() {
		piece := messagePiece(s.next)
		head := make([]byte, messageHead)
		putHead(head, s.next, piece)
		s.next++
		v = append(v, head, piece)
		total += len(head) + len(piece)
	}
	n, err := s.c.WriteBuffers(&v)
	return counted(n, err, total)
}

func (s *sender) readFrom() error {
	b := s.batch()
	n, err := s.c.ReadFrom(bytes.NewReader(b))
	return counted(n, err, len(b))
}

func (s *sender) readFromFile() error {
	b := s.batch()
	err := errors.Join(s.file.Truncate(0), shmtest.Rewind(s.file))
	if err == nil {
		_, err = s.file.Write(b)
	}
	if err = errors.Join(err, shmtest.Rewind(s.file)); err != nil {
		return err
	}
	n, err := s.c.ReadFrom(s.file)
	return counted(n, err, len(b))
}

func (s *sender) reserve() error {
	for b := s.batch(); len(b) > 0; {
		n := min(len(b), 1+s.r.IntN(s.half))
		span, err := s.c.Reserve(n)
		if err != nil {
			return err
		}
		n = s.r.IntN(n + 1)
		copy(span, b[:n])
		if err := s.c.Commit(n); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// commitReserve is reserve by one call for the end of a span and the start of
// the next.
func (s *sender) commitReserve() error {
	var span []byte
	for b := s.batch(); len(b) > 0; {
		var err error
		if len(span) == 0 {
			if span, err = s.c.Reserve(min(len(b), 1+s.r.IntN(s.half))); err != nil {
				return err
			}
		}
		n := min(s.r.IntN(len(span)+1), len(b))
		copy(span, b[:n])
		b = b[n:]
		if span, err = s.c.CommitReserve(n, min(len(b), 1+s.r.IntN(s.half))); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) tryWrite() error {
	for b := s.batch(); len(b) > 0; {
		n, err := s.c.TryWrite(b)
		if err != nil {
			return err
		}
		if b = b[n:]; n == 0 {
			runtime.Gosched()
		}
	}
	return nil
}

func (s *sender) bufio() error {
	for range s.some() {
		s.buf = appendMessage(s.buf[:0], s.next)
		s.next++
		n, err := s.buffered.Write(s.buf)
		if err := counted(n, err, len(s.buf)); err != nil {
			return err
		}
	}
	return s.buffered.Flush()
}

// A receiver takes messages, by all ways there are, and checks that they are
// those from next on.
type receiver struct {
	c        *shmconn.Conn
	r        *rand.Rand
	half     int
	next     uint64
	rest     []byte // of a message of which not all is there
	buf      []byte
	buffered *bufio.Reader
	file     *os.File
	used     [7]uint64
}

// Write takes the next bytes of the stream, whatever way they came.
func (v *receiver) Write(b []byte) (int, error) {
	n := len(b)
	for len(v.rest) > 0 && len(b) > 0 {
		m := min(len(b), v.missing())
		v.rest = append(v.rest, b[:m]...)
		b = b[m:]
		if v.missing() == 0 {
			if err := v.check(v.rest); err != nil {
				return 0, err
			}
			v.rest = v.rest[:0]
		}
	}
	for {
		size := messageSize(b)
		if size > len(b) {
			v.rest = append(v.rest, b...)
			return n, nil
		}
		if err := v.check(b[:size]); err != nil {
			return 0, err
		}
		b = b[size:]
	}
}

// messageSize returns the size of the message that b begins with, or of its
// header.
func messageSize(b []byte) int {
	if len(b) < messageHead {
		return messageHead
	}
	return messageHead + int(binary.LittleEndian.Uint32(b))
}

// missing returns how many bytes more the rest needs, as far as is known.
func (v *receiver) missing() int { return messageSize(v.rest) - len(v.rest) }

// check holds a message against what has to come next.
func (v *receiver) check(b []byte) error {
	piece := b[messageHead:]
	sum, number := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])
	switch {
	case number != v.next:
		return fmt.Errorf("message %d comes where %d should", number, v.next)
	case sum != checksum(number, piece):
		return fmt.Errorf("message %d has a wrong checksum", number)
	case !bytes.Equal(piece, messagePiece(number)):
		return fmt.Errorf("message %d is another one", number)
	}
	v.next++
	return nil
}

// receive takes messages to the end of the stream, and checks that it is behind
// number end.
func (v *receiver) receive(end uint64) error {
	ways := [...]func() error{v.read, v.tryRead, v.peek, v.discardLess, v.bufio, v.writeTo, v.writeToFile}
	for {
		way, before := v.r.IntN(len(ways)), v.next
		calls := 1 + v.r.IntN(64)
		if way == len(ways)-1 { // this one takes a fifth of a millisecond
			if calls = 1; v.r.IntN(16) != 0 {
				continue
			}
		}
		for range calls {
			err := ways[way]()
			switch {
			case err == io.EOF && v.next == end && len(v.rest) == 0:
				v.used[way] += v.next - before
				return nil
			case err != nil:
				return fmt.Errorf("way %d of receiving, message %d of %d: %w", way, v.next, end, err)
			}
		}
		v.used[way] += v.next - before
	}
}

// took hands on what a call has read, and returns its error, if any.
func (v *receiver) took(b []byte, err error) error {
	if _, wrong := v.Write(b); wrong != nil {
		return wrong
	}
	return err
}

func (v *receiver) size() int { return 1 + v.r.IntN(1<<v.r.IntN(17)) }

func (v *receiver) read() error {
	n, err := v.c.Read(v.buf[:v.size()])
	return v.took(v.buf[:n], err)
}

func (v *receiver) tryRead() error {
	n, err := v.c.TryRead(v.buf[:v.size()])
	if n == 0 && err == nil {
		runtime.Gosched()
	}
	return v.took(v.buf[:n], err)
}

// peek takes off all that it has looked at, or what there was before the end.
func (v *receiver) peek() error {
	b, err := v.c.Peek(min(v.size(), v.half))
	if err = v.took(b, err); len(b) == 0 {
		return err
	}
	n, derr := v.c.Discard(len(b))
	if derr == nil && n != len(b) {
		derr = fmt.Errorf("discarded %d of %d bytes that were there", n, len(b))
	}
	if err == io.EOF {
		err = nil // which comes again
	}
	return cmp.Or(err, derr)
}

// discardLess takes off a part of what it has looked at.
func (v *receiver) discardLess() error {
	b, err := v.c.Peek(1)
	if err != nil {
		return v.took(b, err)
	}
	if n := v.c.Buffered(); n > 1 {
		if b, err = v.c.Peek(min(n, v.half)); err != nil {
			return err
		}
	}
	b = b[:1+v.r.IntN(len(b))]
	if err := v.took(b, nil); err != nil {
		return err
	}
	_, err = v.c.Discard(len(b))
	return err
}

// bufio takes something through a bufio.Reader, and all that this has in the
// end.
func (v *receiver) bufio() error {
	n, err := io.ReadAtLeast(v.buffered, v.buf[:v.size()], 1)
	if err = v.took(v.buf[:n], err); err != nil {
		return err
	}
	b, err := v.buffered.Peek(v.buffered.Buffered())
	if err = v.took(b, err); err != nil {
		return err
	}
	_, err = v.buffered.Discard(len(b))
	return err
}

// An eager writer takes a little more than left bytes, and then says that it is
// enough.
type eager struct {
	*receiver
	left int
}

func (w *eager) Write(b []byte) (int, error) {
	n, err := w.receiver.Write(b)
	if w.left -= n; w.left <= 0 && err == nil {
		err = shmtest.ErrEnough
	}
	return n, err
}

// copied turns what WriteTo returned into what the other ways return.
func (v *receiver) copied(err error) error {
	switch {
	case err == nil:
		return io.EOF
	case errors.Is(err, shmtest.ErrEnough), errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	}
	return err
}

func (v *receiver) writeTo() error {
	_, err := v.c.WriteTo(&eager{v, v.size()})
	return v.copied(err)
}

// writeToFile has the kernel copy, and ends that by a deadline.
func (v *receiver) writeToFile() error {
	if err := errors.Join(v.file.Truncate(0), shmtest.Rewind(v.file)); err != nil {
		return err
	}
	v.c.SetReadDeadline(time.Now().Add(200 * time.Microsecond))
	n, err := v.c.WriteTo(v.file)
	v.c.SetReadDeadline(shmtest.NoDeadline)
	if rerr := shmtest.Rewind(v.file); rerr != nil {
		return rerr
	}
	m, rerr := io.Copy(v, struct{ io.Reader }{v.file})
	if rerr == nil && m != n {
		rerr = fmt.Errorf("WriteTo = %d, in the file are %d bytes", n, m)
	}
	return cmp.Or(rerr, v.copied(err))
}

// exchange sends messages over c and receives as many, at once.
func exchange(c *shmconn.Conn, seed uint64, count uint64) (sent [9]uint64, received [7]uint64, err error) {
	files := make([]*os.File, 2)
	for i := range files {
		fd, err := unix.MemfdCreate("messages", unix.MFD_CLOEXEC)
		if err != nil {
			return sent, received, err
		}
		files[i] = os.NewFile(uintptr(fd), "messages")
		defer files[i].Close()
	}
	half := c.Stats().RingSize / 2
	s := &sender{c: c, r: rand.New(rand.NewPCG(seed, 1)), half: half, end: count, buffered: bufio.NewWriterSize(c, 10_000), file: files[0]}
	v := &receiver{c: c, r: rand.New(rand.NewPCG(seed, 2)), half: half, buf: make([]byte, 1<<17), buffered: bufio.NewReaderSize(c, 10_000), file: files[1]}
	failed := make(chan error, 1)
	go func() {
		err := s.send()
		if err != nil {
			c.Close()
		}
		failed <- err
	}()
	err = v.receive(count)
	if err != nil {
		c.Close() // which ends the sender, here and there
	}
	return s.used, v.used, errors.Join(<-failed, err)
}

// exchanger is the other end of TestMessages. The order is "NAME COUNT SEED".
func exchanger(s shmtest.Shape, in *bufio.Scanner) {
	var name string
	var count, seed uint64
	if !in.Scan() {
		return
	}
	fmt.Sscan(in.Text(), &name, &count, &seed)
	c, err := s.Dial(name)
	if err == nil {
		_, _, err = exchange(c.(*shmconn.Conn), seed, count)
		c.Close()
	}
	if err != nil {
		fmt.Println(err)
	} else {
		fmt.Println("ok")
	}
	in.Scan()
}

// TestMessages sends messages of random size between two processes, in both
// directions at once, by all calls that read and write at random.
func TestMessages(t *testing.T) {
	total := cmp.Or(*messages, soakCount(1_000_000, 1_000_000_000))
	shapes := []shmtest.Shape{
		{},
		{Ring: 4096, Anonymous: true},
		shmtest.Shape{Ring: 1 << 20, Anonymous: true}.Poll(shmtest.PollAlways),
		shmtest.Shape{Ring: 65536}.Poll(shmtest.PollNever),
	}
	var sent [9]uint64
	var received [7]uint64
	start := time.Now()
	shmtest.OnShapes(t, shapes, func(t *testing.T, s shmtest.Shape) {
		count := uint64(total / 2 / len(shapes))
		l := s.MustListen(t, shmtest.NewName())
		h := shmtest.StartHelper(t, "exchanger", s)
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		start := time.Now()
		h.Send("%s %d %d", shmtest.NameOf(l), count, seed)
		c := shmtest.MustAccept(t, l).(*shmconn.Conn)
		out, in, err := exchange(c, ^seed, count)
		if err != nil {
			t.Error(err)
		}
		h.Expect("ok")
		st := c.Stats()
		t.Logf("%d messages each way, %d MB, %.2f M/s in all", count, (st.BytesRead+st.BytesWritten)>>20, 2*float64(count)/time.Since(start).Seconds()/1e6)
		for i, n := range out {
			sent[i] += n
		}
		for i, n := range in {
			received[i] += n
		}
	})
	for i, n := range append(sent[:], received[:]...) {
		if n == 0 {
			t.Errorf("the %d. of the ways to send and to receive was not used", i)
		}
	}
	took := time.Since(start).Seconds()
	total -= total % (2 * len(shapes))
	if t.Failed() {
		return
	}
	t.Logf("figure: %d messages between two processes, all identical and in order; %.2f M messages/s, %.0f s; this end sent %d and received %d by way",
		total, float64(total)/took/1e6, took, sent, received)
}

// A usage is what a process has in use.
type usage struct {
	Descriptors int
	Goroutines  int
	Segments    int // mappings of connections
	Peers       int // processes that waits know of
	Mappings    int // all
	Resident    int // KiB
	Virtual     int // KiB
}

// inUse returns what this process uses, as soon as nothing of it is garbage.
func inUse() (u usage) {
	debug.FreeOSMemory() // and handles that were dropped are closed by their cleanups
	maps, _ := os.ReadFile("/proc/self/maps")
	statm, _ := os.ReadFile("/proc/self/statm")
	var size, pages int
	fmt.Sscan(string(statm), &size, &pages)
	return usage{
		Descriptors: shmtest.OpenDescriptors(),
		Goroutines:  runtime.NumGoroutine(),
		Segments:    len(shmtest.Mappings()),
		Peers:       wait.Peers(),
		Mappings:    bytes.Count(maps, []byte("\n")),
		Resident:    pages * os.Getpagesize() >> 10,
		Virtual:     size * os.Getpagesize() >> 10,
	}
}

// A manyConns is a process with many ends of connections. Its orders are
//
//	listen NAME, unlisten
//	accept N, or dial N NAME: N more connections
//	cycle N, or cycledial N NAME: N connections one after the other, each closed once a byte was read
//	echo: a byte of each connection is read and written back
//	close: all of them
//	usage: what it uses, as JSON
func manyConns(s shmtest.Shape, in *bufio.Scanner) {
	var l shmtest.Listener
	var conns []net.Conn
	for in.Scan() {
		var order, name string
		var n int
		fmt.Sscan(in.Text(), &order)
		switch order {
		case "listen", "unlisten":
			fmt.Sscan(in.Text(), &order, &name)
		default:
			fmt.Sscan(in.Text(), &order, &n, &name)
		}
		connect := func() (net.Conn, error) { return l.Accept() }
		if name != "" {
			connect = func() (net.Conn, error) { return s.Dial(name) }
		}
		var err error
		switch order {
		case "listen":
			l, err = s.Listen(name)
		case "unlisten":
			err = l.Close()
			l = nil
		case "accept", "dial":
			for i := 0; i < n && err == nil; i++ {
				var c net.Conn
				if c, err = connect(); err == nil {
					conns = append(conns, c)
				}
			}
		case "cycle", "cycledial":
			for i := 0; i < n && err == nil; i++ {
				if err = cycle(connect, i, false); err != nil {
					fmt.Fprintf(os.Stderr, "cycle %d: %v\n", i, err)
				}
			}
		case "echo":
			b := make([]byte, 1)
			for _, c := range conns {
				if _, err = c.Read(b); err == nil {
					_, err = c.Write(b)
				}
				if err != nil {
					break
				}
			}
		case "close":
			for _, c := range conns {
				err = errors.Join(err, c.Close())
			}
			conns = nil
		case "usage":
			json.NewEncoder(os.Stdout).Encode(inUse())
			continue
		}
		fmt.Println(shmtest.Class(err))
	}
	if l != nil {
		l.Close()
	}
}

// cycle makes a connection, exchanges a byte, and closes: after the other end
// has or before, as it comes, and now and then with a call under way, a
// deadline set, or both halves closed already.
func cycle(connect func() (net.Conn, error), i int, first bool) error {
	x, err := connect()
	if err != nil {
		return err
	}
	c := x.(*shmconn.Conn)
	b := []byte{byte(i)}
	if first {
		_, err = c.Write(b)
	} else if _, err = c.Read(b); err == nil && b[0] != byte(i) {
		err = fmt.Errorf("read %d, want %d", b[0], byte(i))
	}
	if err != nil {
		return err
	}
	waiter := make(chan error, 1)
	waiter <- net.ErrClosed
	switch i % 5 {
	case 1:
		err = c.SetDeadline(time.Now().Add(time.Hour))
	case 2:
		err = errors.Join(c.CloseWrite(), c.CloseRead())
	case 3:
		<-waiter
		go func() {
			_, err := c.Read(make([]byte, 1))
			waiter <- err
		}()
	case 4:
		if first == (i%2 == 0) { // one waits for the other to close
			if _, err = c.Read(b); err == io.EOF {
				err = nil
			}
		}
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	if err := <-waiter; err != io.EOF && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// growth are the most that a process may use more after many connections than
// after some: nothing, but for what the runtime has for itself, which does not
// depend on how many. A thread more, say, is 8 MiB of addresses for its stack
// and 64 MiB for malloc's.
var growth = usage{Mappings: 40, Resident: 8 << 10, Virtual: 1 << 20}

// wantNoGrowth compares what is in use with what was, once it has settled.
func wantNoGrowth(t *testing.T, who string, before usage, now func() usage) (after usage) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		after = now()
		if after.Descriptors <= before.Descriptors && after.Goroutines <= before.Goroutines && after.Segments <= before.Segments && after.Peers <= before.Peers &&
			after.Mappings <= before.Mappings+growth.Mappings &&
			(after.Resident <= before.Resident+growth.Resident && after.Virtual <= before.Virtual+growth.Virtual ||
				shmtest.RaceEnabled) { // the race detector takes memory for all that there ever was
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Errorf("%s uses %+v, before %+v; allowed to grow %+v", who, after, before, growth)
			break
		}
	}
	return after
}

// less returns how much more u is than v, and most the larger of each.
func (u usage) less(v usage) usage {
	return usage{u.Descriptors - v.Descriptors, u.Goroutines - v.Goroutines, u.Segments - v.Segments, u.Peers - v.Peers, u.Mappings - v.Mappings, u.Resident - v.Resident, u.Virtual - v.Virtual}
}

func (u usage) most(v usage) usage {
	return usage{max(u.Descriptors, v.Descriptors), max(u.Goroutines, v.Goroutines), max(u.Segments, v.Segments), max(u.Peers, v.Peers), max(u.Mappings, v.Mappings), max(u.Resident, v.Resident), max(u.Virtual, v.Virtual)}
}

// usageOf asks the helper what it uses.
func usageOf(h *shmtest.Helper) (u usage) {
	h.T.Helper()
	if err := json.Unmarshal([]byte(h.Call("usage")), &u); err != nil {
		h.T.Fatal(err)
	}
	return u
}

// TestCycles makes and closes connections, one after the other: neither end
// uses more in the end than it did after the first of them.
func TestCycles(t *testing.T) {
	count := soakCount(4_000, 20_000)
	shapes := []shmtest.Shape{
		{Ring: 4096},
		{},
		shmtest.Shape{Anonymous: true, Swap: true}.Poll(shmtest.PollAlways),
		shmtest.Shape{Ring: 4096, Swap: true}.Poll(shmtest.PollNever),
	}
	start := time.Now()
	var most usage
	shmtest.OnShapes(t, shapes, func(t *testing.T, s shmtest.Shape) {
		h := shmtest.StartHelper(t, "conns", s)
		name := shmtest.NewName()
		connect := func() (net.Conn, error) { return s.Dial(name) }
		order := "cycle %d"
		if s.Swap {
			l := s.MustListen(t, name)
			connect = l.Accept
			order = "cycledial %d " + name
		} else {
			h.Do("listen %s", name)
		}
		cycles := func(n int) {
			h.Send(order, n)
			for i := range n {
				if err := cycle(connect, i, true); err != nil {
					t.Fatalf("cycle %d: %v", i, err)
				}
			}
			h.Expect("ok")
		}
		cycles(count / 10)
		away := func() usage { return usageOf(h) }
		here, there := inUse(), away()
		cycles(count)
		most = most.most(wantNoGrowth(t, "this end", here, inUse).less(here))
		most = most.most(wantNoGrowth(t, "the other end", there, away).less(there))
	})
	t.Logf("figure: %d dial/close cycles on each of %d shapes, %.2f ms each; most growth of an end: %+v (the last two in KiB)",
		count, len(shapes), time.Since(start).Seconds()*1e3/float64(count*len(shapes)), most)
}

// raiseDescriptors lets this process, and those that it starts, have n
// descriptors, or as many as the system lets it, and returns how many that is.
func raiseDescriptors(t *testing.T, n int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	old := limit
	limit.Cur = max(limit.Cur, uint64(n))
	limit.Max = max(limit.Max, limit.Cur)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur, limit.Max = old.Max, old.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
	return int(min(limit.Cur, uint64(n)))
}

// A conns is many connections to a helper.
type conns struct {
	*shmtest.Helper
	connect func() (net.Conn, error)
	order   string // makes the helper connect
	conns   []net.Conn
}

func newConns(t *testing.T, s shmtest.Shape) *conns {
	t.Helper()
	name := shmtest.NewName()
	h := &conns{Helper: shmtest.StartHelper(t, "conns", s)}
	if s.Swap {
		h.connect, h.order = s.MustListen(t, name).Accept, "dial %d "+name
	} else {
		h.Do("listen %s", name)
		h.connect, h.order = func() (net.Conn, error) { return s.Dial(name) }, "accept %d"
	}
	t.Cleanup(func() {
		for _, c := range h.conns {
			c.Close()
		}
	})
	return h
}

func (h *conns) open(n int) {
	h.T.Helper()
	h.Send(h.order, n)
	for range n {
		c, err := h.connect()
		if err != nil {
			h.T.Fatalf("connection %d: %v", len(h.conns), err)
		}
		h.conns = append(h.conns, c)
	}
	h.Expect("ok")
}

// echo sends a byte over each connection and gets it back.
func (h *conns) echo() {
	h.T.Helper()
	h.Send("echo")
	for i, c := range h.conns {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			h.T.Fatalf("connection %d: %v", i, err)
		}
	}
	for i, c := range h.conns {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil || b[0] != byte(i) {
			h.T.Fatalf("connection %d: %d, %v", i, b[0], err)
		}
	}
	h.Expect("ok")
}

func (h *conns) close() {
	h.T.Helper()
	for _, c := range h.conns {
		if err := c.Close(); err != nil {
			h.T.Fatal(err)
		}
	}
	h.conns = nil
	h.Do("close")
}

// TestManyOpen has 2,000 connections between two processes open at once, or
// 10,000, or as many as the process may have descriptors for. Each takes the
// descriptors and mappings that the README says, no goroutine, and once closed
// nothing.
func TestManyOpen(t *testing.T) {
	const others = 200 // descriptors
	shapes := []shmtest.Shape{{Ring: 4096, Spares: -1}, {Ring: 65536, Anonymous: true, Swap: true, Spares: -1}}
	shmtest.OnShapes(t, shapes, func(t *testing.T, s shmtest.Shape) {
		dialed, accepted := 3, 2
		if s.Anonymous {
			dialed = 2
		}
		want := soakCount(2_000, 10_000)
		descriptors := raiseDescriptors(t, dialed*want+others)
		count := (descriptors - others) / dialed
		if count < 1 {
			t.Skipf("RLIMIT_NOFILE is %d, %d are needed", descriptors, others+dialed)
		}
		h := newConns(t, s)
		h.open(count) // after which the runtime has what it needs for so many
		h.echo()
		h.close()
		away := func() usage { return usageOf(h.Helper) }
		here, there := inUse(), away()
		h.open(count)
		h.echo()
		if s.Swap {
			dialed, accepted = accepted, dialed
		}
		each := wantEach(t, "this end", count, dialed, here, inUse).less(here)
		each = each.most(wantEach(t, "the other end", count, accepted, there, away).less(there))
		h.close()
		growth := wantNoGrowth(t, "this end", here, inUse).less(here)
		growth = growth.most(wantNoGrowth(t, "the other end", there, away).less(there))
		t.Logf("figure: %s: %d connections open at once, of %d that were to be: most that an end uses for them %+v, and once they are closed %+v (the last two in KiB)",
			t.Name(), count, want, each, growth)
	})
}

// wantEach checks what count connections use more than none: each some
// descriptors and a mapping, and no goroutine.
func wantEach(t *testing.T, who string, count, descriptors int, before usage, now func() usage) (open usage) {
	t.Helper()
	want := usage{Descriptors: before.Descriptors + count*descriptors, Goroutines: before.Goroutines, Segments: before.Segments + count, Peers: before.Peers + 1}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		open = now()
		got := usage{Descriptors: open.Descriptors, Goroutines: open.Goroutines, Segments: open.Segments, Peers: open.Peers}
		if got == want {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Errorf("%s uses %+v with %d connections, and %+v before, want %+v", who, open, count, before, want)
			break
		}
	}
	return open
}

// TestPeers has connections to this process and to another one: only the latter
// is a peer whose slices waits ask for.
func TestPeers(t *testing.T) {
	before := wait.Peers()
	want := func(when string, n int) {
		t.Helper()
		if got := wait.Peers() - before; got != n {
			t.Errorf("%s: %d peers, want %d", when, got, n)
		}
	}
	s := shmtest.Shape{Ring: 4096, Spares: -1}
	a, b := s.Pair(t)
	want("a pair within this process", 0)
	h := newConns(t, s)
	h.open(3)
	want("three connections to another one", 1)
	h.conns[0].Close()
	h.conns[1].(*shmconn.Conn).Abort()
	want("one connection left", 1)
	h.conns = h.conns[2:]
	h.close()
	want("none", 0)
	a.Close()
	b.Close()
	want("none in this process", 0)
}
