//! Plain HTTP: health, metrics and version, as etcd's clients and probes expect them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::Full;
use tonic::body::Body;

use super::front::Role;
use super::gateway;
use super::health_checks::Check;
use super::path::{self, Resolved};
use crate::server::VERSION;
use crate::server::api::Api;
use crate::state::State;

const TEXT: &str = "text/plain; charset=utf-8";
/// The exposition format of Prometheus.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is known of the connection that a request came on.
#[derive(Clone, Copy)]
pub struct Connection {
    pub role: Role,
    pub is_tls: bool,
    /// Its client showed a certificate with a common name.
    pub has_common_name: bool,
}

/// Answers one request that is not gRPC.
pub async fn answer<B>(api: &Arc<Api>, connection: Connection, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let role = match connection.role {
        Role::GrpcOnly => return error(StatusCode::NOT_FOUND, "404 page not found\n"),
        Role::HttpOnly | Role::Clients => Role::Clients,
        Role::MetricsOnly => Role::MetricsOnly,
    };
    let gateway = role == Role::Clients && api.options.gateway;
    let resolved = path::resolve(request.uri().path(), gateway);
    if resolved == Resolved::Malformed {
        return malformed();
    }
    if role == Role::Clients
        && let Some(refusal) = turned_away(api, connection, &request)
    {
        return refusal;
    }
    let origin = allowed_origin(api, request.headers());
    let mut response = if role == Role::Clients && request.method() == Method::OPTIONS {
        Response::new(Body::empty())
    } else {
        route(api, role, resolved, request).await
    };
    if role == Role::Clients
        && let Some(origin) = origin
    {
        allow(response.headers_mut(), origin);
    }
    response
}

/// Why a request is not looked at.
fn turned_away<B>(api: &Api, connection: Connection, request: &Request<B>) -> Option<Response<Body>> {
    if !connection.is_tls {
        return misdirected(api, request);
    }
    // The gateway never acts as the certificate's owner; who expects that must be told (CVE-2018-16886).
    let mistaken = connection.has_common_name
        && api.options.client_cert_auth
        && api.options.gateway
        && api.consensus.is_auth_enabled()
        && request.uri().path().starts_with("/v3/");
    mistaken.then(|| {
        error(
            StatusCode::BAD_REQUEST,
            "CommonName of client sending a request against gateway will be ignored and not used as expected\n",
        )
    })
}

/// A name that is not ours may be an attacker's, given to a browser to reach us (CVE-2018-5702).
fn misdirected<B>(api: &Api, request: &Request<B>) -> Option<Response<Body>> {
    let allowed = &api.options.host_whitelist;
    if allowed.is_empty() || allowed.iter().any(|name| name == "*") {
        return None;
    }
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok().map(str::to_owned));
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string));
    let host = host.unwrap_or_default();
    let name = match host.parse::<http::uri::Authority>() {
        Ok(authority) => authority.host().to_owned(),
        Err(_) => host,
    };
    if allowed.contains(&name) {
        return None;
    }
    let text = format!(
        "\netcd received your request, but the Host header was unrecognized.\n\nTo fix this, choose one of the \
         following options:\n- Enable TLS, then any HTTPS request will be allowed.\n- Add the hostname you want to \
         use to the whitelist in settings.\n  - e.g. etcd --host-whitelist {name:?}\n\nThis requirement has been \
         added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n\n"
    );
    Some(nosniff(respond(StatusCode::MISDIRECTED_REQUEST, TEXT, text)))
}

