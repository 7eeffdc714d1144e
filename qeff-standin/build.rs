//! The library stays loaded: its engine keeps threads for as long as the process lives.

// This is how a build script speaks to cargo.
#[allow(clippy::print_stdout)]
fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
