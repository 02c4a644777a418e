package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shmconn/examples/internal/market"
)

// A fakeEntry is one of the stream of orders that notes when it is acknowledged.
type fakeEntry struct {
	jetstream.Msg
	acked *[]uint64
	n     uint64
}

func (e fakeEntry) Subject() string { return "orders.2" }
func (e fakeEntry) Ack() error {
	*e.acked = append(*e.acked, e.n)
	return nil
}

// The way puts orders in their order, whatever the server sends first or twice, and
// acknowledges what the gateway has, and nothing else.
func TestWay(t *testing.T) {
	w := &way{lanes: map[int]*lane{2: {next: 1, entries: make(map[uint64]entry)}}}
	var acked []uint64
	heard := func(m market.Message) {
		t.Helper()
		m.Strategy = 2
		entries, err := w.heard(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			e.Ack()
		}
	}
	pass := func(kind market.Kind, seq uint64, want ...uint64) {
		t.Helper()
		ready, err := w.admit(fakeEntry{acked: &acked, n: seq}, market.Message{Kind: kind, Strategy: 2, Seq: seq})
		var got []uint64
		for _, m := range ready {
			got = append(got, m.Seq)
		}
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("order %d: passed %v, %v; want %v", seq, got, err, want)
		}
	}
	check := func(want ...uint64) {
		t.Helper()
		if !slices.Equal(acked, want) {
			t.Errorf("acknowledged %v, want %v", acked, want)
		}
	}
	heard(market.Message{Kind: market.KindAck, Seq: 3}) // what the gateway had from another bridge
	pass(market.KindOrder, 6)
	pass(market.KindOrder, 5)
	pass(market.KindOrder, 2) // it has that: acknowledged at once
	check(2)
	pass(market.KindOrder, 4, 4, 5, 6)
	pass(market.KindOrder, 5) // again, and with the gateway already
	check(2)
	heard(market.Message{Kind: market.KindAck, Seq: 5})
	check(2, 4, 5)
	pass(market.KindDone, 7) // order 7 is missing
	if w.allDone() {
		t.Error("it is done without order 7")
	}
	pass(market.KindOrder, 7, 7, 7) // and the end, which has the number of the last order
	heard(market.Message{Kind: market.KindAck, Seq: 7})
	check(2, 4, 5, 6, 7)
	heard(market.Message{Kind: market.KindDone, Seq: 7})
	check(2, 4, 5, 6, 7, 7)
	if !w.allDone() || w.taken() != 7 {
		t.Errorf("done: %v; %d orders taken, want 7", w.allDone(), w.taken())
	}
	for _, m := range []market.Message{{Kind: market.KindOrder, Strategy: 1, Seq: 1}, {Kind: market.KindPrice, Strategy: 2, Seq: 8}} {
		if _, err := w.admit(fakeEntry{acked: &acked}, m); err == nil || !strings.HasPrefix(err.Error(), "orders.2: unexpected") {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

// The gateway takes each order once, and none after a gap.
func TestTakeShared(t *testing.T) {
	g := newGateway(job{Strategies: 1, Away: []int{0}})
	b := g.books[0]
	for _, test := range []struct {
		kind market.Kind
		seq  uint64
		have int
		err  string
	}{
		{market.KindOrder, 1, 1, ""},
		{market.KindOrder, 3, 1, "order 3 follows order 1"},
		{market.KindOrder, 1, 1, ""},
		{market.KindOrder, 2, 2, ""},
		{market.KindDone, 3, 2, "there were 3 orders, and 2 are here"},
		{market.KindPrice, 3, 2, "unexpected message of kind 'P'"},
		{market.KindDone, 2, 2, ""},
		{market.KindDone, 2, 2, ""},
		{market.KindOrder, 2, 2, ""},
		{market.KindOrder, 3, 2, "order 3 follows order 2"},
	} {
		err := g.takeShared(b, market.Message{Kind: test.kind, Side: market.Buy, Seq: test.seq, Due: market.Now()})
		if fmt.Sprint(err) != test.err && (err != nil || test.err != "") || len(b.orders) != test.have {
			t.Errorf("%v %d: %v, %d orders; want %q, %d", test.kind, test.seq, err, len(b.orders), test.err, test.have)
		}
	}
	if g.repeated != 2 || !b.done {
		t.Errorf("%d repeated, done %v", g.repeated, b.done)
	}
}

// A subscriber gets what comes after any price, and the same as the first time.
func TestFeedAfter(t *testing.T) {
	const loops = 2
	j := job{Quotes: closes, Loops: loops, Rate: 1_000_000, Subscribers: 1}
	f := newFeed(j)
	go f.pace(t.Context(), j.Rate, control{tell: func(report) {}})
	all := receiveAll(t, f, 0)
	if len(all) != loops*len(closes) {
		t.Fatalf("%d prices, want %d", len(all), loops*len(closes))
	}
	for i, m := range all {
		if q := closes[i%len(closes)]; m.Seq != uint64(i+1) || m.Symbol != q.Symbol || m.Price != q.Price || m.Due == 0 {
			t.Fatalf("price %d is %+v, want %+v", i+1, m, q)
		}
	}
	for _, after := range []uint64{1, 3, 4, 559, 560, 561, 1119, 1120} {
		if got := receiveAll(t, f, after); !slices.Equal(got, all[after:]) {
			t.Errorf("after %d: %d prices, want %d, the same ones as before", after, len(got), len(all[after:]))
		}
	}
	link, ended := subscribe(t, f, 1121)
	if m, err := link.Receive(); err == nil {
		t.Errorf("after the end: %+v", m)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "there are 1120 prices, and none after 1121") {
		t.Errorf("after the end: %v", err)
	}
}

// subscribe subscribes to all symbols of f, after a price, and returns what serve
// returns.
func subscribe(t *testing.T, f *feed, after uint64) (*market.Link, <-chan error) {
	t.Helper()
	a, b := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		link := market.NewLink(t.Context(), b)
		defer link.Close()
		ended <- f.serve(link)
	}()
	link := market.NewLink(t.Context(), a)
	t.Cleanup(func() { link.Close() })
	if err := subscribeTo(link, market.SymbolsOf(closes), after); err != nil {
		t.Fatal(err)
	}
	return link, ended
}

func receiveAll(t *testing.T, f *feed, after uint64) (list []market.Message) {
	t.Helper()
	link, ended := subscribe(t, f, after)
	for {
		m, err := link.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == market.KindEnd {
			break
		}
		list = append(list, m)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return list
}

// Two bridges that publish the same prices do no harm: those of one are dropped by
// their ids, or, when the server has forgotten these, refused by their places. A
// price that would leave a gap is refused, too.
func TestTwoBridges(t *testing.T) {
	const window = 100 * time.Millisecond // the least that the server takes
	url := startServer(t)
	if err := withServer(t.Context(), url, func(js jetstream.JetStream) error {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: pricesStream, Subjects: []string{"prices.>", endSubject}, Duplicates: window,
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	price := func(n uint64) market.Message {
		return market.Message{Kind: market.KindPrice, Symbol: closes[0].Symbol, Seq: n}
	}
	var boxes []*outbox
	for range 2 {
		s, err := connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		boxes = append(boxes, &outbox{s: s})
	}
	publish := func(o *outbox, from, to uint64) error {
		for n := from; n <= to; n++ {
			if err := o.price(price(n), n-1); err != nil {
				return err
			}
		}
		return o.collect(0)
	}
	check := func(want uint64) {
		t.Helper()
		last, stored, err := lastPrice(boxes[0].s)
		if last != price(want) || stored != want || err != nil {
			t.Fatalf("the last price is %+v, %d in the stream, %v; want number %d of as many", last, stored, err, want)
		}
	}
	refused := func(err error) {
		t.Helper()
		var wrong *jetstream.APIError
		if !errors.As(err, &wrong) || wrong.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
			t.Errorf("error is %v, want one of the place", err)
		}
	}
	if err := publish(boxes[0], 1, 10); err != nil {
		t.Fatal(err)
	}
	if err := publish(boxes[1], 11, 20); err != nil {
		t.Fatal(err)
	}
	check(20)
	if err := publish(boxes[0], 18, 20); err != nil { // or the window has ended by now
		refused(err)
	}
	check(20)
	time.Sleep(3 * window)
	refused(publish(&outbox{s: boxes[0].s}, 11, 15))
	refused(publish(&outbox{s: boxes[0].s}, 22, 25))
	check(20)
	if err := publish(&outbox{s: boxes[0].s}, 21, 30); err != nil {
		t.Error(err)
	}
	check(30)
}

// An order that is published again is stored once.
func TestPublishedAgain(t *testing.T) {
	url := startServer(t)
	if err := createStreams(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s, err := connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		out := &outbox{s: s}
		for n := range uint64(100) {
			m := market.Message{Kind: market.KindOrder, Side: market.Buy, Strategy: 2, Seq: n + 1}
			if err := out.publish(orderSubject(2), fmt.Sprintf("2-%d", n+1), m); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.collect(0); err != nil {
			t.Fatal(err)
		}
		stream, err := s.js.Stream(t.Context(), ordersStream)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 100 {
			t.Errorf("there are %d orders in the stream, want 100", n)
		}
		if n, err := storedOrders(s, 2); n != 100 || err != nil {
			t.Errorf("the last order is %d, %v; want 100", n, err)
		}
		s.close()
	}
}

// What is in a stream and is no message is said, with where it was.
func TestParseError(t *testing.T) {
	var b brokenError
	if _, err := parse("orders.2", []byte("short")); !errors.As(err, &b) || err.Error() != "a message of 5 bytes in orders.2: want 48" {
		t.Error(err)
	}
	if _, err := parse("orders.2", make([]byte, market.MessageSize)); !errors.As(err, &b) || !strings.HasPrefix(err.Error(), "in orders.2: ") {
		t.Error(err)
	}
	// And it ends the sessions.
	url := startServer(t)
	n := 0
	err := sessions(context.Background(), url, func(*session) error {
		n++
		if n < 3 {
			return errors.New("will pass")
		}
		return broken("for good")
	})
	if n != 3 || err == nil || err.Error() != "for good" {
		t.Errorf("after %d sessions: %v", n, err)
	}
}
