//! The `pennon` binary under test: the one that `PENNON_BIN` names, else the one of this workspace,
//! built with the profile of the test itself.

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
    FOUND.get_or_init(find).clone()
}

fn find() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("PENNON_BIN") {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(Failure::new(format!(
                "PENNON_BIN names {}, which is no file",
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
    build(directory)?;
    let binary = directory.join(format!("pennon{}", std::env::consts::EXE_SUFFIX));
    match binary.is_file() {
        true => Ok(binary),
        false => Err(Failure::new(format!(
            "the build left no {}",
            binary.display()
        ))),
    }
}

/// Builds the binary into the target directory that this executable is in.
fn build(directory: &Path) -> Result<()> {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "build",
        "--quiet",
        "--locked",
        "-p",
        "pennon-node",
        "--bin",
        "pennon",
    ]);
    command
        .args(["--profile", profile])
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
            "cargo build -p pennon-node",
            String::from_utf8_lossy(&built.stderr),
        )),
    }
}
