"""The package etcd3 of Python (grpcio's own transport) against an empty server: address, and with TLS the folder of
ca.crt, client.crt and client.key. Every step asserts on its answer."""

import sys
import threading

import etcd3
import etcd3.exceptions


def puts_and_gets(client):
    client.put("a", "1")
    client.put("a", "2")
    value, meta = client.get("a")
    assert (value, meta.key, meta.version) == (b"2", b"a", 2), (value, meta.version)
    assert client.get("absent") == (None, None)
    for n in range(3):
        client.put(f"p/{n}", str(n))
    found = [(meta.key, value) for value, meta in client.get_prefix("p/", sort_order="descend", sort_target="key")]
    assert found == [(b"p/2", b"2"), (b"p/1", b"1"), (b"p/0", b"0")], found
    assert client.delete("p/0") and not client.delete("p/0")
    assert client.delete_prefix("p/").deleted == 2
    assert client.put_if_not_exists("new", "1") and not client.put_if_not_exists("new", "2")
    assert client.replace("new", "1", "3") and not client.replace("new", "1", "4")


def transactions(client):
    client.put("t", "1")
    done, answers = client.transaction(
        compare=[client.transactions.value("t") == "1", client.transactions.version("t") > 0],
        success=[client.transactions.put("t", "2"), client.transactions.get("t")],
        failure=[client.transactions.delete("t")],
    )
    assert done and answers[1][0][0] == b"2", answers
    done, _ = client.transaction(compare=[client.transactions.create("t") == 0], success=[], failure=[])
    assert not done


def watches(client):
    events, cancel = client.watch("w")
    writer = threading.Timer(0.1, lambda: (client.put("w", "1"), client.delete("w")))
    writer.start()
    first, second = next(events), next(events)
    assert isinstance(first, etcd3.events.PutEvent) and first.value == b"1", first
    assert isinstance(second, etcd3.events.DeleteEvent), second
    cancel()
    client.put("h", "1")
    revision = client.get("h")[1].mod_revision
    client.put("h", "2")
    history, cancel = client.watch("h", start_revision=revision)
    assert [next(history).value, next(history).value] == [b"1", b"2"]
    cancel()


def leases(client):
    lease = client.lease(60)
    client.put("l", "1", lease=lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60
    assert list(lease.keys) == [b"l"]
    lease.refresh()
    lease.revoke()
    assert client.get("l") == (None, None)


def locks(client):
    one, two = client.lock("name", ttl=30), client.lock("name", ttl=30)
    assert one.acquire(timeout=5) and one.is_acquired()
    assert not two.acquire(timeout=1)
    assert one.release() and two.acquire(timeout=5) and two.release()


def members_and_status(client):
    (member,) = client.members
    assert member.name == "one", member.name
    status = client.status()
    assert status.version == "3.7.1" and status.leader.id == member.id, status.version
    assert client.hash() >= 0
    client.compact(client.get("a")[1].mod_revision)
    client.defragment()


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    options = {"timeout": 30}
    if len(sys.argv) > 2:
        certificates = sys.argv[2]
        options |= {
            "ca_cert": f"{certificates}/ca.crt",
            "cert_cert": f"{certificates}/client.crt",
            "cert_key": f"{certificates}/client.key",
        }
    client = etcd3.client(host=host, port=int(port), **options)
    for step in (puts_and_gets, transactions, watches, leases, locks, members_and_status):
        step(client)
    print(f"etcd3 of Python{' over TLS' if len(sys.argv) > 2 else ''}: every answer is as expected")


main()
