//! Who calls, and what the call may do before anything is proposed.
//!
//! ```text
//!   metadata ─► Credentials ─► identify (token or certificate) ─► Header: user, auth revision
//!                                                                   ├─► proposals carry it; it is checked again at apply
//!                                                                   └─► local reads: checked here, before and after
//! ```
//!
//! A call without credentials is somebody, too: its header has no user, and every check refuses it.

use std::sync::Arc;

use tonic::Extensions;
use tonic::metadata::MetadataMap;

use crate::base::Denied;
use crate::proto::command::Header;
use crate::server::api::Api;
use crate::server::wire::front::CommonName;
use crate::server::wire::rpc::Rights;
use crate::server::wire::unread::Answer;
use crate::state::{Auth, State};

/// On whose behalf something is done.
#[derive(Clone)]
pub enum Caller {
    /// The member itself, which may do everything.
    Member,
    Client {
        credentials: Credentials,
        /// What is held for it.
        answer: Answer,
    },
}

impl Caller {
    /// Where the bytes of its answer are counted.
    pub(in crate::server) fn answer(&self) -> Answer {
        match self {
            Caller::Member => Answer::default(),
            Caller::Client { answer, .. } => answer.clone(),
        }
    }
}

/// What a client shows.
#[derive(Clone, Default)]
pub struct Credentials {
    token: Option<Arc<str>>,
    /// Of a verified certificate; counts without a token, where certificates stand for users.
    common_name: Option<Arc<str>>,
}

/// Set by the JSON gateway on what it passes on, for which a certificate says nothing.
const VIA_GATEWAY: &str = "grpcgateway-accept";

impl Credentials {
    /// `token` counts before `authorization`; of several values the first.
    pub fn of(metadata: &MetadataMap, common_name: Option<&CommonName>) -> Credentials {
        let named = |name| metadata.get(name).map(|value| value.as_encoded_bytes());
        let token = named("token").or_else(|| named("authorization"));
        let token = token.map(|token| token.strip_prefix(b"Bearer ").unwrap_or(token));
        Credentials {
            token: token.map(|token| String::from_utf8_lossy(token).into()),
            common_name: common_name
                .filter(|_| !metadata.contains_key(VIA_GATEWAY))
                .map(|name| name.0.clone()),
        }
    }
}

impl Api {
    /// Who calls. Credentials are kept while authentication is off, too: a stream may outlive that.
    pub(in crate::server) fn caller(&self, metadata: &MetadataMap, extensions: &Extensions) -> Caller {
        let common_name = extensions
            .get::<CommonName>()
            .filter(|_| self.options.client_cert_auth);
        Caller::Client {
            credentials: Credentials::of(metadata, common_name),
            answer: extensions.get::<Answer>().cloned().unwrap_or_default(),
        }
    }

    /// The header for what a caller asks; `None` for the member itself.
    pub(in crate::server) async fn identify(&self, caller: &Caller) -> Result<Option<Header>, Denied> {
        match self.recognize(caller).await? {
            Some(Known::AsOf(header)) => Ok(Some(header)),
            Some(known) => Ok(Some(self.consensus.read(|state| known.header(state)).await)),
            None => Ok(None),
        }
    }

    /// Who calls; `None`: the member itself.
    async fn recognize(&self, caller: &Caller) -> Result<Option<Known>, Denied> {
        let Caller::Client { credentials, .. } = caller else {
            return Ok(None);
        };
        if !self.consensus.is_auth_enabled() {
            return Ok(Some(Known::AsOf(Header::default())));
        }
        let Some(token) = &credentials.token else {
            return Ok(Some(match &credentials.common_name {
                Some(name) => Known::Now(name.as_ref().to_owned()),
                None => Known::AsOf(Header::default()),
            }));
        };
        let known = match &self.jwt {
            Some(jwt) => jwt.verify(token, self.env.wall_clock()).map(Known::AsOf),
            None => self.consensus.user_of_token(token).await.map(Known::Now),
        };
        if known.is_none() {
            tracing::warn!("invalid auth token");
        }
        known.map(Some).ok_or(Denied::InvalidAuthToken)
    }

    /// Checks what depends on the method alone.
    pub(in crate::server) async fn admit_rights(
        &self,
        rights: Rights,
        caller: &Caller,
    ) -> Result<(), Denied> {
        let require = match rights {
            Rights::Checked => return Ok(()),
            Rights::User => Auth::require_user,
            Rights::Root => Auth::require_root,
        };
        let permit = move |state: &State, caller: &Header| require(state.auth(), caller);
        self.permit(caller, permit).await.map(drop)
    }

    /// Checks a local read: `permit` looks at the state. The answer is given to [`confirm`](Self::confirm)
    /// when the read is done.
    pub(in crate::server) async fn permit<E: From<Denied> + Send + 'static>(
        &self,
        caller: &Caller,
        permit: impl FnOnce(&State, &Header) -> Result<(), E> + Send + 'static,
    ) -> Result<Permit, E> {
        if !self.consensus.is_auth_enabled() {
            return Ok(Permit { auth_revision: 0 });
        }
        let Some(known) = self.recognize(caller).await? else {
            return Ok(Permit { auth_revision: 0 });
        };
        let look = move |state: &State| {
            let header = known.header(state);
            permit(state, &header)?;
            Ok(Permit {
                auth_revision: header.auth_revision,
            })
        };
        self.consensus.read(look).await
    }

    /// Refuses what was read while permissions changed.
    pub(in crate::server) async fn confirm(&self, permit: &Permit) -> Result<(), Denied> {
        let auth_revision = permit.auth_revision;
        if auth_revision == 0 {
            return Ok(());
        }
        let look = move |state: &State| require_current(state, auth_revision);
        self.consensus.read(look).await
    }
}

/// A caller whose credentials are right.
enum Known {
    /// With the auth revision that its token names, or without a user.
    AsOf(Header),
    /// The user, whose auth revision is that of the next look: what changes later is noticed when the command is applied.
    Now(String),
}

impl Known {
    fn header(self, state: &State) -> Header {
        match self {
            Known::AsOf(header) => header,
            Known::Now(user) => Header {
                user,
                auth_revision: state.auth().revision(),
            },
        }
    }
}

/// A local read was permitted at this auth revision; 0: nobody had to be asked.
pub struct Permit {
    auth_revision: u64,
}

/// Refuses what was permitted at another auth revision than the present one; 0: nobody had to be asked.
pub fn require_current(state: &State, auth_revision: u64) -> Result<(), Denied> {
    match auth_revision == 0 || auth_revision == state.auth().revision() {
        true => Ok(()),
        false => Err(Denied::AuthOldRevision),
    }
}
