//! Test suites of others, from crates.io: installed once, beside what cargo builds.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::say;

/// A program of a crate, in exactly this version: the one that was installed into `tools` of the target folder before,
/// or is now.
///
/// # Panics
/// It can't be had.
pub fn tool(name: &str, version: &str) -> PathBuf {
    let test = std::env::current_exe().expect("path of the test");
    let target = test.ancestors().nth(3).expect("target folder");
    let root = target.join("tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return program;
    }
    say(&format!("installing {name} {version} into {}, once", root.display()));
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", "--quiet", "--locked", "--version", version, "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(target.join("tools/build"))
        .arg(name)
        // The repository's settings are no concern of it.
        .current_dir(target)
        .stdin(Stdio::null())
        .output()
        .expect("run cargo");
    assert!(
        output.status.success(),
        "this test needs {name} {version} from crates.io, which could not be installed: put it to {} by hand\n{}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    program
}
