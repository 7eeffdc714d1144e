//! Plugins: what can be described, pooled, rewritten and read, and by whom.
//!
//! A family may be linked into this binary or come from a file that somebody else built; whoever uses it must not be able
//! to tell. So both stand in one [`Registry`] behind the same traits, and both answer through the wire form.
//!
//! A file takes this way, and each step knows only the one before it:
//!
//! | step | decides |
//! |---|---|
//! | [`search`] | where plugins are looked for |
//! | [`mod@file`] | whether a file is in order, and what it declares; executes nothing |
//! | [`trust`] | whether it is the file that the user agreed to |
//! | `loading`, [`worker`] | where it runs, and what it may do there |
//! | [`Registry`] | who describes what |
//!
//! This module does not know what a description means, and keeps no list of families: the list is what was linked and
//! loaded.

mod entry;
mod error;
pub mod file;
mod items;
mod linked;
mod loading;
mod registry;
pub mod search;
pub mod trust;
pub mod worker;

pub use entry::{Entry, Origin, Source, is_path};
pub use error::PluginsError;
pub use loading::{Loading, Place};
pub use registry::{Listed, Registry};

// Only a crate that is named is linked, and only what is linked is registered.
#[cfg(feature = "builtin-plugins")]
use {
    qeff_plugin_bert as _, qeff_plugin_deberta_v2 as _, qeff_plugin_distilbert as _, qeff_plugin_gpt_oss as _,
    qeff_plugin_gpt2 as _, qeff_plugin_granite as _, qeff_plugin_internvl as _, qeff_plugin_llama as _,
    qeff_plugin_llava as _, qeff_plugin_modernbert as _, qeff_plugin_mpnet as _, qeff_plugin_pooling as _,
    qeff_plugin_qwen2 as _, qeff_plugin_qwen3 as _, qeff_plugin_roberta as _, qeff_plugin_swiftkv as _,
    qeff_plugin_wav2vec2 as _, qeff_plugin_whisper as _,
};
