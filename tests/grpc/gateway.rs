//! The JSON gateway over real connections. The expected texts were read off etcd 3.7.1.

use quorate::proto::etcdserverpb as pb;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{Member, PATIENCE, put, with_adjusted, with_member};

/// A request with a body, over HTTP/1.1 with the end of the connection as the end of the answer.
pub async fn send(
    member: &Member,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let mut stream = member.env.connect(member.client_address()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    member
        .env
        .timeout(PATIENCE, read)
        .await
        .expect("in time")
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    (status, head.to_owned(), unchunked(head, body))
}

/// The body, put together again if it came in chunks.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        whole.push_str(&after[..size]);
        rest = &after[(size + 2).min(after.len())..];
    }
    whole
}

pub async fn post(member: &Member, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = send(member, "POST", path, "", body).await;
    (status, serde_json::from_str(&body).expect("JSON"))
}

#[test]
fn requests_and_answers_are_those_of_etcd() {
    with_member(|member| async move {
        let (status, answer) = post(&member, "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#).await;
        assert_eq!((status, &answer["header"]["revision"]), (200, &json!("2")));
        let pair = json!({
            "key": "YQ==", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "Yg==",
        });
        for path in ["/v3/kv/range", "/v3beta/kv/range"] {
            let body = r#"{"key":"YQ==","sortOrder":"DESCEND","unknown":1} trailing"#;
            let (status, answer) = post(&member, path, body).await;
            assert_eq!((status, &answer["kvs"]), (200, &json!([pair])), "{path}");
            assert_eq!(answer["count"], "1");
            assert!(answer.get("more").is_none(), "defaults are left out");
        }
        let txn = r#"{"compare":[{"target":"VALUE","key":"YQ==","value":"Yg=="}],
                      "success":[{"requestRange":{"key":"YQ=="}}]}"#;
        let (_, answer) = post(&member, "/v3/kv/txn", txn).await;
        assert_eq!(answer["succeeded"], true);
        assert_eq!(answer["responses"][0]["response_range"]["kvs"], json!([pair]));
        let (_, answer) = post(&member, "/v3/lease/grant", r#"{"TTL":"60","ID":7}"#).await;
        assert_eq!((&answer["ID"], &answer["TTL"]), (&json!("7"), &json!("60")));
    });
}

#[test]
fn refusals_carry_code_and_status() {
    with_member(|member| async move {
        for (method, path, body, status, expected) in [
            (
                "POST",
                "/v3/kv/put",
                "",
                400,
                json!({"code": 3, "message": "etcdserver: key is not provided"}),
            ),
            (
                "POST",
                "/v3/kv/put",
                "{}",
                400,
                json!({"code": 3, "message": "etcdserver: key is not provided"}),
            ),
            (
                "GET",
                "/v3/kv/put",
                "",
                501,
                json!({"code": 12, "message": "Method Not Allowed"}),
            ),
            (
                "POST",
                "/v3/nothing",
                "{}",
                404,
                json!({"code": 5, "message": "Not Found"}),
            ),
            (
                "POST",
                "/v3/lock/lock",
                r#"{"name":"bg==","lease":99}"#,
                500,
                json!({"code": 2, "message": "etcdserver: requested lease not found"}),
            ),
            (
                "POST",
                "/v3/lease/revoke",
                r#"{"ID":99}"#,
                404,
                json!({"code": 5, "message": "etcdserver: requested lease not found"}),
            ),
            (
                "POST",
                "/v3/election/proclaim",
                "{}",
                500,
                json!({"code": 2, "message": "\"leader\" field must be provided"}),
            ),
        ] {
            let (found, _, answer) = send(&member, method, path, "", body).await;
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!((found, answer), (status, expected), "{method} {path}");
        }
        for body in ["{bad", "[]", r#"{"key":"!!"}"#, r#"{"key":"YQ=="#] {
            let (status, answer) = post(&member, "/v3/kv/range", body).await;
            assert_eq!((status, &answer["code"]), (400, &json!(3)), "{body}");
        }
    });
}

#[test]
fn streams_are_lines_and_a_watch_outlives_its_request() {
    with_member(|member| async move {
        let body = r#"{"ID":"7"}{"ID":8}"#;
        let grant = r#"{"TTL":"60","ID":7}"#;
        post(&member, "/v3/lease/grant", grant).await;
        let (status, _, answer) = send(&member, "POST", "/v3/lease/keepalive", "", body).await;
        let lines: Vec<Value> = answer
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((status, lines.len()), (200, 2));
        assert_eq!(
            (&lines[0]["result"]["ID"], &lines[0]["result"]["TTL"]),
            (&json!("7"), &json!("60"))
        );
        assert!(
            lines[1]["result"].get("TTL").is_none(),
            "an unknown lease has a TTL of 0"
        );

        let mut stream = member.env.connect(member.client_address()).await.unwrap();
        let create = r#"{"create_request":{"key":"YQ=="}}"#;
        let request = format!(
            "POST /v3/watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{create}",
            create.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut next = async |wanted: &str| loop {
            let line = member.env.timeout(PATIENCE, lines.next_line()).await;
            let line = line.expect("in time").unwrap().expect("the stream goes on");
            if line.contains(wanted) {
                return serde_json::from_str::<Value>(&line).unwrap();
            }
        };
        assert_eq!(next("created").await["result"]["created"], true);
        member.kv().await.put(put("a", "1")).await.unwrap();
        let event = next("events").await;
        assert_eq!(event["result"]["events"][0]["kv"]["key"], "YQ==");
    });
}

#[test]
fn a_token_comes_in_the_authorization_header() {
    with_adjusted(
        |config| config.bcrypt_cost = 4,
        |member| async move {
            for (path, body) in [
                ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
                ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
                ("/v3/auth/enable", "{}"),
            ] {
                assert_eq!(post(&member, path, body).await.0, 200, "{path}");
            }
            let range = r#"{"key":"YQ=="}"#;
            let (status, answer) = post(&member, "/v3/kv/range", range).await;
            assert_eq!(
                (status, answer["message"].as_str()),
                (400, Some("etcdserver: user name is empty"))
            );
            let login = r#"{"name":"root","password":"pw"}"#;
            let (_, answer) = post(&member, "/v3/auth/authenticate", login).await;
            let token = answer["token"].as_str().unwrap();
            for (value, expected) in [
                (token.to_owned(), 200),
                (format!("Bearer {token}"), 200),
                ("x.1".to_owned(), 401),
            ] {
                let header = format!("Authorization: {value}\r\n");
                let (status, ..) = send(&member, "POST", "/v3/kv/range", &header, range).await;
                assert_eq!(status, expected, "{value}");
            }
        },
    );
}

/// RFC 6455: a masked frame of text out, unmasked frames back.
#[test]
fn a_watch_over_websocket() {
    with_member(|member| async move {
        let mut stream = member.env.connect(member.client_address()).await.unwrap();
        let handshake = "GET /v3/watch HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        // The answer to the key of RFC 6455's own example.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let create = br#"{"create_request":{"key":"YQ=="}}"#;
        let mut frame = vec![0x81, 0x80 | create.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(create);
        stream.write_all(&frame).await.unwrap();
        let mut next = async || {
            let mut prefix = [0; 2];
            let read = member.env.timeout(PATIENCE, stream.read_exact(&mut prefix)).await;
            read.expect("in time").unwrap();
            let length = match prefix[1] {
                126 => usize::from(stream.read_u16().await.unwrap()),
                short => usize::from(short),
            };
            let mut text = vec![0; length];
            stream.read_exact(&mut text).await.unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()
        };
        assert_eq!(next().await["result"]["created"], true);
        member.kv().await.put(put("a", "1")).await.unwrap();
        assert_eq!(next().await["result"]["events"][0]["kv"]["key"], "YQ==");
    });
}

#[test]
fn strange_hosts_and_origins_are_turned_away_if_asked() {
    let adjust = |config: &mut quorate::config::Config| {
        config.host_whitelist = vec!["localhost".into()];
        config.cors = vec!["https://good.example".into()];
    };
    with_adjusted(adjust, |member| async move {
        let (status, head, _) = send(&member, "GET", "/version", "", "").await;
        assert_eq!(status, 200);
        assert!(
            !head.to_lowercase().contains("access-control-allow-origin"),
            "{head}"
        );
        let origin = "Origin: https://good.example\r\n";
        let (_, head, _) = send(&member, "OPTIONS", "/v3/kv/range", origin, "").await;
        assert!(head.contains("https://good.example"), "{head}");
        // Over HTTP/1.1 nothing is gRPC, whatever it calls itself.
        for what in [
            "GET /version HTTP/1.1\r\n",
            "POST /etcdserverpb.KV/Range HTTP/1.1\r\nContent-Type: application/grpc\r\n",
        ] {
            let mut stream = member.env.connect(member.client_address()).await.unwrap();
            let request = format!("{what}Host: evil.example:2379\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
            assert!(answer.contains("--host-whitelist \"evil.example\""), "{answer}");
        }
    });
}

#[test]
fn a_member_may_go_without_the_gateway() {
    with_adjusted(
        |config| config.gateway = false,
        |member| async move {
            let (status, ..) = send(&member, "POST", "/v3/kv/range", "", "{}").await;
            assert_eq!(status, 404);
            member
                .kv()
                .await
                .range(pb::RangeRequest {
                    key: "a".into(),
                    ..Default::default()
                })
                .await
                .unwrap();
        },
    );
}

/// What is not a JSON object ends the client's side of a stream, and nothing else.
#[test]
fn a_stream_without_requests_ends_without_answers() {
    let without_requests = async |member: &Member| {
        for body in [
            "",
            " ",
            "[]",
            "null",
            "1",
            "{",
            r#"{"ID":"#,
            r#"{"ID":"x"}"#,
            "}{",
        ] {
            let (status, head, answer) = send(member, "POST", "/v3/lease/keepalive", "", body).await;
            assert_eq!((status, answer.as_str()), (200, ""), "{body}");
            assert!(!head.to_lowercase().contains("\ncontent-type"), "{head}");
        }
    };
    with_adjusted(
        |config| config.bcrypt_cost = 4,
        |member| async move {
            without_requests(&member).await;
            let cut = r#"{"ID":1}{"ID":"#;
            let (status, _, answer) = send(&member, "POST", "/v3/lease/keepalive", "", cut).await;
            assert_eq!((status, answer.lines().count()), (200, 1), "{answer}");
            for (path, body) in [
                ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
                ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
                ("/v3/auth/enable", "{}"),
            ] {
                assert_eq!(post(&member, path, body).await.0, 200, "{path}");
            }
            without_requests(&member).await;
            let (_, head, _) = send(&member, "GET", "/health", "", "").await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        },
    );
}

#[test]
fn fields_and_numbers_are_read_as_protojson_reads_them() {
    with_member(|member| async move {
        for (body, status) in [
            (r#"{"key":"YQ==","value":"Yg==","lease":"0.0"}"#, 200),
            (r#"{"key":"YQ==","lease":"0e5","prev_kv":null}"#, 200),
            (r#"{"key":"YQ==","key":"Yg=="}"#, 400),
            (r#"{"key":"YQ==","prev_kv":true,"prevKv":true}"#, 400),
            (r#"{"key":"YQ==","lease":"1.5"}"#, 400),
            (r#"{"key":"YQ==","lease":" 1"}"#, 400),
        ] {
            let (found, answer) = post(&member, "/v3/kv/put", body).await;
            assert_eq!(found, status, "{body}: {answer}");
        }
        let (status, answer) = post(&member, "/v3/kv/put", r#"{"key":"Yg==","key":"Yg=="}"#).await;
        let message = answer["message"].as_str().unwrap();
        assert!(
            status == 400 && message.contains(r#"duplicate field "key""#),
            "{message}"
        );
        for limit in [r#""1e0""#, r#""1.0""#, "1.0", "10e-1"] {
            let body =
                format!(r#"{{"key":"AA==","range_end":"AA==","limit":{limit},"sort_order":"UNKNOWN"}}"#);
            let (status, answer) = post(&member, "/v3/kv/range", &body).await;
            assert_eq!((status, &answer["count"]), (200, &json!("1")), "{limit}");
        }
    });
}

#[test]
fn paths_and_headers_are_read_as_go_reads_them() {
    with_member(|member| async move {
        let range = r#"{"key":"YQ=="}"#;
        for (path, headers, status) in [
            ("/v3/kv/%72ange", "", 200),
            ("/v3/kv%2Frange", "", 200),
            ("/v3/kv/range%zz", "", 400),
            ("/v3/kv/range/", "", 404),
            ("/v3/kv/range", "Content-Type: application/grpc\r\n", 200),
            (
                "/etcdserverpb.KV/Range",
                "Content-Type: application/grpc\r\n",
                404,
            ),
            ("/v3/kv/range", "Grpc-Timeout: zz\r\n", 400),
            ("/v3/kv/range", "Grpc-Timeout: 0S\r\n", 200),
            ("/v3/kv/range", "Grpc-Timeout: 123456789S\r\n", 200),
            ("/v3/kv/range", "Grpc-Timeout: -1S\r\n", 504),
        ] {
            let (found, head, answer) = send(&member, "POST", path, headers, range).await;
            assert_eq!(found, status, "{path} {headers}: {head}\n{answer}");
            assert_ne!(answer, "", "{path} {headers}");
        }
        for (path, location) in [
            ("//v3/kv/range?x=1", "/v3/kv/range?x=1"),
            ("/v3", "/v3/"),
            ("/v3/../version", "/version"),
        ] {
            let (status, head, body) = send(&member, "POST", path, "", range).await;
            assert_eq!((status, body.as_str()), (307, ""), "{path}");
            assert!(head.contains(&format!("\r\nLocation: {location}\r\n")), "{head}");
            let (_, _, body) = send(&member, "GET", path, "", "").await;
            assert_eq!(
                body,
                format!("<a href=\"{location}\">Temporary Redirect</a>.\n\n")
            );
        }
        let large = format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(3_000_000));
        let (status, answer) = post(&member, "/v3/kv/put", &large).await;
        let message = "grpc: received message larger than max (2250008 vs. 2097152)";
        assert_eq!((status, answer), (429, json!({"code": 8, "message": message})));
    });
}

#[test]
fn who_is_not_known_is_told_how_to_be() {
    with_adjusted(
        |config| config.bcrypt_cost = 4,
        |member| async move {
            for (path, body) in [
                ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
                ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
                ("/v3/auth/enable", "{}"),
            ] {
                assert_eq!(post(&member, path, body).await.0, 200, "{path}");
            }
            let token = "Authorization: x.1\r\n";
            let (status, head, _) = send(&member, "POST", "/v3/kv/range", token, r#"{"key":"YQ=="}"#).await;
            assert_eq!(status, 401);
            assert!(
                head.contains("\r\nWww-Authenticate: etcdserver: invalid auth token"),
                "{head}"
            );
        },
    );
}

#[test]
fn a_body_that_is_cut_off_is_judged_by_what_came_of_it() {
    with_member(|member| async move {
        for (body, wanted) in [
            ("", (400, "unexpected EOF")),
            (" ", (400, "unexpected EOF")),
            ("{\"key\":\"YQ==\"", (400, "unexpected EOF")),
            ("{\"key\":\"YQ==\"}", (499, "context canceled")),
            ("{}{", (499, "context canceled")),
        ] {
            for (header, piece) in [
                ("Content-Length: 30", body.to_owned()),
                ("Transfer-Encoding: chunked", format!("1e\r\n{body}")),
            ] {
                let mut stream = member.env.connect(member.client_address()).await.unwrap();
                let request =
                    format!("POST /v3/kv/put HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n{piece}");
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer);
                member
                    .env
                    .timeout(PATIENCE, read)
                    .await
                    .expect("in time")
                    .unwrap();
                let (status, text) = wanted;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
                assert!(answer.contains(text), "{body:?}: {answer}");
            }
        }
        let (_, kept) = post(&member, "/v3/kv/range", r#"{"key":"YQ=="}"#).await;
        assert!(kept.get("kvs").is_none(), "{kept}");
    });
}
