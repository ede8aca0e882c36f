//! The requests themselves: documents and messages that begin well, and what may become of them on the way.

use std::fmt::Write;

use prost::Message;
use quorate::proto::etcdserverpb as pb;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Below `/v3/`; without those by which a cluster of one would lose its quorum.
#[rustfmt::skip]
const PATHS: &[&str] = &[
    "kv/range", "kv/put", "kv/deleterange", "kv/txn", "kv/compaction", "watch", "lease/grant", "lease/revoke",
    "kv/lease/revoke", "lease/keepalive", "lease/timetolive", "kv/lease/timetolive", "lease/leases",
    "kv/lease/leases", "cluster/member/remove", "cluster/member/update", "cluster/member/list",
    "cluster/member/promote", "maintenance/alarm", "maintenance/status", "maintenance/defragment",
    "maintenance/hash", "maintenance/hashkv", "maintenance/snapshot", "maintenance/transfer-leadership",
    "maintenance/downgrade", "auth/disable", "auth/status", "auth/authenticate", "auth/user/add", "auth/user/get",
    "auth/user/list", "auth/user/delete", "auth/user/changepw", "auth/user/grant", "auth/user/revoke",
    "auth/role/add", "auth/role/get", "auth/role/list", "auth/role/delete", "auth/role/grant", "auth/role/revoke",
    "lock/lock", "lock/unlock", "election/campaign", "election/proclaim", "election/leader", "election/observe",
    "election/resign", "absent",
];

/// The same as methods.
#[rustfmt::skip]
const METHODS: &[(&str, &[&str])] = &[
    ("etcdserverpb.KV", &["Range", "RangeStream", "Put", "DeleteRange", "Txn", "Compact", "Absent"]),
    ("etcdserverpb.Watch", &["Watch"]),
    ("etcdserverpb.Lease", &["LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases"]),
    ("etcdserverpb.Cluster", &["MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"]),
    ("etcdserverpb.Maintenance", &[
        "Alarm", "Status", "Defragment", "Hash", "HashKV", "Snapshot", "MoveLeader", "Downgrade",
    ]),
    ("etcdserverpb.Auth", &[
        "AuthDisable", "AuthStatus", "Authenticate", "UserAdd", "UserGet", "UserList", "UserDelete",
        "UserChangePassword", "UserGrantRole", "UserRevokeRole", "RoleAdd", "RoleGet", "RoleList", "RoleDelete",
        "RoleGrantPermission", "RoleRevokePermission",
    ]),
    ("v3lockpb.Lock", &["Lock", "Unlock"]),
    ("v3electionpb.Election", &["Campaign", "Proclaim", "Leader", "Observe", "Resign"]),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
    ("absent.Service", &["Absent"]),
];

const PAGES: &[&str] = &[
    "/health",
    "/livez",
    "/readyz",
    "/version",
    "/metrics",
    "/debug/vars",
    "/",
    "/v3",
    "//v3//",
    "/%zz",
];

/// What fields are called in requests.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "key", "range_end", "rangeEnd", "value", "limit", "revision", "lease", "ID", "TTL", "name", "password", "user",
    "role", "sort_order", "sort_target", "serializable", "keys_only", "prev_kv", "compare", "success", "failure",
    "request_put", "requestRange", "create_request", "cancel_request", "progress_request", "watch_id",
    "start_revision", "filters", "physical", "keys", "peerURLs", "targetID", "perm", "permType", "leader", "header",
    "unknown",
];

#[rustfmt::skip]
const VALUES: &[&str] = &[
    "null", "true", "false", "0", "1", "-1", "1.5", "1e2", "1e999", "\"\"", "\"YQ==\"", "\"YQ\"", "\"!\"", "\"1\"",
    "\"1e2\"", "\"1.0\"", "\"-9223372036854775808\"", "9223372036854775808", "18446744073709551616", "[]", "{}",
    "[null]", "[{}]", "[1,\"a\"]", "\"\\ud800\"", "\"\\u0000\"", "01", "\"ASCEND\"", "\"ABSENT\"",
    "[\"http://127.0.0.1:1\"]",
];

/// A request over HTTP/1.1, byte for byte.
pub struct Http {
    pub kind: String,
    pub bytes: Vec<u8>,
    /// The client closes its side in the middle.
    pub is_cut: bool,
    text: String,
}

impl Http {
    pub fn describe(&self) -> String {
        format!("{} {}", self.kind, self.text)
    }
}

/// A gRPC call: the bytes of its body in pieces.
pub struct Grpc {
    pub kind: String,
    pub path: String,
    pub headers: Vec<(&'static str, &'static str)>,
    pub pieces: Vec<Vec<u8>>,
    /// The client resets the stream after them.
    pub reset: bool,
}