/// The origin to name in an answer; `None`: the web page that asks may not see it.
fn allowed_origin(api: &Api, headers: &HeaderMap) -> Option<HeaderValue> {
    let allowed = &api.options.cors;
    if allowed.iter().any(|origin| origin == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(header::ORIGIN)?;
    let known = allowed.iter().any(|known| known.as_bytes() == origin.as_bytes());
    known.then(|| origin.clone())
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let names = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
}

async fn route<B>(api: &Arc<Api>, role: Role, resolved: Resolved, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = match resolved {
        Resolved::Gateway(path) => return gateway::answer(api, &path, request).await,
        Resolved::Plain(path) => path,
        Resolved::Elsewhere(path) => return redirect(&path, &request),
        Resolved::Malformed => return malformed(),
    };
    let path = path.as_str();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    match path {
        "/health" if get => health(api, &query).await,
        "/livez" | "/readyz" if get => {
            let checks = if path == "/livez" {
                Check::LIVE
            } else {
                Check::READY
            };
            verdict(api, path, checks, &query).await
        }
        "/metrics" => {
            let text = api.metrics.render(&api.sample().await, VERSION);
            respond(StatusCode::OK, METRICS_TEXT, text)
        }
        "/version" if role == Role::Clients && get => version(api).await,
        "/debug/vars" if role == Role::Clients && get => debug_vars(api),
        "/health" | "/livez" | "/readyz" => not_allowed(),
        "/version" | "/debug/vars" if role == Role::Clients => not_allowed(),
        _ => match single_check(path) {
            Some(check) if get => verdict(api, path, &[check], &query).await,
            Some(_) => not_allowed(),
            None => error(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
    }
}

/// As Go's.
fn redirect<B>(path: &str, request: &Request<B>) -> Response<Body> {
    let location = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let Ok(value) = HeaderValue::from_str(&location) else {
        return malformed();
    };
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => {
            let text = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html(&location));
            respond(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", text)
        }
        _ => Response::new(Body::empty()),
    };
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, value);
    response
}

/// Text without what HTML would read as markup.
fn html(text: &str) -> String {
    let escapes = [
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&#34;"),
        ('\'', "&#39;"),
    ];
    escapes
        .iter()
        .fold(text.to_owned(), |text, &(from, to)| text.replace(from, to))
}

fn malformed() -> Response<Body> {
    let mut response = respond(StatusCode::BAD_REQUEST, TEXT, "400 Bad Request");
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// The check that a path like `/readyz/linearizable_read` names.
fn single_check(path: &str) -> Option<Check> {
    let (checks, name) = match (path.strip_prefix("/livez/"), path.strip_prefix("/readyz/")) {
        (Some(name), _) => (Check::LIVE, name),
        (_, Some(name)) => (Check::READY, name),
        _ => return None,
    };
    checks.iter().copied().find(|check| check.name() == name)
}

async fn health(api: &Api, query: &Query) -> Response<Body> {
    let verdict = api
        .health(&query.all("exclude"), query.is("serializable", "true"))
        .await;
    let (status, counter) = match verdict {
        Ok(()) => (StatusCode::OK, &api.metrics.health_success),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, &api.metrics.health_failures),
    };
    counter.inc();
    let healthy = if verdict.is_ok() { "true" } else { "false" };
    let body = serde_json::json!({ "health": healthy, "reason": verdict.err().unwrap_or_default() });
    respond(status, TEXT, body.to_string())
}

async fn verdict(api: &Api, path: &str, checks: &[Check], query: &Query) -> Response<Body> {
    let endpoint = path.split('/').nth(1).unwrap_or_default();
    let (passed, text) = api
        .run_checks(endpoint, checks, &query.all("exclude"), query.has("verbose"))
        .await;
    let status = if passed {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    nosniff(respond(status, TEXT, text))
}

async fn version(api: &Api) -> Response<Body> {
    let look = |state: &State| state.cluster_version().map(str::to_owned);
    let cluster = api.consensus.read(look).await;
    // What is stored follows the cluster, as in etcd.
    let storage = cluster.clone().unwrap_or_else(|| "unknown".into());
    let cluster = cluster.unwrap_or_else(|| "not_decided".into());
    // Field order is part of what scripts see, so it is written out.
    let body = format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    respond(StatusCode::OK, "application/json", body)
}

/// Metrics of the process and raft, under the names that etcd's page has and that mean something here.
fn debug_vars(api: &Api) -> Response<Body> {
    let status = api.consensus.status();
    let member = api.consensus.member_id();
    let role = match status.leader {
        Some(leader) if leader == member => "StateLeader",
        _ => "StateFollower",
    };
    let command: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let body = serde_json::json!({
        "cmdline": command,
        "file_descriptor_limit": api.metrics.process_figure("process_max_fds"),
        "memstats": { "Sys": api.metrics.process_figure("process_resident_memory_bytes") },
        "raft.status": {
            "id": format!("{member:x}"),
            "term": status.term,
            "lead": format!("{:x}", status.leader.unwrap_or(0)),
            "commit": status.committed,
            "applied": status.applied,
            "raftState": role,
        },
    });
    respond(
        StatusCode::OK,
        "application/json; charset=utf-8",
        body.to_string(),
    )
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn nosniff(mut response: Response<Body>) -> Response<Body> {
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

pub fn error(status: StatusCode, text: &'static str) -> Response<Body> {
    nosniff(respond(status, TEXT, text))
}

fn not_allowed() -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

/// The parameters of a query, in order. Names and values that matter here need no escapes.
#[derive(Debug, PartialEq, Eq)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Query {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let split = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        Query(pairs.map(split).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .is_some_and(|(_, found)| found == value)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests;
