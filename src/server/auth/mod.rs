//! The Auth service: users, roles, logins. What is asked is checked where it is applied; passwords are hashed and
//! compared here, so that they never travel through the log.

pub mod access;
mod jwt;
mod passwords;

use tonic::{Request, Response, Status, async_trait};

pub use access::Caller;
pub use jwt::Jwt;
pub use passwords::Passwords;

use super::api::{Api, mismatch};
use super::wire::rpc::Rpc;
use crate::base::Denied;
use crate::consensus::simple_token;
use crate::proto::command::{AuthenticateCommand, command::Request as Command};
use crate::proto::etcdserverpb::{self as pb, auth_server::Auth};
use crate::state::{Answer, State};

/// Letters of a simple token's random part.
const TOKEN_LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const TOKEN_LETTERS_COUNT: usize = 16;

/// Methods that propose their request and answer with a header alone.
macro_rules! proposed {
    ($($method:ident = $rpc:ident $request:ident $response:ident;)*) => {$(
        fn $method<'a, 'b>(&'a self, request: Request<pb::$request>) -> Answering<'b, pb::$response>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                self.unary(Rpc::$rpc, false, request, |request, caller| async move {
                    match self.propose(&caller, Command::$rpc(request)).await? {
                        (Answer::Empty, revision) => Ok(pb::$response { header: Some(self.header(revision)) }),
                        (other, _) => mismatch(&other),
                    }
                })
                .await
            })
        }
    )*};
}

/// What `async_trait` makes of an async method; a macro has to spell it out.
type Answering<'a, T> =
    std::pin::Pin<Box<dyn std::future::Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

#[async_trait]
impl Auth for Api {
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.unary(Rpc::AuthStatus, false, request, |request, caller| async move {
            match self.propose(&caller, Command::AuthStatus(request)).await? {
                (
                    Answer::AuthStatus {
                        enabled,
                        auth_revision,
                    },
                    revision,
                ) => Ok(pb::AuthStatusResponse {
                    header: Some(self.header(revision)),
                    enabled,
                    auth_revision,
                }),
                (other, _) => mismatch(&other),
            }
        })
        .await
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.unary(Rpc::Authenticate, false, request, |request, _| {
            self.authenticate(request)
        })
        .await
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        self.unary(
            Rpc::AuthUserAdd,
            false,
            request,
            |mut request, caller| async move {
                let password = std::mem::take(&mut request.password);
                if !request.options.is_some_and(|options| options.no_password) {
                    request.hashed_password = self.hash(password).await?;
                }
                match self.propose(&caller, Command::AuthUserAdd(request)).await? {
                    (Answer::Empty, revision) => Ok(pb::AuthUserAddResponse {
                        header: Some(self.header(revision)),
                    }),
                    (other, _) => mismatch(&other),
                }
            },
        )
        .await
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        self.unary(
            Rpc::AuthUserChangePassword,
            false,
            request,
            |mut request, caller| async move {
                let password = std::mem::take(&mut request.password);
                if !password.is_empty() {
                    request.hashed_password = self.hash(password).await?;
                }
                match self
                    .propose(&caller, Command::AuthUserChangePassword(request))
                    .await?
                {
                    (Answer::Empty, revision) => Ok(pb::AuthUserChangePasswordResponse {
                        header: Some(self.header(revision)),
                    }),
                    (other, _) => mismatch(&other),
                }
            },
        )
        .await
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        self.unary(Rpc::AuthUserGet, false, request, |request, caller| async move {
            let (header, roles) = self.names(&caller, Command::AuthUserGet(request)).await?;
            Ok(pb::AuthUserGetResponse { header, roles })
        })
        .await
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        self.unary(Rpc::AuthUserList, false, request, |request, caller| async move {
            let (header, users) = self.names(&caller, Command::AuthUserList(request)).await?;
            Ok(pb::AuthUserListResponse { header, users })
        })
        .await
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        self.unary(Rpc::AuthRoleList, false, request, |request, caller| async move {
            let (header, roles) = self.names(&caller, Command::AuthRoleList(request)).await?;
            Ok(pb::AuthRoleListResponse { header, roles })
        })
        .await
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        self.unary(Rpc::AuthRoleGet, false, request, |request, caller| async move {
            match self.propose(&caller, Command::AuthRoleGet(request)).await? {
                (Answer::Permissions(perm), revision) => Ok(pb::AuthRoleGetResponse {
                    header: Some(self.header(revision)),
                    perm,
                }),
                (other, _) => mismatch(&other),
            }
        })
        .await
    }

    proposed! {
        auth_enable = AuthEnable AuthEnableRequest AuthEnableResponse;
        auth_disable = AuthDisable AuthDisableRequest AuthDisableResponse;
        user_delete = AuthUserDelete AuthUserDeleteRequest AuthUserDeleteResponse;
        user_grant_role = AuthUserGrantRole AuthUserGrantRoleRequest AuthUserGrantRoleResponse;
        user_revoke_role = AuthUserRevokeRole AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse;
        role_add = AuthRoleAdd AuthRoleAddRequest AuthRoleAddResponse;
        role_delete = AuthRoleDelete AuthRoleDeleteRequest AuthRoleDeleteResponse;
        role_grant_permission = AuthRoleGrantPermission AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse;
        role_revoke_permission = AuthRoleRevokePermission AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse;
    }
}

