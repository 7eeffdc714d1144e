//! `qaic-util -q`: the list of cards.

use anyhow::{Result, bail};

use crate::config::{Card, SimConfig};

/// What `qaic-util` prints.
///
/// # Errors
/// If it is asked something else than for the list.
pub fn list(arguments: &[String], config: &SimConfig) -> Result<String> {
    let mut wanted = None;
    let mut arguments = arguments.iter();
    let mut asked = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-q" => asked = true,
            "-d" => wanted = arguments.next().and_then(|qid| qid.parse::<i32>().ok()),
            other => bail!("Invalid option {other}"),
        }
    }
    if !asked {
        bail!("expected -q [-d QID]");
    }
    let cards: Vec<&Card> = config.cards.iter().filter(|card| wanted.is_none_or(|qid| card.qid == qid)).collect();
    if cards.is_empty() {
        return Ok("No valid device found\n".into());
    }
    Ok(cards.into_iter().map(card).collect())
}

fn card(card: &Card) -> String {
    let lines = [
        ("Status", card.status_text().to_owned()),
        ("PCI Address", format!("0000:{:02x}:00.0", card.qid + 1)),
        ("HW Version", "2.0.0.0".to_owned()),
        ("FW IMAGE_VARIANT", card.variant.clone()),
        ("Dram Total", format!("{} MB", card.dram_mb)),
        ("Dram Free", format!("{} MB", card.dram_mb)),
        ("Nsp Total", card.cores.to_string()),
        ("Nsp Free", card.cores.saturating_sub(card.busy).to_string()),
        ("Networks Loaded", "0".to_owned()),
        ("Networks Active", "0".to_owned()),
        ("Board serial", card.board.clone()),
        ("Device Capabilities", card.capabilities.join(" ")),
    ];
    let lines: String = lines.iter().map(|(key, value)| format!("\t{key}:{value}\n")).collect();
    format!("QID {}\n{lines}", card.qid)
}
