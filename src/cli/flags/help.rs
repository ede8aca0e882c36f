//! What `--help`, `--version` and a mistyped flag print.

use std::fmt::Write;

use super::table::{SECTIONS, Support};
use super::value;

/// The version of etcd whose contract this server keeps; its clients and tools parse it.
pub const ETCD_VERSION: &str = "3.7.1";

/// The short usage that follows a message about a flag.
pub const USAGE: &str = "\
Usage:

  quorate [flags]
    Start a server: etcd's wire contract, flags and variables (ETCD_*).

  quorate --version
    Show the version.

  quorate -h | --help
    Show every flag.
";

/// Exactly four lines, of which tools parse the first. The third names the compiler: there is no Go here.
pub fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {}\nGo Version: {}\nGo OS/Arch: {}/{}\n",
        option_env!("QUORATE_GIT_SHA").unwrap_or("Not provided"),
        concat!("none (quorate ", env!("CARGO_PKG_VERSION"), ", Rust)"),
        std::env::consts::OS,
        go_architecture(),
    )
}

/// The name that Go has for this processor.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Every flag with its default, by section.
pub fn all_flags() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let _ = writeln!(text, "\n{}:", section.title);
        for flag in section.flags {
            let default = value::canonical(flag.kind, flag.default).unwrap_or_default();
            let note = match flag.support {
                Support::Built | Support::Gone => "",
                Support::Inert => " Accepted, without effect.",
            };
            let _ = writeln!(text, "  --{} '{default}'\n    {}{note}", flag.name, flag.help);
        }
    }
    text
}

#[cfg(test)]
mod tests;
