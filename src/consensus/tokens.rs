//! Simple tokens: which user a client logged in as. Not part of the state: a member forgets them when it stops,
//! and each counts down on its own clock, as etcd's do.
//!
//! A token is given by an applied login and so known to every member that has applied it; each use
//! prolongs it here. It dies with its user, with the user's password, and when authentication is switched off.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::time::Duration;

use super::Consensus;
use crate::runtime::{Env, Instant};

struct Token {
    user: String,
    expires: Instant,
}

/// See the module.
pub struct Tokens {
    env: Env,
    ttl: Duration,
    known: RefCell<BTreeMap<String, Token>>,
}

impl Tokens {
    pub fn new(env: Env, ttl: Duration) -> Self {
        Tokens {
            env,
            ttl,
            known: RefCell::default(),
        }
    }

    fn known(&self) -> RefMut<'_, BTreeMap<String, Token>> {
        self.known.borrow_mut()
    }

    /// A login was applied. What has expired makes room.
    pub fn assign(&self, token: String, user: String) {
        let now = self.env.now();
        let expires = now + self.ttl;
        let mut known = self.known();
        known.retain(|_, token| token.expires > now);
        known.insert(token, Token { user, expires });
    }

    /// A user is gone, or has another password.
    pub fn forget_user(&self, user: &str) {
        self.known().retain(|_, token| token.user != user);
    }

    pub fn forget_all(&self) {
        self.known().clear();
    }

    /// Whose token this is; it lives on for a full TTL.
    fn user(&self, token: &str) -> Option<String> {
        let now = self.env.now();
        let mut known = self.known();
        let found = known.get_mut(token).filter(|found| found.expires > now)?;
        found.expires = now + self.ttl;
        Some(found.user.clone())
    }
}

/// A simple token: a random prefix, and the index of the login in the log.
pub fn simple_token(prefix: &str, index: u64) -> String {
    format!("{prefix}.{index}")
}

impl Consensus {
    /// Whose simple token this is, as soon as this member has applied the login that it names.
    pub async fn user_of_token(&self, token: &str) -> Option<String> {
        let (_, index) = token.split_once('.')?;
        // Two dots make no number.
        let index: u64 = index.parse().ok()?;
        let mut applied = self.0.vitals.applied.clone();
        let reached =
            applied.wait_until(|applied| applied.log_id.is_some_and(|applied| applied.index >= index));
        let reached = self.env().timeout(self.request_timeout(), reached).await;
        reached.ok()?.ok()?;
        let token = token.to_owned();
        self.ask(move |core| core.machine().tokens.user(&token)).await
    }
}
