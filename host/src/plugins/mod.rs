//! Placeholder until the registry lands.
use anyhow::{Context as _, Result};
use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Registration, Request, registered};
use qeff_plugin_gpt2 as _;
use qeff_plugin_llama as _;
pub struct Registry;
pub struct Answer {
    pub model: Model,
    pub plugin: String,
    pub unread: Vec<String>,
}
impl Registry {
    pub fn builtin() -> Self {
        Registry
    }
    pub fn describe(&self, config: &Config, tensors: &TensorIndex, _plugin: Option<&str>) -> Result<Answer> {
        for entry in registered() {
            if let Registration::Architecture(a) = entry.item
                && a.recognise(config).is_some()
            {
                let request = Request { config: Config::parse(&config.to_text())?, tensors: tensors.clone() };
                let model = a.describe(&request)?;
                return Ok(Answer { model, plugin: entry.plugin.into(), unread: request.config.unread() });
            }
        }
        None.context("unknown architecture")
    }
}
