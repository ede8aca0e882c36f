//! Compiles the wire contract in src/proto with protox: no system protoc is needed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/proto");
    let files = [
        "rpc.proto",
        "lock.proto",
        "election.proto",
        "health.proto",
        "membership.proto",
        "command.proto",
        "otlp.proto",
    ];
    let descriptors = protox::compile(files, ["src/proto"])?;
    // The JSON gateway reads names and types at run time.
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(format!("{out}/descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        // They contain themselves: see src/proto/txn.rs.
        .extern_path(
            ".etcdserverpb.TxnRequest",
            "crate::proto::etcdserverpb::TxnRequest",
        )
        .extern_path(
            ".etcdserverpb.TxnResponse",
            "crate::proto::etcdserverpb::TxnResponse",
        )
        .codec_path("crate::proto::Codec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
