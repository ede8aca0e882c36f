//! A connection to a member, on which every call carries the token of a user, if there is one.

use std::time::Duration;

use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::auth_client::AuthClient;
use quorate::runtime::Env;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::history::Outcome;

/// Who logs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub name: String,
    pub password: String,
}

impl User {
    /// Who may do everything.
    pub fn root() -> Self {
        User::new("root")
    }

    pub fn new(name: &str) -> Self {
        User {
            name: name.to_owned(),
            password: format!("password of {name}"),
        }
    }
}

/// Adds the token to a call.
#[derive(Clone)]
pub struct Token(Option<AsciiMetadataValue>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// What clients of the services are made of.
pub type Calls = InterceptedService<Channel, Token>;

#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    token: Token,
}

impl Connection {
    /// Connects and logs in; `None` if either was not possible in time.
    pub async fn open(
        env: &Env,
        address: &str,
        timeout: Duration,
        user: Option<&User>,
    ) -> Option<Connection> {
        let channel = Channel::connect(env, address, timeout).await.ok()?;
        let token = match user {
            None => None,
            Some(user) => Some(env.timeout(timeout, log_in(&channel, user)).await.ok()??),
        };
        let token = Token(token);
        Some(Connection { channel, token })
    }

    /// Connects with the token of an earlier login, at whichever member that was.
    pub async fn open_with(env: &Env, address: &str, timeout: Duration, token: Token) -> Option<Connection> {
        let channel = Channel::connect(env, address, timeout).await.ok()?;
        Some(Connection { channel, token })
    }

    pub fn token(&self) -> Token {
        self.token.clone()
    }

    pub fn calls(&self) -> Calls {
        InterceptedService::new(self.channel.clone(), self.token.clone())
    }

    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }
}

async fn log_in(channel: &Channel, user: &User) -> Option<AsciiMetadataValue> {
    let request = pb::AuthenticateRequest {
        name: user.name.clone(),
        password: user.password.clone(),
    };
    let answer = AuthClient::new(channel.clone())
        .authenticate(request)
        .await
        .ok()?;
    answer.into_inner().token.parse().ok()
}

/// Whether the member knows nothing of the token, as after its restart: time to log in again.
pub fn is_stranger(outcome: &Outcome) -> bool {
    let Outcome::Denied { text, .. } = outcome else {
        return false;
    };
    [
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}
