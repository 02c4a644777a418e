package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

// startFeed runs a feed handler in this process, and returns its address and
// what it returns in the end.
func startFeed(t *testing.T, j job) (string, <-chan error) {
	t.Helper()
	address, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- runFeed(t.Context(), j, func(r report) {
			if r.Address != "" {
				address <- r.Address
			}
		})
	}()
	select {
	case a := <-address:
		return a, ended
	case err := <-ended:
		t.Fatal(err)
	}
	panic("unreachable")
}

func dialFeed(t *testing.T, network, address string, symbols ...market.Symbol) *market.Link {
	t.Helper()
	l, err := market.Dial(t.Context(), transport.Transport{Network: network}.Dial, address)
	if err != nil {
		t.Fatal(err)
	}
	if err := subscribeTo(l, symbols); err != nil {
		t.Fatal(err)
	}
	return l
}

// A strategy gets all the prices of the symbols it has asked for, in their
// order, and no others: whether others get the same ones, it asks twice, or for
// nothing.
func TestSubscription(t *testing.T) {
	quotes, err := market.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	msft, ibm, goog := mustSymbol(t, "MSFT"), mustSymbol(t, "IBM"), mustSymbol(t, "GOOG")
	subscriptions := [][]market.Symbol{{msft}, {ibm, goog}, {goog, goog}, {}}
	const loops = 3
	for _, network := range transport.Networks {
		t.Run("net="+network, func(t *testing.T) {
			exampletest.PrivateNames(t)
			address, ended := startFeed(t, job{
				Transport: transport.Transport{Network: network}, Name: "prices", Strategies: len(subscriptions),
				Quotes: quotes, Loops: loops,
			})
			var links []*market.Link
			for _, symbols := range subscriptions {
				links = append(links, dialFeed(t, network, address, symbols...))
			}
			for i, l := range links {
				checkPrices(t, l, quotes, loops, subscriptions[i])
				l.Close()
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// checkPrices receives prices until the end, and checks that they are those of
// the symbols, and all of them.
func checkPrices(t *testing.T, l *market.Link, quotes []market.Quote, loops int, symbols []market.Symbol) {
	t.Helper()
	asked := make(map[market.Symbol]bool)
	for _, s := range symbols {
		asked[s] = true
	}
	for i := range loops * len(quotes) {
		q := quotes[i%len(quotes)]
		if !asked[q.Symbol] {
			continue
		}
		m, err := l.Receive()
		if err != nil {
			t.Fatal(err)
		}
		want := market.Message{Kind: market.KindPrice, Symbol: q.Symbol, Seq: uint64(i + 1), Price: q.Price, Due: m.Due}
		if m != want || m.Due == 0 {
			t.Fatalf("symbols %v: received %+v, want %+v", symbols, m, want)
		}
	}
	if m, err := l.Receive(); m.Kind != market.KindEnd || err != nil {
		t.Errorf("symbols %v: received %+v, %v; want the end", symbols, m, err)
	}
}

func TestSubscriptionError(t *testing.T) {
	shm := transport.Transport{Network: "shm"}
	tests := []struct {
		name string
		m    market.Message
		want string
	}{
		{"unknown symbol", market.Message{Kind: market.KindSubscribe, Symbol: mustSymbol(t, "NONE")}, "there are no prices of NONE"},
		{"wrong kind", market.Message{Kind: market.KindPrice}, "unexpected message of kind 'P'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			exampletest.PrivateNames(t)
			quotes := []market.Quote{{Symbol: mustSymbol(t, "A"), Price: 1}}
			address, ended := startFeed(t, job{Transport: shm, Name: "prices", Strategies: 1, Quotes: quotes, Loops: 1})
			l, err := market.Dial(t.Context(), shm.Dial, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.Send(test.m); err != nil {
				t.Fatal(err)
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("feed handler: %v, want %q", err, test.want)
			}
		})
	}
}

// A strategy that is sent a symbol it has not asked for does not trade on.
func TestNotAskedFor(t *testing.T) {
	prices, peer := linkPair(t)
	orders, _ := linkPair(t)
	go func() {
		feed := market.NewLink(t.Context(), peer)
		feed.Send(market.Message{Kind: market.KindPrice, Symbol: mustSymbol(t, "B"), Seq: 1, Price: 1})
		feed.End()
	}()
	err := trade(prices, orders, []market.Symbol{mustSymbol(t, "A")})
	if err == nil || !strings.Contains(err.Error(), "symbol B, which was not asked for") {
		t.Errorf("error is %v", err)
	}
}

func TestPacer(t *testing.T) {
	p := market.Pacer{Start: 1000, Rate: 3}
	for n, want := range map[uint64]int64{
		0: 1000, 1: 333_334_333, 2: 666_667_666, 3: 1_000_001_000,
		3e9: 1e18 + 1000, // 31 years on, without an overflow
	} {
		if got := p.At(n); got != want {
			t.Errorf("price %d is due at %d, want %d", n, got, want)
		}
	}

	p = market.Pacer{Start: market.Now(), Rate: 1000}
	for n := range uint64(5) {
		due := p.Wait(t.Context(), n)
		if early := due - market.Now(); due != p.At(n) || early > 0 || !p.Due(n) {
			t.Errorf("price %d: due at %d, want %d; %v early", n, due, p.At(n), time.Duration(early))
		}
	}

	p = market.Pacer{}
	before := market.Now()
	if due := p.Wait(t.Context(), 1<<40); due < before || due > market.Now() || !p.Due(1<<40) {
		t.Errorf("without a rate: due at %d, which is not now", due)
	}
}

func mustSymbol(t *testing.T, text string) market.Symbol {
	t.Helper()
	s, err := market.ParseSymbol(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// linkPair returns a link, and the other end of its connection.
func linkPair(t *testing.T) (*market.Link, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return market.NewLink(t.Context(), a), b
}
