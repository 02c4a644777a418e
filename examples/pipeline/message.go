package main

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

// A message is what the processes say to each other. On the wire all messages
// have one size and one form, in little-endian order; what a kind does not use
// is zero:
//
//	offset  size  field     used by          meaning
//	     0     1  kind      all
//	     1     1  side      order            'B' buy, 'S' sell
//	     2     2  strategy  logon            number of the strategy, from 0
//	     4     4  (zero)
//	     8     8  symbol    subscribe,       padded with zero bytes
//	                        price, order
//	    16     8  seq       price, order     number of the price or order, from 1
//	                        end              how many prices or orders there were
//	    24     8  cause     order            seq of the price that it answers
//	    32     8  price     price, order     in 1/10,000
//	    40     8  due       price, order     when the price was due to be sent, in
//	                                         nanoseconds of now(); an order has its
//	                                         price's
type message struct {
	kind     kind
	side     side
	strategy uint16
	symbol   symbol
	seq      uint64
	cause    uint64
	price    amount
	due      int64
}

// messageSize is the size of a message, in bytes.
const messageSize = 48

// A kind says what a message is.
type kind byte

const (
	kindSubscribe kind = 'S' // strategy to feed handler: send me the prices of symbol
	kindStart     kind = 'G' // strategy to feed handler: these were all my symbols
	kindPrice     kind = 'P' // feed handler to strategy
	kindLogon     kind = 'L' // strategy to order gateway: this is who I am
	kindOrder     kind = 'O' // strategy to order gateway
	kindEnd       kind = 'E' // from whoever sends prices or orders: these were all
)

func (k kind) String() string { return fmt.Sprintf("kind %q", rune(k)) }

// A side says which way an order goes.
type side byte

const (
	buy  side = 'B'
	sell side = 'S'
)

func (s side) String() string {
	switch s {
	case buy:
		return "buy"
	case sell:
		return "sell"
	}
	return fmt.Sprintf("side(%d)", byte(s))
}

// A symbol names what is traded.
type symbol [8]byte

// parseSymbol returns the symbol written as text: 1 to 8 printable ASCII
// characters, but no space, comma or semicolon.
func parseSymbol(text string) (symbol, error) {
	var s symbol
	if len(text) < 1 || len(text) > len(s) {
		return s, fmt.Errorf("symbol %q must have 1 to %d characters", text, len(s))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' || r == ';' }) {
		return s, fmt.Errorf("symbol %q has a character that is not allowed", text)
	}
	copy(s[:], text)
	return s, nil
}

func (s symbol) String() string { return strings.TrimRight(string(s[:]), "\x00") }

// MarshalText and UnmarshalText make a symbol a string in JSON.
func (s symbol) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the opposite of MarshalText.
func (s *symbol) UnmarshalText(text []byte) error {
	var err error
	*s, err = parseSymbol(string(text))
	return err
}

// append appends the message to b, as it is on the wire.
func (m message) append(b []byte) []byte {
	b = append(b, byte(m.kind), byte(m.side))
	b = binary.LittleEndian.AppendUint16(b, m.strategy)
	b = append(b, 0, 0, 0, 0)
	b = append(b, m.symbol[:]...)
	b = binary.LittleEndian.AppendUint64(b, m.seq)
	b = binary.LittleEndian.AppendUint64(b, m.cause)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.price))
	return binary.LittleEndian.AppendUint64(b, uint64(m.due))
}

// parseMessage returns the message in b, which has messageSize bytes.
func parseMessage(b []byte) (message, error) {
	m := message{
		kind:     kind(b[0]),
		side:     side(b[1]),
		strategy: binary.LittleEndian.Uint16(b[2:]),
		symbol:   symbol(b[8:16]),
		seq:      binary.LittleEndian.Uint64(b[16:]),
		cause:    binary.LittleEndian.Uint64(b[24:]),
		price:    amount(binary.LittleEndian.Uint64(b[32:])),
		due:      int64(binary.LittleEndian.Uint64(b[40:])),
	}
	switch m.kind {
	case kindSubscribe, kindStart, kindPrice, kindLogon, kindEnd:
		return m, nil
	case kindOrder:
		if m.side == buy || m.side == sell {
			return m, nil
		}
		return m, fmt.Errorf("order has %v", m.side)
	}
	return m, fmt.Errorf("message has %v", m.kind)
}

// A link is a connection that carries messages. Both directions are buffered: a
// message is on its way after flush, at the latest.
type link struct {
	close    func() error
	r        *bufio.Reader
	w        *bufio.Writer
	sent     uint64 // prices and orders
	received uint64
}

// linkBuffer is the size of a link's buffers, in bytes.
const linkBuffer = 16 << 10

// newLink returns a link over conn. When ctx is cancelled, it is closed; whoever
// calls close after that waits until it has been.
func newLink(ctx context.Context, conn net.Conn) *link {
	closeOnce := sync.OnceValue(conn.Close)
	context.AfterFunc(ctx, func() { closeOnce() })
	return &link{
		close: closeOnce,
		r:     bufio.NewReaderSize(conn, linkBuffer),
		w:     bufio.NewWriterSize(conn, linkBuffer),
	}
}

// send puts m into the buffer, and waits only if that is full.
func (l *link) send(m message) error {
	if m.kind == kindPrice || m.kind == kindOrder {
		l.sent++
	}
	_, err := l.w.Write(m.append(l.w.AvailableBuffer()))
	return err
}

// flush hands what is in the buffer to the connection.
func (l *link) flush() error { return l.w.Flush() }

// receive waits for the next message and returns it. At an end message it checks
// that all prices and orders before it have been received. The peer says when
// it is at its end, so a connection that ends by itself is an error.
func (l *link) receive() (message, error) {
	b, err := l.r.Peek(messageSize)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return message{}, err
	}
	m, err := parseMessage(b)
	if err != nil {
		return message{}, err
	}
	l.r.Discard(messageSize) // they are there: no error
	switch m.kind {
	case kindPrice, kindOrder:
		l.received++
	case kindEnd:
		if m.seq != l.received {
			return message{}, fmt.Errorf("received %d messages of %d", l.received, m.seq)
		}
	}
	return m, nil
}

// more reports whether the next receive does not have to wait.
func (l *link) more() bool { return l.r.Buffered() >= messageSize }

// end tells the peer that all prices or orders have been sent, and closes the link.
func (l *link) end() error {
	if err := l.send(message{kind: kindEnd, seq: l.sent}); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.close()
}
