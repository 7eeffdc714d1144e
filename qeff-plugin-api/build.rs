//! Records compiler and target for the manifest of a plugin: a host that refuses a plugin says what built it.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok().filter(|output| output.status.success());
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let version = version.trim();
    println!("cargo::rustc-env=QEFF_RUSTC={}", if version.is_empty() { "unknown" } else { version });
    println!("cargo::rustc-env=QEFF_TARGET={}", std::env::var("TARGET").as_deref().unwrap_or("unknown"));
    println!("cargo::rerun-if-changed=build.rs");
}
