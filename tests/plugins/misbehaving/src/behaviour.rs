//! What no plugin should do.

use std::io::Write as _;
use std::time::Duration;

/// The worker's socket: a plugin that looks finds it.
const SOCKET: libc::c_int = 3;

fn say(bytes: &[u8]) {
    // SAFETY: the bytes are there; the descriptor is only written to.
    unsafe { libc::write(SOCKET, bytes.as_ptr().cast(), bytes.len()) };
}

#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 512]);
    deeper(depth + 1) + here[17]
}

/// Does it. Nothing is asked for by an empty text.
pub(crate) fn behave(how: &str) {
    match how {
        "" | "well" => {}
        "segfault" => {
            // SAFETY: there is none.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }
        }
        "overflow" => println!("{}", deeper(0)),
        "abort" => std::process::abort(),
        "panic" => panic!("on purpose"),
        "exit" => std::process::exit(0),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "sleep" => std::thread::sleep(Duration::from_secs(3600)),
        "allocate" => {
            let mut all = vec![];
            loop {
                all.push(vec![1u8; 64 << 20]);
            }
        }
        "print" => {
            println!("hello from the plugin");
            eprintln!("\u{1b}[31mhello once more");
        }
        "print without end" => loop {
            println!("hello from the plugin");
        },
        "thread" => drop(std::thread::spawn(|| {}).join()),
        // SAFETY: neither side does anything afterwards that a forked process must not do.
        "fork" => unsafe {
            libc::fork();
        },
        "execute" => drop(std::process::Command::new("/bin/true").status()),
        "read a file" => drop(std::fs::read("/etc/passwd")),
        "write a file" => drop(std::fs::write("/tmp/qeff-misbehaving", "was here")),
        "list a folder" => drop(std::fs::read_dir("/").map(Iterator::count)),
        "connect" => drop(std::net::TcpStream::connect("127.0.0.1:80")),
        "connect locally" => drop(std::os::unix::net::UnixStream::connect("/run/x")),
        // SAFETY: a signal to the process that asks, which no plugin may send.
        "kill the host" => unsafe {
            libc::kill(libc::getppid(), libc::SIGKILL);
        },
        // SAFETY: a limit of this process.
        "raise limits" => unsafe {
            let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_AS, &all);
        },
        // SAFETY: what it asks the kernel for is refused.
        "trace the host" => unsafe {
            libc::ptrace(libc::PTRACE_ATTACH, libc::getppid(), 0, 0);
        },
        "say garbage" => {
            say(&9u64.to_le_bytes());
            say(&[0xff; 9]);
        }
        "say nothing in a message" => say(&0u64.to_le_bytes()),
        "announce an exabyte" => say(&(1u64 << 60).to_le_bytes()),
        "announce and stop" => {
            say(&1000u64.to_le_bytes());
            behave("sleep");
        }
        // An answer, and another that nobody asked for: the next question gets the wrong one.
        "answer without a model" => {
            say(&7u64.to_le_bytes());
            say(&[0x0a, 5, 0x0a, 3, 0xff, 0xff, 0xff]);
        }
        "hang up" => {
            // SAFETY: nobody here uses the descriptor afterwards without an error.
            unsafe { libc::close(SOCKET) };
            behave("sleep");
        }
        "close all" => {
            // SAFETY: as above.
            (0..16).for_each(|n| unsafe {
                libc::close(n);
            });
        }
        other => {
            let _ = writeln!(std::io::stderr(), "no such behaviour: {other}");
        }
    }
}
