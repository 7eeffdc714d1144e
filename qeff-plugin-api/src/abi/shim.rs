//! The plugin's side: C functions over this image's registry.
//!
//! Nothing unwinds out of here. A panic is caught and told with its message and place, which the host could not learn
//! otherwise: each image has a standard library of its own, so the host's panic hook never sees it.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleError};
use abi_stable::marker_type::ErasedPrefix;
use abi_stable::prefix_type::{PrefixRef, PrefixRefTrait, PrefixTypeTrait};
use abi_stable::std_types::{RErr, ROk, RResult, RSlice, RSliceMut, RStr, RString, RVec};
use prost::Message as _;

use super::manifest::Manifest;
use super::message::{self, DescribeRequest, ModelAnswer, ModelRequest};
use super::{PluginMod, PluginModRef, RawError, code};
use crate::config::Config;
use crate::graph::Model;
use crate::plugin::{Fit, PluginError, Registration, Request, registered};
use crate::{TensorIndex, wire};

/// What the exported symbol names.
#[doc(hidden)]
pub type Header = LibHeader;

/// Who a plugin is; implemented by [`export_plugin!`](crate::export_plugin).
#[doc(hidden)]
pub trait Identity {
    const NAME: &'static str;
    const VERSION: &'static str;
}

/// The header of a plugin.
#[doc(hidden)]
pub const fn header<I: Identity>() -> Header {
    // SAFETY: `module` returns the erased form of a `PluginModRef` and of nothing else.
    unsafe { LibHeader::from_constructor::<PluginModRef>(module::<I>, CheckTypeLayout::Yes) }
}

extern "C" fn module<I: Identity>() -> RResult<PrefixRef<ErasedPrefix>, RootModuleError> {
    let module = PluginMod { manifest: manifest::<I>, recognise, describe, pool, rewrite, probe, index, decode };
    // Once a process: the header keeps the result.
    let module = module.leak_into_prefix().to_prefix_ref();
    // SAFETY: the type is only erased; the reader restores it after it has compared layouts.
    ROk(unsafe { module.cast::<ErasedPrefix>() })
}

extern "C" fn manifest<I: Identity>() -> RResult<RString, RawError> {
    guard(|| Ok(Manifest::of_image(I::NAME, I::VERSION).to_json().to_string().into()))
}

/// Item `number` among those of this image that `pick` takes.
fn item<T>(number: u32, pick: impl Fn(&Registration) -> Option<T>) -> Result<T, PluginError> {
    let found = registered().into_iter().filter_map(|entry| pick(&entry.item)).nth(number as usize);
    found.ok_or_else(|| PluginError::Other(format!("the plugin has no item {number} of this kind")))
}

macro_rules! item {
    ($kind:ident, $number:expr) => {
        item($number, |entry| match entry {
            Registration::$kind(item) => Some(*item),
            _ => None,
        })
    };
}

extern "C" fn recognise(number: u32, config: RStr<'_>) -> RResult<u32, RawError> {
    guard(|| {
        let config = Config::parse(config.as_str())?;
        Ok(match item!(Architecture, number)?.recognise(&config) {
            None => 0,
            Some(Fit::Generic) => 1,
            Some(Fit::Exact) => 2,
        })
    })
}

extern "C" fn describe(number: u32, request: RSlice<'_, u8>) -> RResult<RVec<u8>, RawError> {
    guard(|| {
        let DescribeRequest { config, tensors } = message::read(request.as_slice())?;
        let request = Request { config: Config::parse(&config)?, tensors: message::tensor_index(tensors)? };
        let model = item!(Architecture, number)?.describe(&request)?;
        let read = serde_json::Value::from(request.config.read_fields()).to_string();
        Ok(ModelAnswer { model: wire::encode(&model), read }.encode_to_vec().into())
    })
}

extern "C" fn pool(number: u32, request: RSlice<'_, u8>) -> RResult<RVec<u8>, RawError> {
    guard(|| edit(request, |model, tensors| item!(Pooling, number)?.append(model, tensors)))
}

extern "C" fn rewrite(number: u32, request: RSlice<'_, u8>) -> RResult<RVec<u8>, RawError> {
    guard(|| edit(request, |model, tensors| item!(Rewrite, number)?.rewrite(model, tensors)))
}

fn edit(
    request: RSlice<'_, u8>,
    work: impl FnOnce(Model, &TensorIndex) -> Result<Model, PluginError>,
) -> Result<RVec<u8>, PluginError> {
    let ModelRequest { model, tensors } = message::read(request.as_slice())?;
    let tensors = message::tensor_index(tensors)?;
    let model = work(wire::decode(&model, &tensors)?, &tensors)?;
    Ok(ModelAnswer { model: wire::encode(&model), read: String::new() }.encode_to_vec().into())
}

extern "C" fn probe(number: u32, head: RSlice<'_, u8>, file_name: RStr<'_>) -> RResult<bool, RawError> {
    guard(|| Ok(item!(Format, number)?.probe(head.as_slice(), file_name.as_str())))
}

extern "C" fn index(number: u32, head: RSlice<'_, u8>, length: u64) -> RResult<RVec<u8>, RawError> {
    guard(|| Ok(message::write_index(item!(Format, number)?.index(head.as_slice(), length)?).into()))
}

extern "C" fn decode(
    number: u32,
    encoding: RStr<'_>,
    bytes: RSlice<'_, u8>,
    mut out: RSliceMut<'_, u8>,
) -> RResult<(), RawError> {
    guard(|| item!(Format, number)?.decode(encoding.as_str(), bytes.as_slice(), out.as_mut_slice()))
}

thread_local! {
    /// Whether this thread is inside [`guard`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Message and place of the last panic inside it.
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Runs a plugin's code so that neither an error nor a panic crosses in a form that the host cannot read.
fn guard<T>(work: impl FnOnce() -> Result<T, PluginError>) -> RResult<T, RawError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // Where the plugin is linked, this image is the host: outside of calls its own hook goes on.
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Where a panic ends the process, nobody is left to tell; what is printed, a worker's host shows.
            if !GUARDED.get() || cfg!(panic = "abort") {
                return previous(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PANIC.set(Some((text.unwrap_or_else(|| "(no message)".into()), place)));
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match result {
        Ok(Ok(answer)) => ROk(answer),
        Ok(Err(error)) => RErr(raw(&error)),
        Err(payload) => {
            // Dropping a stranger's payload may panic once more, this time through the C function.
            std::mem::forget(payload);
            let (message, location) = PANIC.take().unwrap_or_default();
            RErr(RawError {
                code: code::PANIC,
                message: message.into(),
                context: RVec::new(),
                location: location.into(),
            })
        }
    }
}

fn raw(error: &PluginError) -> RawError {
    let (code, context) = match error {
        PluginError::Config(config) => (code::CONFIG, vec![&config.field, &config.expected, &config.found]),
        _ => (code::OTHER, vec![]),
    };
    let context = context.into_iter().map(|text| RString::from(text.as_str())).collect();
    RawError { code, message: error.to_string().into(), context, location: RString::new() }
}
