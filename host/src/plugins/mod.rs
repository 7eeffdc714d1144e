//! Plugins: what can be described, pooled, rewritten and read, and by whom.
//!
//! A family may be linked into this binary or come from a file that somebody else built; whoever uses it must not be able
//! to tell. So both stand in one [`Registry`] behind the same traits, and both answer through the wire form.
//!
//! This module does not know what a description means, and keeps no list of families: the list is what was linked and
//! loaded.

mod error;
mod linked;
mod registry;

pub use error::PluginsError;
pub use registry::{Entry, Listed, Origin, Registry, Source, is_path};

// Only a crate that is named is linked, and only what is linked is registered.
#[cfg(feature = "builtin-plugins")]
use {
    qeff_plugin_gpt_oss as _, qeff_plugin_gpt2 as _, qeff_plugin_granite as _, qeff_plugin_internvl as _,
    qeff_plugin_llama as _, qeff_plugin_llava as _, qeff_plugin_qwen2 as _, qeff_plugin_qwen3 as _,
    qeff_plugin_swiftkv as _,
};
