//! bcrypt: slow on purpose, so it runs beside the threads that serve, and few at a time.

use std::sync::Arc;

use bcrypt::Version;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::base::{Denied, limits};
use crate::runtime::Env;

/// What bcrypt takes in, in bytes.
const PASSWORD_BYTES_MAX: usize = 72;

/// See the module.
pub struct Passwords {
    env: Env,
    cost: u32,
    /// One permit for each computation that may run.
    room: Arc<Semaphore>,
    /// The hash of no password, for users that do not exist.
    nobody: String,
}

impl Passwords {
    pub fn new(env: Env, cost: u32) -> Self {
        Passwords {
            room: Arc::new(Semaphore::new(limits::PASSWORD_CHECKS_MAX)),
            // 22 and 31 characters of salt and hash, as bcrypt writes them: no password has this hash.
            nobody: format!("$2a${cost:02}${:.<53}", ""),
            env,
            cost,
        }
    }

    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = self.room.clone().acquire_owned().await;
        let work = move || {
            // Held until the work is done, also if nobody waits for it any more.
            let _permit = permit.expect("never closed");
            work()
        };
        self.env.run_blocking(work).await
    }

    /// The hash of a new password, as text.
    pub async fn hash(&self, password: String) -> Result<String, Denied> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Denied::PasswordTooLong);
        }
        let mut salt = [0; 16];
        let (left, right) = salt.split_at_mut(8);
        left.copy_from_slice(&self.env.random_u64().to_le_bytes());
        right.copy_from_slice(&self.env.random_u64().to_le_bytes());
        let cost = self.cost;
        let hash = self
            .compute(move || bcrypt::hash_with_salt(password, cost, salt))
            .await;
        // The cost is within its bounds, and the salt is as long as it must be.
        hash.map(|parts| parts.format_for_version(Version::TwoA))
            .map_err(|_| Denied::AuthFailed)
    }

    /// Whether a password belongs to a hash. Without a hash it takes as long, and the answer is no: a stranger
    /// does not learn who exists.
    pub async fn verify(&self, password: String, hash: Option<Bytes>) -> bool {
        let known = hash.is_some();
        let hash = hash.map_or_else(
            || self.nobody.clone(),
            |hash| String::from_utf8_lossy(&hash).into_owned(),
        );
        let right = self
            .compute(move || bcrypt::verify(password, &hash).unwrap_or(false))
            .await;
        known && right
    }
}
