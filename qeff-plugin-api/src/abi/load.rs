//! The loader; see [`load`].

use std::fmt;
use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    AbiInstability, AbiInstabilityError, AbiInstabilityErrors, CheckingGlobals, ExpectedFound,
    check_layout_compatibility_with_globals,
};
use abi_stable::library::{AbiHeaderRef, LibHeader};
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RVec};
use abi_stable::type_layout::{TLFieldOrFunction, TypeLayout};
use semver::Version;

use super::{ABI_VERSION, Call, Calls, Manifest, PluginModRef, RawError, code};
use crate::config::ConfigError;
use crate::plugin::PluginError;

/// Longest part of a layout report that is shown: the first differences say it, the rest repeats the types.
const MAX_REPORT: usize = 600;

/// Why an image is not loaded, in the order in which reasons are looked for.
#[derive(Debug, thiserror::Error)]
pub enum LoadFault {
    /// The system refused it.
    #[error("the system refused it: {0}")]
    System(String),
    /// The plugin symbol is not what it should be.
    #[error("its plugin header is malformed: {0}")]
    Header(String),
    /// Another major version of the boundary.
    #[error("it was built for plugin ABI {plugin}, this host speaks {host}; rebuild it")]
    Version {
        /// The plugin's.
        plugin: String,
        /// The host's.
        host: &'static str,
    },
    /// The types of the boundary differ although the versions agree.
    #[error("its types differ from this host's; rebuild it against the same qeff-plugin-api: {0}")]
    Layout(String),
    /// Its description of itself is malformed.
    #[error("its manifest is malformed: {0}")]
    Manifest(String),
    /// Plugins cannot be loaded here yet.
    #[error("plugins cannot be loaded on this system; build it in")]
    Unsupported,
}

/// An image in this process. It stays loaded until the process ends.
pub struct Module {
    functions: PluginModRef,
    manifest: Manifest,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Module {
    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Loads the shared object at `file`, whose plugin symbol is called `symbol`, into this process. Its code runs with all
/// rights of the process, even if this function then refuses it.
///
/// The caller has looked at the file: that it is a whole shared object for this machine, and that `symbol` is data of at
/// least [`SYMBOL_SIZE`](super::SYMBOL_SIZE) bytes. A truncated file would end the process here, and nothing could stop it.
///
/// The rules: symbols stay local, so that plugins do not see each other; nothing is ever unloaded, because a plugin may have
/// left threads, thread-local values or pointers behind; the older side's types are what both must have, so that older
/// plugins work in newer hosts and the reverse.
///
/// # Errors
/// Says what is wrong with the image and what to do.
pub fn load(file: &Path, symbol: &str) -> Result<Module, LoadFault> {
    module(open(file, symbol)?)
}

/// The image behind a header.
pub(super) fn module(header: &'static LibHeader) -> Result<Module, LoadFault> {
    let functions = functions(header)?;
    let text =
        functions.manifest()().into_result().map_err(|error| LoadFault::Manifest(error.message.into_string()))?;
    let manifest = Manifest::parse(&text).map_err(LoadFault::Manifest)?;
    Ok(Module { functions, manifest })
}

impl Calls for Module {
    fn call(&self, number: u32, call: Call<'_>) -> Result<Vec<u8>, PluginError> {
        let functions = self.functions;
        let bytes = |answer: RResult<RVec<u8>, RawError>| answer.map(RVec::into_vec).into_result();
        let answer = match call {
            Call::Recognise { config } => functions.recognise()(number, config.into())
                .into_result()
                .map(|fit| vec![u8::try_from(fit).unwrap_or(u8::MAX)]),
            Call::Describe { request } => bytes(functions.describe()(number, RSlice::from_slice(request))),
            Call::Pool { request } => bytes(functions.pool()(number, RSlice::from_slice(request))),
            Call::Rewrite { request } => bytes(functions.rewrite()(number, RSlice::from_slice(request))),
            Call::Probe { head, file_name } => functions.probe()(number, RSlice::from_slice(head), file_name.into())
                .into_result()
                .map(|fits| vec![u8::from(fits)]),
            Call::Index { head, length } => bytes(functions.index()(number, RSlice::from_slice(head), length)),
            Call::Decode { encoding, bytes, out } => {
                let (bytes, out) = (RSlice::from_slice(bytes), RSliceMut::from_mut_slice(out));
                functions.decode()(number, encoding.into(), bytes, out).into_result().map(|()| vec![])
            }
        };
        answer.map_err(said)
    }
}

/// What a plugin said, as a host tells it.
fn said(error: RawError) -> PluginError {
    let message = error.message.into_string();
    match (error.code, error.context.as_slice()) {
        (code::CONFIG, [field, expected, found]) => {
            let [field, expected, found] = [field, expected, found].map(|text| text.to_string());
            PluginError::Config(ConfigError { field, expected, found })
        }
        (code::PANIC, _) => PluginError::Panic { message, location: error.location.into_string() },
        _ => PluginError::Other(message),
    }
}

#[cfg(unix)]
fn open(path: &Path, symbol: &str) -> Result<&'static LibHeader, LoadFault> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

    // The reason stands in the source of libloading's error, not in its text.
    let reason = |error: libloading::Error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        LoadFault::System(source.unwrap_or_else(|| error.to_string()))
    };
    // SAFETY: opening runs the library's constructors. The caller chose the file and has seen that it is a whole shared
    // object for this machine with a plugin's symbol; more cannot be known before it runs.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(reason)?;
    // SAFETY: `AbiHeaderRef` is a pointer to a static that begins with a header of 40 bytes, and the symbol was seen to be
    // at least as long. Whether it is a header is what `upgrade` looks at first, by its magic text.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol) }.map(|header| *header).map_err(reason);
    // Never closed, on errors neither.
    std::mem::forget(library);
    header?.upgrade().map_err(|error| {
        LoadFault::Header(match error {
            abi_stable::library::LibraryError::InvalidAbiHeader(_) => "it is not abi_stable 0.11's".to_owned(),
            other => other.to_string().chars().take(MAX_REPORT).collect(),
        })
    })
}

