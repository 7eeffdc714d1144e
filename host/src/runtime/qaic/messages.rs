//! What the library says beside its status codes: often the only thing that explains one.
//!
//! Callbacks arrive on any thread, and their user data is described differently in different releases, so there is one
//! memory for the process. Two programs that fail at the same moment may hear each other's messages.

use std::collections::VecDeque;
use std::sync::Mutex;

/// Messages that are kept.
const KEPT: usize = 32;
/// Most of a message that is kept, in bytes.
const MOST: usize = 1000;
/// Messages that an error shows.
const SHOWN: usize = 4;

struct Heard {
    /// Messages heard since the process began.
    count: u64,
    last: VecDeque<String>,
}

static HEARD: Mutex<Heard> = Mutex::new(Heard { count: 0, last: VecDeque::new() });

/// A moment: messages after it can be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(u64);

/// Now.
pub(super) fn now() -> Moment {
    Moment(HEARD.lock().map_or(0, |heard| heard.count))
}

/// Remembers a message.
pub(super) fn hear(message: &str) {
    let message = message.trim();
    let mut end = message.len().min(MOST);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let Ok(mut heard) = HEARD.lock() else { return };
    if message.is_empty() || heard.last.back().is_some_and(|last| last == &message[..end]) {
        return;
    }
    heard.count += 1;
    if heard.last.len() == KEPT {
        heard.last.pop_front();
    }
    heard.last.push_back(message[..end].to_owned());
}

/// The last messages after a moment.
pub(super) fn since(moment: Moment) -> Vec<String> {
    let Ok(heard) = HEARD.lock() else { return vec![] };
    let new = usize::try_from(heard.count.saturating_sub(moment.0)).unwrap_or(KEPT).min(heard.last.len()).min(SHOWN);
    heard.last.iter().skip(heard.last.len() - new).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        hear("before");
        let moment = now();
        assert_eq!(since(moment), Vec::<String>::new());
        hear(" a ");
        hear("a");
        hear("");
        hear(&"ü".repeat(MOST));
        let said = since(moment);
        assert_eq!(said[0], "a");
        assert_eq!((said.len(), said[1].len()), (2, MOST));
    }
}
