//! The boundary between a host and a plugin that was built elsewhere: the only module that names abi_stable, and with it
//! the only one here with `unsafe`.
//!
//! Two separately compiled images share no Rust layout, no panic machinery and no allocator. So what crosses is shallow: a
//! table of C functions whose arguments and answers are bytes (`message`, [`wire`](crate::wire)). An item has no
//! state of its own, so a function takes the item's number in the plugin's sorted registry where an object would be only
//! that number in disguise. abi_stable contributes the header, strings and vectors that know their own allocator, and a
//! recursive type check at load time; its stock loader is not used, because it refuses older plugins and keeps one module a
//! process (see [`load`](load()) for the rules that replace it).
//!
//! Compatibility: within epoch 1 (the symbol `qeff_plugin_v1__…`), functions are appended to `PluginMod` and nothing else
//! changes. The epoch is the major version of [`ABI_VERSION`].
//!
//! This module does not look at files, does not decide which plugin is trusted and does not sandbox: **a loaded plugin has
//! all rights of the process that loads it**, and loading alone runs its code. The host does so around [`load`](load()): it
//! opens the file once, checks and hashes what it read, and loads that very copy inside a worker process. What crosses
//! stays the same there, so the items of a plugin ([`Plugin`]) are made over [`Calls`], whoever passes them on.
#![allow(unsafe_code)]
// abi_stable's derives put impls into hidden functions.
#![allow(non_local_definitions)]

mod calls;
#[cfg(test)]
mod layout_tests;
mod load;
mod manifest;
mod message;
mod note;
mod remote;
#[cfg(test)]
mod round_trip_tests;
mod shim;

pub use calls::{Call, Calls};
pub use load::{LoadFault, Module, load};
pub use manifest::Manifest;
#[doc(hidden)]
pub use note::{Contributions, Facts, Note, note, note_length};
pub use note::{MAX_NOTE, NOTE_OWNER, NOTE_SECTION, NOTE_TYPE};
pub use remote::Plugin;
#[doc(hidden)]
pub use shim::{Header, Identity, header};

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RStr, RString, RVec};

/// Version of the boundary, apart from the version of the crate: a minor version appends functions.
pub const ABI_VERSION: &str = "1.0.0";
/// Beginning of the name of the one symbol of a plugin of this epoch; its crate's name follows.
pub const SYMBOL_PREFIX: &str = "qeff_plugin_v1__";
/// Bytes that the symbol has at least: a header of abi_stable.
pub const SYMBOL_SIZE: usize = size_of::<abi_stable::library::AbiHeader>();
/// Longest answer to a call that a host reads: a model and the little that goes with it.
pub const MAX_ANSWER: usize = crate::wire::MAX_BYTES + (1 << 20);

/// What a plugin exports. Items are numbered in the order of the manifest, each kind by itself.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModRef)))]
#[sabi(missing_field(option))]
pub(crate) struct PluginMod {
    /// JSON; see [`Manifest`].
    pub(crate) manifest: extern "C" fn() -> RResult<RString, RawError>,
    /// `(architecture, config text)`: 0 no, 1 in general, 2 exactly.
    pub(crate) recognise: extern "C" fn(u32, RStr<'_>) -> RResult<u32, RawError>,
    /// `(architecture, DescribeRequest)`: a ModelAnswer.
    pub(crate) describe: extern "C" fn(u32, RSlice<'_, u8>) -> RResult<RVec<u8>, RawError>,
    /// `(pooling head, ModelRequest)`: a ModelAnswer.
    pub(crate) pool: extern "C" fn(u32, RSlice<'_, u8>) -> RResult<RVec<u8>, RawError>,
    /// `(rewrite, ModelRequest)`: a ModelAnswer.
    pub(crate) rewrite: extern "C" fn(u32, RSlice<'_, u8>) -> RResult<RVec<u8>, RawError>,
    /// `(format, beginning of the file, its name)`: whether the file is of the format.
    pub(crate) probe: extern "C" fn(u32, RSlice<'_, u8>, RStr<'_>) -> RResult<bool, RawError>,
    /// `(format, beginning of the file, length of the file)`: an IndexAnswer.
    pub(crate) index: extern "C" fn(u32, RSlice<'_, u8>, u64) -> RResult<RVec<u8>, RawError>,
    /// `(format, encoding, bytes, result)`. The last function of version 1.0: this mark never moves within the epoch.
    #[sabi(last_prefix_field)]
    pub(crate) decode: extern "C" fn(u32, RStr<'_>, RSlice<'_, u8>, RSliceMut<'_, u8>) -> RResult<(), RawError>,
}

impl RootModule for PluginModRef {
    abi_stable::declare_root_module_statics! {PluginModRef}

    const BASE_NAME: &'static str = "qeff_plugin";
    const NAME: &'static str = "qeff_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(ABI_VERSION);
}

/// An error as it crosses; frozen for the epoch.
#[repr(C)]
#[derive(StableAbi)]
pub(crate) struct RawError {
    /// One of the constants of [`code`].
    pub(crate) code: u32,
    /// One line.
    pub(crate) message: RString,
    /// By code: the parts of which the message is made.
    pub(crate) context: RVec<RString>,
    /// Source file and line, for a panic.
    pub(crate) location: RString,
}

/// What kind of error crosses. A host treats a number it does not know as [`OTHER`](code::OTHER).
pub(crate) mod code {
    /// Words only.
    pub(crate) const OTHER: u32 = 0;
    /// config.json does not fit; the context is field, expected, found.
    pub(crate) const CONFIG: u32 = 1;
    /// The plugin panicked.
    pub(crate) const PANIC: u32 = 2;
}
