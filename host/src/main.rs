//! The command line; everything else is in the library.

fn main() -> std::process::ExitCode {
    qeff_host::cli::main()
}
