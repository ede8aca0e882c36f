//! Buggify: rare but legal turns of the product's own code, taken on purpose in the simulator.
//!
//! ```text
//!   product: if buggify(Site::X) { a tiny batch, a full queue, a late answer }
//!                   |
//!                   └─► the simulator's dice: is the site on in this run, does it fire now?   (production: never)
//! ```
//!
//! What goes wrong in a store rarely needs a broken disk: it needs a queue that is full at the wrong moment, a batch of one, an
//! answer that comes late. Such moments are legal, and rare where limits are generous, so each has a [`Site`], which the
//! simulator switches on in a part of its runs and then lets fire now and then (FoundationDB's idea, after which it is named).
//! A site may do only what its surroundings allow at any time: a run that fails because of one has found a defect, or the
//! site is not legal.
//!
//! Outside of `--cfg madsim`, [`buggify`] is the constant `false` and its branches are gone.

use std::sync::OnceLock;
use std::time::Duration;

use super::Env;

macro_rules! sites {
    ($($(#[doc = $what:literal])+ $site:ident, $name:literal, $percent:literal;)+) => {
        /// Where something rare can be made to happen.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Site {
            $($(#[doc = $what])+ $site,)+
        }

        impl Site {
            /// Every site there is.
            pub const ALL: &'static [Site] = &[$(Site::$site),+];

            /// What it is counted as.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Site::$site => $name,)+
                }
            }

            /// Of a hundred times that its code is reached, how often it fires where it is on.
            pub const fn percent(self) -> u64 {
                match self {
                    $(Site::$site => $percent,)+
                }
            }
        }
    };
}

sites! {
    /// A member is slow to open its data, and then to serve.
    StartSlow, "start/slow", 25;
    /// It does not tell the cluster its name at once.
    PublishLate, "start/published late", 25;

    /// A raft entry takes few of the commands that wait.
    ProposeShortBatch, "propose/short batch", 25;
    /// Few bytes of commands may wait.
    ProposeFewBytes, "propose/few bytes", 5;
    /// Only one batch is under way.
    ProposeOneFlight, "propose/one flight", 25;
    /// The leader does not take a batch; it is offered again.
    ProposeRetried, "propose/retried", 10;
    /// A command is refused because too many wait.
    ProposeTooMany, "propose/too many", 1;
    /// The leader does not take a batch that another member forwards.
    ForwardRefused, "forward/refused", 10;
    /// It takes it, and says so when nobody may be listening any more.
    ForwardAnsweredLate, "forward/answered late", 10;

    /// A round of ReadIndex begins later.
    ReadRoundLate, "read/round late", 25;
    /// The leader does not say how far a read must wait.
    ReadIndexRefused, "read/index refused", 10;
    /// It says it late.
    ReadIndexLate, "read/index late", 10;

    /// Entries are applied one by one.
    ApplyOne, "apply/one", 25;
    /// Applying waits.
    ApplyLate, "apply/late", 10;

    /// What a compaction left is swept late.
    SweepLate, "sweep/late", 25;
    /// It is swept in tiny pieces.
    SweepTinyPieces, "sweep/tiny pieces", 25;
    /// Between two pieces, or two steps, of a sweep there is time for others, and for a crash.
    SweepPieceLate, "sweep/piece late", 5;

    /// Raft takes a snapshot before its time.
    SnapshotEarly, "snapshot/early", 5;
    /// A snapshot is cut into tiny chunks.
    SnapshotTinyChunks, "snapshot/tiny chunks", 25;
    /// A chunk is sent late.
    SnapshotChunkLate, "snapshot/chunk late", 25;
    /// What was received is installed late.
    SnapshotInstallLate, "snapshot/installed late", 25;
    /// The log keeps nothing behind a snapshot for slow followers.
    PurgeEarly, "purge/early", 10;
    /// The log is not purged for a while.
    PurgeLate, "purge/late", 25;
    /// What is written reaches the engine late.
    EngineQueueLate, "engine/queue late", 10;
    /// Little may be on its way to the engine.
    EngineQueueShort, "engine/short queue", 10;
    /// The engine is made durable at an odd moment.
    EngineSynced, "engine/synced", 10;
    /// The simulator's engine rewrites its journal before its time.
    EngineRewritten, "engine/rewritten", 10;
    /// The newest values are not kept in memory.
    ValueCacheTiny, "engine/tiny value cache", 25;

    /// The leader hands leadership over for no reason.
    StepDown, "leader/steps down", 1;
    /// Heartbeats go out late.
    HeartbeatLate, "leader/heartbeat late", 5;
    /// A member notices late who leads.
    StatusLate, "leader/noticed late", 10;
    /// Raft's membership follows the decided one late.
    MembershipLate, "leader/membership late", 10;
    /// The answer to a request for a vote is late.
    VoteLate, "leader/vote late", 10;

    /// One entry or two are under way to a follower.
    AppendWindowTiny, "append/tiny window", 25;
    /// Few entries are read for a follower at a time.
    AppendShortRead, "append/short read", 25;
    /// A follower's answer is late.
    AppendAnsweredLate, "append/answered late", 5;
    /// A stream of entries ends between two answers.
    AppendCut, "append/cut", 1;

    /// The answer to another member is late, and overtaken by later ones.
    PeerAnsweredLate, "peer/answered late", 5;
    /// A connection between members ends between two requests.
    PeerCut, "peer/cut", 1;
    /// Nearly no request may wait for the connection.
    PeerTinyQueue, "peer/tiny queue", 25;
    /// Requests are sent one by one.
    PeerSmallWrites, "peer/small writes", 25;
    /// Frames are read through a tiny buffer.
    PeerTinyBuffer, "peer/tiny buffer", 25;
    /// Connecting takes longer.
    PeerDialedLate, "peer/dialed late", 10;

    /// Few records share a write of the log.
    LogSmallGroup, "log/small group", 25;
    /// A sync of the log is noticed late.
    LogSyncedLate, "log/synced late", 10;
    /// A segment of the log ends before it is full.
    LogRolledEarly, "log/rolled early", 2;
    /// Log entries are not kept in memory.
    LogTinyCache, "log/tiny cache", 25;

    /// The leader looks late for leases that are over.
    LeaseExpiredLate, "lease/expired late", 25;
    /// The end of a lease is proposed twice.
    LeaseExpiredTwice, "lease/expired twice", 25;
    /// What is left of a lease is written down long before its time.
    LeaseCheckpointEarly, "lease/checkpoint early", 25;
    /// Few renewals share a round.
    LeaseRenewedFew, "lease/renewed few", 25;
    /// A renewal is confirmed late.
    LeaseRenewedLate, "lease/renewed late", 25;

    /// The queue of a watch stream is full.
    WatchQueueFull, "watch/queue full", 10;
    /// A new watch reads history first, though it needs none.
    WatchStartsBehind, "watch/starts behind", 25;
    /// A watch that catches up reads little.
    WatchShortHistory, "watch/short history", 25;
    /// One watch at a time catches up.
    WatchOneCatchesUp, "watch/one catches up", 25;
    /// Events are handed out by the task, not by who applies.
    WatchHandedOutLate, "watch/handed out late", 25;
    /// Responses are cut into tiny fragments.
    WatchTinyFragments, "watch/tiny fragments", 25;
    /// Progress is told before its time.
    WatchProgressEarly, "watch/progress early", 25;

    /// A range is read in tiny pieces.
    RangeTinyPieces, "range/tiny pieces", 25;
    /// Few bytes may wait for a client to read them.
    AnswersUnread, "range/answers unread", 25;
    /// Between two pieces of a range there is time for others.
    RangePieceLate, "range/piece late", 25;
    /// A read starts again less often behind a compaction, or is made on a copy of the state at once.
    RangeFromCopy, "range/from copy", 10;
    /// The answer to a client is late.
    AnsweredLate, "server/answered late", 5;

    /// What a compaction left is hashed late, so that the next one may find no place.
    CompactionHashedLate, "hash/compaction late", 25;
    /// A hash is taken late, from the view of the moment at which it was asked for.
    HashedLate, "hash/late", 25;
    /// A hash is planned in tiny looks at the state.
    HashTinyLooks, "hash/tiny looks", 25;
    /// A hash that a compaction left is forgotten early.
    HashForgotten, "hash/forgotten", 25;
    /// The check for corruption is made again at once.
    CheckedAgain, "hash/checked again", 25;
}

/// Decides for a simulator: a random number if the site fires now.
pub type Decide = fn(Site) -> Option<u64>;

static DECIDE: OnceLock<Decide> = OnceLock::new();

/// From now on `decide` says what fires. The first caller wins.
pub fn install(decide: Decide) {
    let _ = DECIDE.set(decide);
}

fn drawn(site: Site) -> Option<u64> {
    if cfg!(madsim) {
        DECIDE.get().and_then(|decide| decide(site))
    } else {
        None
    }
}

/// Whether the rare turn is to be taken at this site, this time. Never in production.
#[inline]
pub fn buggify(site: Site) -> bool {
    cfg!(madsim) && drawn(site).is_some()
}

/// A limit: the usual one, or a rare one from 1 to `rare_max`.
#[inline]
pub fn limit(site: Site, usual: usize, rare_max: usize) -> usize {
    match drawn(site) {
        Some(number) if cfg!(madsim) => usual.min(1 + number as usize % rare_max.max(1)),
        _ => usual,
    }
}

/// Waits if the site fires: most often shortly, at most for `longest`.
#[inline]
pub async fn pause(env: &Env, site: Site, longest: Duration) {
    if cfg!(madsim)
        && let Some(number) = drawn(site)
    {
        let share = (number >> 11) as f64 / (1_u64 << 53) as f64;
        env.sleep(longest.mul_f64(share.powi(4))).await;
    }
}

#[cfg(test)]
mod tests;
