// Package shmgrpc gives gRPC targets and credentials for shared memory. It is a
// module of its own, so that only programs that import it depend on gRPC.
//
//	l, err := shmconn.Listen("feed") // the server
//	s := grpc.NewServer(shmgrpc.ServerOptions()...)
//	err = s.Serve(l)
//
//	cc, err := grpc.NewClient("shm:///feed", shmgrpc.DialOptions(nil)...) // the client
//
// # Targets
//
// The target shm:///feed is the listener on the name "feed", and
// shm:////shared/feed, with one more slash, the listener on "/shared/feed". The
// name is as at [shmconn.ListenConfig.Listen], percent-encoded where a URL
// needs that. Case counts. The authority sent to the server is the last element
// of the name, "feed", unless [grpc.WithAuthority] sets another.
//
// Importing the package registers the scheme. A resolver only finds the
// address; dialing takes [WithDialer], which DialOptions includes.
//
// # Credentials
//
// [Credentials] are for both ends. They encrypt nothing: the bytes stay in
// memory that the two processes share and no other user can open. They carry
// the kernel's report of who the peer is: [FromContext] returns it in a
// server's handler, as a [PeerCred].
//
// # Errors
//
// A call fails with [google.golang.org/grpc/codes.Unavailable] if there is no
// connection; the text has the path where nobody listens. gRPC dials again,
// after a second at first. With Wait of [shmconn.Dialer] a dial waits for the
// listener instead, and the calls wait with it, as long as their contexts
// allow: no time is lost to backoff when a server restarts. gRPC gives a dial
// 20 seconds, unless [grpc.WithConnectParams] says otherwise, and then begins
// again.
package shmgrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"

	"shmconn"
)

// Scheme is the scheme of targets: shm:///feed.
const Scheme = "shm"

func init() { resolver.Register(builder{}) }

// Sizes in bytes that DialOptions and ServerOptions set.
const (
	// windowSize is how much may be sent before the receiver has acknowledged it,
	// on a stream and on a connection. gRPC begins with 64 KiB - 1 and measures
	// whether more helps, by pings that each wake both processes. A message of 64
	// KiB does not fit in 64 KiB: its last bytes wait for the receiver's
	// permission, which is a round trip.
	windowSize = 4 << 20

	// bufferSize is how much gRPC gathers for one Write, and requests in one
	// Read. A Write publishes half of the default ring at once: so the frames of
	// a message of 64 KiB are one Write, and the peer is woken once.
	bufferSize = shmconn.DefaultRingSize / 2
)

// DialOptions returns the options of [grpc.NewClient] for a target shm:///name:
// [WithDialer], [Credentials], and buffers and windows that fit the ring.
// Options after them replace them. A nil dialer is the zero [shmconn.Dialer].
//
// With these windows gRPC no longer measures the connection's bandwidth. A
// stream whose receiver does not read holds up to 4 MiB of the sender's
// messages in the receiver's memory, and so does a connection.
func DialOptions(d *shmconn.Dialer) []grpc.DialOption {
	return []grpc.DialOption{
		WithDialer(d),
		grpc.WithTransportCredentials(Credentials()),
		grpc.WithInitialWindowSize(windowSize),
		grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithReadBufferSize(bufferSize),
	}
}

// ServerOptions returns the options of [grpc.NewServer] for a
// [shmconn.Listener]: [Credentials], and the same buffers and windows as
// DialOptions. Options after them replace them. A server that serves TCP, too,
// needs another [grpc.Server] for that, because Credentials refuse all other
// connections.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(Credentials()),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(windowSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.ReadBufferSize(bufferSize),
	}
}

// WithDialer makes a [grpc.ClientConn] dial with d; nil means the zero
// [shmconn.Dialer]. The target is shm:///name, or passthrough:///name, or that
// of another resolver whose addresses are names. Proxies of the environment are
// not used.
func WithDialer(d *shmconn.Dialer) grpc.DialOption {
	if d == nil {
		d = new(shmconn.Dialer)
	}
	return grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
		c, err := d.DialConn(ctx, name)
		if err != nil {
			return nil, err // and not a net.Conn that holds a nil *Conn
		}
		return c, nil
	})
}

