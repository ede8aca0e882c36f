package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// A leader loses both followers for 9 s while a client puts a key that must not exist yet. Clientv3 sends a write
// again if it is told DEADLINE_EXCEEDED: where the first one may still be applied, the second reads its value.
func guardedPut(server string) ([]row, error) {
	c, err := startCluster(server, options{size: 3})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	leader, others, err := c.leader()
	if err != nil {
		return nil, err
	}
	client, err := leader.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	for _, m := range others {
		m.signal(syscall.SIGSTOP)
	}
	go func() {
		time.Sleep(9 * time.Second)
		for _, m := range others {
			m.signal(syscall.SIGCONT)
		}
	}()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version("guarded"), "=", 0)).
		Then(clientv3.OpPut("guarded", "mine")).
		Commit()
	took := seconds(time.Since(begun))
	if err != nil {
		return []row{{"a guarded put while the followers stand still", took + ": " + err.Error(), ""}}, nil
	}
	return []row{{
		"a guarded put while the followers stand still",
		fmt.Sprintf("%s: succeeded=%v", took, answer.Succeeded),
		wrongIf(!answer.Succeeded, "it failed on its own first application"),
	}}, nil
}

// A follower that hears nobody: what it says of its leader.
func cutOff(server string) ([]row, error) {
	c, err := startCluster(server, options{size: 3})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	leader, others, err := c.leader()
	if err != nil {
		return nil, err
	}
	alone := others[0]
	client, err := alone.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	watch := client.Watch(clientv3.WithRequireLeader(ctx), "watched")
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		return nil, err
	}
	leader.signal(syscall.SIGSTOP)
	others[1].signal(syscall.SIGSTOP)
	begun := time.Now()
	watched := make(chan time.Duration, 1)
	go func() {
		for answer := range watch {
			if answer.Err() != nil {
				break
			}
		}
		watched <- time.Since(begun)
	}()
	var rows []row
	limit := 15 * time.Second
	told := time.Duration(0)
	errors := ""
	for told == 0 && time.Since(begun) < limit {
		short, done := context.WithTimeout(ctx, time.Second)
		status, err := client.Status(short, local(alone.client))
		done()
		if err == nil && status.Leader == 0 {
			told, errors = time.Since(begun), strings.Join(status.Errors, ", ")
		}
		time.Sleep(20 * time.Millisecond)
	}
	rows = append(rows, row{
		"Status names no leader after", seconds(told) + ", errors: " + errors,
		wrongIf(told == 0 || told > 4*time.Second || !strings.Contains(errors, "no leader"), "a few seconds, and the error"),
	})
	asked := time.Now()
	health, err := (&http.Client{Timeout: 20 * time.Second}).Get("http://" + local(alone.client) + "/health")
	code := 0
	if err == nil {
		code = health.StatusCode
		health.Body.Close()
	}
	took := time.Since(asked)
	rows = append(rows, row{
		"then /health says", fmt.Sprintf("%d after %.2f s", code, took.Seconds()),
		wrongIf(code != http.StatusServiceUnavailable || took > time.Second, "503 within a second"),
	})
	// As a program that is not told by its context, the client waits for a leader; the stream's own answer is what counts.
	short, done := context.WithTimeout(clientv3.WithRequireLeader(ctx), 5*time.Second)
	_, err = client.KeepAliveOnce(short, lease.ID)
	done()
	rows = append(rows, row{"a keep-alive that requires a leader", fmt.Sprint(err), wrongIf(err == nil, "an error")})
	var ended time.Duration
	select {
	case ended = <-watched:
	case <-time.After(limit - min(limit, time.Since(begun))):
	}
	rows = append(rows, row{
		"a watch that requires a leader ends after", seconds(ended),
		wrongIf(ended == 0 || ended > 8*time.Second, "a few seconds"),
	})
	return rows, nil
}

// grant makes leases, many at a time.
func grant(client *clientv3.Client, count int, ttl int64) ([]clientv3.LeaseID, error) {
	ids := make([]clientv3.LeaseID, count)
	var next atomic.Int64
	var failed atomic.Value
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count || failed.Load() != nil {
					return
				}
				lease, err := client.Grant(context.Background(), ttl)
				if err != nil {
					failed.Store(err)
					return
				}
				ids[i] = lease.ID
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return nil, err.(error)
	}
	return ids, nil
}

