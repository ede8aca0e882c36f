//! The etcd wire contract: generated messages, services and clients, one module per package.
//!
//! The `.proto` files in this folder are written for this project; names and numbers are the
//! contract with every etcd client. Nothing here knows what a request means.

mod codec;
pub mod nesting;
mod txn;

pub use codec::Codec;

/// The generated code answers to its own rules of style.
macro_rules! package {
    ($module:ident, $name:literal) => {
        #[allow(clippy::all, missing_docs)]
        pub mod $module {
            tonic::include_proto!($name);
        }
    };
}

package!(mvccpb, "mvccpb");
package!(authpb, "authpb");
/// etcd's own package.
#[allow(clippy::all, missing_docs)]
pub mod etcdserverpb {
    pub use super::txn::{TxnRequest, TxnResponse};
    tonic::include_proto!("etcdserverpb");
}
package!(membershippb, "membershippb");
package!(v3lockpb, "v3lockpb");
package!(v3electionpb, "v3electionpb");
package!(command, "command");

/// OpenTelemetry's collector.
#[allow(clippy::all, missing_docs)]
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// The standard gRPC health service.
#[allow(clippy::all, missing_docs)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
