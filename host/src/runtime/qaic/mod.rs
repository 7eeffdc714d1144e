//! The runtime of AI 100 cards: `libQAic.so`, opened when it is needed.
//!
//! ```text
//! library ─► context ─► program ─► activation ─► execution      owned downwards, released upwards
//!               └─────► queue ──────────────────────┘ submit, complete
//! ```
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`locate`] | where library and header lie | what they do |
//! | [`ffi`] | functions, structs and numbers of the C interface | when to call them |
//! | [`header`] | the layout of a struct that differs between releases | C, beyond such structs |
//! | [`objects`] | who owns what, and what may be called when | names, models |
//! | `messages` | what the library says beside its status codes | |
//! | [`placement`] | which cards a program goes to | the library |
//! | [`program`] | calls by name, shapes, retained states | slots, positions |
//! | [`session`] | slots, positions, prefill and decode | C |
//!
//! `unsafe` is in [`ffi`] and [`objects`] only. What rests on a description nobody could check is listed in
//! `docs/src/reference/unproven.md`.

mod error;
pub mod ffi;
pub mod header;
pub mod locate;
mod messages;
pub mod objects;
pub mod placement;
pub mod program;
mod rows;
pub mod session;

pub use error::{CallError, QaicError, Status};
pub use placement::Free;
pub use program::{OpenOptions, QaicProgram, Ticket};
pub use session::QaicSession;
