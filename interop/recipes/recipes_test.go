//go:build linux

package recipes

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"shmconn"
)

// bin is where the command is built.
var bin string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// runTests runs the tests with the names in a directory of their own, and fails when
// they leave a file in it. By its name the tests of shmconn remove one that a run
// left which was killed.
func runTests(m *testing.M) int {
	names, err := os.MkdirTemp("/dev/shm", "shmconn-test-recipes-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(names)
	os.Setenv("SHMCONN_DIR", names)
	if bin, err = os.MkdirTemp("", "shmconn-test-recipes-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	code := m.Run()
	if left, err := os.ReadDir(names); err != nil || len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left behind:", left, err)
		return 1
	}
	return code
}

// A proxy is a process "shmconn proxy".
type proxy struct {
	cmd  *exec.Cmd
	name string
}

// startProxy has the Unix socket at path be at name, in shared memory.
func startProxy(t *testing.T, name, path string) *proxy {
	t.Helper()
	command := filepath.Join(bin, "shmconn")
	if _, err := os.Stat(command); err != nil {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", command)
		if (shmconn.Addr{}).Network() == "unix" { // so do these tests
			build.Args = append(build.Args, "-tags", "shmconn_sockets")
		}
		build.Args = append(build.Args, "./shmconn")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	p := &proxy{exec.Command(command, "proxy", "shm:"+name, "unix:"+path), name}
	var log bytes.Buffer
	p.cmd.Stderr = &log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Signal(os.Interrupt) // fails if it was killed already
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("proxy: %s", &log)
		}
	})
	c, err := (&shmconn.Dialer{Wait: 30 * time.Second}).Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	return p
}

// kill kills the proxy and waits until it is gone.
func (p *proxy) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
}

// startServer starts a server, which the signal ends with t, and waits until it
// says ready.
func startServer(t *testing.T, cmd *exec.Cmd, stop os.Signal, ready string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(stop)
		cmd.Wait()
		r.Close()
	})
	var said strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), ready) {
			go io.Copy(io.Discard, r) // it must not wait for us
			return
		}
	}
	t.Fatalf("%v ended, and did not get ready:\n%s", cmd, &said)
}

// findTool returns the path of a command of PostgreSQL, which Debian keeps out of
// PATH, or skips t.
func findTool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Skipf("PostgreSQL is not installed: there is no %s", name)
	}
	return found[len(found)-1]
}

// notRoot has a server that root may not run be another user's, who gets dir, if
// these tests are root's. It skips t where there is no such user.
func notRoot(t *testing.T, server, name, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Skipf("root may not run %s: %v", server, err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Skipf("root may not run %s: %v", server, err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// startPostgres runs a PostgreSQL server on new data, and returns its socket. Root
// may not run one: so another user does.
func startPostgres(t *testing.T) (socket string) {
	t.Helper()
	initdb, postgres := findTool(t, "initdb"), findTool(t, "postgres")
	dir, err := os.MkdirTemp("", "shmconn-test-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := notRoot(t, "PostgreSQL", "postgres", dir)
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(t.Context(), initdb, "-D", data, "-U", "shm", "-A", "trust", "-E", "UTF8", "--no-sync")
	cmd.Dir, cmd.SysProcAttr = dir, attr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	cmd = exec.Command(postgres, "-D", data, "-k", dir, "-F", "-c", "listen_addresses=")
	cmd.Dir, cmd.SysProcAttr = dir, attr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	startServer(t, cmd, os.Interrupt, "ready to accept connections")
	return filepath.Join(dir, ".s.PGSQL.5432")
}

// PostgreSQL behind a proxy: rows and large values both ways, a notification, a
// query that is cancelled, and a proxy that is killed.
func TestPgx(t *testing.T) {
	socket := startPostgres(t)
	p := startProxy(t, "pg", socket)
	pool, err := PgxPool(t.Context(), "pg", "shm", "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx := t.Context()

	var network string
	if err := pool.QueryRow(ctx, "select coalesce(host(inet_client_addr()), 'unix')").Scan(&network); network != "unix" || err != nil {
		t.Errorf("the server's end is %q, %v; want its Unix socket", network, err)
	}
	want := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(want)
	var got []byte
	if err := pool.QueryRow(ctx, "select $1::bytea", want).Scan(&got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, equal: %v; %v", len(got), bytes.Equal(got, want), err)
	}
	copyRows(t, pool)
	notify(t, pool)
	cancelQuery(t, pool)

	p.kill(t)
	if err := pool.Ping(ctx); err == nil {
		t.Error("it answers without the proxy")
	}
	startProxy(t, "pg", socket)
	if err := pool.Ping(ctx); err != nil {
		t.Errorf("with the next proxy: %v", err)
	}
}

func copyRows(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx := t.Context()
	if _, err := pool.Exec(ctx, "create table orders (id int, symbol text)"); err != nil {
		t.Fatal(err)
	}
	const rows = 50_000
	n, err := pool.CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"id", "symbol"},
		pgx.CopyFromSlice(rows, func(i int) ([]any, error) { return []any{i, fmt.Sprint("S", i%7)}, nil }))
	if n != rows || err != nil {
		t.Fatalf("%d rows copied, %v; want %d", n, err, rows)
	}
	list, err := pool.Query(ctx, "select id from orders order by id")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(list, pgx.RowTo[int])
	if len(ids) != rows || err != nil {
		t.Fatalf("%d rows, %v; want %d", len(ids), err, rows)
	}
	for i, id := range ids {
		if id != i {
			t.Fatalf("row %d is %d", i, id)
		}
	}
}

func notify(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if _, err := c.Exec(ctx, "listen news"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "select pg_notify('news', 'filled')"); err != nil {
		t.Fatal(err)
	}
	n, err := c.Conn().WaitForNotification(ctx)
	if err != nil || n.Payload != "filled" {
		t.Errorf("notification %+v, %v", n, err)
	}
	if _, err := c.Exec(ctx, "unlisten news"); err != nil {
		t.Error(err)
	}
}

// cancelQuery has a context end a query: the caller goes on at once, and a request
// over another connection ends it in the server.
func cancelQuery(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := pool.Exec(ctx, "select pg_sleep(600)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a query past its deadline: %v", err)
	}
	const running = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'"
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var n int
		if err := pool.QueryRow(t.Context(), running).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the query runs on in the server")
		}
	}
}

