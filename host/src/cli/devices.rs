//! `devices`: the cards of this machine.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::talk;
use crate::compile::sdk::cards::{self, Card};
use crate::compile::sdk::{INSTALLED, ROOT_VARIABLE};
use crate::runtime::qaic::ffi::Library;
use crate::runtime::qaic::locate::{Located, locate};

/// Flags of `devices`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of the AI 100 SDK [default: QAIC_SDK_ROOT, else /opt/qti-aic].
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let located = locate(args.sdk.as_deref());
    let mut cards = located.util.as_deref().map(cards::ask).unwrap_or_default();
    let library = Library::open(&located.library, &located.by);
    if let Ok(library) = &library {
        // The runtime's own word on what is free is newer than the tool's.
        for card in &mut cards {
            let resources = i32::try_from(card.qid).ok().and_then(|qid| library.resources(qid));
            if let Some(resources) = resources.filter(|resources| resources.nsp_total > 0) {
                (card.cores, card.free_cores) = (Some(resources.nsp_total.into()), Some(resources.nsp_free.into()));
            }
        }
    }
    let advice = advice(&located, &cards, library.is_ok());
    if args.json {
        return talk::json(&json!({
            "devices": cards,
            "library": located.library,
            "library_opens": library.is_ok(),
            "advice": advice,
        }));
    }
    if let Err(error) = &library {
        talk::warn(&error.to_string());
    }
    if let Some(advice) = &advice {
        talk::say(advice);
    }
    talk::data(&table(&cards))
}

/// What to do if there is no card that can be used.
fn advice(located: &Located, cards: &[Card], opens: bool) -> Option<String> {
    if cards.iter().any(|card| card.status == "Ready") && opens {
        return None;
    }
    Some(match (&located.util, cards.is_empty()) {
        (None, _) => format!(
            "no AI 100 SDK was found: install the Platform SDK (driver, firmware and runtime) to {INSTALLED}, set \
             {ROOT_VARIABLE}, or give --sdk; without a card, `run` is on the CPU"
        ),
        (Some(util), true) => format!(
            "{} lists no card: is one plugged in (`lspci -d 17cb:`), is the driver loaded (`lsmod | grep qaic`, \
             `ls /dev/accel`), and is this user in the group qaic (`id`)?",
            util.display()
        ),
        (Some(_), false) if opens => {
            "no card is ready: one that is starting needs a minute; one in error a reset, or this user the group qaic"
                .into()
        }
        (Some(_), false) => "there are cards, and no runtime that can be opened: install the Platform SDK".into(),
    })
}

fn table(cards: &[Card]) -> String {
    let number = |n: Option<u64>| n.map_or("?".into(), |n| n.to_string());
    let mut text = String::new();
    for card in cards {
        text.push_str(&format!(
            "{:<4} {:<13} {:<8} {:>2} of {:>2} cores free  {:>6} of {:>6} MB free  board {}\n",
            card.qid,
            card.status,
            if card.variant.is_empty() { "?" } else { &card.variant },
            number(card.free_cores),
            number(card.cores),
            number(card.free_memory_mb),
            number(card.memory_mb),
            if card.board.is_empty() { "?" } else { &card.board },
        ));
    }
    text
}
