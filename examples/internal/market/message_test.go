package market

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func mustSymbol(t *testing.T, text string) Symbol {
	t.Helper()
	s, err := ParseSymbol(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The bytes on the wire, one by one.
func TestMessageGolden(t *testing.T) {
	m := Message{
		Kind: KindOrder, Side: Sell, Strategy: 0x0102, Symbol: mustSymbol(t, "GOOG"),
		Seq: 0x1112131415161718, Cause: 0x2122232425262728,
		Price: 0x3132333435363738, Due: 0x4142434445464748,
	}
	want := []byte("OS\x02\x01\x00\x00\x00\x00GOOG\x00\x00\x00\x00" +
		"\x18\x17\x16\x15\x14\x13\x12\x11\x28\x27\x26\x25\x24\x23\x22\x21" +
		"\x38\x37\x36\x35\x34\x33\x32\x31\x48\x47\x46\x45\x44\x43\x42\x41")
	b := m.Append(nil)
	if !bytes.Equal(b, want) || len(b) != MessageSize {
		t.Errorf("message is %q, want %q", b, want)
	}
	if got, err := ParseMessage(b); got != m || err != nil {
		t.Errorf("parsed: %+v, %v; want %+v", got, err, m)
	}
}

func TestParseMessageError(t *testing.T) {
	for _, bad := range []Message{
		{},
		{Kind: 'X'},
		{Kind: KindOrder},
		{Kind: KindOrder, Side: 'X'},
	} {
		if m, err := ParseMessage(bad.Append(nil)); err == nil {
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
		var again Symbol
		if err := again.UnmarshalText(b); again != s || err != nil {
			t.Errorf("symbol %q: %q, %v after JSON", text, again, err)
		}
	}
	for _, text := range []string{"", "123456789", "A B", "A,B", "A;B", "A\x00", "Ä", "\tA"} {
		if s, err := ParseSymbol(text); err == nil {
			t.Errorf("%q is symbol %q, want an error", text, s)
		}
	}
}

// linkPair returns a link, and the other end of its connection.
func linkPair(t *testing.T) (*Link, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return NewLink(t.Context(), a), b
}

func TestLink(t *testing.T) {
	a, conn := linkPair(t)
	b := NewLink(t.Context(), conn)
	sent := []Message{
		{Kind: KindLogon, Strategy: 7},
		{Kind: KindOrder, Side: Buy, Seq: 1},
		{Kind: KindOrder, Side: Sell, Seq: 2},
	}
	ended := make(chan error, 1)
	go func() {
		for _, m := range sent {
			if err := a.Send(m); err != nil {
				t.Error(err)
			}
		}
		ended <- a.End()
	}()
	for i, want := range append(sent, Message{Kind: KindEnd, Seq: 2}) {
		m, err := b.Receive()
		if m != want || err != nil {
			t.Errorf("received %+v, %v; want %+v", m, err, want)
		}
		if more := i < len(sent); b.More() != more {
			t.Errorf("more is %v after message %d", b.More(), i)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := b.Receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestLinkError(t *testing.T) {
	one := Message{Kind: KindPrice, Seq: 1}.Append(nil)
	tests := []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "unexpected EOF"},
		{"no end", one, "unexpected EOF"},
		{"half a message", one[:MessageSize/2], "unexpected EOF"},
		{"lost message", Message{Kind: KindEnd, Seq: 2}.Append(one), "received 1 messages of 2"},
		{"rubbish", bytes.Repeat([]byte{0xff}, MessageSize), "message has kind"},
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
				_, err = l.Receive()
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
	if _, err := NewLink(ctx, a).Receive(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error is %v, want %v", err, io.ErrClosedPipe)
	}
}
