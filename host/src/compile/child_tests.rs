use std::cell::RefCell;

use super::*;

struct Ran {
    result: Result<(), ChildError>,
    lines: Vec<String>,
    log: String,
    took: Duration,
}

/// Executes a shell script.
fn run(script: &str, timeout: Option<Duration>) -> Ran {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    let argv = ["/bin/sh", "-c", script].map(str::to_owned);
    let lines = RefCell::new(vec![]);
    let started = Instant::now();
    let result = execute(Execution {
        argv: &argv,
        log: &log,
        stdin: None,
        timeout,
        started: &|_| {},
        line: &|line| lines.borrow_mut().push(line.to_owned()),
    });
    let log = std::fs::read_to_string(&log).expect("a log");
    Ran { result, lines: lines.into_inner(), log, took: started.elapsed() }
}

#[test]
fn both_outputs_are_shown_and_kept() {
    let ran = run("echo one; echo two >&2; printf '10%%\\r20%%\\rdone'", None);
    assert!(ran.result.is_ok(), "{:?}", ran.result);
    let mut lines = ran.lines.clone();
    lines.sort();
    assert_eq!(lines, ["10%", "20%", "done", "one", "two"]);
    assert!(ran.log.contains("one\n") && ran.log.contains("10%\r20%\rdone"), "{:?}", ran.log);
}

#[test]
fn a_failure_brings_its_last_lines() {
    let ran = run("for i in $(seq 40); do echo line $i; done; exit 255", None);
    let Err(ChildError::Failed { status, tail, .. }) = ran.result else { panic!("{:?}", ran.result) };
    assert_eq!(status, "exit code 255");
    assert_eq!((tail.len(), tail.last().map(String::as_str)), (TAIL, Some("line 40")));
    let ran = run("kill -9 $$", None);
    assert!(matches!(&ran.result, Err(ChildError::Failed { status, .. }) if status == "signal 9"), "{:?}", ran.result);
}

#[test]
fn a_deadline_ends_grandchildren_too() {
    let ran = run("sleep 60 & echo $!; wait", Some(Duration::from_millis(300)));
    assert!(matches!(ran.result, Err(ChildError::TimedOut { .. })), "{:?}", ran.result);
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    let pid = ran.lines[0].clone();
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the grandchild runs on: {state}");
}

#[test]
fn a_grandchild_with_the_pipes_does_not_hold_us_up() {
    let ran = run("sleep 30 & echo started", None);
    assert!(ran.result.is_ok() && ran.took < Duration::from_secs(10), "{:?} {:?}", ran.result, ran.took);
}

#[test]
fn what_cannot_be_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let argv = ["/nowhere/qaic-compile".to_owned()];
    let run = |log: &str| {
        let log = dir.path().join(log);
        execute(Execution { argv: &argv, log: &log, stdin: None, timeout: None, started: &|_| {}, line: &|_| {} })
    };
    assert!(matches!(run("log"), Err(ChildError::Start { .. })));
    assert!(matches!(run("no/log"), Err(ChildError::Log { .. })));
}

#[test]
fn small_tools_answer_in_time_or_not_at_all() {
    let shell = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    };
    assert_eq!(capture(shell("echo yes"), Duration::from_secs(10)).as_deref(), Some("yes\n"));
    assert_eq!(capture(shell("echo no; exit 1"), Duration::from_secs(10)), None);
    assert_eq!(capture(shell("sleep 30"), Duration::from_millis(100)), None);
    assert_eq!(capture(Command::new("/nowhere"), Duration::from_secs(1)), None);
}

#[test]
fn endless_lines_come_in_pieces() {
    let mut lines = Lines::default();
    let mut pieces = 0;
    lines.push(&vec![b'x'; 3 * MAX_LINE], &mut |line| {
        pieces += 1;
        assert!(line.len() <= MAX_LINE);
    });
    assert_eq!(pieces, 2);
}
