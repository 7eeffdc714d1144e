//! What a worker gives up before it loads a plugin.
//!
//! Three fences, each of which holds by itself for most of what there is to fear: limits on memory, time and files;
//! landlock, which leaves no file system but the folders of the system's libraries, for reading; and a seccomp filter that
//! lists what a computation needs, and traps every other system call. There are no half measures: what cannot be enforced
//! in full is reported as not enforced.
//!
//! It does not hide what this machine is (processor, time), and it is as good as the kernel that enforces it.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// How a worker ends that made a forbidden system call: exit code, and what stands before the call's number on stderr.
pub(super) struct Forbidden {
    pub(super) code: i32,
    pub(super) mark: &'static str,
}

pub(super) const FORBIDDEN: Forbidden = Forbidden { code: 159, mark: "forbidden system call " };

/// Where the loader finds the system's libraries.
const LIBRARIES: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
/// Descriptors that a worker needs: the standard ones, the socket, the image, the arena, and what the loader opens.
const DESCRIPTORS: u64 = 16;

/// Sets limits, and ties this process to the one that started it.
pub(super) fn limit(memory: u64, cpu_seconds: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, limit) in [(Resource::As, memory), (Resource::Cpu, cpu_seconds)] {
        // The host moves these as calls need it; the plugin cannot, for want of the system call.
        let maximum = getrlimit(resource).maximum;
        let current = maximum.map_or(limit, |maximum| maximum.min(limit));
        setrlimit(resource, Rlimit { current: Some(current), maximum })?;
    }
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
        (Resource::Nofile, DESCRIPTORS),
    ] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// Gives up files, network and other processes, for good.
///
/// # Errors
/// Says what the system cannot enforce.
pub(super) fn confine() -> Result<(), String> {
    landlocked().map_err(|error| format!("landlock: {error}"))?;
    install(&while_loading()).map_err(|error| format!("seccomp: {error}"))
}

/// Gives up what only loading needed.
///
/// # Errors
/// Says what the system cannot enforce.
pub(super) fn confine_further() -> Result<(), String> {
    install(&once_loaded()).map_err(|error| format!("seccomp: {error}"))
}

fn landlocked() -> Result<(), String> {
    // The first version knows every access to files but truncation and device controls, which are system calls that the
    // filter does not know; and so for later versions' network and signals.
    let abi = ABI::V1;
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(LIBRARIES, AccessFs::from_read(abi)))?
            .restrict_self()
    };
    let status = restrict().map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced if status.no_new_privs => Ok(()),
        other => Err(format!("it is {other:?}")),
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn install(rules: &Result<(Rules, SeccompAction, SeccompAction), seccompiler::BackendError>) -> Result<(), String> {
    let (rules, otherwise, listed) = rules.as_ref().map_err(ToString::to_string)?;
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let filter = SeccompFilter::new(rules.clone(), otherwise.clone(), listed.clone(), arch);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

/// A call is allowed only with `value` as its argument `index`.
fn only(index: u8, value: u64) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// What a computation and the loader need; every other call is trapped.
fn while_loading() -> Result<(Rules, SeccompAction, SeccompAction), seccompiler::BackendError> {
    let mut rules: Rules = COMPUTING.iter().chain(LOADING).map(|&(call, _)| (call, vec![])).collect();
    // Of these, one use each.
    rules.insert(libc::SYS_tgkill, only(0, std::process::id().into())?);
    rules.insert(libc::SYS_fcntl, only(1, libc::F_GETFD as u64)?);
    // Limits may be read, not set.
    rules.insert(libc::SYS_prlimit64, only(2, 0)?);
    rules.insert(libc::SYS_prctl, [only(0, libc::PR_SET_NO_NEW_PRIVS as u64)?, only(0, PR_SET_VMA)?].concat());
    Ok((rules, SeccompAction::Trap, SeccompAction::Allow))
}

/// Names a piece of memory for whoever looks at the process; allocators do it.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// What only the loader needed is trapped from now on; the first filter still holds.
fn once_loaded() -> Result<(Rules, SeccompAction, SeccompAction), seccompiler::BackendError> {
    let rules = LOADING.iter().map(|&(call, _)| (call, vec![])).collect();
    Ok((rules, SeccompAction::Allow, SeccompAction::Trap))
}

macro_rules! calls {
    ($($(#[$attr:meta])* $call:ident),* $(,)?) => {
        &[$($(#[$attr])* (libc::$call, stringify!($call)),)*]
    };
}

/// Memory, time, randomness, signals of its own, what it was handed, and the end.
const COMPUTING: &[(i64, &str)] = calls![
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_close,
    SYS_recvmsg,
    SYS_lseek,
    SYS_ppoll,
    SYS_brk,
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_futex,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getpid,
    SYS_gettid,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_restart_syscall,
    SYS_getrandom,
    SYS_exit,
    SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    SYS_poll,
    #[cfg(target_arch = "x86_64")]
    SYS_time,
];

/// Opening libraries (landlock says which), and adding the second filter.
const LOADING: &[(i64, &str)] = calls![
    SYS_openat,
    SYS_fstat,
    SYS_newfstatat,
    SYS_pread64,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
];

/// Calls that are likely to be trapped, for their names.
const TRAPPED: &[(i64, &str)] = calls![
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_clone,
    SYS_clone3,
    SYS_execve,
    SYS_execveat,
    SYS_openat2,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kill,
    SYS_tgkill,
    SYS_tkill,
    SYS_setrlimit,
    SYS_prlimit64,
    SYS_prctl,
    SYS_bpf,
    SYS_io_uring_setup,
    SYS_memfd_create,
    SYS_ftruncate,
    SYS_truncate,
    SYS_unlinkat,
    SYS_mkdirat,
    SYS_renameat2,
    SYS_getdents64,
    SYS_getcwd,
    SYS_chdir,
    SYS_ioctl,
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_statx,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_shmget,
    SYS_uname,
    SYS_getppid,
    SYS_getuid,
    SYS_wait4,
    SYS_setsid,
    SYS_unshare,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_fork,
    #[cfg(target_arch = "x86_64")]
    SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
];

/// The name of a system call.
pub(super) fn name(number: i64) -> String {
    let known = TRAPPED.iter().chain(LOADING).find(|(call, _)| *call == number);
    known.map_or_else(|| format!("number {number}"), |(_, name)| name.trim_start_matches("SYS_").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_built() {
        for (rules, otherwise, listed) in [while_loading().unwrap(), once_loaded().unwrap()] {
            let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let filter = SeccompFilter::new(rules, otherwise, listed, arch).unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            assert!(!program.is_empty());
        }
    }

    #[test]
    fn no_call_is_both_needed_and_told_as_trapped() {
        for (call, name) in TRAPPED {
            assert!(!COMPUTING.iter().chain(LOADING).any(|(other, _)| other == call), "{name}");
        }
        assert_eq!((name(libc::SYS_socket), name(9999)), ("socket".to_owned(), "number 9999".to_owned()));
    }
}