// A builder makes resolvers. The address of a target is its name.
type builder struct{}

var _ resolver.AuthorityOverrider = builder{}

func (builder) Scheme() string { return Scheme }

func (builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	name := target.Endpoint()
	if target.URL.Host != "" {
		wanted := target.URL.Host + target.URL.Path
		if target.URL.Path != "" && target.URL.Path != "/" {
			wanted = "/" + wanted // two slashes are taken for the start of a directory
		}
		return nil, fmt.Errorf("shmgrpc: the target %q has %q where a URL has a host: the name %q is written shm:///%[3]s",
			target.URL.String(), target.URL.Host, strings.TrimSuffix(wanted, "/"))
	}
	if name == "" {
		return nil, fmt.Errorf(`shmgrpc: the target %q has no name: write shm:///feed for the listener "feed"`, target.URL.String())
	}
	if err := cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: name}}}); err != nil {
		return nil, err
	}
	return fixed{}, nil
}

// OverrideAuthority returns the last element of the name.
func (builder) OverrideAuthority(target resolver.Target) string { return path.Base(target.Endpoint()) }

// fixed is the resolver of a name, whose address never changes.
type fixed struct{}

func (fixed) ResolveNow(resolver.ResolveNowOptions) {}
func (fixed) Close()                                {}

// A PeerCred is the [credentials.AuthInfo] of a connection with [Credentials]:
// it identifies the other process, as [shmconn.Conn.PeerCred] does. On a server
// that is the client; on a client, the process that listens. A number that has
// no meaning in this process's namespace is 0.
type PeerCred struct {
	// CommonAuthInfo says that the connection is private and cannot be changed in
	// transit, so that per-call credentials that require this may be sent.
	credentials.CommonAuthInfo

	PID      int
	UID, GID uint32
}

var (
	_ credentials.AuthInfo           = PeerCred{}
	_ credentials.AuthorityValidator = PeerCred{}
)

// AuthType returns "shm".
func (PeerCred) AuthType() string { return Scheme }

// ValidateAuthority allows any authority: the client chose that name, and
// nothing about the connection depends on it.
func (PeerCred) ValidateAuthority(string) error { return nil }

// String returns the fields, for logs: pid=4711,uid=1000,gid=1000.
func (p PeerCred) String() string { return fmt.Sprintf("pid=%d,uid=%d,gid=%d", p.PID, p.UID, p.GID) }

// FromContext returns the client's PeerCred, given the context of a server's
// handler. It returns false if the call did not come over a connection with
// [Credentials].
//
// A client finds the server's PeerCred as the AuthInfo of the [peer.Peer] that
// the call option [grpc.Peer] fills.
func FromContext(ctx context.Context) (PeerCred, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return PeerCred{}, false
	}
	cred, ok := p.AuthInfo.(PeerCred)
	return cred, ok
}

// Credentials returns the credentials of both ends of connections of shmconn:
// for [grpc.WithTransportCredentials] and [grpc.Creds]. DialOptions and
// ServerOptions include them. Their AuthInfo is a [PeerCred].
//
// They exchange nothing and wait for nothing. Mode of [shmconn.ListenConfig]
// and AllowUID of [shmconn.Dialer] have decided before which processes may
// connect. A connection without a PeerCred, such as one of TCP, is refused.
func Credentials() credentials.TransportCredentials { return transportCredentials{} }

type transportCredentials struct{}

// handshake returns the AuthInfo of c, which is a *shmconn.Conn, or wraps one
// and has its PeerCred method.
func handshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, ok := c.(interface {
		PeerCred() (pid int, uid, gid uint32)
	})
	if !ok {
		return nil, nil, errors.New("shmgrpc: the connection to " + c.RemoteAddr().String() + " over " + c.RemoteAddr().Network() +
			" has no PeerCred: these credentials are for connections of shmconn")
	}
	cred := PeerCred{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	cred.PID, cred.UID, cred.GID = p.PeerCred()
	return c, cred, nil
}

func (transportCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return handshake(c)
}

func (transportCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return handshake(c)
}

func (transportCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: Scheme}
}

func (c transportCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName does nothing: there is no certificate whose name could be
// checked.
func (transportCredentials) OverrideServerName(string) error { return nil }
