//! Requests that no client would make, to every path of the gateway and every gRPC method of a real process: it lives, its
//! memory is bounded, it answers afterwards, and where an `etcd` is on the PATH the same request has the same status.
//!
//! `QUORATE_FUZZ=1800 nice cargo test --release --test process fuzz -- --nocapture` goes on for half an hour,
//! `QUORATE_FUZZ_SEED` chooses the requests. They are made one at a time. What differs for a reason is listed in
//! [`explained`].

mod requests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use quorate::client::Channel;
use quorate::runtime::Env;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_service::Service;

use super::etcdctl::find_all;
use super::support::{Cluster, Member, PATIENCE, run};
use requests::{Grpc, HalfOpen, Http, Requests};

const SECONDS_VARIABLE: &str = "QUORATE_FUZZ";
const SEED_VARIABLE: &str = "QUORATE_FUZZ_SEED";
const SECONDS: u64 = 10;
/// How long an answer is waited for; many requests have none.
const ANSWER: Duration = Duration::from_millis(300);
/// The same where the other server has answered.
const LATE_ANSWER: Duration = Duration::from_secs(10);
/// Connections that are left open, with streams whose answers nobody reads.
const HALF_OPEN_MAX: usize = 200;
/// Resident memory may grow by so much: caches fill, and half-open streams hold what they may.
const GROWTH_MEBIBYTES_MAX: u64 = 512;
/// Between two looks at the process.
const CHECKED_AFTER: u64 = 500;

/// What a request came to: the status of HTTP or of gRPC; `None`: no answer.
type Outcome = Option<u16>;
/// The status of a call, and its text.
type Refusal = Option<(u16, String)>;

/// One of the two servers, and what it has been left with.
struct Side {
    cluster: Cluster,
    channel: Channel,
    /// The text of the last gRPC status.
    message: String,
    half_open: Vec<Box<dyn std::any::Any>>,
}

impl Side {
    async fn start(env: &Env, binary: Option<std::path::PathBuf>) -> Side {
        let flags = ["--unsafe-no-fsync", "--bcrypt-cost=4", "--log-level=error"];
        let mut cluster = Cluster::new(1, &flags);
        if let Some(binary) = binary {
            cluster.members[0].binary = binary.into();
        }
        cluster.members[0].spawn();
        let mut client = cluster.members[0].connect(env).await;
        client.put_eventually(env, "first", "").await;
        let channel = connect(env, &cluster.members[0]).await;
        Side {
            cluster,
            channel,
            message: String::new(),
            half_open: Vec::new(),
        }
    }

    fn member(&self) -> &Member {
        &self.cluster.members[0]
    }

    async fn http(&self, env: &Env, request: &Http, patience: Duration) -> Outcome {
        let mut stream = env
            .connect(&self.member().address)
            .await
            .expect("the server listens");
        // The server may refuse before it has read all.
        let _ = stream.write_all(&request.bytes).await;
        if request.is_cut {
            let _ = stream.shutdown().await;
        }
        let mut head = Vec::new();
        let read = async {
            let mut piece = [0; 512];
            while !head.windows(2).any(|pair| pair == b"\r\n") {
                match stream.read(&mut piece).await {
                    Ok(length) if length > 0 => head.extend_from_slice(&piece[..length]),
                    _ => return,
                }
            }
        };
        let _ = env.timeout(patience, read).await;
        let status = std::str::from_utf8(head.get(9..12)?).ok()?;
        status.parse().ok()
    }

    async fn grpc(&mut self, env: &Env, request: &Grpc, patience: Duration) -> Outcome {
        let mut request = Box::pin(call(&mut self.channel, request));
        let status = env.timeout(patience, &mut request).await.ok();
        drop(request);
        self.message.clear();
        if status == Some(None) {
            // The connection was ended: by a fault of the request's, or it was full.
            self.channel = connect(env, self.member()).await;
        }
        let (status, message) = status.flatten()?;
        self.message = message;
        Some(status)
    }

    /// Opens streams and leaves them as they are.
    async fn leave_half_open(&mut self, env: &Env, kind: &HalfOpen) {
        if self.half_open.len() >= HALF_OPEN_MAX {
            self.half_open.drain(..HALF_OPEN_MAX / 2);
        }
        let mut channel = connect(env, self.member()).await;
        for request in &kind.streams {
            // A body that never ends would keep its connection open for good.
            let (held, let_go) = tokio::sync::oneshot::channel::<()>();
            let end = stream::once(async move {
                let _ = let_go.await;
                Err(tonic::Status::aborted("the client has gone"))
            });
            self.half_open.push(Box::new(held));
            let body = StreamBody::new(frames(&request.pieces).chain(end));
            let answer = channel.call(http_request(request, tonic::body::Body::new(body)));
            if let Ok(Ok(answer)) = env.timeout(ANSWER, answer).await {
                self.half_open.push(Box::new(answer));
            }
        }
        self.half_open.push(Box::new(channel));
    }
}

