package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shmconn/examples/internal/market"
)

// What the bridge and the strategies that are away say to each other is in two
// streams. All in them is messages as they are on a link.
const (
	pricesStream = "PRICES" // the bridge to the strategies: prices.SYMBOL, and at the end endSubject
	ordersStream = "ORDERS" // the strategies to the bridge: orders.NUMBER
	endSubject   = "prices-end"
)

// dedupWindow is for how long the server knows the ids of messages.
const dedupWindow = 10 * time.Minute

func priceSubject(s market.Symbol) string { return "prices." + s.String() }
func orderSubject(strategy int) string    { return fmt.Sprintf("orders.%d", strategy) }

// checkSubject returns an error if s cannot be part of a subject.
func checkSubject(s market.Symbol) error {
	tokens := strings.Split(s.String(), ".")
	if slices.Contains(tokens, "") || strings.ContainsAny(s.String(), "*>") {
		return fmt.Errorf("symbol %q cannot be part of a NATS subject, and its strategy is away", s)
	}
	return nil
}

// createStreams creates the two streams, neither of which may be there yet.
func createStreams(ctx context.Context, url string) error {
	return withServer(ctx, url, func(js jetstream.JetStream) error {
		streams := []jetstream.StreamConfig{
			{Name: pricesStream, Subjects: []string{"prices.>", endSubject}, Duplicates: dedupWindow},
			{Name: ordersStream, Subjects: []string{"orders.>"}, Duplicates: dedupWindow},
		}
		for _, c := range streams {
			_, err := js.Stream(ctx, c.Name)
			if err == nil {
				return fmt.Errorf("stream %s is there already; if no other run needs it, give -remove", c.Name)
			}
			if !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("stream %s: %w", c.Name, err)
			}
		}
		for _, c := range streams {
			if _, err := js.CreateStream(ctx, c); err != nil {
				return fmt.Errorf("stream %s: %w", c.Name, err)
			}
		}
		return nil
	})
}

// removeStreams removes the two streams, if they are there.
func removeStreams(ctx context.Context, url string) error {
	return withServer(ctx, url, func(js jetstream.JetStream) error {
		for _, name := range []string{pricesStream, ordersStream} {
			if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("stream %s: %w", name, err)
			}
		}
		return nil
	})
}

func withServer(ctx context.Context, url string, do func(jetstream.JetStream) error) error {
	s, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer s.close()
	return do(s.js)
}

// A session is a connection to the server, and lasts as long as that. It does not
// connect again: what was under way is unknown then, and whoever needs a new
// session finds out how far the streams are, as after a death of its own.
type session struct {
	ctx    context.Context // cancelled, with the cause, when the connection is lost
	js     jetstream.JetStream
	stored atomic.Uint64 // how many published messages the server says to have
	close  func()
}

var errLost = errors.New("the connection to the NATS server was lost")

// connect connects to the server at url.
func connect(ctx context.Context, url string) (*session, error) {
	ctx, lose := context.WithCancelCause(ctx)
	c, err := nats.Connect(url, nats.NoReconnect(), nats.Timeout(5*time.Second),
		nats.ClosedHandler(func(*nats.Conn) { lose(errLost) }))
	if err != nil {
		lose(err)
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	s := &session{ctx: ctx, close: c.Close}
	s.js, err = jetstream.New(c, jetstream.WithPublishAsyncAckHandler(
		func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { s.stored.Add(1) }))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return s, nil
}

// A brokenError is one that another session will not mend.
type brokenError struct{ error }

func (e brokenError) Unwrap() error { return e.error }

func broken(format string, args ...any) error { return brokenError{fmt.Errorf(format, args...)} }

// sessions calls do with one session after another, until one of them has done it,
// ctx is cancelled, or something is broken.
func sessions(ctx context.Context, url string, do func(*session) error) error {
	said := ""
	for {
		err := withSession(ctx, url, do)
		var b brokenError
		if err == nil || ctx.Err() != nil || errors.As(err, &b) {
			return err
		}
		if err.Error() != said { // not twenty times a second
			said = err.Error()
			fmt.Fprintln(os.Stderr, "again, after:", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

func withSession(ctx context.Context, url string, do func(*session) error) error {
	s, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer s.close()
	err = do(s)
	if err != nil && s.ctx.Err() != nil {
		var b brokenError
		if !errors.As(err, &b) {
			return context.Cause(s.ctx)
		}
	}
	return err
}

// maxPending is how many messages an outbox has under way at once. The library's
// own limit is beyond that.
const maxPending = 1024

// An outbox publishes messages, and learns whether the server has stored them.
type outbox struct {
	s    *session
	sent []jetstream.PubAckFuture // which the server has not answered
}

// publish sends m, and does not wait for the server's answer unless too many are
// outstanding. The id makes it one message, however often it is published within
// dedupWindow.
func (o *outbox) publish(subject, id string, m market.Message, options ...jetstream.PublishOpt) error {
	if err := o.collect(maxPending - 1); err != nil {
		return err
	}
	options = append(options, jetstream.WithMsgID(id))
	f, err := o.s.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: m.Append(nil)}, options...)
	if err != nil {
		return fmt.Errorf("publish %s: %w", id, err)
	}
	o.sent = append(o.sent, f)
	return nil
}

// collect takes the server's answers that are there, and waits for others while
// there are more than n messages that it has not answered.
func (o *outbox) collect(n int) error {
	for len(o.sent) > 0 {
		f := o.sent[0]
		if len(o.sent) <= n && len(f.Ok()) == 0 && len(f.Err()) == 0 {
			return nil
		}
		select {
		case <-f.Ok():
			o.sent = o.sent[1:]
		case err := <-f.Err():
			return fmt.Errorf("publish %s: %w", f.Msg().Header.Get(jetstream.MsgIDHeader), err)
		case <-o.s.ctx.Done():
			return context.Cause(o.s.ctx)
		}
	}
	return nil
}

// parse returns the message of an entry of a stream.
func parse(subject string, data []byte) (market.Message, error) {
	if len(data) != market.MessageSize {
		return market.Message{}, broken("a message of %d bytes in %s: want %d", len(data), subject, market.MessageSize)
	}
	m, err := market.ParseMessage(data)
	if err != nil {
		return m, broken("in %s: %w", subject, err)
	}
	return m, nil
}

// consume calls take with each message that comes to the consumer, until take says
// that it was the last one, or until stop is closed.
func (s *session) consume(ctx context.Context, c jetstream.Consumer, stop <-chan struct{}, take func(jetstream.Msg, market.Message) (last bool, err error)) error {
	messages, err := c.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		entry, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			select {
			case <-stop:
				return nil
			default:
				return err
			}
		}
		m, err := parse(entry.Subject(), entry.Data())
		if err != nil {
			return err
		}
		if last, err := take(entry, m); last || err != nil {
			return err
		}
	}
}

// runServer runs a NATS server that keeps its streams in the job's directory.
func runServer(ctx context.Context, j job, c control) error {
	port := j.Port
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: j.Store, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("127.0.0.1:%d: the NATS server does not get ready", j.Port)
	}
	c.tell(report{Address: s.ClientURL()})
	<-ctx.Done()
	return nil
}
