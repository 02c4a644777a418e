package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"shmconn"
)

type pingCmd struct {
	Name     string    `arg:"" predictor:"name" help:"Name that \"shmconn pong\" listens on."`
	Count    int       `short:"c" help:"Stop after N round trips. 0: when interrupted." placeholder:"N"`
	Interval seconds   `short:"i" help:"Start a round trip every D, in seconds or like 500ms. Default 1." default:"1" placeholder:"D"`
	Flood    bool      `short:"f" help:"Flood: start a round trip as soon as the one before has ended, and print only the statistics."`
	Size     bytesFlag `short:"s" help:"Send SIZE bytes, and wait for the same number to come back. Default 64." default:"64" placeholder:"SIZE"`
	Deadline seconds   `short:"w" help:"Stop after D, in seconds or like 500ms." placeholder:"D"`
	Quiet    bool      `short:"q" help:"Print only the statistics."`
	JSON     bool      `name:"json" help:"Print only the statistics, as JSON."`

	waitFlags
	pollFlags
	dialFlags
}

func (c *pingCmd) Help() string {
	return `Ctrl-C ends it; then it prints the statistics. The exit status is 1 if no answer
came, an answer was wrong, or the peer ended.

Example: round trips one after the other, and one a second, for which the
processors have to wake up.

    shmconn pong echo &
    shmconn ping -f -c 1000000 echo
    shmconn ping -c 5 echo`
}

func (c *pingCmd) Validate() error {
	switch {
	case c.Count < 0:
		return errors.New("-c is negative")
	case c.Size < 1:
		return errors.New("-s must be at least 1")
	}
	return nil
}

func (c *pingCmd) Run(ctx context.Context, s stdio) error {
	conn, err := c.limit(c.dialer(c.pollFlags)).DialConn(ctx, c.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	if c.Deadline > 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(c.Deadline))
		defer cancel()
		ctx = limited
	}
	p := newPinger(conn, c, s)
	err = p.run(ctx)
	if e := p.print(); err == nil {
		err = e
	}
	if err == nil && p.trips.TotalCount() == 0 {
		err = fmt.Errorf("ping %s: no answer", c.Name)
	}
	return err
}

// A pinger sends and waits for the answer, time and again.
type pinger struct {
	*pingCmd
	conn    *shmconn.Conn
	s       stdio
	each    bool // print each round trip
	fits    bool // the message has room in the ring: nobody has to read while it is sent
	message []byte
	answer  []byte
	trips   *hdrhistogram.Histogram
	sent    int
	elapsed time.Duration
}

func newPinger(conn *shmconn.Conn, c *pingCmd, s stdio) *pinger {
	return &pinger{
		pingCmd: c, conn: conn, s: s,
		each:    !c.Flood && !c.Quiet && !c.JSON,
		fits:    int(c.Size) <= conn.Stats().RingSize/2,
		message: make([]byte, c.Size),
		answer:  make([]byte, c.Size),
		trips:   hdrhistogram.New(1, time.Minute.Nanoseconds(), 3),
	}
}

// run makes round trips until there were enough or ctx ends, which is no error.
func (p *pinger) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Now()) })()
	if pid, _, _ := p.conn.PeerCred(); !p.JSON {
		fmt.Fprintf(p.s.out, "PING %s (pid %d): %d bytes\n", p.Name, pid, p.Size)
	}
	tick := time.NewTicker(max(time.Duration(p.Interval), 1))
	defer tick.Stop()
	begin := time.Now()
	start := begin
	for p.Count == 0 || p.sent < p.Count {
		if p.sent > 0 && !p.Flood {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			start = time.Now()
		}
		if !p.Flood && ctx.Err() != nil {
			return nil // in a flood the deadline says so
		}
		p.sent++
		err := p.trip()
		end := time.Now()
		p.elapsed = end.Sub(begin)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ping %s: round trip %d: %w", p.Name, p.sent, err)
		}
		p.trips.RecordValue(min(int64(end.Sub(start)), p.trips.HighestTrackableValue()))
		if p.each {
			fmt.Fprintf(p.s.out, "%d bytes from %s: seq=%d time=%.1f us\n", p.Size, p.Name, p.sent, us(int64(end.Sub(start))))
		}
		start = end
	}
	return nil
}

// trip makes a round trip.
func (p *pinger) trip() error {
	var number [8]byte
	binary.LittleEndian.PutUint64(number[:], uint64(p.sent))
	copy(p.message, number[:])
	if err := p.exchange(); err != nil {
		return err
	}
	if !bytes.Equal(p.message, p.answer) {
		return errors.New("the answer is not what was sent")
	}
	return nil
}

// exchange sends the message and reads the answer.
func (p *pinger) exchange() error {
	if p.fits {
		if _, err := p.conn.Write(p.message); err != nil {
			return err
		}
		_, err := io.ReadFull(p.conn, p.answer)
		return err
	}
	written := make(chan error, 1)
	go func() {
		_, err := p.conn.Write(p.message)
		written <- err
	}()
	_, err := io.ReadFull(p.conn, p.answer)
	return cmp.Or(<-written, err)
}

// statistics are what ping says at the end. Times are in nanoseconds.
type statistics struct {
	Name      string  `json:"name"`
	Size      int     `json:"size"`
	Sent      int     `json:"sent"`
	Answered  int64   `json:"answered"`
	Elapsed   int64   `json:"elapsed_ns"`
	PerSecond float64 `json:"per_second"`
	Min       int64   `json:"min_ns"`
	Mean      float64 `json:"mean_ns"`
	P50       int64   `json:"p50_ns"`
	P90       int64   `json:"p90_ns"`
	P99       int64   `json:"p99_ns"`
	P999      int64   `json:"p999_ns"`
	Max       int64   `json:"max_ns"`
}

func (p *pinger) statistics() statistics {
	h := p.trips
	st := statistics{
		Name: p.Name, Size: int(p.Size), Sent: p.sent, Answered: h.TotalCount(), Elapsed: int64(p.elapsed),
		Min: h.Min(), Mean: h.Mean(), P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90),
		P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), Max: h.Max(),
	}
	if p.elapsed > 0 {
		st.PerSecond = float64(st.Answered) / p.elapsed.Seconds()
	}
	return st
}

func (p *pinger) print() error {
	st := p.statistics()
	if p.JSON {
		return json.NewEncoder(p.s.out).Encode(st)
	}
	rate := ""
	if p.Flood {
		rate = fmt.Sprintf(", %.0f round trips per second", st.PerSecond)
	}
	_, err := fmt.Fprintf(p.s.out, "--- %s ping statistics ---\n%d sent, %d answered in %v%s\n",
		st.Name, st.Sent, st.Answered, p.elapsed.Round(time.Microsecond), rate)
	if err != nil || st.Answered == 0 {
		return err
	}
	_, err = fmt.Fprintf(p.s.out, "round trip min/mean/p50/p90/p99/p99.9/max = %.2f/%.2f/%.2f/%.2f/%.2f/%.2f/%.2f us\n",
		us(st.Min), st.Mean/1000, us(st.P50), us(st.P90), us(st.P99), us(st.P999), us(st.Max))
	return err
}

// us returns nanoseconds as microseconds.
func us(ns int64) float64 { return float64(ns) / 1000 }