impl Api {
    async fn hash(&self, password: String) -> Result<String, Denied> {
        use base64::Engine as _;
        let hash = self.passwords.hash(password).await?;
        Ok(base64::engine::general_purpose::STANDARD.encode(hash))
    }

    async fn names(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<(Option<pb::ResponseHeader>, Vec<String>), Denied> {
        match self.propose(caller, command).await? {
            (Answer::Names(names), revision) => Ok((Some(self.header(revision)), names)),
            (other, _) => mismatch(&other),
        }
    }

    /// The password is compared here, with the state as of now; if users or roles change before the login is
    /// applied, once more.
    async fn authenticate(
        &self,
        request: pb::AuthenticateRequest,
    ) -> Result<pb::AuthenticateResponse, Denied> {
        self.consensus.read_barrier().await?;
        loop {
            let checked = self.check_password(&request).await?;
            let token_prefix = match self.jwt {
                Some(_) => String::new(),
                None => self.token_prefix(),
            };
            let command = Command::Authenticate(AuthenticateCommand {
                name: request.name.clone(),
                token_prefix: token_prefix.clone(),
            });
            let (index, auth_revision, revision) = match self.propose(&Caller::Member, command).await? {
                (Answer::Authenticate { index, auth_revision }, revision) => (index, auth_revision, revision),
                (other, _) => mismatch(&other),
            };
            if auth_revision != checked {
                tracing::info!("the users changed while a password was checked; trying again");
                continue;
            }
            let token = match &self.jwt {
                Some(jwt) => jwt.sign(&request.name, auth_revision, self.env.wall_clock())?,
                None => simple_token(&token_prefix, index),
            };
            return Ok(pb::AuthenticateResponse {
                header: Some(self.header(revision)),
                token,
            });
        }
    }

    /// The auth revision at which the password was right.
    async fn check_password(&self, request: &pb::AuthenticateRequest) -> Result<u64, Denied> {
        let name = request.name.clone();
        let look = move |state: &State| {
            let auth = state.auth();
            (auth.is_enabled(), auth.revision(), auth.login(&name))
        };
        let (enabled, revision, login) = self.consensus.read(look).await;
        if !enabled {
            return Err(Denied::AuthNotEnabled);
        }
        if login.as_ref().is_some_and(|login| login.no_password) {
            return Err(Denied::NoPasswordUser);
        }
        let hash = login.map(|login| login.password_hash);
        if self.passwords.verify(request.password.clone(), hash).await {
            Ok(revision)
        } else {
            tracing::warn!(user = request.name, "invalid authentication was requested");
            Err(Denied::AuthFailed)
        }
    }

    fn token_prefix(&self) -> String {
        let letter = || {
            let place = self.env.random_u64() % TOKEN_LETTERS.len() as u64;
            char::from(TOKEN_LETTERS[place as usize])
        };
        std::iter::repeat_with(letter).take(TOKEN_LETTERS_COUNT).collect()
    }
}
