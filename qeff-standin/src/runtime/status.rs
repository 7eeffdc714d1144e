//! Status numbers, and how a call fails.

/// What a call answers: `QStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// It did what it should.
    pub const SUCCESS: Status = Status(0);
    /// Something is still going on.
    pub const BUSY: Status = Status(4);
    /// No such card.
    pub const NODEV: Status = Status(5);
    /// An argument, or the moment, is wrong.
    pub const INVAL: Status = Status(6);
    /// Not enough of something.
    pub const NOSPC: Status = Status(7);
    /// It took too long.
    pub const TIMEDOUT: Status = Status(9);
    /// Nobody can do this.
    pub const UNSUPPORTED: Status = Status(11);
    /// The card is lost.
    pub const DEV_ERROR: Status = Status(300);
    /// Anything else.
    pub const ERROR: Status = Status(500);
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail {
    /// What it answers.
    pub status: Status,
    /// What it tells whoever listens.
    pub said: String,
    /// What the caller did wrong, if it is the caller's fault in a way that the real library need not notice.
    pub misuse: Option<String>,
}

impl Fail {
    /// A failure.
    pub fn new(status: Status, said: impl Into<String>) -> Self {
        Fail { status, said: said.into(), misuse: None }
    }

    /// A wrong use.
    pub fn misuse(status: Status, what: impl Into<String>) -> Self {
        let what = what.into();
        Fail { status, said: what.clone(), misuse: Some(what) }
    }
}
