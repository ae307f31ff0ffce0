//go:build unix

package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
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

	"github.com/jackc/pgx/v5"
)

// Cluster is a PostgreSQL server. Its methods are safe for concurrent use.
type Cluster struct {
	bin        string // where the programs are
	dir        string // temporary; holds the data and the socket
	credential *syscall.Credential

	mu     sync.Mutex
	life   io.WriteCloser  // standard input of the process that keeps the server; nil while it is down
	exited <-chan struct{} // closed when that process has ended
	log    string          // file with what the server said
}

// Main runs the tests of a package beside one cluster, which it hands to use
// before the first test, and returns the status to exit with.
func Main(m *testing.M, use func(*Cluster)) int {
	c, err := New()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests with the build tag postgres need PostgreSQL:", err)
		return 1
	}
	defer c.Close()
	use(c)
	return m.Run()
}

// Start returns a cluster of the test's own.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := New()
	if err != nil {
		tb.Fatal("this test needs PostgreSQL: ", err)
	}
	tb.Cleanup(c.Close)
	return c
}

// New makes a cluster and starts it. The caller must Close it.
func New() (*Cluster, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin}
	if os.Getuid() == 0 {
		if c.credential, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if c.dir, err = os.MkdirTemp("", "asap-postgres-"); err != nil {
		return nil, err
	}
	if err := c.init(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	if err := c.Start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// programs finds the directory of initdb and postgres: the newest that Debian's
// packages have installed, else where PATH leads.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	newest, dir := -1, ""
	for _, path := range found {
		bin := filepath.Dir(path)
		if version, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil && version > newest {
			newest, dir = version, bin
		}
	}
	if dir != "" {
		return dir, nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("initdb is neither in /usr/lib/postgresql nor in PATH; install the package postgresql")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// unprivileged is whom root runs the server as.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// init makes the data directory.
func (c *Cluster) init() error {
	if c.credential != nil {
		if err := os.Chown(c.dir, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(c.bin, "initdb"), "--pgdata="+c.data(), "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	c.own(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	const settings = `
listen_addresses = ''
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
log_min_messages = warning
`
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(settings + "unix_socket_directories = '" + c.dir + "'\n")
	return errors.Join(err, f.Close())
}

// own makes a command run as the owner of the cluster.
func (c *Cluster) own(cmd *exec.Cmd) {
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential, Setpgid: true}
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// keep runs the server until standard input ends: with the process that holds
// its other end, whatever becomes of that. SIGQUIT is PostgreSQL's immediate
// shutdown: no checkpoint, no goodbye.
const keep = `exec 3<&0 </dev/null
"$@" 3<&- & server=$!
{ read -r _ <&3; kill -QUIT "$server"; } & reader=$!
exec 3<&-
wait "$server"
kill "$reader" 2>/dev/null`

// startWithin is how long a server may take to recover and accept connections.
const startWithin = time.Minute

// Start starts the server after Stop or Kill and waits until it answers.
func (c *Cluster) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	for {
		if err := c.launch(); err != nil {
			return err
		}
		err := c.answers(ctx)
		if err == nil {
			return nil
		}
		c.end()
		// What a kill has left holds the memory of the server for a moment yet.
		if ctx.Err() != nil {
			said, _ := os.ReadFile(c.log)
			return fmt.Errorf("start PostgreSQL: %w: %s", err, said)
		}
	}
}

// answers waits until the server answers, has ended, or ctx has.
func (c *Cluster) answers(ctx context.Context) error {
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for {
		err := c.ping(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-c.exited:
			return fmt.Errorf("the server has ended: %w", err)
		case <-pause.C:
		}
	}
}

// launch starts the process that keeps the server. The caller holds mu.
func (c *Cluster) launch() error {
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", keep, "sh", filepath.Join(c.bin, "postgres"), "-D", c.data())
	c.own(cmd)
	log, err := os.CreateTemp(c.dir, "log-")
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own
	cmd.Stdout, cmd.Stderr = log, log
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended is in the log
	}()
	c.life, c.exited, c.log = life, exited, log.Name()
	return nil
}

// end ends the server at once and waits for it. The caller holds mu.
func (c *Cluster) end() {
	if c.life == nil {
		return
	}
	_ = c.life.Close() // nothing was written
	<-c.exited
	c.life = nil
}

func (c *Cluster) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Stop ends the server as an administrator does: connections are cut, everything
// is written.
func (c *Cluster) Stop() error { return c.down(syscall.SIGINT) }

// Kill ends the server with SIGKILL, in the middle of whatever it is doing.
func (c *Cluster) Kill() error { return c.down(syscall.SIGKILL) }

func (c *Cluster) down(s syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil {
		return nil
	}
	if err := c.signal(s); err != nil {
		return err
	}
	<-c.exited
	c.end()
	return nil
}

// signal sends a signal to the server's first process.
func (c *Cluster) signal(s syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return fmt.Errorf("postmaster.pid says %q", first)
	}
	return syscall.Kill(pid, s)
}

// Close ends the server and removes everything.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	_ = os.RemoveAll(c.dir) // what is left is in the system's temporary directory
}

// Socket returns the path of the server's socket, for a test that puts something
// between a store and the server.
func (c *Cluster) Socket() string { return filepath.Join(c.dir, ".s.PGSQL.5432") }

// URL returns the connection string of a database.
func (c *Cluster) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {c.dir}, "sslmode": {"disable"}}.Encode()}).String()
}

// Database makes an empty database that is dropped when the test ends, and
// returns its connection string.
func (c *Cluster) Database(tb testing.TB) string {
	tb.Helper()
	name := "test_" + strings.ToLower(rand.Text()[:16])
	if err := c.Exec(context.Background(), "postgres", "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Exec(context.Background(), "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return c.URL(name)
}

// Exec runs SQL in a database as its owner.
func (c *Cluster) Exec(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL(database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}
