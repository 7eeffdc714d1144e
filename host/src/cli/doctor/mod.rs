//! `doctor`: what was found on this machine, and what follows from it; or whether it is what was assumed.

mod acceptance;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value as Json, json};

use self::acceptance::Given;
pub(crate) use self::acceptance::NotAccepted;
use super::compile::args::{Numbers, numbers};
use super::talk;
use crate::compile::sdk::{INSTALLED, QnnSdk, ROOT_VARIABLE, Sdk, cards};
use crate::home::home;

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of an AI 100 SDK, to look there.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Root of a QNN SDK, to look there.
    #[arg(long, value_name = "DIR")]
    qnn_sdk: Option<PathBuf>,
    /// Check with a small checkpoint whether SDK and cards are what this program takes them to be. It compiles and runs.
    #[arg(long, value_name = "MODEL")]
    acceptance: Option<PathBuf>,
    /// Cards for --acceptance [default: 0].
    #[arg(long, value_name = "IDS", value_parser = numbers, requires = "acceptance")]
    device_group: Option<Numbers>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// A finding: what, found where, and what follows.
struct Finding {
    what: &'static str,
    found: String,
    so: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(model) = &args.acceptance {
        let group = args.device_group.as_ref().map_or(&[0][..], |Numbers(group)| group);
        let group = group.iter().map(|&card| i32::try_from(card)).collect::<Result<_, _>>()?;
        return acceptance::run(&Given { model, sdk: args.sdk.as_deref(), group, json: args.json });
    }
    let mut findings = vec![];
    let mut find = |what, found: String, so: String| findings.push(Finding { what, found, so });
    let home = home()?;
    find("cache", home.path.display().to_string(), format!("decided by {}", home.decided_by));

    let sdk = Sdk::find(args.sdk.as_deref())?;
    let mut facts = json!({ "cache": home.path, "sdk": null, "cards": [], "qnn_sdk": null });
    match &sdk {
        None => find(
            "AI 100 SDK",
            "none".into(),
            format!(
                "nothing can be compiled, only shown (--dry-run); install it to {INSTALLED}, set {ROOT_VARIABLE} or give --sdk"
            ),
        ),
        Some(sdk) => {
            find("AI 100 SDK", sdk.root.display().to_string(), format!("found by {}", sdk.found_by));
            facts["sdk"] = describe(sdk, &mut find);
        }
    }
    // Asked anew: whoever calls the doctor wants to know how it is now.
    let cards = sdk.as_ref().and_then(|sdk| sdk.qaic_util.as_deref()).map(cards::ask).unwrap_or_default();
    if sdk.is_some() && cards.is_empty() {
        find("cards", "none".into(), "programs are compiled for ai100 and 16 cores unless you say otherwise".into());
    }
    for card in &cards {
        let number = |n: Option<u64>| n.map_or("?".into(), |n| n.to_string());
        find(
            "card",
            format!("{} {}", card.qid, card.status),
            format!("{}, {} cores, {} MB", card.variant, number(card.cores), number(card.memory_mb)),
        );
    }
    facts["cards"] = json!(cards);
    match QnnSdk::find(args.qnn_sdk.as_deref())? {
        None => find("QNN SDK", "none".into(), "--enable-qnn needs one: set QNN_SDK_ROOT or give --qnn-sdk".into()),
        Some(qnn) => {
            let version = qnn.version.clone().unwrap_or_else(|| "unknown version".into());
            find("QNN SDK", qnn.root.display().to_string(), version);
            facts["qnn_sdk"] = json!({ "root": qnn.root, "version": qnn.version });
        }
    }
    if args.json {
        return talk::json(&facts);
    }
    let text: String = findings
        .iter()
        .map(|finding| format!("{:<12} {}\n{:<12}   → {}\n", finding.what, finding.found, "", finding.so))
        .collect();
    talk::data(&text)
}

fn describe(sdk: &Sdk, find: &mut dyn FnMut(&'static str, String, String)) -> Json {
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".into());
    find(
        "versions",
        format!("apps {}, platform {}", version(&sdk.apps_version), version(&sdk.platform_version)),
        "they are part of the key of what is compiled".into(),
    );
    let compiler = sdk.compiler();
    if let Some(compiler) = &compiler {
        let (dialect, why) = &compiler.dialect;
        find(
            "compiler",
            compiler.path.display().to_string(),
            format!("{} specializations, hardware called {} ({why})", dialect.name(), compiler.hw_version.0),
        );
    }
    match &sdk.library {
        Some(library) => find("runtime", library.display().to_string(), "it executes programs on cards".into()),
        None => find("runtime", "none".into(), "this machine can compile, not run".into()),
    }
    json!({
        "root": sdk.root,
        "found_by": sdk.found_by,
        "apps_version": sdk.apps_version,
        "platform_version": sdk.platform_version,
        "compiler": compiler.as_ref().map(|compiler| json!({
            "path": compiler.path,
            "tool": compiler.tool.name(),
            "specializations": compiler.dialect.0.name(),
            "hw_version": compiler.hw_version.0,
        })),
        "library": sdk.library,
    })
}