// A Redis server behind a proxy: large values, many requests at once, and messages
// that come by themselves.
func TestRedis(t *testing.T) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skipf("Redis is not installed: %v", err)
	}
	socket := filepath.Join(t.TempDir(), "redis.sock")
	startServer(t, exec.Command(server, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"), os.Interrupt, "eady to accept connections")
	p := startProxy(t, "redis", socket)
	c := Redis("redis")
	defer c.Close()
	ctx := t.Context()

	want := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(want)
	if err := c.Set(ctx, "large", want, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "large").Bytes(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, equal: %v; %v", len(got), bytes.Equal(got, want), err)
	}
	const requests = 10_000
	pipe := c.Pipeline()
	for range requests {
		pipe.Incr(ctx, "n")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Get(ctx, "n").Int(); n != requests || err != nil {
		t.Errorf("n is %d, %v; want %d", n, err, requests)
	}
	s := c.Subscribe(ctx, "news")
	defer s.Close()
	if _, err := s.Receive(ctx); err != nil { // that it has subscribed
		t.Fatal(err)
	}
	if err := c.Publish(ctx, "news", "filled").Err(); err != nil {
		t.Fatal(err)
	}
	if m, err := s.ReceiveMessage(ctx); err != nil || m.Payload != "filled" {
		t.Errorf("message %v, %v", m, err)
	}

	p.kill(t)
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("it answers without the proxy")
	}
	startProxy(t, "redis", socket)
	if err := c.Ping(ctx).Err(); err != nil {
		t.Errorf("with the next proxy: %v", err)
	}
}

// startMariaDB runs a MariaDB server on new data, with a user me, whose password
// is secret, and a database market. It returns the server's socket.
func startMariaDB(t *testing.T) (socket string) {
	t.Helper()
	server, err := exec.LookPath("mariadbd")
	if err != nil {
		if server, err = exec.LookPath("/usr/sbin/mariadbd"); err != nil {
			t.Skip("MariaDB is not installed: there is no mariadbd")
		}
	}
	tables, _ := filepath.Glob("/usr/share/m*/mysql_system_tables.sql")
	if len(tables) == 0 {
		t.Skip("MariaDB is not installed whole: there is no mysql_system_tables.sql in /usr/share/mysql or /usr/share/mariadb")
	}
	dir, err := os.MkdirTemp("", "shmconn-test-mariadb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := notRoot(t, "MariaDB", "nobody", dir)

	// What mariadb-install-db does, which Debian keeps apart from the server.
	setup := strings.NewReader("create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n")
	users := strings.NewReader("\nflush privileges;\ncreate database market;\n" +
		"create user me@localhost identified by 'secret';\ngrant all on market.* to me@localhost;\n")
	input := []io.Reader{setup}
	for _, name := range []string{"mysql_system_tables.sql", "mysql_system_tables_data.sql"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(tables[0]), name))
		if err != nil {
			t.Fatal(err)
		}
		input = append(input, bytes.NewReader(b))
	}
	command := func(more ...string) *exec.Cmd {
		cmd := exec.Command(server, append([]string{"--no-defaults", "--datadir=" + dir, "--skip-networking",
			"--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M"}, more...)...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		return cmd
	}
	boot := command("--bootstrap")
	boot.Stdin = io.MultiReader(append(input, users)...)
	if out, err := boot.CombinedOutput(); err != nil {
		t.Fatalf("mariadbd --bootstrap: %v\n%s", err, out)
	}
	socket = filepath.Join(dir, "socket")
	startServer(t, command("--socket="+socket, "--pid-file="+filepath.Join(dir, "pid")), syscall.SIGTERM, "ready for connections")
	return socket
}

// registerMySQL is for all tests.
var registerMySQL = sync.OnceFunc(RegisterMySQL)

// MariaDB behind a proxy: a password, large values and rows both ways, a query
// that is cancelled, and a proxy that is killed.
func TestMySQL(t *testing.T) {
	socket := startMariaDB(t)
	p := startProxy(t, "mysql", socket)
	registerMySQL()
	ctx := t.Context()

	wrong, err := sql.Open("mysql", "me:guess@shm(mysql)/market")
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	var said *mysql.MySQLError
	if err := wrong.PingContext(ctx); !errors.As(err, &said) || said.Number != 1045 {
		t.Errorf("with a wrong password: %v, want error 1045 of the server", err)
	}
	db, err := sql.Open("mysql", "me:secret@shm(mysql)/market")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	var me string
	if err := db.QueryRowContext(ctx, "select user()").Scan(&me); me != "me@localhost" || err != nil {
		t.Errorf("the server's client is %q, %v; want me@localhost, over its Unix socket", me, err)
	}
	want := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{3}).Read(want)
	var got []byte
	if err := db.QueryRowContext(ctx, "select ?", want).Scan(&got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, equal: %v; %v", len(got), bytes.Equal(got, want), err)
	}
	loadRows(t, db)

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(short, "select sleep(600)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a query past its deadline: %v", err)
	}
	leaveRows(t, db)

	p.kill(t)
	if err := db.PingContext(ctx); err == nil {
		t.Error("it answers without the proxy")
	}
	if err := db.PingContext(ctx); !errors.Is(err, syscall.ECONNREFUSED) { // by a new connection
		t.Errorf("without the proxy: %v, want %v", err, syscall.ECONNREFUSED)
	}
	startProxy(t, "mysql", socket)
	if err := db.PingContext(ctx); err != nil {
		t.Errorf("with the next proxy: %v", err)
	}
}

