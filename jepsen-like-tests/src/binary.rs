//! What is under test: the `pennon` binary that `PENNON_BIN` names, else the one of this workspace, built
//! with the profile of the test itself; and the library that can stand between it and the system, which
//! `PENNON_BETWEEN` names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::failure::{Failure, Result};

/// Finds the binary, building it first unless `PENNON_BIN` names one. Done once a process.
///
/// # Errors
/// When it cannot be built or found; with what the build said.
pub fn pennon() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf>> = OnceLock::new();
    let what = ["-p", "pennon-node", "--bin", "pennon"];
    let name = format!("pennon{}", std::env::consts::EXE_SUFFIX);
    FOUND
        .get_or_init(|| find("PENNON_BIN", &what, &name))
        .clone()
}

/// Finds the library, building it first unless `PENNON_BETWEEN` names one. Done once a process.
///
/// # Errors
/// When it cannot be built or found; with what the build said.
pub fn between() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf>> = OnceLock::new();
    let what = ["-p", "pennon-between"];
    let name = format!("libpennon_between{}", std::env::consts::DLL_SUFFIX);
    FOUND
        .get_or_init(|| find("PENNON_BETWEEN", &what, &name))
        .clone()
}

fn find(variable: &str, what: &[&str], name: &str) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(Failure::new(format!(
                "{variable} names {}, which is no file",
                named.display()
            ))),
        };
    }
    let me = std::env::current_exe()?;
    let Some(directory) = me.ancestors().skip(1).find(|at| !at.ends_with("deps")) else {
        return Err(Failure::new(format!(
            "{} is in no target directory",
            me.display()
        )));
    };
    build(directory, what)?;
    let file = directory.join(name);
    match file.is_file() {
        true => Ok(file),
        false => Err(Failure::new(format!(
            "the build left no {}",
            file.display()
        ))),
    }
}

/// Builds into the target directory that this executable is in.
fn build(directory: &Path, what: &[&str]) -> Result<()> {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .args(what)
        .arg("--manifest-path")
        .arg(manifest);
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    let built = command
        .output()
        .map_err(|why| Failure::during("cargo build", why))?;
    match built.status.success() {
        true => Ok(()),
        false => Err(Failure::during(
            format!("cargo build {}", what.join(" ")),
            String::from_utf8_lossy(&built.stderr),
        )),
    }
}
