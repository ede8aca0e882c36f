//! Which server to start: the one that was named, or quorate, built if cargo runs us.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The server to test.
pub fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = named {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => Err(format!("{} is not a file", path.display())),
        };
    }
    let own = std::env::current_exe().map_err(|error| format!("own path unknown: {error}"))?;
    let folder = own.parent().ok_or("this program is in no folder")?;
    build(folder)?;
    let beside = folder.join("quorate");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "{} does not exist: build it (cargo build --release), or name a server with --binary",
        beside.display()
    ))
}

/// Under `cargo run` the server may be missing or out of date, as cargo builds only this program.
fn build(folder: &Path) -> Result<(), String> {
    let (Some(cargo), Some(package)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    else {
        return Ok(());
    };
    let (Some(target), Some(profile)) = (folder.parent(), folder.file_name()) else {
        return Ok(());
    };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "quorate", "--bin", "quorate"]);
    command.arg("--target-dir").arg(target).current_dir(package);
    if profile == "release" {
        command.arg("--release");
    }
    let status = command
        .status()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("building quorate failed".into()),
    }
}
