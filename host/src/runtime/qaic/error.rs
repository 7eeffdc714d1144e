//! What can go wrong between us and a card: which call, what it said, what to look at.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use qeff_core::qpc::QpcError;

/// A status of the C interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// It worked.
    pub const SUCCESS: Status = Status(0);
    /// There is no such device.
    pub const NO_DEVICE: Status = Status(5);
    /// Something took too long.
    pub const TIMED_OUT: Status = Status(9);
    /// The device failed.
    pub const DEVICE_ERROR: Status = Status(300);

    /// Its name and what it means.
    fn meaning(self) -> (&'static str, &'static str) {
        match self.0 {
            0 => ("SUCCESS", "it worked"),
            1 => ("PERM", "not permitted"),
            2 => ("AGAIN", "not at this moment"),
            3 => ("NOMEM", "out of memory"),
            4 => ("BUSY", "busy"),
            5 => ("NODEV", "no such device"),
            6 => ("INVAL", "an argument or the order of calls is wrong"),
            7 => ("NOSPC", "not enough of a resource"),
            8 => ("BADFD", "a handle is not valid"),
            9 => ("TIMEDOUT", "it took too long"),
            10 => ("PROTOCOL", "library and firmware do not understand each other"),
            11 => ("UNSUPPORTED", "not supported"),
            12 => ("DATA_CRC_ERROR", "data arrived damaged"),
            300 => ("DEV_ERROR", "the device failed"),
            500 => ("ERROR", "it failed"),
            _ => ("unknown", "a status that is not documented"),
        }
    }

    /// What to look at.
    fn advice(self, call: &str) -> &'static str {
        match (self.0, call) {
            (_, "qaicOpenQpcFile") => "compile the program anew, with the SDK that is installed here",
            (1 | 8, _) => "is this user in the group qaic? `ls -l /dev/accel` shows who may open the cards",
            (10, _) => "update firmware and SDK together: `qeff-host doctor` shows the versions",
            (5, _) => "`qeff-host devices` lists the cards that are here, and whether they are ready",
            (3 | 4 | 7, _) | (500, "qaicCreateProgram" | "qaicRunActivationCmd") => {
                "other programs may hold cores or memory: `qeff-host devices` shows what is free; fewer --num-cores, or \
                 other cards with --device-group"
            }
            (300, _) => "the card may have to be reset: `qaic-util -q` shows its status",
            (12, _) => "try again; if it comes back, the card or its slot is faulty",
            (9, _) => "raise --device-timeout if the program is that slow; otherwise the card may have to be reset",
            _ => "`qaic-util -q` shows the status of the cards, and `dmesg` what the driver says",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, meaning) = self.meaning();
        write!(f, "{} {name}: {meaning}", self.0)
    }
}

/// A call of the C interface that failed.
#[derive(Debug, Clone)]
pub struct CallError {
    /// The function.
    pub call: &'static str,
    /// On what, e.g. a card.
    pub on: String,
    /// What it returned.
    pub status: Status,
    /// What the library said meanwhile.
    pub said: Vec<String>,
    /// What may explain it, known from elsewhere.
    pub note: Option<String>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed on {}: {}", self.call, self.on, self.status)?;
        self.said.iter().try_for_each(|line| write!(f, "\n  | {line}"))?;
        if let Some(note) = &self.note {
            write!(f, "\n  {note}")?;
        }
        write!(f, "\nhint: {}", self.status.advice(self.call))
    }
}

