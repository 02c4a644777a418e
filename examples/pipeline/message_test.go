package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func mustSymbol(t *testing.T, text string) symbol {
	t.Helper()
	s, err := parseSymbol(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The bytes on the wire, one by one.
func TestMessageGolden(t *testing.T) {
	m := message{
		kind: kindOrder, side: sell, strategy: 0x0102, symbol: mustSymbol(t, "GOOG"),
		seq: 0x1112131415161718, cause: 0x2122232425262728,
		price: 0x3132333435363738, due: 0x4142434445464748,
	}
	want := []byte("OS\x02\x01\x00\x00\x00\x00GOOG\x00\x00\x00\x00" +
		"\x18\x17\x16\x15\x14\x13\x12\x11\x28\x27\x26\x25\x24\x23\x22\x21" +
		"\x38\x37\x36\x35\x34\x33\x32\x31\x48\x47\x46\x45\x44\x43\x42\x41")
	b := m.append(nil)
	if !bytes.Equal(b, want) || len(b) != messageSize {
		t.Errorf("message is %q, want %q", b, want)
	}
	if got, err := parseMessage(b); got != m || err != nil {
		t.Errorf("parsed: %+v, %v; want %+v", got, err, m)
	}
}

func TestParseMessageError(t *testing.T) {
	for _, bad := range []message{
		{},
		{kind: 'X'},
		{kind: kindOrder},
		{kind: kindOrder, side: 'X'},
	} {
		if m, err := parseMessage(bad.append(nil)); err == nil {
			t.Errorf("%+v: parsed as %+v, want an error", bad, m)
		}
	}
}

func TestSymbol(t *testing.T) {
	for _, text := range []string{"A", "BRK.B", "BTC/USD", "12345678"} {
		s := mustSymbol(t, text)
		if s.String() != text {
			t.Errorf("symbol %q reads %q", text, s)
		}
		b, _ := s.MarshalText()
		var again symbol
		if err := again.UnmarshalText(b); again != s || err != nil {
			t.Errorf("symbol %q: %q, %v after JSON", text, again, err)
		}
	}
	for _, text := range []string{"", "123456789", "A B", "A,B", "A;B", "A\x00", "Ä", "\tA"} {
		if s, err := parseSymbol(text); err == nil {
			t.Errorf("%q is symbol %q, want an error", text, s)
		}
	}
}

// linkPair returns a link, and the other end of its connection.
func linkPair(t *testing.T) (*link, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return newLink(t.Context(), a), b
}

func TestLink(t *testing.T) {
	a, conn := linkPair(t)
	b := newLink(t.Context(), conn)
	sent := []message{
		{kind: kindLogon, strategy: 7},
		{kind: kindOrder, side: buy, seq: 1},
		{kind: kindOrder, side: sell, seq: 2},
	}
	ended := make(chan error, 1)
	go func() {
		for _, m := range sent {
			if err := a.send(m); err != nil {
				t.Error(err)
			}
		}
		ended <- a.end()
	}()
	for i, want := range append(sent, message{kind: kindEnd, seq: 2}) {
		m, err := b.receive()
		if m != want || err != nil {
			t.Errorf("received %+v, %v; want %+v", m, err, want)
		}
		if more := i < len(sent); b.more() != more {
			t.Errorf("more is %v after message %d", b.more(), i)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := b.receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestLinkError(t *testing.T) {
	one := message{kind: kindPrice, seq: 1}.append(nil)
	tests := []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "unexpected EOF"},
		{"no end", one, "unexpected EOF"},
		{"half a message", one[:messageSize/2], "unexpected EOF"},
		{"lost message", message{kind: kindEnd, seq: 2}.append(one), "received 1 messages of 2"},
		{"rubbish", bytes.Repeat([]byte{0xff}, messageSize), "message has kind"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, conn := linkPair(t)
			go func() {
				conn.Write(test.stream)
				conn.Close()
			}()
			var err error
			for err == nil {
				_, err = l.receive()
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestLinkCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	defer b.Close()
	go cancel()
	if _, err := newLink(ctx, a).receive(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error is %v, want %v", err, io.ErrClosedPipe)
	}
}