#[cfg(not(unix))]
fn open(_: &Path, _: &str) -> Result<&'static LibHeader, LoadFault> {
    Err(LoadFault::Unsupported)
}

/// The functions behind a header, once versions and types agree.
fn functions(header: &'static LibHeader) -> Result<PluginModRef, LoadFault> {
    let Some(layout) = header.layout() else {
        return Err(LoadFault::Header("it carries no description of its types".into()));
    };
    let version = header.version_strings().version.as_str();
    compare((version, layout), (ABI_VERSION, <PluginModRef as StableAbi>::LAYOUT))?;
    // SAFETY: the layouts were just compared, and major versions agree.
    unsafe { header.unchecked_layout::<PluginModRef>() }.map_err(|error| LoadFault::Header(error.to_string()))
}

/// Whether a plugin and a host, each with its version and types, understand each other.
fn compare(plugin: (&str, &'static TypeLayout), host: (&'static str, &'static TypeLayout)) -> Result<(), LoadFault> {
    let mismatch = || LoadFault::Version { plugin: plugin.0.chars().take(40).collect(), host: host.0 };
    let (Ok(theirs), Ok(mine)) = (Version::parse(plugin.0), Version::parse(host.0)) else { return Err(mismatch()) };
    if theirs.major != mine.major {
        return Err(mismatch());
    }
    // abi_stable lets the implementation be larger than the interface, never smaller; so the older side is the interface.
    let (interface, implementation) = if theirs < mine { (plugin.1, host.1) } else { (host.1, plugin.1) };
    // Fresh for each pair: with the process-wide ones the verdict would depend on what was loaded before, and plugins never
    // exchange objects with each other.
    check_layout_compatibility_with_globals(interface, implementation, &CheckingGlobals::new())
        .map_err(|errors| LoadFault::Layout(report(&errors)))
}

/// The first differences in a line each; abi_stable's own report prints both types in full, up to 93 KB of them.
fn report(errors: &AbiInstabilityErrors) -> String {
    let step = |step: &ExpectedFound<TLFieldOrFunction>| match step.found {
        TLFieldOrFunction::Field(field) => field.name().to_owned(),
        TLFieldOrFunction::Function(function) => function.name.to_string(),
    };
    let difference = |error: &AbiInstabilityError| {
        let mut path: Vec<_> = error.stack_trace.iter().map(step).collect();
        // What is left are names of functions and fields; pointers and nameless arguments say nothing.
        path.retain(|name| name.contains(char::is_alphabetic));
        path.dedup();
        let what = error.errs.first().map_or_else(String::new, |first| match first {
            AbiInstability::Name(types) => format!("one side has {}, the other {}", types.expected, types.found),
            AbiInstability::FieldCountMismatch(n) => {
                format!("one side has {} fields, the other {}", n.expected, n.found)
            }
            AbiInstability::Size(n) => format!("one side takes {} bytes, the other {}", n.expected, n.found),
            other => format!("{other:?}").chars().take(100).collect(),
        });
        format!("{}: {what}", path.join(" > "))
    };
    let lines: Vec<_> = errors.errors.iter().filter(|error| !error.errs.is_empty()).take(3).map(difference).collect();
    lines.join("; ").chars().take(MAX_REPORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module of three releases: the first, one with a function appended, and one that broke its promise.
    macro_rules! release {
        ($module:ident, $argument:ty $(, $appended:ident)?) => {
            #[allow(dead_code)]
            mod $module {
                use super::*;

                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = PluginModRef)))]
                #[sabi(missing_field(option))]
                pub(super) struct PluginMod {
                    pub(super) first: extern "C" fn($argument, RSlice<'_, u8>) -> RResult<RVec<u8>, RawError>,
                    #[sabi(last_prefix_field)]
                    pub(super) last: extern "C" fn(u32) -> RResult<RVec<u8>, RawError>,
                    $(pub(super) $appended: extern "C" fn(u32) -> RResult<RVec<u8>, RawError>,)?
                }

                pub(super) const LAYOUT: &TypeLayout = <PluginModRef as StableAbi>::LAYOUT;
            }
        };
    }

    release!(old, u32);
    release!(new, u32, appended);
    release!(broken, u64);

    #[test]
    fn either_side_may_be_older() {
        compare(("1.0.0", old::LAYOUT), ("1.0.0", old::LAYOUT)).unwrap();
        compare(("1.0.0", old::LAYOUT), ("1.1.0", new::LAYOUT)).unwrap();
        compare(("1.1.0", new::LAYOUT), ("1.0.0", old::LAYOUT)).unwrap();
        // Whatever was compared before.
        compare(("1.1.0", new::LAYOUT), ("1.1.0", new::LAYOUT)).unwrap();
    }

    #[test]
    fn a_changed_function_is_refused_briefly() {
        let error = compare(("1.0.0", broken::LAYOUT), ("1.0.0", old::LAYOUT)).unwrap_err().to_string();
        let expected = "its types differ from this host's; rebuild it against the same qeff-plugin-api: \
            first: one side has u32, the other u64";
        assert_eq!(error, expected);
    }

    #[test]
    fn another_major_version_is_refused() {
        let error = compare(("2.0.0", old::LAYOUT), ("1.0.0", old::LAYOUT)).unwrap_err().to_string();
        assert_eq!(error, "it was built for plugin ABI 2.0.0, this host speaks 1.0.0; rebuild it");
    }
}