// loadRows has the server read rows from the driver, and then send them back.
func loadRows(t *testing.T, db *sql.DB) {
	t.Helper()
	ctx := t.Context()
	if _, err := db.ExecContext(ctx, "create table orders (id int primary key, symbol text)"); err != nil {
		t.Fatal(err)
	}
	const rows = 50_000
	var text bytes.Buffer
	for i := range rows {
		fmt.Fprintf(&text, "%d\tS%d\n", i, i%7)
	}
	mysql.RegisterReaderHandler("orders", func() io.Reader { return &text })
	defer mysql.DeregisterReaderHandler("orders")
	result, err := db.ExecContext(ctx, "load data local infile 'Reader::orders' into table orders")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); n != rows || err != nil {
		t.Fatalf("%d rows loaded, %v; want %d", n, err, rows)
	}
	list, err := db.QueryContext(ctx, "select id, symbol from orders order by id")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	n := 0
	for ; list.Next(); n++ {
		var id int
		var symbol string
		if err := list.Scan(&id, &symbol); err != nil || id != n || symbol != fmt.Sprint("S", n%7) {
			t.Fatalf("row %d is %d, %q, %v", n, id, symbol, err)
		}
	}
	if err := list.Err(); n != rows || err != nil {
		t.Fatalf("%d rows, %v; want %d", n, err, rows)
	}
}

// leaveRows has a context end a query of which some rows have come, and many
// more would: the driver closes its connection, the proxy does, and so the server
// cannot go on.
func leaveRows(t *testing.T, db *sql.DB) {
	t.Helper()
	const query = "select a.symbol from orders a, orders b"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	list, err := db.QueryContext(ctx, query)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	for n := range 1000 {
		if !list.Next() {
			t.Fatalf("row %d: %v", n, list.Err())
		}
	}
	cancel()
	for list.Next() {
	}
	if err := list.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("a query that was left: %v", err)
	}
	const running = "select count(*) from information_schema.processlist where info = '" + query + "'"
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var n int
		if err := db.QueryRowContext(t.Context(), running).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the query runs on in the server")
		}
	}
}

// What the driver gets from a server is an error of that. What answers here is no
// MySQL server: it says, as one would, that it has too many connections.
func TestMySQLError(t *testing.T) {
	l, err := shmconn.Listen("mysql")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			said := "\xff\x10\x04Too many connections"
			c.Write(append([]byte{byte(len(said)), 0, 0, 0}, said...))
			c.Close()
		}
	}()
	registerMySQL()
	db, err := sql.Open("mysql", "me@shm(mysql)/market")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var said *mysql.MySQLError
	if err := db.PingContext(t.Context()); !errors.As(err, &said) || said.Number != 1040 || said.Message != "Too many connections" {
		t.Errorf("%v, want error 1040 of the server", err)
	}
}
