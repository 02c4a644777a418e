// Package shmhttp gives HTTP over shared memory a URL of its own:
// http+shm://feed/path is /path at the server that listens on the name "feed"
// by [shmconn.Listen].
//
//	shmhttp.Register(http.DefaultTransport.(*http.Transport), nil)
//	resp, err := http.Get("http+shm://feed/path")
//
// The server is any [http.Server], and its Serve is given the
// [shmconn.Listener].
//
// # The host of a URL
//
// The host is the name of the listener, in upper and lower case as it is
// written: this package and net/http keep the case, so "Feed" and "feed" are
// two listeners. A port may be there, and means nothing: http+shm://feed:80/ is
// the same listener, on the same connections.
//
// A name in another directory holds slashes, which the host of a URL must not.
// There a comma stands for a slash: http+shm://,shared,feed/path is the
// listener "/shared/feed". [Host] writes the host for any name. A percent sign
// is no way out: net/url refuses %2F in a host. And a form with the directory
// in the path would lose it at the first redirection to "/login".
//
// The server gets the last element of the name in the Host header, with the
// port if there is one: "feed". [http.Request.Host] replaces it.
//
// # When the server's process dies
//
// A request that waits for its response fails, with [syscall.ECONNRESET] in its
// error. A kept connection on which nothing is under way is dropped when its
// end shows, within some milliseconds. Where a request comes before that,
// net/http sends it again over HTTP/1 if that is safe: if its method is GET,
// HEAD, OPTIONS or TRACE, or it has an Idempotency-Key. Over HTTP/2 it does
// not, and the request fails with ECONNRESET or [syscall.EPIPE]. With Wait of
// [shmconn.Dialer] requests wait for the next process.
//
// # What is different from http
//
// A [net/http/cookiejar.Jar] keeps no cookies for a scheme that is not http or
// https. A redirection to http:// leaves shared memory. There is no TLS: who
// may dial is decided by the listener, see [shmconn.ListenConfig].Mode and
// [shmconn.Dialer].AllowUID.
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

// A Transport makes requests to URLs of the scheme http+shm. It is an
// [http.RoundTripper]: for the Transport of an [http.Client] or of an
// [net/http/httputil.ReverseProxy] that speaks to shared memory only.
// [Register] teaches the scheme to a transport for other URLs.
//
// The zero Transport is ready to use. Connections are kept for later requests,
// for each listener its own. Any number of goroutines may use a Transport at
// the same time. Its fields must not be changed after the first request.
type Transport struct {
	// Dialer makes the connections. Nil is the zero [shmconn.Dialer]. With its
	// Wait a request waits for a server that starts, or starts again.
	Dialer *shmconn.Dialer

	// Base has the settings of the connections: how many are kept, for how long,
	// how long to wait for a header, the size of buffers, Protocols (see below).
	// They are copied at the first request. Base itself makes no connection, and
	// what it says of proxies, dialing and TLS is not used.
	//
	// Nil keeps up to 100 connections, all of them to one listener if need be,
	// for 90 seconds each, and asks for no compression: to make a connection, or
	// to compress, takes longer than to send a page through memory.
	//
	// HTTP/2 without TLS is spoken where Protocols has UnencryptedHTTP2 and not
	// HTTP1, as for http URLs. The server has to have UnencryptedHTTP2, too.
	Base *http.Transport

	once  sync.Once
	inner *http.Transport // for http URLs whose host is the Host of a name
}

var _ http.RoundTripper = (*Transport)(nil)

// Register has t take URLs of the scheme http+shm, too, besides those that it
// takes already. Connections are made by d, nil being the zero
// [shmconn.Dialer].
//
// They belong to the Transport that Register returns, whose Base is t: so t's
// settings hold for them, but they count by themselves, and its
// [Transport.CloseIdleConnections] closes them where t's does not. Nothing of
// t's other requests changes, and t may be in use already. Register panics when
// t has the scheme already.
func Register(t *http.Transport, d *shmconn.Dialer) *Transport {
	own := &Transport{Dialer: d, Base: t}
	t.RegisterProtocol(Scheme, own)
	return own
}

// RoundTrip sends req to the listener that its URL names, and returns the
// response. It waits and is canceled as [http.Transport.RoundTrip] is. When no
// connection can be had, the error is that of [shmconn.Dialer.DialConn], which
// says the name.
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

// CloseIdleConnections closes the connections that no request uses now. They
// are made again when they are needed. [http.Client.CloseIdleConnections] calls
// it where t is the client's Transport. A process that ends should have called
// it: otherwise the server takes its end for a crash.
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

// dial dials the listener whose Host is in address, which has a port, too.
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

// nameIn returns the name of the listener that u is about.
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

// Host returns the host of the URLs of the listener on name, as name is at
// [shmconn.ListenConfig.Listen]: "feed" for "feed", and ",shared,feed" for
// "/shared/feed". A byte of the directory that is no letter, digit, ".", "_",
// "-" or "~" becomes "=" and two hexadecimal digits: "=20" is a space. It does
// not check the name; the dial does.
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

// decode is the inverse of Host. It takes bytes, too, that Host does not write.
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
