//! The cards of the machine, as far as a process sees them.

use std::sync::Mutex;

use super::lock;
use super::status::{Fail, Status};
use crate::config::{Card, CardStatus};

/// All cards.
pub struct Cards {
    list: Mutex<Vec<State>>,
}

struct State {
    card: Card,
    /// Cores that programs of this process have.
    used: u32,
    lost: bool,
}

/// What a card says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The card.
    pub card: Card,
    /// What it is like now.
    pub status: CardStatus,
    /// Cores that nobody has.
    pub free: u32,
}

impl Cards {
    pub(super) fn new(cards: &[Card]) -> Self {
        let list = cards.iter().map(|card| State { card: card.clone(), used: 0, lost: false }).collect();
        Cards { list: Mutex::new(list) }
    }

    /// Their numbers.
    pub fn ids(&self) -> Vec<i32> {
        lock(&self.list).iter().map(|state| state.card.qid).collect()
    }

    /// What a card says of itself; `None` if there is none of that number.
    pub fn look(&self, qid: i32) -> Option<Snapshot> {
        let list = lock(&self.list);
        let state = list.iter().find(|state| state.card.qid == qid)?;
        Some(Snapshot { card: state.card.clone(), status: state.status(), free: state.free() })
    }

    /// Whether a card can be used.
    pub fn is_ready(&self, qid: i32) -> bool {
        self.look(qid).is_some_and(|card| card.status == CardStatus::Ready)
    }

    /// Refuses a program that cannot have its cores.
    pub(super) fn check(&self, qids: &[i32], cores: u32) -> Result<(), Fail> {
        for &qid in qids {
            let card = self.look(qid).filter(|card| card.status == CardStatus::Ready);
            let card = card.ok_or_else(|| Fail::new(Status::NODEV, format!("Device {qid} is not available")))?;
            if card.free < cores {
                return Err(Fail::new(
                    Status::ERROR,
                    format!(
                        "Device {qid} does not satisfy the resource requirements ({cores} NSPs, {} free)",
                        card.free
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Takes cores on every card, or on none.
    pub(super) fn take(&self, qids: &[i32], cores: u32) -> Result<(), Fail> {
        let mut list = lock(&self.list);
        for &qid in qids {
            let state = list.iter().find(|state| state.card.qid == qid);
            if state.is_none_or(|state| state.status() != CardStatus::Ready) {
                return Err(Fail::new(Status::DEV_ERROR, format!("Device {qid} is in error")));
            }
            if state.is_some_and(|state| state.free() < cores) {
                let said = "QAIC_ERROR_NSP_ALLOC_FAILED: Failed to allocate NSP resources";
                return Err(Fail::new(Status::NOSPC, format!("{said} on device {qid}")));
            }
        }
        list.iter_mut().filter(|state| qids.contains(&state.card.qid)).for_each(|state| state.used += cores);
        Ok(())
    }

    /// Gives them back.
    pub(super) fn give_back(&self, qids: &[i32], cores: u32) {
        for state in lock(&self.list).iter_mut().filter(|state| qids.contains(&state.card.qid)) {
            state.used = state.used.saturating_sub(cores);
        }
    }

    /// Loses cards for good.
    pub(super) fn lose(&self, qids: &[i32]) {
        lock(&self.list).iter_mut().filter(|state| qids.contains(&state.card.qid)).for_each(|state| state.lost = true);
    }
}

impl State {
    fn status(&self) -> CardStatus {
        if self.lost { CardStatus::Error } else { self.card.status }
    }

    fn free(&self) -> u32 {
        u32::from(self.card.cores).saturating_sub(u32::from(self.card.busy)).saturating_sub(self.used)
    }
}
