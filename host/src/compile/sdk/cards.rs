//! The cards of this machine, as `qaic-util -q` lists them.
//!
//! Asking takes a child process and, with many cards, seconds. What a compilation wants to know (kind, cores, memory) does
//! not change while the machine is up, so the answer is kept until it restarts or the tool is replaced.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compile::child;

/// How long an answer without a ready card is believed.
const SOON: Duration = Duration::from_secs(600);

/// A card, or one of the chips of a board that count as cards.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Card {
    /// Its number.
    pub qid: u32,
    /// `Ready`, `Error` …
    pub status: String,
    /// Image variant of the firmware, which tells AI 100 from AI 200.
    pub variant: String,
    /// Cores.
    pub cores: Option<u64>,
    /// Cores that no program had when this was asked.
    #[serde(default)]
    pub free_cores: Option<u64>,
    /// Memory in MB.
    pub memory_mb: Option<u64>,
    /// Memory that was free, in MB.
    #[serde(default)]
    pub free_memory_mb: Option<u64>,
    /// Serial number of the board, shared by chips of one board.
    pub board: String,
}

impl Card {
    /// Whether this is an AI 200.
    pub fn is_ai200(&self) -> bool {
        self.variant.to_ascii_uppercase().contains("AIC200")
    }
}

/// What was asked when.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Start of the machine.
    boot: String,
    /// The tool that was asked.
    tool: String,
    cards: Vec<Card>,
}

/// Asks the cards, or takes what was kept at `memo`. A tool that fails has found no card.
pub fn cards(util: &Path, memo: &Path) -> Vec<Card> {
    let identity = (std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok(), file_identity(util));
    let (Some(boot), Some(tool)) = identity else { return ask(util) };
    let kept = std::fs::read_to_string(memo).ok().and_then(|text| serde_json::from_str::<Kept>(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.boot == boot && kept.tool == tool) {
        // No card, or one that is starting up: that may change without a restart.
        let settled = !kept.cards.is_empty() && kept.cards.iter().all(|card| card.status == "Ready");
        let age = std::fs::metadata(memo).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if settled || age.is_some_and(|age| age < SOON) {
            return kept.cards;
        }
    }
    let kept = Kept { boot, tool, cards: ask(util) };
    // Best effort: without the memo the question is only asked again.
    let _ = serde_json::to_string(&kept).map(|text| crate::artifacts::write_whole(memo, text.as_bytes()));
    kept.cards
}

/// Asks the cards now.
pub fn ask(util: &Path) -> Vec<Card> {
    let mut command = Command::new(util);
    command.arg("-q");
    child::capture(command, Duration::from_secs(10)).map_or_else(Vec::new, |text| parse(&text))
}

fn file_identity(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).ok()?;
    Some(format!("{} {} {} {} {}", path.display(), meta.dev(), meta.ino(), meta.size(), meta.mtime()))
}

pub(super) fn parse(text: &str) -> Vec<Card> {
    let mut cards: Vec<Card> = vec![];
    for line in text.lines() {
        if let Some(qid) = line.strip_prefix("QID ").and_then(|rest| rest.trim().trim_end_matches(':').parse().ok()) {
            cards.push(Card { qid, ..Card::default() });
            continue;
        }
        let (Some(card), Some((key, value))) = (cards.last_mut(), line.split_once(':')) else { continue };
        let value = value.trim();
        let number = || value.split_whitespace().next().and_then(|number| number.parse().ok());
        match key.trim() {
            "Status" => value.clone_into(&mut card.status),
            "FW IMAGE_VARIANT" => value.clone_into(&mut card.variant),
            "Nsp Total" => card.cores = number(),
            "Nsp Free" => card.free_cores = number(),
            "Dram Total" => card.memory_mb = number(),
            "Dram Free" => card.free_memory_mb = number(),
            "Board serial" => value.clone_into(&mut card.board),
            _ => {}
        }
    }
    cards
}
