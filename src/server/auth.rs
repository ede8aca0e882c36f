//! The Auth service of a server without authentication: its status says so, logging in is refused as etcd refuses
//! it while authentication is off, and managing users and roles is not implemented yet.

use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::rpc::Rpc;
use crate::base::Denied;
use crate::proto::etcdserverpb::{self as pb, auth_server::Auth};

/// etcd's auth revision before the first change.
const FIRST_AUTH_REVISION: u64 = 1;

/// Methods that are all refused in the same way.
macro_rules! refused {
    ($($method:ident = $rpc:ident $request:ident $response:ident;)*) => {$(
        fn $method<'a, 'b>(&'a self, request: Request<pb::$request>) -> Refusal<'b, pb::$response>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(self.unimplemented(Rpc::$rpc, request))
        }
    )*};
}

/// What `async_trait` makes of an async method; a macro has to spell it out.
type Refusal<'a, T> =
    std::pin::Pin<Box<dyn std::future::Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

#[async_trait]
impl Auth for Api {
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.unary(Rpc::AuthStatus, false, request, |_| async {
            let header = Some(self.header_now());
            Ok(pb::AuthStatusResponse {
                header,
                enabled: false,
                auth_revision: FIRST_AUTH_REVISION,
            })
        })
        .await
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.unary(Rpc::Authenticate, false, request, |_| async {
            Err(Denied::AUTH_NOT_ENABLED)
        })
        .await
    }

    refused! {
        auth_enable = AuthEnable AuthEnableRequest AuthEnableResponse;
        auth_disable = AuthDisable AuthDisableRequest AuthDisableResponse;
        user_add = UserAdd AuthUserAddRequest AuthUserAddResponse;
        user_get = UserGet AuthUserGetRequest AuthUserGetResponse;
        user_list = UserList AuthUserListRequest AuthUserListResponse;
        user_delete = UserDelete AuthUserDeleteRequest AuthUserDeleteResponse;
        user_change_password = UserChangePassword AuthUserChangePasswordRequest AuthUserChangePasswordResponse;
        user_grant_role = UserGrantRole AuthUserGrantRoleRequest AuthUserGrantRoleResponse;
        user_revoke_role = UserRevokeRole AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse;
        role_add = RoleAdd AuthRoleAddRequest AuthRoleAddResponse;
        role_get = RoleGet AuthRoleGetRequest AuthRoleGetResponse;
        role_list = RoleList AuthRoleListRequest AuthRoleListResponse;
        role_delete = RoleDelete AuthRoleDeleteRequest AuthRoleDeleteResponse;
        role_grant_permission = RoleGrantPermission AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse;
        role_revoke_permission = RoleRevokePermission AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse;
    }
}
