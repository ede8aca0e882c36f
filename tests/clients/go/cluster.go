package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
)

func init() {
	// What the client's connections meet with is the subject here, not news.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}

// A member is a process of the server under test.
type member struct {
	name         string
	client, peer int // ports
	args         []string
	dir          string
	process      *exec.Cmd
	ended        chan error
}

// A cluster is some members on loopback, with whatever stands between them.
type cluster struct {
	members []*member
	relays  []*relay
	dir     string
}

type options struct {
	size int
	// How the members reach each other: nil is directly.
	between func(target string) (*relay, error)
	// The hard limit of open files; 0 is the machine's.
	files int
}

func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func startCluster(server string, options options) (*cluster, error) {
	dir, err := os.MkdirTemp("", "clients-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	advertised := []string{}
	for i := range options.size {
		m := &member{name: fmt.Sprintf("m%d", i), client: freePort(), peer: freePort(), dir: dir}
		url := "http://" + local(m.peer)
		if options.between != nil {
			relay, err := options.between(local(m.peer))
			if err != nil {
				return c, err
			}
			c.relays = append(c.relays, relay)
			url = "http://" + relay.address()
		}
		advertised = append(advertised, m.name+"="+url)
		c.members = append(c.members, m)
	}
	for i, m := range c.members {
		m.args = []string{
			server, "--name", m.name, "--data-dir", filepath.Join(dir, m.name),
			"--listen-client-urls", "http://" + local(m.client),
			"--advertise-client-urls", "http://" + local(m.client),
			"--listen-peer-urls", "http://" + local(m.peer),
			"--initial-advertise-peer-urls", strings.SplitN(advertised[i], "=", 2)[1],
			"--initial-cluster", strings.Join(advertised, ","),
		}
		if options.files > 0 {
			limit := fmt.Sprintf("ulimit -n %d; exec \"$0\" \"$@\"", options.files)
			m.args = append([]string{"sh", "-c", limit}, m.args...)
		}
		if err := m.start(); err != nil {
			return c, err
		}
	}
	return c, c.ready(60 * time.Second)
}

func (m *member) start() error {
	log, err := os.OpenFile(filepath.Join(m.dir, m.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	process, ended := exec.Command(m.args[0], m.args[1:]...), make(chan error, 1)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		return err
	}
	m.process, m.ended = process, ended
	go func() { ended <- process.Wait() }()
	return nil
}

func (m *member) signal(signal syscall.Signal) { _ = m.process.Process.Signal(signal) }

func (m *member) kill() {
	m.signal(syscall.SIGKILL)
	<-m.ended
}

func (m *member) lives() bool {
	select {
	case err := <-m.ended:
		m.ended <- err
		return false
	default:
		return true
	}
}

func (c *cluster) stop() {
	for _, m := range c.members {
		if m.process != nil {
			m.kill()
		}
	}
	for _, r := range c.relays {
		r.close()
	}
	_ = os.RemoveAll(c.dir)
}

// ready waits until every member has served a write.
func (c *cluster) ready(within time.Duration) error {
	deadline := time.Now().Add(within)
	for _, m := range c.members {
		client, err := m.dial()
		if err != nil {
			return err
		}
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			_, err = client.Put(ctx, "ready", m.name)
			cancel()
			if err == nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		client.Close()
		if err != nil {
			return fmt.Errorf("%s serves nobody: %w", m.name, err)
		}
	}
	return nil
}

func (m *member) dial() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{local(m.client)},
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
}

// leader is the member that leads, and the others.
func (c *cluster) leader() (*member, []*member, error) {
	for range 100 {
		client, err := c.members[0].dial()
		if err != nil {
			return nil, nil, err
		}
		var leader *member
		var others []*member
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := client.Status(ctx, local(m.client))
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		client.Close()
		if leader != nil {
			return leader, others, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, nil, fmt.Errorf("no member leads")
}

// A relay passes bytes on, as a middle box does: it knows nothing of half-closed connections.
type relay struct {
	listener net.Listener
	delay    time.Duration
	mutex    sync.Mutex
	open     []net.Conn
}

// newRelay stands before target; every piece takes `delay` longer.
func newRelay(target string, delay time.Duration) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, delay: delay}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			r.mutex.Lock()
			r.open = append(r.open, near, far)
			r.mutex.Unlock()
			go r.pass(near, far)
			go r.pass(far, near)
		}
	}()
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) pass(from, to net.Conn) {
	// Whoever ends its half ends the whole connection.
	defer from.Close()
	defer to.Close()
	if r.delay == 0 {
		_, _ = io.Copy(to, from)
		return
	}
	type piece struct {
		due   time.Time
		bytes []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, 32*1024)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			pieces <- piece{time.Now().Add(r.delay), buffer[:n]}
		}
	}()
	for piece := range pieces {
		time.Sleep(time.Until(piece.due))
		if _, err := to.Write(piece.bytes); err != nil {
			// The reader ends with the connection.
			from.Close()
			for range pieces {
			}
			return
		}
	}
}

func (r *relay) close() {
	r.listener.Close()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, connection := range r.open {
		connection.Close()
	}
}
