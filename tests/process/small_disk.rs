//! A disk that is small and really full: a tmpfs in a mount namespace of its own, which needs no root where users may
//! have namespaces.
//!
//! ```text
//!   test ──► holder: unshare -rm, mount, then waits for the end of its input ── the mount lives as long
//!        └─► member: nsenter into the holder's namespaces, then the binary
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::{PATIENCE, lines_of};

pub struct SmallDisk {
    path: PathBuf,
    holder: Child,
}

impl SmallDisk {
    /// Mounts one at a directory, visible to who is started by [`Self::launcher`]; `None`, with a message, where
    /// that is not allowed.
    pub fn mount(path: &Path, mebibytes: u32) -> Option<SmallDisk> {
        fs::create_dir_all(path).expect("a directory can be made");
        let script = format!("mount -t tmpfs -o size={mebibytes}m none \"$1\" && echo mounted && exec cat");
        let holder = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script, "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut holder) = holder else {
            eprintln!("skipped: no unshare on the PATH");
            return None;
        };
        let output = lines_of(holder.stdout.take().expect("standard output is a pipe"));
        let mounted = output.recv_timeout(PATIENCE).is_ok();
        let disk = SmallDisk {
            path: path.to_owned(),
            holder,
        };
        if !mounted {
            eprintln!("skipped: no tmpfs may be mounted here");
        }
        mounted.then_some(disk)
    }

    /// What comes before a command that is to see the disk.
    pub fn launcher(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        let words = ["nsenter", "-U", "-m", "--preserve-credentials", "-t", &target];
        words.map(str::to_owned).to_vec()
    }

    /// Gives it another size, with what is on it.
    pub fn resize(&self, mebibytes: u32) {
        let launcher = self.launcher();
        let done = Command::new(&launcher[0])
            .args(&launcher[1..])
            .args(["mount", "-o", &format!("remount,size={mebibytes}m")])
            .arg(&self.path)
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "the disk can be resized"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
