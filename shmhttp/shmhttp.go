// Package shmhttp gives HTTP over shared memory a URL scheme of its own:
// http+shm://feed/path is /path at the server that listens on the name "feed"
// by [shmconn.Listen].
//
//	shmhttp.Register(http.DefaultTransport.(*http.Transport), nil)
//	resp, err := http.Get("http+shm://feed/path")
//
// The server is any [http.Server] whose Serve is given the [shmconn.Listener].
//
// # The host of a URL
//
// The host is the name of the listener. Case counts: this package and net/http
// keep it, so "Feed" and "feed" are two listeners. A port is allowed and means
// nothing: http+shm://feed:80/ is the same listener, on the same connections.
//
// A name in another directory has slashes, which the host of a URL must not
// have. A comma stands for a slash there: http+shm://,shared,feed/path is the
// listener "/shared/feed". [Host] returns the host for any name. (Neither
// alternative works: net/url refuses %2F in a host, and a directory in the path
// would be lost at the first redirection to "/login".)
//
// The Host header has the last element of the name, with the port if there is
// one: "feed". [http.Request.Host] replaces it.
//
// # When the server's process dies
//
// A request that waits for its response fails with [syscall.ECONNRESET]. An
// idle connection is dropped within some milliseconds. If a request comes
// before that, net/http sends it again over HTTP/1 if that is safe: if its
// method is GET, HEAD, OPTIONS or TRACE, or it has an Idempotency-Key. Over
// HTTP/2 it does not, and the request fails with ECONNRESET or [syscall.EPIPE].
// With Wait of [shmconn.Dialer] requests wait for the next process.
//
// # What is different from http
//
// A [net/http/cookiejar.Jar] keeps cookies only for http and https. A
// redirection to http:// leaves shared memory. There is no TLS: the listener
// decides who may dial (Mode of [shmconn.ListenConfig]), and the dialer which
// user may listen (AllowUID of [shmconn.Dialer]).
package shmhttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"shmconn"
)

// Scheme is the scheme of the URLs that a [Transport] takes.
const Scheme = "http+shm"

// A Transport makes requests to URLs of the scheme http+shm only. It is an
// [http.RoundTripper], for an [http.Client] or an
// [net/http/httputil.ReverseProxy]. [Register] adds the scheme to a transport
// for other URLs.
//
// The zero Transport is ready to use. It keeps idle connections to each
// listener for later requests. Any number of goroutines may use it at the same
// time. Its fields must not be changed after the first request.
type Transport struct {
	// Dialer makes the connections. nil means the zero [shmconn.Dialer]. With
	// its Wait, a request waits for a server that starts, or restarts.
	Dialer *shmconn.Dialer

	// Base has the settings of the connections: how many idle ones to keep and
	// for how long, how long to wait for a header, sizes of buffers, Protocols.
	// They are copied at the first request. Base itself makes no connection,
	// and its settings for proxies, dialing and TLS are not used.
	//
	// nil keeps up to 100 idle connections, even all to one listener, for 90
	// seconds each, and asks for no compression: making a connection, or
	// compressing, takes longer than sending a page through memory.
	//
	// HTTP/2 without TLS is used if Protocols has UnencryptedHTTP2 and not
	// HTTP1, as for http URLs. The server must have UnencryptedHTTP2, too.
	Base *http.Transport

	once  sync.Once
	inner *http.Transport // for http URLs whose host is the Host of a name
}

var _ http.RoundTripper = (*Transport)(nil)

// Register makes t accept URLs of the scheme http+shm, too. d makes the
// connections; nil means the zero [shmconn.Dialer].
//
// They belong to the Transport that Register returns, whose Base is t. So t's
// settings apply to them, but they are counted separately, and only that
// Transport's [Transport.CloseIdleConnections] closes them. t's other requests
// do not change, and t may be in use already. Register panics if t has the
// scheme already.
func Register(t *http.Transport, d *shmconn.Dialer) *Transport {
	own := &Transport{Dialer: d, Base: t}
	t.RegisterProtocol(Scheme, own)
	return own
}