impl Grpc {
    pub fn describe(&self) -> String {
        let bytes = self.pieces.concat();
        let shown = &bytes[..bytes.len().min(60)];
        format!(
            "{} {} {:?} {}",
            self.kind,
            self.path,
            self.headers,
            shown.escape_ascii()
        )
    }
}

/// Streams of one connection that are left open.
pub struct HalfOpen {
    pub streams: Vec<Grpc>,
}

/// Makes requests.
pub struct Requests {
    methods: Vec<String>,
}

fn pick<'a>(random: &mut StdRng, from: &'a [&'a str]) -> &'a str {
    from.choose(random).expect("there are some")
}

impl Requests {
    pub fn new() -> Requests {
        let paths = |(service, methods): &(&str, &[&str])| {
            let path = |method: &&str| format!("/{service}/{method}");
            methods.iter().map(path).collect::<Vec<_>>()
        };
        Requests {
            methods: METHODS.iter().flat_map(paths).collect(),
        }
    }

    pub fn http(&self, random: &mut StdRng) -> Http {
        if random.random_range(0..20) == 0 {
            let (method, path) = (
                pick(random, &["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
                pick(random, PAGES),
            );
            let text = format!("{method} {path}");
            let bytes =
                format!("{text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").into_bytes();
            return Http {
                kind: "page".into(),
                bytes,
                is_cut: false,
                text,
            };
        }
        let path = pick(random, PATHS);
        let (what, body) = document(random);
        let method = if random.random_range(0..20) == 0 {
            "GET"
        } else {
            "POST"
        };
        let header = match random.random_range(0..12) {
            0 => "Grpc-Timeout: zz\r\n",
            1 => "Grpc-Timeout: 1n\r\n",
            2 => "Authorization: x.1\r\n",
            3 => "Content-Type: application/grpc\r\n",
            _ => "",
        };
        let mut bytes = format!("{method} /v3/{path} HTTP/1.1\r\nHost: localhost\r\n{header}").into_bytes();
        let (framing, is_cut) = send(random, &mut bytes, &body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
        Http {
            kind: format!("gateway, {what}{framing}"),
            bytes,
            is_cut,
            text: format!("{method} /v3/{path} {header:?} {shown}"),
        }
    }

    pub fn grpc(&self, random: &mut StdRng) -> Grpc {
        let path = self.methods.choose(random).expect("there are some").clone();
        let message = message(random);
        let mut body = framed(0, &message);
        let (mut headers, mut reset) = (Vec::new(), false);
        let kind = match random.random_range(0..12) {
            0 => {
                body.clear();
                "no message"
            }
            1 => {
                body.truncate(random.random_range(1..=body.len()));
                match body.len() {
                    ..HEAD_BYTES => "head cut off",
                    length if length < HEAD_BYTES + message.len() => "truncated",
                    _ => "message",
                }
            }
            2 => {
                body[0] = 1;
                "compressed, without an encoding"
            }
            3 => {
                body[0] = random.random_range(2..=255);
                "wrong flag"
            }
            4 => {
                headers.push(("grpc-encoding", pick_static(random, &["gzip", "zstd", "absent"])));
                body[0] = random.random_range(0..2);
                "encoding"
            }
            5 => {
                body.extend(framed(0, &message));
                "two messages"
            }
            6 => {
                body[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
                "huge length"
            }
            7 => {
                reset = true;
                "reset"
            }
            8 => {
                let value = pick_static(random, &["zz", "1n", "-1S", "123456789S", "1S"]);
                headers.push(("grpc-timeout", value));
                "timeout"
            }
            _ => "message",
        };
        let at = random.random_range(0..=body.len());
        let rest = body.split_off(at);
        Grpc {
            kind: format!("gRPC, {kind}"),
            path,
            headers,
            pieces: vec![body, rest],
            reset,
        }
    }

    pub fn half_open(&self, random: &mut StdRng) -> HalfOpen {
        let paths = [
            "/etcdserverpb.Watch/Watch",
            "/etcdserverpb.Lease/LeaseKeepAlive",
            "/etcdserverpb.KV/Put",
        ];
        let stream = |path: &str, random: &mut StdRng| {
            let mut body = framed(0, &watch());
            if random.random_bool(0.5) {
                // A message that never ends.
                body = vec![0, 0, 0x1f, 0xff, 0xff];
                body.resize(random.random_range(5..60_000), 0);
            }
            Grpc {
                kind: String::new(),
                path: path.to_owned(),
                headers: Vec::new(),
                pieces: vec![body],
                reset: false,
            }
        };
        let count = random.random_range(1..6);
        HalfOpen {
            streams: (0..count)
                .map(|n| stream(paths[n % paths.len()], random))
                .collect(),
        }
    }

    /// An upgrade, and frames in no order that makes sense.
    pub fn web_socket(&self, random: &mut StdRng) -> Http {
        let path = pick(
            random,
            &[
                "watch",
                "lease/keepalive",
                "kv/range",
                "kv/put",
                "election/observe",
            ],
        );
        let mut bytes = format!(
            "GET /v3/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        for _ in 0..random.random_range(0..8) {
            let (_, payload) = document(random);
            // Text, continuation, close, ping and what is reserved; final or not, masked or not.
            bytes.push(
                *[0x81, 0x01, 0x80, 0x00, 0x88, 0x89, 0x8a, 0x83, 0xc1]
                    .choose(random)
                    .expect("some"),
            );
            let mask = if random.random_bool(0.9) { 0x80 } else { 0 };
            match random.random_range(0..10) {
                0 => bytes.extend([mask | 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
                1 => bytes.extend([mask | 126, 0, 1]),
                _ => {
                    bytes.push(mask | 126);
                    bytes.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
                }
            }
            if mask != 0 {
                bytes.extend([0; 4]);
            }
            bytes.extend(payload);
        }
        Http {
            kind: "WebSocket".into(),
            bytes,
            is_cut: random.random_bool(0.5),
            text: String::new(),
        }
    }
}

fn pick_static(random: &mut StdRng, from: &[&'static str]) -> &'static str {
    from.choose(random).expect("there are some")
}

/// Adds a body with its length, in chunks, or cut off.
fn send(random: &mut StdRng, bytes: &mut Vec<u8>, body: &[u8]) -> (&'static str, bool) {
    match random.random_range(0..8) {
        0 => {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(random.random_range(1..50)) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            (", in chunks", false)
        }
        1 => {
            bytes.extend(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len() + 10).into_bytes());
            bytes.extend(body);
            (", a chunk cut off", true)
        }
        2 => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len() + 10).into_bytes());
            bytes.extend(body);
            (", cut off", true)
        }
        _ => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(body);
            ("", false)
        }
    }
}

/// A JSON document, or what is none.
fn document(random: &mut StdRng) -> (&'static str, Vec<u8>) {
    let fixed = [
        "", " ", "{}", "[]", "null", "{", "}", "1", "\"\"", "{}{}", "{\"ID\":", "{\"key\"",
    ];
    match random.random_range(0..10) {
        0..3 => ("fixed", pick(random, &fixed).into()),
        3 => {
            let mut text = object(random, 2);
            text.truncate(random.random_range(0..=text.len()));
            ("truncated", text)
        }
        4 => {
            let text = object(random, 2);
            ("doubled", [text.clone(), text].concat())
        }
        5 => {
            // Not as deep as transactions may be: that has tests of its own.
            let depth = random.random_range(1..60);
            let (open, close) = if random.random_bool(0.5) {
                ("[", "]")
            } else {
                ("{\"x\":", "}")
            };
            let inside = if open == "[" { "" } else { "1" };
            let text = format!("{{\"x\":{}{inside}{}}}", open.repeat(depth), close.repeat(depth));
            ("deep", text.into())
        }
        6 => {
            let mut text = object(random, 2);
            let at = random.random_range(0..text.len());
            text[at] = random.random();
            ("spoilt", text)
        }
        _ => ("object", object(random, 3)),
    }
}

fn object(random: &mut StdRng, depth: u32) -> Vec<u8> {
    let mut text = String::from("{");
    for n in 0..random.random_range(0..4) {
        let comma = if n > 0 { "," } else { "" };
        let value = match random.random_range(0..4) {
            0 if depth > 0 => String::from_utf8_lossy(&object(random, depth - 1)).into_owned(),
            1 if depth > 0 => format!("[{}]", String::from_utf8_lossy(&object(random, depth - 1))),
            _ => pick(random, VALUES).to_owned(),
        };
        write!(text, "{comma}\"{}\":{value}", pick(random, FIELDS)).expect("memory");
    }
    text.push('}');
    text.into_bytes()
}

/// What precedes a message: a flag, and its length.
const HEAD_BYTES: usize = 5;

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
    bytes.extend(message);
    bytes
}

fn watch() -> Vec<u8> {
    let create = pb::WatchCreateRequest {
        key: "a".into(),
        range_end: "\0".into(),
        start_revision: 1,
        ..Default::default()
    };
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    pb::WatchRequest { request_union }.encode_to_vec()
}

/// A message, or bytes that are none.
fn message(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = match random.random_range(0..5) {
        0 => Vec::new(),
        1 => pb::PutRequest {
            key: "k".into(),
            value: vec![b'x'; 300].into(),
            ..Default::default()
        }
        .encode_to_vec(),
        2 => pb::RangeRequest {
            key: "a".into(),
            range_end: "z".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        3 => watch(),
        _ => (0..random.random_range(0..40)).map(|_| random.random()).collect(),
    };
    if !bytes.is_empty() && random.random_bool(0.4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    bytes
}