/// Why something on cards failed.
#[derive(Debug, thiserror::Error)]
pub enum QaicError {
    /// The library is not there, or cannot be opened.
    #[error(
        "cannot open the AI 100 runtime {} ({by}): {why}\nhint: install the Platform SDK, name its folder with --sdk, or the \
         library with QAIC_LIB; `qeff-host doctor` shows what is found",
        library.display()
    )]
    Library {
        /// The file.
        library: PathBuf,
        /// Why this one.
        by: String,
        /// What the system says.
        why: String,
    },
    /// The library lacks a function.
    #[error(
        "{} has no function {symbol}; expected the AI 100 runtime of SDK 1.6 or later\nhint: update the Platform SDK",
        library.display()
    )]
    Symbol {
        /// The file.
        library: PathBuf,
        /// The function.
        symbol: &'static str,
    },
    /// Library and header are of different releases.
    #[error(
        "{} has version {}.{}, and its header {} is of {}.{}; expected the same first number and at least the second\n\
         hint: library and header are of different SDKs: install the Platform SDK anew",
        library.display(), found.0, found.1, header.display(), expected.0, expected.1
    )]
    Version {
        /// The library.
        library: PathBuf,
        /// Its version.
        found: (u16, u16),
        /// The header.
        header: PathBuf,
        /// The version that it is of.
        expected: (u16, u16),
    },
    /// What is needed of the header cannot be read from it.
    #[error("{why}\nhint: one card needs no header; a program for several does, and `dev/inc` of the SDK has it")]
    Header {
        /// What is missing, and where.
        why: String,
    },
    /// A call failed.
    #[error("{0}")]
    Call(Box<CallError>),
    /// A call did not come back in time.
    #[error(
        "{on} did not answer within {} s; what is on it is given up{}\nhint: {}",
        after.as_secs_f64(), lines(said), Status::TIMED_OUT.advice("")
    )]
    Silent {
        /// Cards.
        on: String,
        /// How long was waited.
        after: Duration,
        /// What the library said meanwhile.
        said: Vec<String>,
    },
    /// The program was given up before.
    #[error("the program on {on} was given up after an earlier failure")]
    GivenUp {
        /// Cards.
        on: String,
    },
    /// A card cannot take the program.
    #[error("card {card} {why}")]
    NotReady {
        /// The card.
        card: i32,
        /// Why not, and what to do.
        why: String,
    },
    /// The file is no QPC.
    #[error("{}: {error}\nhint: expected programqpc.bin as a compiler writes it", path.display())]
    Qpc {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: QpcError,
    },
    /// Program, cards and what was asked for do not go together.
    #[error("{0}")]
    Unfit(String),
    /// A call does not fit the program.
    #[error("{0}")]
    Misuse(String),
}

fn lines(said: &[String]) -> String {
    said.iter().map(|line| format!("\n  | {line}")).collect()
}

impl QaicError {
    /// Whether further calls of the program make no sense.
    pub fn is_lost(&self) -> bool {
        match self {
            QaicError::Silent { .. } | QaicError::GivenUp { .. } => true,
            QaicError::Call(error) => matches!(error.status, Status::NO_DEVICE | Status::DEVICE_ERROR),
            _ => false,
        }
    }

    /// Whether the cards or what is installed for them failed, rather than what was asked of them.
    pub fn is_external(&self) -> bool {
        !matches!(self, QaicError::Unfit(_) | QaicError::Misuse(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_says_everything() {
        let error = CallError {
            call: "qaicRunActivationCmd",
            on: "card 2".into(),
            status: Status(500),
            said: vec!["NSP allocation failed".into()],
            note: Some("16 cores are needed and 4 are free".into()),
        };
        assert_eq!(
            error.to_string(),
            "qaicRunActivationCmd failed on card 2: 500 ERROR: it failed\n  | NSP allocation failed\n  16 cores are needed \
             and 4 are free\nhint: other programs may hold cores or memory: `qeff-host devices` shows what is free; fewer \
             --num-cores, or other cards with --device-group"
        );
        assert!(!QaicError::Call(Box::new(error.clone())).is_lost());
        assert!(QaicError::Call(Box::new(CallError { status: Status::DEVICE_ERROR, ..error })).is_lost());
    }

    #[test]
    fn documented_statuses_have_names() {
        for code in (0..=12).chain([300, 500]) {
            assert_ne!(Status(code).meaning().0, "unknown", "{code}");
        }
        assert!(Status(77).to_string().contains("not documented"));
    }
}
