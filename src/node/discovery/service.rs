//! A client of the discovery service: one connection at a time to one of its endpoints, the next one when it fails.
//!
//! Knows what a request, an endpoint and a password are, and nothing of members.

use std::future::Future;
use std::io;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status, Streaming};

use super::registry;
use crate::client::Channel;
use crate::config::{Credentials, DiscoveryOptions};
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use crate::runtime::Env;
use crate::runtime::tls::{ClientOptions, TlsClient};

/// gRPC's own words for a request that ran out of time.
const TIMED_OUT: &str = "context deadline exceeded";
/// What a server without authentication says to a name and a password.
const NO_AUTH: &str = "authentication is not enabled";

/// An endpoint's address as [`Env::connect`] takes it, and whether it says itself that it is secure.
fn parse_endpoint(endpoint: &str) -> (String, Option<bool>) {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => match endpoint.split_once(':') {
            Some((scheme @ ("unix" | "unixs"), path)) => (scheme, path),
            _ => return (endpoint.to_owned(), None),
        },
    };
    let secure = matches!(scheme, "https" | "unixs");
    match scheme {
        "unix" | "unixs" => (format!("unix:{rest}"), Some(secure)),
        _ => {
            let address = rest.split('/').next().unwrap_or(rest);
            (address.to_owned(), Some(secure))
        }
    }
}

/// A connection, and what its requests show to be let in.
#[derive(Clone)]
struct Connection {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// See the module.
pub struct Service {
    env: Env,
    options: DiscoveryOptions,
    tls: Option<TlsClient>,
    /// The endpoint that is tried next, counted without end.
    next: usize,
    connection: Option<Connection>,
}

impl Service {
    /// # Errors
    /// Certificates that cannot be read; a name and a password that nobody takes. Otherwise nobody has to be there yet.
    pub async fn new(env: Env, options: DiscoveryOptions) -> Result<Service, String> {
        let demanded = options
            .endpoints
            .iter()
            .any(|endpoint| parse_endpoint(endpoint).1 == Some(true));
        let tls = match &options.tls {
            None if demanded => Some(ClientOptions::default()),
            tls => tls.clone(),
        };
        let tls = tls.map(|tls| TlsClient::new(env.clone(), &tls)).transpose()?;
        let mut service = Service {
            env,
            options,
            tls,
            next: 0,
            connection: None,
        };
        if service.options.credentials.is_some() {
            service.request(async |_| Ok(())).await?;
        }
        Ok(service)
    }

    /// The keys from `key` on, up to `end`; the one key, if that is empty.
    pub async fn range(&mut self, key: String, end: String) -> Result<RangeResponse, String> {
        let message = RangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..RangeRequest::default()
        };
        let ask = |connection: Connection| {
            let request = connection.request(message.clone());
            async move {
                let answer = KvClient::new(connection.channel).range(request).await?;
                Ok(answer.into_inner())
            }
        };
        self.request(ask).await
    }

    pub async fn put(&mut self, key: String, value: String) -> Result<(), String> {
        let message = PutRequest {
            key: key.into(),
            value: value.into(),
            ..PutRequest::default()
        };
        let ask = |connection: Connection| {
            let request = connection.request(message.clone());
            async move {
                KvClient::new(connection.channel).put(request).await?;
                Ok(())
            }
        };
        self.request(ask).await
    }

    /// What happens to the members of a token, from a revision on.
    pub async fn watch_members(
        &mut self,
        token: &str,
        from: i64,
    ) -> Result<Streaming<WatchResponse>, String> {
        let create = WatchCreateRequest {
            key: registry::members_prefix(token).into(),
            range_end: registry::members_end(token).into(),
            start_revision: from,
            ..WatchCreateRequest::default()
        };
        let ask = |connection: Connection| {
            let create = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create.clone())),
            };
            // The stream must not end: that would cancel the watch.
            let requests = futures_util::StreamExt::chain(
                futures_util::stream::iter([create]),
                futures_util::stream::pending(),
            );
            let request = connection.request(requests);
            async move {
                let answer = WatchClient::new(connection.channel).watch(request).await?;
                Ok(answer.into_inner())
            }
        };
        self.request(ask).await
    }

    /// Gives up the present connection: the next request goes to the next endpoint.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// The first answer of any endpoint, within the time for a request.
    async fn request<T, F>(&mut self, ask: impl Fn(Connection) -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (env, timeout) = (self.env.clone(), self.options.request_timeout);
        let attempts = async {
            let mut last = String::new();
            for _ in 0..self.options.endpoints.len() {
                let answer = match self.connected().await {
                    Ok(connection) => ask(connection).await.map_err(|status| described(&status)),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => (last, self.connection) = (error, None),
                }
            }
            Err(last)
        };
        match env.timeout(timeout, attempts).await {
            Ok(answer) => answer,
            Err(_) => {
                self.hang_up();
                Err(TIMED_OUT.to_owned())
            }
        }
    }

    async fn connected(&mut self) -> Result<Connection, String> {
        if let Some(connection) = self.connection.as_ref().filter(|open| !open.channel.is_closed()) {
            return Ok(connection.clone());
        }
        let endpoint = &self.options.endpoints[self.next % self.options.endpoints.len()];
        self.next += 1;
        let opened = self
            .env
            .timeout(self.options.dial_timeout, self.open(endpoint))
            .await;
        let opened = opened.map_err(|_| format!("{endpoint}: {TIMED_OUT}"))?;
        let opened = opened.map_err(|error| format!("{endpoint}: {error}"))?;
        self.connection = Some(opened.clone());
        Ok(opened)
    }

    async fn open(&self, endpoint: &str) -> Result<Connection, String> {
        let channel = self.dial(endpoint).await;
        let channel = channel.map_err(|error| crate::runtime::tls::described(&error))?;
        let token = match &self.options.credentials {
            Some(credentials) => authenticate(&channel, credentials).await?,
            None => None,
        };
        Ok(Connection { channel, token })
    }

    async fn dial(&self, endpoint: &str) -> io::Result<Channel> {
        let (address, says) = parse_endpoint(endpoint);
        let stream = self.env.connect(&address).await?;
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        let tls = match says {
            Some(false) => None,
            Some(true) | None => self.tls.as_ref(),
        };
        let stream = match tls {
            Some(tls) => tls.connect(stream, host.trim_matches(['[', ']'])).await?,
            None => stream,
        };
        let authority = match address.starts_with("unix:") {
            true => "localhost",
            false => &address,
        };
        Channel::alive_over(&self.env, stream, authority, self.options.pings).await
    }
}

/// A token for a name and a password; none where nobody asks for one.
async fn authenticate(
    channel: &Channel,
    credentials: &Credentials,
) -> Result<Option<MetadataValue<Ascii>>, String> {
    let request = AuthenticateRequest {
        name: credentials.user.clone(),
        password: credentials.password.clone(),
    };
    match AuthClient::new(channel.clone()).authenticate(request).await {
        Ok(answer) => {
            let token = answer.into_inner().token.parse();
            token
                .map(Some)
                .map_err(|_| "the token is no header's value".to_owned())
        }
        Err(status) if status.message().contains(NO_AUTH) => Ok(None),
        Err(status) => Err(described(&status)),
    }
}

fn described(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
