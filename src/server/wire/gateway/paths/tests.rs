use std::collections::BTreeSet;

use super::super::json::pool;
use super::*;
use crate::server::wire::rpc::Rpc;

#[test]
fn every_path_names_a_method_and_no_method_is_forgotten() {
    let mut reached = BTreeSet::new();
    for (path, service, method) in PATHS {
        let service = pool().get_service_by_name(service).expect(path);
        assert!(service.methods().any(|known| known.name() == *method), "{path}");
        reached.insert((service.full_name().to_owned(), (*method).to_owned()));
    }
    for rpc in Rpc::ALL {
        let (service, method, _) = rpc.describe();
        let is_grpc_only = method == "RangeStream" || service.starts_with("grpc.health");
        let here = reached.contains(&(service.to_owned(), method.to_owned()));
        assert_eq!(here, !is_grpc_only, "{service}/{method}");
    }
    assert_eq!(PATHS.len(), 51, "44 of rpc.proto, 2 of locks, 5 of elections");
}
