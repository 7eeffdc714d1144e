//! The command line: see `qeff_host::cli`.

fn main() {}
