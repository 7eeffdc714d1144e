//! `plugins info|add|remove|verify`: which files the user agrees to.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value as Json, json};

use super::in_words;
use crate::cli::talk;
use crate::plugins::file::{self, PluginFile};
use crate::plugins::search::Folders;
use crate::plugins::trust::{Pin, Signer, Standing, Trust, TrustError, Verdict, signer};
use crate::plugins::{Listed, is_path};

/// Flags of `plugins info`.
#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    /// The file of a plugin, or the name of one that was added.
    #[arg(value_name = "NAME|PATH")]
    plugin: String,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Flags of `plugins add`.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The file of a plugin.
    #[arg(value_name = "PATH")]
    file: PathBuf,
    /// Refuse it unless a key of yours signed it.
    #[arg(long)]
    signed: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Flags of `plugins remove`.
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The name of a plugin that was added.
    name: String,
}

/// Flags of `plugins verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Only this one.
    name: Option<String>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

fn manifest(plugin: &PluginFile, signer: Option<&Signer>) -> Json {
    json!({
        "file": plugin.path,
        "sha256": plugin.sha256,
        "signed_by": signer.map(|signer| &signer.key),
        "manifest": plugin.manifest.to_json(),
    })
}

fn manifest_in_words(plugin: &PluginFile, signer: Option<&Signer>) -> String {
    let file::PluginFile { manifest, sha256, .. } = plugin;
    let signed = match signer {
        Some(Signer { key, comment }) if comment.is_empty() => format!("by {key}"),
        Some(Signer { key, comment }) => format!("by {key}: {comment}"),
        None => "by nobody whose key you have".into(),
    };
    format!(
        "{}  built     by {} for {}, against qeff-plugin-api {}, panic = {}\n  sha256    {sha256}\n  signed    {signed}\n",
        in_words(&Listed::declared(plugin)),
        manifest.rustc,
        manifest.target,
        manifest.api,
        manifest.panic,
    )
}

pub(super) fn info(args: &InfoArgs) -> Result<()> {
    let folders = Folders::of_process();
    let trust = Trust::open(&folders)?;
    let path = if is_path(&args.plugin) { PathBuf::from(&args.plugin) } else { added(&trust, &args.plugin)?.1 };
    let plugin = file::examine(&path)?;
    let signer = signer(&plugin, &folders)?;
    let standing = trust.standing(&plugin)?;
    if args.json {
        let mut json = manifest(&plugin, signer.as_ref());
        json["pinned"] = (standing == Standing::Pinned).into();
        return talk::json(&json);
    }
    let pinned = if standing == Standing::Pinned { "yes" } else { "no" };
    talk::data(&format!("{}  pinned    {pinned}\n", manifest_in_words(&plugin, signer.as_ref())))
}

/// The pin called `name`, and where its file is.
fn added(trust: &Trust, name: &str) -> Result<(Pin, PathBuf), TrustError> {
    let pin = trust.pins().iter().find(|pin| pin.name == name);
    pin.and_then(|pin| Some((pin.clone(), trust.file(pin)?))).ok_or_else(|| TrustError::NoPin {
        name: name.to_owned(),
        known: trust.pins().iter().map(|pin| pin.name.clone()).collect(),
    })
}

pub(super) fn add(args: &AddArgs) -> Result<()> {
    let folders = Folders::of_process();
    let mut trust = Trust::open(&folders)?;
    let plugin = file::examine(&args.file)?;
    let signer = signer(&plugin, &folders)?;
    if args.signed && signer.is_none() {
        bail!(
            "no key of yours signed `{}`; expected `{}.minisig` beside it, by a key in {}",
            args.file.display(),
            args.file.display(),
            folders.config.map_or_else(
                || "$XDG_CONFIG_HOME/qeff/keys".into(),
                |config| config.join("keys").display().to_string()
            ),
        );
    }
    let replaced = trust.add(&plugin, signer.as_ref())?;
    if args.json {
        let mut json = manifest(&plugin, signer.as_ref());
        json["replaced"] = replaced.map_or(Json::Null, |pin| pin.sha256.into());
        return talk::json(&json);
    }
    if let Some(old) = replaced.filter(|old| old.sha256 != plugin.sha256) {
        talk::say(&format!("replaces {} {} with sha256 {}", old.name, old.version, old.sha256));
    }
    talk::data(&manifest_in_words(&plugin, signer.as_ref()))
}

pub(super) fn remove(args: &RemoveArgs) -> Result<()> {
    let pin = Trust::open(&Folders::of_process())?.remove(&args.name)?;
    talk::say(&format!("removed {} {} with sha256 {}", pin.name, pin.version, pin.sha256));
    Ok(())
}

pub(super) fn verify(args: &VerifyArgs) -> Result<()> {
    let trust = Trust::open(&Folders::of_process())?;
    let pins = match &args.name {
        Some(name) => vec![added(&trust, name)?.0],
        None => trust.pins().to_vec(),
    };
    let verdicts: Vec<_> = pins.iter().map(|pin| (pin, trust.verify(pin))).collect();
    if args.json {
        let entry = |(pin, verdict): &(&Pin, Verdict)| {
            let why = match verdict {
                Verdict::Same => None,
                Verdict::Differs(why) => Some(why),
            };
            json!({ "name": pin.name, "version": pin.version, "sha256": pin.sha256, "same": why.is_none(), "why": why })
        };
        talk::json(&json!({ "plugins": verdicts.iter().map(entry).collect::<Vec<_>>() }))?;
    } else {
        for (pin, verdict) in &verdicts {
            let said = match verdict {
                Verdict::Same => "as pinned",
                Verdict::Differs(why) => why,
            };
            talk::data(&format!("{} {}: {said}\n", pin.name, pin.version))?;
        }
    }
    let changed = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Differs(_))).count();
    if changed > 0 {
        bail!("{changed} of {} plugins are not what was pinned", verdicts.len());
    }
    Ok(())
}
