//! What ended a worker, in words that follow "it".

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use qeff_plugin_api::abi::MAX_ANSWER;
use rustix::process::Signal;

use super::Limits;
use super::channel::Failure;
use super::sandbox::{self, FORBIDDEN};

/// What the sandbox comes down to.
const RULE: &str = "a plugin computes, in one thread, and reaches no files, no network and no other processes";

/// Most characters of what a plugin printed that are shown.
const SHOWN: usize = 400;

pub(super) fn tell(failure: &Failure, status: Option<ExitStatus>, limits: Limits, printed: &str) -> String {
    let (event, printed) = match failure {
        Failure::Late => (format!("did not answer within {} s and was ended", limits.wall.as_secs_f64()), printed),
        Failure::TooLong(bytes) => {
            let most = MAX_ANSWER >> 20;
            (format!("answered with {bytes} bytes and was ended; expected at most {most} MiB"), printed)
        }
        Failure::Garbage(what) => (format!("answered with what is no answer and was ended: {what}"), printed),
        Failure::System(error) => (format!("cannot be asked: {error}"), printed),
        Failure::Closed => match forbidden(status, printed) {
            Some((call, printed)) => {
                (format!("made the system call `{call}`, which a plugin must not, and was ended; {RULE}"), printed)
            }
            None => (ended(status, limits), printed),
        },
    };
    if printed.is_empty() {
        return event;
    }
    let lines: Vec<_> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" | ");
    let skip = text.chars().count().saturating_sub(SHOWN);
    let text: String = text.chars().skip(skip).collect();
    format!("{event}; it printed: {}{text}", if skip > 0 { "…" } else { "" })
}

/// The forbidden system call that the process was ended for, and what it had printed before.
fn forbidden(status: Option<ExitStatus>, printed: &str) -> Option<(String, &str)> {
    status.filter(|status| status.code() == Some(FORBIDDEN.code))?;
    let (before, line) = printed.rsplit_once('\n').unwrap_or(("", printed));
    let number = line.strip_prefix(FORBIDDEN.mark)?.trim().parse().ok()?;
    Some((sandbox::name(number), before))
}

fn ended(status: Option<ExitStatus>, limits: Limits) -> String {
    let Some(status) = status else { return "closed its connection and was ended".into() };
    if let Some(code) = status.code() {
        return format!("ended its own process with code {code}");
    }
    let Some(number) = status.signal() else { return format!("ended with {status}") };
    let signal = |signal: Signal| signal.as_raw() == number;
    let known = if signal(Signal::SEGV) {
        "SIGSEGV: it touched memory that is not its own, or overflowed its stack"
    } else if signal(Signal::BUS) {
        "SIGBUS: it touched memory that is not there"
    } else if signal(Signal::ILL) {
        "SIGILL: it ran into an instruction that this machine does not have, or that marks a bug"
    } else if signal(Signal::FPE) {
        "SIGFPE: it divided by zero"
    } else if signal(Signal::ABORT) {
        "SIGABRT: it gave up, as a program does that panics without unwinding, overflows its stack or gets no memory"
    } else if signal(Signal::XCPU) {
        return format!("used more than {} s of processor time and was ended", limits.cpu.as_secs_f64());
    } else if signal(Signal::KILL) {
        "SIGKILL: somebody ended it, or the system ran out of memory"
    } else if signal(Signal::SYS) {
        // Its signals were blocked, so that the call could not be named: the C library does that for new threads.
        return format!("made a system call, as for a new thread, which a plugin must not, and was ended; {RULE}");
    } else {
        return format!("died of signal {number}");
    };
    format!("died of {known}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(failure: Failure, raw: i32, printed: &str) -> String {
        let limits = Limits { wall: Duration::from_millis(1500), ..Limits::default() };
        tell(&failure, Some(ExitStatus::from_raw(raw)), limits, printed)
    }

    #[test]
    fn events_are_told_in_words() {
        assert_eq!(told(Failure::Late, 9, ""), "did not answer within 1.5 s and was ended");
        assert!(told(Failure::Closed, 11, "").starts_with("died of SIGSEGV"));
        assert!(told(Failure::Closed, 24, "").starts_with("used more than 10 s of processor time"));
        assert_eq!(told(Failure::Closed, 3 << 8, "a\n\nb"), "ended its own process with code 3; it printed: a | b");
        assert_eq!(told(Failure::Closed, 34, ""), "died of signal 34");
    }

    #[test]
    fn a_forbidden_call_is_told_by_name() {
        let line = format!("hello\n{}{}", FORBIDDEN.mark, libc::SYS_socket);
        let text = told(Failure::Closed, FORBIDDEN.code << 8, &line);
        assert!(
            text.starts_with("made the system call `socket`, which") && text.ends_with("it printed: hello"),
            "{text}"
        );
        // A plugin can say so too, and then it is about itself.
        assert!(told(Failure::Closed, FORBIDDEN.code << 8, "x").contains("ended its own process"));
    }

    #[test]
    fn the_end_of_long_talk_is_shown() {
        let text = told(Failure::Late, 9, &format!("{}end", "x".repeat(2000)));
        assert!(text.len() < 500 && text.ends_with("xend") && text.contains("…x"), "{text}");
    }
}
