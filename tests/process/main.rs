//! The built binary as its users meet it: real processes, disks, sockets and signals.
//!
//! * `single`: what one node serves, and what it keeps over restarts and `kill -9`;
//! * `cluster`: three processes, the death of a leader, a member that is far behind;
//! * `cutoff`: a follower that hears nobody any more, side by side with a real etcd where there is one;
//! * `relay`: members behind relays that do not know half-closed connections;
//! * `limits`: descriptors that run out, strangers that say nothing;
//! * `kills`: `kill -9` of one member after the other under load;
//! * `once`: keys that are written once, while leaders move or members are killed; how a write may end;
//! * `damage`: data that must not be served, disks that are full (`small_disk`), and processes that must not start;
//! * `snapshot`: the way in and out, offline commands;
//! * `discovery`: members that find one another through a service, or through DNS;
//! * `members`: members that are added, promoted, removed, wiped, replaced, or left alone;
//! * `metrics`: every figure on `/metrics` moves under load, and is etcd's in name, label, bound and text;
//! * `kubeadm`: a control plane of three with kubeadm's flags and certificates, which grows and replaces a node under load;
//! * `tls`: certificates of clients and members, unix sockets;
//! * `local_address`: from which address members call;
//! * `etcdctl`, `session`: etcd's own tool, and its outputs against a real etcd (skipped without them).
//!
//! * `differential`: generated requests of every shape, answer by answer with a real etcd (skipped without it);
//! * `fuzz`: requests that no client would make, status by status with a real etcd.
//!
//! The tests themselves can be tested: `QUORATE_TEST_BINARY=etcd cargo test --test process -- single:: cluster::`
//! runs them against a real etcd.
//!
//! The simulator looks for rare interleavings; these tests show that what it simulates is what runs.

mod cluster;
mod cutoff;
mod damage;
mod differential;
mod discovery;
mod etcdctl;
mod fuzz;
mod kills;
mod kubeadm;
mod limits;
mod local_address;
mod members;
mod metrics;
mod once;
mod relay;
mod session;
mod single;
mod small_disk;
mod snapshot;
mod support;
mod tls;