async fn connect(env: &Env, member: &Member) -> Channel {
    Channel::connect(env, &member.address, PATIENCE)
        .await
        .expect("the server listens")
}

fn frames(
    pieces: &[Vec<u8>],
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, tonic::Status>> + use<> {
    let frame = |piece| Ok(Frame::data(Bytes::from(piece)));
    stream::iter(pieces.to_vec()).map(frame)
}

fn http_request(request: &Grpc, body: tonic::body::Body) -> http::Request<tonic::body::Body> {
    let mut http = http::Request::post(request.path.as_str())
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in &request.headers {
        http = http.header(*name, *value);
    }
    http.body(body).expect("a request")
}

/// The status of a call; `None`: its stream was reset, or its connection ended.
async fn call(channel: &mut Channel, request: &Grpc) -> Refusal {
    let reset = request
        .reset
        .then(|| Err(tonic::Status::aborted("the client resets its stream")));
    let body = StreamBody::new(frames(&request.pieces).chain(stream::iter(reset)));
    let request = http_request(request, tonic::body::Body::new(body));
    let answer = channel.call(request).await.ok()?;
    let status = |headers: &http::HeaderMap| {
        let status = tonic::Status::from_header_map(headers)?;
        Some((
            u16::try_from(i32::from(status.code())).ok()?,
            status.message().to_owned(),
        ))
    };
    if let Some(status) = status(answer.headers()) {
        return Some(status);
    }
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(trailers) = frame.ok()?.trailers_ref() {
            return status(trailers);
        }
    }
    None
}

/// One request, and many answers.
#[rustfmt::skip]
const SERVER_STREAMS: &[&str] = &["KV/RangeStream ", "Maintenance/Snapshot ", "Election/Observe ", "Health/Watch "];

/// Pairs of outcomes that depend on whether an earlier call was given up before it was made: whether a lock or an election is
/// held, and what is compacted.
#[rustfmt::skip]
const BY_STATE: &[(&str, Outcome, Outcome)] = &[
    ("/v3lockpb.Lock/Lock ", Some(0), None),
    ("/v3/lock/lock ", Some(200), None),
    ("/v3electionpb.Election/Campaign ", Some(0), None),
    ("/v3/election/campaign ", Some(200), None),
    ("/v3electionpb.Election/Leader ", Some(0), Some(2)),
    ("/v3/election/leader ", Some(200), Some(500)),
    ("/v3/election/observe ", Some(200), None),
    ("/etcdserverpb.KV/Compact ", Some(0), Some(11)),
    ("/v3/kv/compaction ", Some(200), Some(400)),
];

/// Why two servers may differ. `message`: of our gRPC status.
fn explained(what: &str, message: &str, ours: Outcome, theirs: Outcome) -> Option<&'static str> {
    let says = |texts: &[&str]| texts.iter().any(|text| what.contains(text));
    let is_cut = says(&["cut off POST", "cut off GET"]);
    let by_state = |&(path, one, other): &(&str, Outcome, Outcome)| {
        what.contains(path) && ((ours, theirs) == (one, other) || (ours, theirs) == (other, one))
    };
    Some(match (ours, theirs) {
        (None | Some(200 | 499), None | Some(200 | 499)) if is_cut => {
            "a body that ends early: the client has gone, before or after what came of it was made"
        }
        (Some(499), Some(504)) if is_cut && says(&["Grpc-Timeout: 1n"]) => "the client has left, and is late",
        (None, _) | (_, None) if says(&["gRPC, reset"]) => {
            "nobody is left to be answered: what is sent all the same depends on who was quicker"
        }
        (Some(13), _) if message.contains("invalid wire type") => {
            "prost refuses a known field with a foreign wire type, Go takes it for an unknown field"
        }
        (Some(13), Some(0) | None)
            if says(&["gRPC, head cut off"]) && says(&["Lease/LeaseKeepAlive ", "Watch/Watch "]) =>
        {
            "grpc-go takes a message's head that is cut off for the end of the requests, as if all had come"
        }
        (_, Some(13)) if says(&["gRPC, two messages"]) && says(SERVER_STREAMS) => {
            "grpc-go asks for the end of the requests before it serves a stream of answers, tonic does not"
        }
        _ if BY_STATE.iter().any(by_state) => {
            "what is held or compacted depends on whether an earlier call was given up before it was made"
        }
        _ => return None,
    })
}