// RoundTrip sends req to the listener that its URL names, and returns the
// response. It waits and is canceled as [http.Transport.RoundTrip] is. If it
// cannot get a connection, the error is that of [shmconn.Dialer.DialConn],
// which has the name.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	name, err := nameIn(req.URL)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	// What is sent has the scheme that http.Transport knows. The host is what it
	// keeps connections by, so there is one for each name: without a port.
	sent := req.WithContext(req.Context()) // a copy, as req must not be changed
	u := *req.URL
	u.Scheme, u.Host = "http", Host(name)
	sent.URL = &u
	if sent.Host == "" || sent.Host == req.URL.Host {
		sent.Host = path.Base(name)
		if port := req.URL.Port(); port != "" {
			sent.Host = net.JoinHostPort(sent.Host, port)
		}
	}
	resp, err := t.transport().RoundTrip(sent)
	if resp != nil {
		resp.Request = req // for Response.Location
	}
	return resp, err
}

// CloseIdleConnections closes the connections that no request uses now; later
// requests make new ones. [http.Client.CloseIdleConnections] calls it if t is
// the client's Transport. Call it before the process ends: otherwise the server
// sees a crash.
func (t *Transport) CloseIdleConnections() { t.transport().CloseIdleConnections() }

func (t *Transport) transport() *http.Transport {
	t.once.Do(func() {
		if t.Base != nil {
			t.inner = t.Base.Clone()
		} else {
			t.inner = &http.Transport{
				MaxIdleConns:          100,
				MaxIdleConnsPerHost:   100,
				IdleConnTimeout:       90 * time.Second,
				ExpectContinueTimeout: time.Second,
				DisableCompression:    true,
			}
		}
		t.inner.Proxy = nil
		t.inner.DialContext = t.dial
	})
	return t.inner
}

// dial dials the listener whose Host, with a port, is address.
func (t *Transport) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	name, err := decode(host)
	if err != nil {
		return nil, err
	}
	c, err := cmp.Or(t.Dialer, new(shmconn.Dialer)).DialConn(ctx, name)
	if err != nil {
		return nil, err // and not a net.Conn that holds a nil *Conn
	}
	return c, nil
}

// nameIn returns the name of the listener in u.
func nameIn(u *url.URL) (string, error) {
	switch {
	case u == nil:
		return "", errors.New("shmhttp: the request has no URL")
	case u.Scheme != Scheme:
		return "", fmt.Errorf("shmhttp: the scheme of %q is not %s", u.Redacted(), Scheme)
	case strings.HasPrefix(u.Host, "["):
		return "", fmt.Errorf("shmhttp: the host of %q is an IP address, not the name of a listener", u.Redacted())
	case u.Hostname() == "":
		return "", fmt.Errorf(`shmhttp: %q has no host: write %s://feed/ for the listener "feed", and %[2]s://%s/ for "/shared/feed"`,
			u.Redacted(), Scheme, Host("/shared/feed"))
	}
	name, err := decode(u.Hostname())
	if err != nil {
		return "", fmt.Errorf("%w, in %q", err, u.Redacted())
	}
	return name, nil
}

const upperHex = "0123456789ABCDEF"

// Host returns the host of the URLs of the listener on name, as
// [shmconn.ListenConfig.Listen] takes it: "feed" for "feed", and ",shared,feed"
// for "/shared/feed". Other bytes than letters, digits, ".", "_", "-" and "~"
// become "=" and two hexadecimal digits: "=20" is a space. Host does not check
// the name; the dial does.
func Host(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '/':
			b.WriteByte(',')
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._-~", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'=', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// decode is the inverse of Host. It also accepts bytes that Host does not
// write.
func decode(host string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(host); i++ {
		switch c := host[i]; c {
		case ',':
			b.WriteByte('/')
		case '=':
			v, err := strconv.ParseUint(host[i+1:min(i+3, len(host))], 16, 8)
			if err != nil || i+2 >= len(host) {
				return "", errors.New(`shmhttp: "=" in a host is followed by two hexadecimal digits`)
			}
			b.WriteByte(byte(v))
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}
