//! What a plugin author implements.
//!
//! A plugin is plain Rust: implement a trait, name the implementation in [`register!`](crate::register), and write
//! [`export_plugin!`](crate::export_plugin) once. The same crate is linked into a host or loaded from a shared object.

use std::fmt;

use crate::TensorIndex;
use crate::build::BuildError;
use crate::config::{Config, ConfigError};
use crate::graph::Model;
use crate::wire::WireError;

/// What a plugin is asked to describe.
#[derive(Debug, Clone)]
pub struct Request {
    /// The checkpoint's config.json.
    pub config: Config,
    /// Names, types and shapes of the checkpoint's tensors.
    pub tensors: TensorIndex,
}

/// Why a plugin has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// config.json does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The description does not fit the checkpoint.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
    /// What it answered is no model.
    #[error("its answer cannot be read: {0}")]
    Answer(#[from] WireError),
    /// Its code panicked.
    #[error("it panicked at {location}: {message}")]
    Panic {
        /// Message of the panic.
        message: String,
        /// Source file and line.
        location: String,
    },
    /// The process in which it ran is no more, or was ended.
    #[error("it {0}")]
    Died(String),
    /// It panicked or died before, so that nothing it says can be relied on.
    #[error("it is not asked again, because {0}")]
    Retired(String),
}

/// How well an architecture fits a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Made for a wider class to which the checkpoint belongs.
    Generic,
    /// Made for it.
    Exact,
}

/// An exact fit if the first of config.json's `architectures` is among `names`.
pub(crate) fn named_fit(names: &[&str], config: &Config) -> Option<Fit> {
    let named = config.texts("architectures").ok()?;
    names.contains(&named.first()?.as_str()).then_some(Fit::Exact)
}

/// A family of models.
pub trait Architecture: Send + Sync + 'static {
    /// Architectures it describes, as `architectures` in config.json names them, e.g. `LlamaForCausalLM`.
    fn names(&self) -> Vec<&str>;

    /// How well it fits; by default, exactly if the first of config.json's `architectures` is among [`Self::names`].
    fn recognise(&self, config: &Config) -> Option<Fit> {
        named_fit(&self.names(), config)
    }

    /// Which of [`Self::names`] the config says; the first of them if it says none, as when the user chose the plugin.
    fn named(&self, config: &Config) -> String {
        let names = self.names();
        let said = config.texts("architectures").unwrap_or_default();
        let known = said.first().and_then(|said| names.iter().find(|name| **name == said.as_str()));
        known.or(names.first()).map_or_else(String::new, |name| (*name).to_owned())
    }

    /// Describes the model. A pure function: same request, same answer.
    ///
    /// # Errors
    /// If the config asks for something that is not supported, or the checkpoint does not fit it.
    fn describe(&self, request: &Request) -> Result<Model, PluginError>;
}

/// A way to make one vector of the hidden states of a text.
pub trait PoolingHead: Send + Sync + 'static {
    /// Its name, e.g. `mean`.
    fn name(&self) -> &str;

    /// Appends the head to a model with an output of role `hidden`. A weight that it adds must fit `tensors`, the index
    /// of the model's checkpoint.
    ///
    /// # Errors
    /// If the model has nothing to pool.
    fn append(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError>;
}

/// A change of a described model, applied on request before the host's own passes.
pub trait GraphRewrite: Send + Sync + 'static {
    /// Its name, as the user asks for it.
    fn name(&self) -> &str;

    /// Rewrites the model. A weight that it adds must fit `tensors`, the index of the model's checkpoint.
    ///
    /// # Errors
    /// If the model is not of the kind it rewrites.
    fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError>;
}

/// One tensor of a file in a foreign format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name.
    pub name: String,
    /// Element type and shape after decoding.
    pub info: crate::TensorInfo,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file: those of its blocks, one after the other.
    pub length: u64,
    /// Encoding as the format names it; [`WeightFormat::decode`] gets it back. Empty if the bytes are little-endian elements
    /// as they stand: nothing is decoded then, and the host may use them where they lie.
    pub encoding: String,
    /// What the bytes are cut into; without an encoding it is not looked at.
    pub block: StoredBlock,
}

/// The smallest piece of a tensor that can be decoded by itself. A tensor is a whole number of them, in row-major order.
///
/// The host decodes as many at a time as memory allows, so a tensor in one block is a tensor in memory; a block becomes 16
/// MiB at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredBlock {
    /// Elements after decoding.
    pub elements: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// A file format of weights.
pub trait WeightFormat: Send + Sync + 'static {
    /// Its name, e.g. `gguf`.
    fn name(&self) -> &str;

    /// Whether a file with this beginning and name is of the format.
    fn probe(&self, head: &[u8], file_name: &str) -> bool;

    /// The tensors of a file, from its header. `head` is the beginning of a file of `length` bytes; the answer
    /// [`HeaderNeed::More`] asks for a longer beginning.
    ///
    /// # Errors
    /// If the file is malformed.
    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError>;

    /// Decodes some blocks of one tensor, which `bytes` are, to the little-endian elements that fill `out` exactly. Called
    /// from several threads at once, in any order.
    ///
    /// # Errors
    /// If the encoding is unknown or the bytes are malformed.
    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError>;
}

/// Answer of [`WeightFormat::index`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderNeed {
    /// The header is longer than what was given: at least this many bytes are needed.
    More(u64),
    /// Every tensor of the file.
    Tensors(Vec<StoredTensor>),
}

