//! Every limit of the node, in one place. Sizes in bytes, times as `Duration`.

use std::time::Duration;

/// `--max-request-bytes`: the largest marshalled proposal.
pub const REQUEST_BYTES_MAX: usize = 1_572_864;
/// What gRPC framing and headers may add to a request before the gRPC layer itself refuses it.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// `--max-txn-ops`.
pub const TXN_OPS_MAX: usize = 128;
/// Transactions in each other, the outermost included, whatever `--max-txn-ops` says: what works on them calls itself, on a
/// stack of [`THREAD_STACK_BYTES`]. In a debug build the gateway takes most, 13 KiB for each, and decoding 2.5.
pub const TXN_LEVELS_MAX: usize = 256;
/// The stack of every thread that works on requests; touched only as far as it is used.
pub const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;
/// The largest encoded command, whatever `--max-request-bytes` says: alone in a batch it must fit into a frame between peers.
pub const COMMAND_BYTES_MAX: usize = PEER_FRAME_BYTES_MAX - 64 * 1024;
/// Names of users and roles, as a request gives them: what a key of etcd's own file may have.
pub const AUTH_NAME_BYTES_MAX: usize = 32_768;
/// A key of the engine. Those of records and leases are short; users and roles are kept by their names.
pub const ENGINE_KEY_BYTES_MAX: usize = 65_535;
/// Longest lease, in seconds: etcd's 9,000,000,000.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Committed entries that may wait for apply before new proposals are refused.
pub const APPLY_LAG_ENTRIES_MAX: u64 = 5_000;
/// A new voter may lack so many entries when it begins to vote.
pub const PROMOTE_LAG_ENTRIES_MAX: u64 = 500;
/// Time a request may take beyond two election time-outs.
pub const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);
/// Nearer to the quota than this a leader counts what is under way: more than can be.
pub const QUOTA_NEAR_BYTES: u64 = 64 * 1024 * 1024;
/// Operations that share one raft entry (one command may have more).
pub const BATCH_OPERATIONS_MAX: usize = 512;
/// Commands and what they write that are applied in one turn, nearly: the last entry may go beyond.
pub const APPLY_CHUNK_CHANGES: usize = 1_024;
/// Bytes of commands that share one raft entry (one command may be larger).
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Commands one member accepts before it makes new ones wait.
pub const PROPOSALS_QUEUED_MAX: usize = 16 * 1024;
/// How far the numbers of commands that wait may lie apart: what was applied between them is remembered by every member.
pub const PROPOSALS_APART_MAX: u64 = 128 * 1024;
/// Bytes of commands that one member accepts before it refuses new ones (one command may be larger).
pub const PROPOSALS_QUEUED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A batch of any member, as it is sent: one command of the largest kind, or many small ones.
pub const BATCH_ENCODED_BYTES_MAX: usize = COMMAND_BYTES_MAX + 32 * 1024;
/// Bytes of entries that share a request to a follower (one entry may be larger). The follower answers each, and a silence is an
/// error: over a slow network a larger request would be given up, and begun again, without end.
pub const APPEND_BYTES_MAX: usize = 64 * 1024;
/// A frame between peers: a batch of entries, or a chunk of a snapshot.
pub const PEER_FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The first frame between peers, before it is known who sends it.
pub const PEER_HELLO_BYTES_MAX: usize = 1024;
/// Connections on peer ports whose callers have not said who they are; a newer one takes the oldest one's place. A peer says
/// so at once. Fewer where descriptors are few.
pub const PEER_NEWCOMERS_MAX: usize = 512;
/// How long a caller on a peer port may take to say who it is, with the TLS handshake before.
pub const PEER_HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may acknowledge nothing of what it was sent before its connection is given up: longer than a disk may
/// stall in the middle of a snapshot.
pub const PEER_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to say which protocol it speaks, with the TLS handshake before: clients of gRPC say so at
/// once, and for those of HTTP/1.1 the limit is that of a request's head from their first byte on.
pub const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be idle before the system asks the other side whether it is there, and how long it waits for
/// an answer before it asks again: Go's.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered questions after which a connection is over: Go's.
pub const TCP_KEEPALIVE_PROBES: u32 = 9;
/// Descriptors that no client may take: log, engine, peers, standard streams. etcd keeps 150, with a store of one file.
pub const DESCRIPTORS_RESERVED: usize = 256;
/// Files that the engine keeps open to read them again.
pub const ENGINE_FILES_MAX: usize = 96;
/// Names that are looked up at the same time.
pub const NAME_LOOKUPS_MAX: usize = 16;
/// Handshakes that read certificates from disk at the same time.
pub const HANDSHAKE_READS_MAX: usize = 4;
/// How often members ask each other for a sign of life, to know how long that takes: as often as etcd's prober.
pub const PEER_PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// A peer that is silent for longer is not connected: etcd's timeout for reading from one.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Peers that are counted each for itself.
pub const PEERS_COUNTED_MAX: usize = 64;
/// A chunk of a snapshot that is streamed to a lagging member.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// Newest values kept in memory above the engine.
pub const VALUE_CACHE_BYTES: usize = 256 * 1024 * 1024;
/// Log entries kept in memory for followers; older ones are read from the segments.
pub const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// A segment of the write-ahead log.
pub const LOG_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Records that share one write and one sync of the log (one record may be larger).
pub const LOG_GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Verbs that the log's thread takes from its queue at a time.
pub const LOG_GROUP_JOBS_MAX: usize = 4096;
/// Groups that the core notes as durable before others have their turn.
pub const LOG_TURN_GROUPS_MAX: usize = 64;
/// Purged segments kept for reuse.
pub const LOG_SPARE_SEGMENTS_MAX: usize = 2;
/// Log entries, each of many commands, that are kept at most for a follower that is being sent a snapshot.
pub const LOG_HELD_ENTRIES_MAX: u64 = 100_000;
/// One read of old log entries.
pub const LOG_READ_BYTES: usize = 4 * 1024 * 1024;
/// Unwanted bytes between two log entries that are read rather than skipped.
pub const LOG_READ_GAP_BYTES: u64 = 4 * 1024;
/// Blocks of the engine's tables kept in memory.
pub const ENGINE_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Journals of the engine on disk, of 64 MB each, before it flushes what pins the oldest: bounds what a start replays.
pub const ENGINE_JOURNALS_MAX: usize = 3;
/// Changes on their way to the engine that are written at once.
pub const ENGINE_BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of changes on their way to the engine; beyond, applying waits.
pub const ENGINE_QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Newest writes of a keyspace kept in memory by the engine before it makes tables of them.
pub const ENGINE_WRITE_BUFFER_BYTES: u64 = 32 * 1024 * 1024;
/// The same, if tables are made more slowly than there is written; then writes wait.
pub const ENGINE_WRITE_BUFFER_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Discarded revisions, at least, before the engine rewrites its tables to be rid of them; they must be a
/// quarter of all revisions as well.
pub const ENGINE_DISCARDED_MIN: usize = 10_000;
/// The simulator's engine rewrites its journal when it is this long and four times what is in it.
pub const JOURNAL_REWRITE_BYTES: u64 = 64 * 1024;
/// Entries of the index that one look at the state may take in: less than half a millisecond.
pub const LOOK_ENTRIES_MAX: usize = 4_000;
/// Threads for what computes for long: hashes, sorting, snapshots.
pub const BACKGROUND_THREADS_MAX: usize = 2;
/// Entries of the index, and changes that it forgets, that one piece of a sweep behind a compaction may take in: about a millisecond.
pub const SWEEP_PIECE_ENTRIES: usize = 4_000;
/// Rows of what a sweep keeps that are written at once: a few bytes for each key, so a few KB each as a rule.
pub const SWEEP_BATCH_ROWS: usize = 256;
/// Entries of the index that applying a transaction may look at for the ranges in its answer; the rest is read afterwards.
pub const TXN_LOOK_ENTRIES: usize = 10_000;
/// Bytes of pairs in the answer to a transaction that writes.
pub const TXN_ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Pairs that are sorted where they are; more are sorted off the tasks that serve others.
pub const RANGE_SORTED_AT_ONCE_MAX: usize = 10_000;
/// Keys of a large range that are read at a time.
pub const RANGE_PIECE_KEYS: usize = 1_000;
/// Bytes of a large range that are read at a time (one pair may be larger).
pub const RANGE_PIECE_BYTES: usize = 1024 * 1024;
/// Bytes of answers that a connection has asked for and not read; beyond, what is read for others waits, all but one.
pub const ANSWERS_UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Leases that are renewed under one confirmation of leadership (a keep-alive stream asks for no more at once).
pub const RENEWALS_PER_ROUND_MAX: usize = 2048;
/// Keep-alive requests of a stream that are taken together.
pub const KEEP_ALIVES_PER_ROUND_MAX: usize = 1024;
/// Rounds of one keep-alive stream that may be under way. What arrives beyond stays unread.
pub const KEEP_ALIVE_ROUNDS_MAX: usize = 16;
/// Keep-alive requests of a stream that are renewed while one before them waits for the end of its lease.
pub const KEEP_ALIVES_UNANSWERED_MAX: usize = 2048;
/// Leases that are over and are revoked together.
pub const REVOKES_PER_ROUND_MAX: usize = 256;
/// Bytes a client may send on one stream before we read them.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes a client may send on one connection before we read them. Half of it is the *budget* that h2 allows for small
/// frames that nobody has read: each costs 256 bytes less what it holds, and beyond the budget h2 ends the connection.
/// A gRPC message has five bytes at least, so a stream whose requests wait, whatever they are, is far from that.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
const _: () = assert!(STREAM_WINDOW_BYTES / 5 * 251 < CONNECTION_WINDOW_BYTES / 2);
/// Bytes of events that wait for a slow watch stream (one revision may be larger).
pub const WATCH_BUFFERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of events that a catching-up watch stream reads in a round, for one response (one revision may be larger).
pub const WATCH_CATCH_UP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of them that are read before others are served.
pub const WATCH_CATCH_UP_PIECE_BYTES: usize = 1024 * 1024;
/// Bytes of the rounds of all streams; beyond, a round is a piece.
pub const WATCH_CATCH_UP_TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Watches of a stream that catch up in one round.
pub const WATCH_CATCH_UP_WATCHES_MAX: usize = 512;
/// Bytes of applied events that wait to be handed to watches; beyond, applying waits for it.
pub const WATCH_BACKLOG_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Watches up to which applied events are handed out at once, without a task of their own.
pub const WATCHES_SERVED_AT_ONCE_MAX: usize = 16;
/// Events that wait for a slow watch stream before its watches fall back to reading history.
pub const WATCH_BUFFERED_RESPONSES_MAX: usize = 128;
/// Requests of watch streams that wait for the core, and their bytes.
pub const WATCH_ASKS_MAX: usize = 4096;
pub const WATCH_ASKS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Revisions that one catching-up watch reads in a round.
pub const WATCH_CATCH_UP_REVISIONS_MAX: i64 = 1_000;
/// Passwords that are hashed or compared at the same time.
pub const PASSWORD_CHECKS_MAX: usize = 4;
/// How long a graceful stop may take before the process ends all the same.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages to the core of a member that may wait for it, and their bytes.
pub const CORE_INBOX_MAX: usize = 65_536;
pub const CORE_INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of these, so many are taken in at once.
pub const CORE_TURN_ASKS_MAX: usize = 128;
/// More than there are streams of entries at a time.
pub const APPEND_PERMITS: u32 = 1 << 16;
/// Linearizable reads that may wait for one round, and the bytes of what they ask for.
pub const READS_QUEUED_MAX: usize = 65_536;
pub const READS_QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