// keepAlive renews leases as clientv3 does, for a time; how many were lost.
func keepAlive(c *cluster, through *member, count int, ttl int64, during time.Duration) (row, error) {
	what := fmt.Sprintf("%d leases of %d s kept for %s: lost", count, ttl, during)
	client, err := through.dial()
	if err != nil {
		return row{}, err
	}
	defer client.Close()
	ids, err := grant(client, count, ttl)
	if err != nil {
		return row{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var renewed atomic.Int64
	for _, id := range ids {
		answers, err := client.KeepAlive(ctx, id)
		if err != nil {
			return row{}, err
		}
		go func() {
			for range answers {
				renewed.Add(1)
			}
		}()
	}
	begun := time.Now()
	time.Sleep(during)
	rate := float64(renewed.Load()) / time.Since(begun).Seconds()
	known, err := client.Leases(context.Background())
	if err != nil {
		return row{}, err
	}
	alive := map[clientv3.LeaseID]bool{}
	for _, lease := range known.Leases {
		alive[lease.ID] = true
	}
	lost := 0
	for _, id := range ids {
		if !alive[id] {
			lost++
		}
	}
	figure := fmt.Sprintf("%d (%.0f renewals a second)", lost, rate)
	return row{what, figure, wrongIf(lost > 0, "none may be lost")}, nil
}

func manyLeases(server string, throughLeader bool) ([]row, error) {
	c, err := startCluster(server, options{size: 3})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	through, others, err := c.leader()
	if err != nil {
		return nil, err
	}
	if !throughLeader {
		through = others[0]
	}
	lost, err := keepAlive(c, through, 20_000, 20, time.Minute)
	return []row{lost}, err
}

// Members 2 ms apart, each way.
func distantLeases(server string) ([]row, error) {
	c, err := startCluster(server, options{size: 3, between: func(target string) (*relay, error) {
		return newRelay(target, 2*time.Millisecond)
	}})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	leader, others, err := c.leader()
	if err != nil {
		return nil, err
	}
	near, err := keepAlive(c, leader, 2_000, 10, 30*time.Second)
	if err != nil {
		return nil, err
	}
	near.what += ", at the leader"
	far, err := keepAlive(c, others[0], 2_000, 10, 30*time.Second)
	far.what += ", at a follower"
	return []row{near, far}, err
}

// put writes keys until the time is over; how many were acknowledged, and the last error.
func put(client *clientv3.Client, during time.Duration) (int, error) {
	ended := time.Now().Add(during)
	count, last := 0, error(nil)
	for time.Now().Before(ended) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := client.Put(ctx, fmt.Sprintf("key/%d", count), "value")
		cancel()
		if err != nil {
			last = err
			continue
		}
		count++
	}
	return count, last
}

// Every connection between members ends in both directions when one of them ends.
func middleBox(server string) ([]row, error) {
	begun := time.Now()
	c, err := startCluster(server, options{size: 3, between: func(target string) (*relay, error) {
		return newRelay(target, 0)
	}})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	rows := []row{{"all members serve after", seconds(time.Since(begun)), ""}}
	leader, others, err := c.leader()
	if err != nil {
		return nil, err
	}
	client, err := leader.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	others[0].kill()
	count, failed := put(client, 5*time.Second)
	rows = append(rows, row{"puts while one is away for 5 s", fmt.Sprintf("%d, %v", count, failed), wrongIf(failed != nil, "none may fail")})
	if err := others[0].start(); err != nil {
		return nil, err
	}
	back := time.Now()
	reader, err := others[0].dial()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	for time.Since(back) < 20*time.Second {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		keys, err := reader.Get(ctx, "key/", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		cancel()
		if err == nil && keys.Count == int64(count) {
			return append(rows, row{"it has all of them after", seconds(time.Since(back)), ""}), nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return append(rows, row{"it has all of them after", "-", "20 s were not enough"}), nil
}

// As after a restart, when all clients come back.
func connectionsAtOnce(server string) ([]row, error) {
	c, err := startCluster(server, options{size: 1})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	const count = 1500
	took := make([]time.Duration, count)
	var group sync.WaitGroup
	var failed atomic.Int64
	start := make(chan struct{})
	for i := range count {
		group.Go(func() {
			<-start
			begun := time.Now()
			connection, err := net.DialTimeout("tcp", local(c.members[0].client), 10*time.Second)
			took[i] = time.Since(begun)
			if err != nil {
				failed.Add(1)
				return
			}
			time.Sleep(2 * time.Second)
			connection.Close()
		})
	}
	close(start)
	group.Wait()
	slow, longest := 0, time.Duration(0)
	for _, t := range took {
		longest = max(longest, t)
		if t > 900*time.Millisecond {
			slow++
		}
	}
	return []row{{
		fmt.Sprintf("%d connections at once", count),
		fmt.Sprintf("%d failed, %d waited a second, longest %.2f s", failed.Load(), slow, longest.Seconds()),
		wrongIf(failed.Load() > 0 || slow > 0, "nobody waits for the backlog"),
	}}, nil
}

// A process that may open 1024 files, and a stranger with 2,000 connections.
func descriptors(server string) ([]row, error) {
	c, err := startCluster(server, options{size: 1, files: 1024})
	defer c.stop()
	if err != nil {
		return nil, err
	}
	m := c.members[0]
	client, err := m.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if _, err := client.Put(context.Background(), "first", "value"); err != nil {
		return nil, err
	}
	var idle []net.Conn
	for range 2000 {
		connection, err := net.DialTimeout("tcp", local(m.client), 2*time.Second)
		if err == nil {
			idle = append(idle, connection)
		}
	}
	count, failed := put(client, 10*time.Second)
	rows := []row{
		{"puts of who was in, in 10 s", fmt.Sprintf("%d, %v", count, failed), wrongIf(failed != nil, "none may fail")},
		{"the member lives", fmt.Sprint(m.lives()), wrongIf(!m.lives(), "out of descriptors is no reason to end")},
	}
	for _, connection := range idle {
		_ = connection.SetReadDeadline(time.Now())
		_, _ = io.ReadAll(connection)
		connection.Close()
	}
	if !m.lives() {
		return rows, nil
	}
	late, err := m.dial()
	if err != nil {
		return nil, err
	}
	defer late.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = late.Put(ctx, "last", "value")
	return append(rows, row{"a new client, when the stranger has gone", fmt.Sprint(err), wrongIf(err != nil, "it is served")}), nil
}
