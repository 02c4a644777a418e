//go:build linux

package services

import (
	"context"
	"errors"
	"io"
	"net"
	"net/rpc"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/tidwall/redcon"
)

// serveRedis has SET and GET of one map, ECHO, PING and what a client says
// first.
func serveRedis(l net.Listener) (func() error, error) {
	var mu sync.Mutex
	values := make(map[string][]byte)
	handle := func(c redcon.Conn, cmd redcon.Command) {
		mu.Lock()
		defer mu.Unlock()
		name := strings.ToLower(string(cmd.Args[0]))
		switch {
		case name == "ping":
			c.WriteString("PONG")
		case name == "echo" && len(cmd.Args) == 2:
			c.WriteBulk(cmd.Args[1])
		case name == "set" && len(cmd.Args) >= 3:
			values[string(cmd.Args[1])] = append([]byte(nil), cmd.Args[2]...)
			c.WriteString("OK")
		case name == "get" && len(cmd.Args) == 2:
			if v, ok := values[string(cmd.Args[1])]; ok {
				c.WriteBulk(v)
			} else {
				c.WriteNull()
			}
		default:
			c.WriteError("ERR unknown command '" + name + "'")
		}
	}
	served := make(chan error, 1)
	go func() { served <- redcon.Serve(l, handle, nil, nil) }()
	return func() error { return errors.Join(l.Close(), <-served) }, nil
}

func dialRedis(dial Dial) *redis.Client {
	return redis.NewClient(&redis.Options{Dialer: dial.dialContext, Protocol: 2, DisableIdentity: true})
}

func newRedisClient(dial Dial) (Client, error) {
	c := dialRedis(dial)
	call := func(b []byte) ([]byte, error) {
		s, err := c.Echo(context.Background(), string(b)).Result()
		return []byte(s), err
	}
	return &funcClient{call, c.Close}, nil
}

// subject is what the service of NATS listens to.
const subject = "echo"

// serveNATS embeds a server. It has no hook for a listener: a connection that
// is accepted is joined to one of those that it makes within its process.
func serveNATS(l net.Listener) (func() error, error) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		return nil, errors.New("the NATS server does not start")
	}
	own, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return nil, err
	}
	if _, err := own.Subscribe(subject, func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return nil, err
	}
	if err := own.Flush(); err != nil {
		return nil, err
	}
	stop, err := serveEach(func(c net.Conn) {
		in, err := s.InProcessConn()
		if err != nil {
			return // it is being stopped
		}
		go func() {
			io.Copy(c, in)
			c.Close()
		}()
		io.Copy(in, c)
		in.Close()
	})(l)
	if err != nil {
		return nil, err
	}
	return func() error {
		err := stop()
		own.Close()
		s.Shutdown()
		s.WaitForShutdown()
		return err
	}, nil
}

// natsDialer is a nats.CustomDialer.
type natsDialer struct{ dial Dial }

func (d natsDialer) Dial(_, _ string) (net.Conn, error) { return d.dial(context.Background()) }

// dialNATS dials once: the address has to be one, and is not looked at.
func dialNATS(dial Dial) (*nats.Conn, error) {
	return nats.Connect("nats://127.0.0.1:1", nats.SetCustomDialer(natsDialer{dial}), nats.NoReconnect())
}

func newNATSClient(dial Dial) (Client, error) {
	c, err := dialNATS(dial)
	if err != nil {
		return nil, err
	}
	call := func(b []byte) ([]byte, error) {
		m, err := c.Request(subject, b, time.Minute)
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}
	return &funcClient{call, closed(c.Close)}, nil
}

// echoPlugin is a plugin of the kind that go-plugin has over net/rpc.
type echoPlugin struct{}

func (echoPlugin) Server(*plugin.MuxBroker) (any, error)                  { return Bytes{}, nil }
func (echoPlugin) Client(_ *plugin.MuxBroker, c *rpc.Client) (any, error) { return c, nil }

var plugins = map[string]plugin.Plugin{"echo": echoPlugin{}}

// printed is what the plugin has written to its standard output.
const printed = "the plugin's output\n"

// servePlugin is the plugin's end without plugin.Serve, which makes its own
// listener.
func servePlugin(l net.Listener) (func() error, error) {
	return serveEach(func(c net.Conn) {
		s := &plugin.RPCServer{Plugins: plugins, Stdout: strings.NewReader(printed), Stderr: strings.NewReader("")}
		s.ServeConn(c)
	})(l)
}

// dialPlugin returns the plugin's client, and that of the process it is in.
func dialPlugin(dial Dial) (*plugin.RPCClient, *rpc.Client, error) {
	conn, err := dial(context.Background())
	if err != nil {
		return nil, nil, err
	}
	host, err := plugin.NewRPCClient(conn, plugins)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	c, err := host.Dispense("echo")
	if err != nil {
		host.Close()
		return nil, nil, err
	}
	return host, c.(*rpc.Client), nil
}

func newPluginClient(dial Dial) (Client, error) {
	host, c, err := dialPlugin(dial)
	if err != nil {
		return nil, err
	}
	call := func(b []byte) (reply []byte, err error) {
		err = c.Call("Plugin.Echo", b, &reply)
		return reply, err
	}
	return &funcClient{call, func() error { return errors.Join(c.Close(), host.Close()) }}, nil
}
