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
use crate::server::Api;
use crate::server::front::CommonName;
use crate::server::rpc::Rights;
use crate::server::unread::Answer;
use crate::state::State;

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
        let Caller::Client { credentials, .. } = caller else {
            return Ok(None);
        };
        if !self.consensus.is_auth_enabled() {
            return Ok(Some(Header::default()));
        }
        let now = || self.consensus.read(|state, _| state.auth().revision());
        let Some(token) = &credentials.token else {
            return Ok(Some(credentials.common_name.as_ref().map_or_else(
                Header::default,
                |name| Header {
                    user: name.as_ref().to_owned(),
                    auth_revision: now(),
                },
            )));
        };
        let header = match &self.jwt {
            Some(jwt) => jwt.verify(token, self.env.wall_clock()),
            None => self.consensus.user_of_token(token).await.map(|user| Header {
                user,
                // As of the check: what changes later is noticed when the command is applied.
                auth_revision: now(),
            }),
        };
        if header.is_none() {
            tracing::warn!("invalid auth token");
        }
        header.map(Some).ok_or(Denied::INVALID_AUTH_TOKEN)
    }

    /// Checks what depends on the method alone.
    pub(in crate::server) async fn admit_rights(
        &self,
        rights: Rights,
        caller: &Caller,
    ) -> Result<(), Denied> {
        if rights == Rights::Checked || !self.consensus.is_auth_enabled() {
            return Ok(());
        }
        let Some(header) = self.identify(caller).await? else {
            return Ok(());
        };
        match rights {
            Rights::Checked => Ok(()),
            Rights::User => self.consensus.read(|state, _| state.auth().require_user(&header)),
            Rights::Root => self.consensus.read(|state, _| state.auth().require_root(&header)),
        }
    }

    /// Checks a local read: `permit` looks at the state. The answer is given to [`confirm`](Self::confirm)
    /// when the read is done.
    pub(in crate::server) async fn permit(
        &self,
        caller: &Caller,
        permit: impl FnOnce(&State, &Header) -> Result<(), Denied>,
    ) -> Result<Permit, Denied> {
        if !self.consensus.is_auth_enabled() {
            return Ok(Permit { auth_revision: 0 });
        }
        let Some(header) = self.identify(caller).await? else {
            return Ok(Permit { auth_revision: 0 });
        };
        self.consensus.read(|state, _| permit(state, &header))?;
        Ok(Permit {
            auth_revision: header.auth_revision,
        })
    }

    /// Refuses what was read while permissions changed.
    pub(in crate::server) fn confirm(&self, permit: &Permit) -> Result<(), Denied> {
        let now = || self.consensus.read(|state, _| state.auth().revision());
        if permit.auth_revision != 0 && permit.auth_revision != now() {
            return Err(Denied::AUTH_OLD_REVISION);
        }
        Ok(())
    }
}

/// A local read was permitted at this auth revision; 0: nobody had to be asked.
pub struct Permit {
    auth_revision: u64,
}
