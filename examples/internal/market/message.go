// Package market is what the examples pipeline and machines have in common: the
// prices, how a strategy decides, what the processes say to each other, when a
// price is due, and how orders are written down.
package market

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// A Message is what the processes say to each other. On the wire all messages
// have one size and one form, in little-endian order; what a kind does not use
// is zero:
//
//	offset  size  field     used by          meaning
//	     0     1  kind      all
//	     1     1  side      order            'B' buy, 'S' sell
//	     2     2  strategy  logon, done,     number of the strategy, from 0, or Shared;
//	                        order, ack       an order has it where strategies share a
//	                                         link
//	     4     4  (zero)
//	     8     8  symbol    subscribe,       padded with zero bytes
//	                        price, order
//	    16     8  seq       price, order     number of the price or order, from 1
//	                        end, done        how many prices or orders there were
//	                        start            send what comes after this price
//	                        ack              orders up to this one are here
//	    24     8  cause     order            seq of the price that it answers
//	    32     8  price     price, order     in 1/10,000
//	    40     8  due       price, order     when the price was due to be sent, in
//	                                         nanoseconds of Now(); an order has its
//	                                         price's
type Message struct {
	Kind     Kind
	Side     Side
	Strategy uint16
	Symbol   Symbol
	Seq      uint64
	Cause    uint64
	Price    Amount
	Due      int64
}

// MessageSize is the size of a message, in bytes.
const MessageSize = 48

// Shared is the strategy that logs on over a link that strategies share.
const Shared = 1<<16 - 1

// A Kind says what a message is.
type Kind byte

const (
	KindSubscribe Kind = 'S' // strategy to feed handler: send me the prices of symbol
	KindStart     Kind = 'G' // strategy to feed handler: these were all my symbols
	KindPrice     Kind = 'P' // feed handler to strategy
	KindLogon     Kind = 'L' // strategy to order gateway: this is who I am
	KindOrder     Kind = 'O' // strategy to order gateway
	KindDone      Kind = 'D' // over a link that strategies share: these were all the orders of one
	KindAck       Kind = 'A' // order gateway, over a link that strategies share: I have these orders of one
	KindEnd       Kind = 'E' // from whoever sends prices or orders: these were all
)

func (k Kind) String() string { return fmt.Sprintf("kind %q", rune(k)) }

// A Side says which way an order goes.
type Side byte

const (
	Buy  Side = 'B'
	Sell Side = 'S'
)

func (s Side) String() string {
	switch s {
	case Buy:
		return "buy"
	case Sell:
		return "sell"
	}
	return fmt.Sprintf("side(%d)", byte(s))
}

// A Symbol names what is traded.
type Symbol [8]byte

// ParseSymbol returns the symbol written as text: 1 to 8 printable ASCII
// characters, but no space, comma or semicolon.
func ParseSymbol(text string) (Symbol, error) {
	var s Symbol
	if len(text) < 1 || len(text) > len(s) {
		return s, fmt.Errorf("symbol %q must have 1 to %d characters", text, len(s))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' || r == ';' }) {
		return s, fmt.Errorf("symbol %q has a character that is not allowed", text)
	}
	copy(s[:], text)
	return s, nil
}

func (s Symbol) String() string { return strings.TrimRight(string(s[:]), "\x00") }

// MarshalText and UnmarshalText make a symbol a string in JSON.
func (s Symbol) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the opposite of MarshalText.
func (s *Symbol) UnmarshalText(text []byte) error {
	var err error
	*s, err = ParseSymbol(string(text))
	return err
}

// Append appends the message to b, as it is on the wire.
func (m Message) Append(b []byte) []byte {
	b = append(b, byte(m.Kind), byte(m.Side))
	b = binary.LittleEndian.AppendUint16(b, m.Strategy)
	b = append(b, 0, 0, 0, 0)
	b = append(b, m.Symbol[:]...)
	b = binary.LittleEndian.AppendUint64(b, m.Seq)
	b = binary.LittleEndian.AppendUint64(b, m.Cause)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Price))
	return binary.LittleEndian.AppendUint64(b, uint64(m.Due))
}

