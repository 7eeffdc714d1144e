//! What executes a model: an engine on the CPU, or cards.

use std::time::Duration;

use anyhow::{Result, bail};
use qeff_core::lower::Target;

use super::compile::args::CardArgs;
use super::engines::EngineArgs;
use super::forms::FormArgs;
use super::talk;
use crate::engines::Selected;
use crate::forms::WeightForms;
use crate::runtime::qaic::program::DEFAULT_TIMEOUT;

/// Flags of whatever executes a model.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Execution")]
pub(crate) struct ExecutorArgs {
    #[command(flatten)]
    forms: FormArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    pub(crate) cards: CardArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

impl ExecutorArgs {
    /// Whether cards are meant, rather than the CPU.
    ///
    /// # Errors
    /// If it is the CPU, and a flag was given that is about cards only.
    pub(crate) fn on_cards(&self) -> Result<bool> {
        if self.cards.device_group.is_some() || self.cards.sdk.is_some() {
            return Ok(true);
        }
        let stray = self.cards.first_given().or(self.device.is_given().then_some("--device-timeout"));
        match stray {
            Some(flag) => {
                bail!("{flag} is about AI 100, and this is on the CPU: add --device-group or --sdk, or leave it out")
            }
            None => Ok(false),
        }
    }

    /// How weights and numbers are stored for a target.
    pub(crate) fn forms(&self, target: Target) -> Result<WeightForms> {
        self.forms.forms(target)
    }

    /// The engine that is meant, which is told unless all is to be `quiet`.
    pub(crate) fn engine(&self, quiet: bool) -> Result<Selected> {
        let selected = self.engine.select()?;
        if !quiet {
            talk::say(&format!("engine: {}", selected.about));
        }
        Ok(selected)
    }
}

/// Flags about cards at run time.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "AI 100")]
pub(crate) struct DeviceArgs {
    /// Give up a call that a card does not answer within this time [default: 60].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    device_timeout: Option<u64>,
}

impl DeviceArgs {
    /// Whether one of these flags was given.
    pub(crate) fn is_given(&self) -> bool {
        self.device_timeout.is_some()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.device_timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs)
    }
}