/// An entry of the registry of one linked image; made by [`register!`](crate::register).
pub enum Registration {
    /// A family of models.
    Architecture(&'static dyn Architecture),
    /// A pooling head.
    Pooling(&'static dyn PoolingHead),
    /// A rewrite.
    Rewrite(&'static dyn GraphRewrite),
    /// A weight format.
    Format(&'static dyn WeightFormat),
}

/// A registration with the crate that made it.
pub struct Registered {
    /// Name of the plugin: its crate, without a leading `qeff-plugin-`.
    pub plugin: &'static str,
    /// Version of the crate.
    pub version: &'static str,
    /// What it contributes.
    pub item: Registration,
}

inventory::collect!(Registered);

impl Registration {
    /// The names under which the item is found.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Registration::Architecture(item) => item.names(),
            Registration::Pooling(item) => vec![item.name()],
            Registration::Rewrite(item) => vec![item.name()],
            Registration::Format(item) => vec![item.name()],
        }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {:?}", self.plugin, self.version, self.item.names())
    }
}

/// Everything linked into this image, sorted by plugin and name: the linker's order is not stable.
pub fn registered() -> Vec<&'static Registered> {
    let mut all: Vec<_> = inventory::iter::<Registered>.into_iter().collect();
    all.sort_by_key(|entry| (entry.plugin, entry.item.names()));
    all
}

/// Registers what a crate contributes, for linked and for loaded use alike.
///
/// ```
/// # use qeff_plugin_api::{TensorIndex, graph::Model, plugin::{GraphRewrite, PluginError}};
/// struct Nothing;
///
/// impl GraphRewrite for Nothing {
///     fn name(&self) -> &str {
///         "nothing"
///     }
///
///     fn rewrite(&self, model: Model, _: &TensorIndex) -> Result<Model, PluginError> {
///         Ok(model)
///     }
/// }
///
/// qeff_plugin_api::register!(rewrite: Nothing);
/// # assert!(qeff_plugin_api::plugin::registered().iter().any(|entry| entry.item.names() == ["nothing"]));
/// ```
#[macro_export]
macro_rules! register {
    (architecture: $item:expr) => { $crate::register!(@ Architecture, $item); };
    (pooling: $item:expr) => { $crate::register!(@ Pooling, $item); };
    (rewrite: $item:expr) => { $crate::register!(@ Rewrite, $item); };
    (format: $item:expr) => { $crate::register!(@ Format, $item); };
    (@ $kind:ident, $item:expr) => {
        $crate::inventory::submit! {
            $crate::plugin::Registered {
                plugin: $crate::plugin::plugin_name(env!("CARGO_PKG_NAME")),
                version: env!("CARGO_PKG_VERSION"),
                item: $crate::plugin::Registration::$kind(&$item),
            }
        }
    };
}

/// Exports what this crate registers, for hosts that load it from a shared object; write it once, at the end of lib.rs.
///
/// ```
/// qeff_plugin_api::export_plugin! { architectures: ["AcmeForCausalLM"], rewrites: ["acme-fuse"] }
/// ```
///
/// Kinds are `architectures`, `pooling`, `rewrites` and `formats`; those of which there is nothing are left out. The names
/// go into the file beside name and version, where `qeff-host plugins list` reads them without executing anything, and
/// where a host sees whether an installed plugin is worth asking. They must be those that are registered. A plugin that
/// names nothing is found only by who names *it*.
///
/// It makes one symbol, named after the crate, so a host may link several such crates. The crate's own sources stay free
/// of `unsafe`.
#[macro_export]
macro_rules! export_plugin {
    ($($kind:ident: [$($item:expr),* $(,)?]),* $(,)?) => {
        #[allow(unsafe_code)]
        const _: () = {
            struct ThisPlugin;

            impl $crate::abi::Identity for ThisPlugin {
                const NAME: &'static str = $crate::plugin::plugin_name(env!("CARGO_PKG_NAME"));
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            }

            // SAFETY: the name holds the crate's name, so nothing else in the image has it, and its type is the one that
            // loaders of this epoch expect under such a name.
            #[unsafe(export_name = concat!("qeff_plugin_v1__", env!("CARGO_CRATE_NAME")))]
            static PLUGIN: $crate::abi::Header = $crate::abi::header::<ThisPlugin>();

            #[allow(clippy::needless_update)]
            const FACTS: $crate::abi::Facts = $crate::abi::Facts {
                name: <ThisPlugin as $crate::abi::Identity>::NAME,
                version: <ThisPlugin as $crate::abi::Identity>::VERSION,
                contributions: $crate::abi::Contributions { $($kind: &[$($item),*],)* ..$crate::abi::Contributions::NONE },
            };

            // SAFETY: a section of notes holds nothing but notes, and this is one.
            #[used]
            #[cfg_attr(target_os = "linux", unsafe(link_section = ".note.qeff"))]
            static NOTE: $crate::abi::Note<{ $crate::abi::note_length(&FACTS) }> = $crate::abi::note(&FACTS);
        };
    };
}

/// `qeff-plugin-llama` → `llama`.
#[doc(hidden)]
pub const fn plugin_name(package: &'static str) -> &'static str {
    const PREFIX: &[u8] = b"qeff-plugin-";
    let bytes = package.as_bytes();
    let mut i = 0;
    while i < PREFIX.len() {
        if i >= bytes.len() || bytes[i] != PREFIX[i] {
            return package;
        }
        i += 1;
    }
    package.split_at(PREFIX.len()).1
}