// ParseMessage returns the message in b, which has MessageSize bytes.
func ParseMessage(b []byte) (Message, error) {
	m := Message{
		Kind:     Kind(b[0]),
		Side:     Side(b[1]),
		Strategy: binary.LittleEndian.Uint16(b[2:]),
		Symbol:   Symbol(b[8:16]),
		Seq:      binary.LittleEndian.Uint64(b[16:]),
		Cause:    binary.LittleEndian.Uint64(b[24:]),
		Price:    Amount(binary.LittleEndian.Uint64(b[32:])),
		Due:      int64(binary.LittleEndian.Uint64(b[40:])),
	}
	switch m.Kind {
	case KindSubscribe, KindStart, KindPrice, KindLogon, KindDone, KindAck, KindEnd:
		return m, nil
	case KindOrder:
		if m.Side == Buy || m.Side == Sell {
			return m, nil
		}
		return m, fmt.Errorf("order has %v", m.Side)
	}
	return m, fmt.Errorf("message has %v", m.Kind)
}

// A Link is a connection that carries messages. Both directions are buffered: a
// message is on its way after Flush, at the latest.
type Link struct {
	Close    func() error
	r        *bufio.Reader
	w        *bufio.Writer
	Sent     uint64 // prices and orders
	received uint64
}

// linkBuffer is the size of a link's buffers, in bytes.
const linkBuffer = 16 << 10

// NewLink returns a link over conn. When ctx is cancelled, it is closed;
// whoever calls Close after that waits until it has been.
func NewLink(ctx context.Context, conn net.Conn) *Link {
	closeOnce := sync.OnceValue(conn.Close)
	context.AfterFunc(ctx, func() { closeOnce() })
	return &Link{
		Close: closeOnce,
		r:     bufio.NewReaderSize(conn, linkBuffer),
		w:     bufio.NewWriterSize(conn, linkBuffer),
	}
}

// Dial returns a link over a connection that dial makes to address.
func Dial(ctx context.Context, dial func(ctx context.Context, address string) (net.Conn, error), address string) (*Link, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return NewLink(ctx, conn), nil
}

// OrCause returns why ctx was cancelled, if it was: that is what closed the
// link under the call that returned err.
func OrCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// LogOn says to the order gateway which strategy sends.
func (l *Link) LogOn(strategy int) error {
	if err := l.Send(Message{Kind: KindLogon, Strategy: uint16(strategy)}); err != nil {
		return err
	}
	return l.Flush()
}

// Send puts m into the buffer, and waits only if that is full.
func (l *Link) Send(m Message) error {
	if m.Kind == KindPrice || m.Kind == KindOrder {
		l.Sent++
	}
	_, err := l.w.Write(m.Append(l.w.AvailableBuffer()))
	return err
}

// Flush hands what is in the buffer to the connection.
func (l *Link) Flush() error { return l.w.Flush() }

// Receive waits for the next message and returns it. At an end message it
// checks that all prices and orders before it have been received. The peer says
// when it is at its end, so a connection that ends by itself is an error.
func (l *Link) Receive() (Message, error) {
	b, err := l.r.Peek(MessageSize)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Message{}, err
	}
	m, err := ParseMessage(b)
	if err != nil {
		return Message{}, err
	}
	l.r.Discard(MessageSize) // they are there: no error
	switch m.Kind {
	case KindPrice, KindOrder:
		l.received++
	case KindEnd:
		if m.Seq != l.received {
			return Message{}, fmt.Errorf("received %d messages of %d", l.received, m.Seq)
		}
	}
	return m, nil
}

// More reports whether the next receive does not have to wait.
func (l *Link) More() bool { return l.r.Buffered() >= MessageSize }

// End tells the peer that all prices or orders have been sent, and closes the
// link.
func (l *Link) End() error {
	if err := l.Send(Message{Kind: KindEnd, Seq: l.Sent}); err != nil {
		return err
	}
	if err := l.Flush(); err != nil {
		return err
	}
	return l.Close()
}
