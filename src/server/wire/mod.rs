//! From bytes to calls: connections, HTTP and gRPC, the JSON gateway, and what every call passes through.

pub mod authority_header;
pub mod boundary;
pub mod call;
pub mod coalesce;
pub mod connection;
pub mod front;
pub mod gateway;
pub mod health_checks;
pub mod http;
pub mod path;
pub mod rpc;
pub mod status;
pub mod streams;
pub mod unread;