/// What came of a run.
#[derive(Default)]
struct OpCounts {
    requests: BTreeMap<String, u64>,
    explained: BTreeMap<(&'static str, Outcome, Outcome), u64>,
    different: BTreeMap<String, u64>,
}

impl OpCounts {
    fn count(&mut self, kind: &str) {
        *self.requests.entry(kind.to_owned()).or_default() += 1;
    }

    fn compare(&mut self, what: &str, message: &str, ours: Outcome, theirs: Outcome) {
        if ours == theirs {
            return;
        }
        match explained(what, message, ours, theirs) {
            Some(reason) => *self.explained.entry((reason, ours, theirs)).or_default() += 1,
            None => {
                let text = format!("{what}: {ours:?} {message:?}, and {theirs:?} of etcd");
                *self.different.entry(text).or_default() += 1;
            }
        }
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn fuzz_of_every_path_and_method_harms_nobody() {
    let (seconds, seed) = (variable(SECONDS_VARIABLE, SECONDS), variable(SEED_VARIABLE, 1));
    run(async |env| {
        let mut ours = Side::start(&env, None).await;
        let mut theirs = match find_all("etcd").pop() {
            Some(etcd) => Some(Side::start(&env, Some(etcd)).await),
            None => None,
        };
        let mut random = StdRng::seed_from_u64(seed);
        let requests = Requests::new();
        let (mut tally, mut number, mut most) = (OpCounts::default(), 0, 0);
        let deadline = env.now() + Duration::from_secs(seconds);
        let before = ours.member().resident_mebibytes();
        while env.now() < deadline {
            one(&env, &requests, &mut random, &mut ours, &mut theirs, &mut tally).await;
            number += 1;
            if number % CHECKED_AFTER == 0 {
                let mut client = ours.member().connect(&env).await;
                client.put(&env, "alive", "").await;
                most = most.max(ours.member().resident_mebibytes());
                assert!(
                    most < before + GROWTH_MEBIBYTES_MAX,
                    "{most} MiB after {number}, seed {seed}"
                );
            }
        }
        let mut client = ours.member().connect(&env).await;
        client.put(&env, "alive", "").await;
        most = most.max(ours.member().resident_mebibytes());
        println!("seed {seed}: {number} requests; resident {before} MiB before, {most} MiB at most");
        tally
            .requests
            .iter()
            .for_each(|(kind, count)| println!("  {count:>7} {kind}"));
        tally
            .explained
            .iter()
            .for_each(|((reason, ours, theirs), count)| {
                println!("  {count:>7} differ: {reason}: {ours:?}, and {theirs:?} of etcd");
            });
        for (text, count) in &tally.different {
            println!("  {count:>7} DIFFER: {text}");
        }
        assert!(
            !ours.member().log().contains("ended in a panic"),
            "a request panicked:\n{}",
            ours.member().log()
        );
        assert!(tally.different.is_empty(), "statuses differ from etcd's");
    });
}

/// Makes a request, of both servers if there are two.
async fn one(
    env: &Env,
    requests: &Requests,
    random: &mut StdRng,
    ours: &mut Side,
    theirs: &mut Option<Side>,
    tally: &mut OpCounts,
) {
    match random.random_range(0..20) {
        0..10 => {
            let request = requests.http(random);
            tally.count(&request.kind);
            let mut found = ours.http(env, &request, ANSWER).await;
            let Some(theirs) = theirs else { return };
            let mut wanted = theirs.http(env, &request, ANSWER).await;
            // A loaded machine, or a difference.
            match (found, wanted) {
                (None, Some(status)) if !request.is_cut || status == 400 => {
                    found = ours.http(env, &request, LATE_ANSWER).await
                }
                (Some(_), None) if !request.is_cut => wanted = theirs.http(env, &request, LATE_ANSWER).await,
                _ => {}
            }
            tally.compare(&request.describe(), "", found, wanted);
        }
        10..18 => {
            let request = requests.grpc(random);
            tally.count(&request.kind);
            let mut found = ours.grpc(env, &request, ANSWER).await;
            let Some(theirs) = theirs else { return };
            let mut wanted = theirs.grpc(env, &request, ANSWER).await;
            match (found, wanted) {
                (None, Some(_)) if !request.reset => found = ours.grpc(env, &request, LATE_ANSWER).await,
                (Some(_), None) if !request.reset => wanted = theirs.grpc(env, &request, LATE_ANSWER).await,
                _ => {}
            }
            tally.compare(&request.describe(), &ours.message, found, wanted);
        }
        18 => {
            let kind = requests.half_open(random);
            tally.count("half-open streams");
            ours.leave_half_open(env, &kind).await;
        }
        _ => {
            let request = requests.web_socket(random);
            tally.count(&request.kind);
            ours.http(env, &request, ANSWER).await;
        }
    }
}
