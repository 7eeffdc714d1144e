//! Why a directory is no checkpoint that can be read.

use std::path::PathBuf;

use super::{INDEX, SINGLE};
use crate::mapping::MappingError;
use crate::weights::foreign::ForeignError;
use crate::weights::gguf::GgufError;
use crate::weights::quantised::QuantisedError;
use crate::weights::safetensors::HeaderError;

/// Why a directory is no checkpoint that can be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The directory or a file in it cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A weight file cannot be mapped.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// No weights at all.
    #[error("{} has no weights: expected {SINGLE}, {INDEX} with its shards, or one other .safetensors file", dir.display())]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// Weights in PyTorch's pickle format only.
    #[error(
        "{} has its weights only as PyTorch pickles ({found}), which can run code when they are read and are not \
         supported; convert them once with transformers: AutoModel.from_pretrained(dir).save_pretrained(dir, \
         safe_serialization=True)", dir.display()
    )]
    PytorchOnly {
        /// The directory.
        dir: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Several files and nothing that says which are the model.
    #[error("{} has neither {SINGLE} nor {INDEX}, and several other files: {}; keep one, or add the index", dir.display(), files.join(", "))]
    Ambiguous {
        /// The directory.
        dir: PathBuf,
        /// The candidates.
        files: Vec<String>,
    },
    /// A safetensors file that contradicts itself.
    #[error("{}: {error}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: HeaderError,
    },
    /// A GGUF file that contradicts itself.
    #[error("{}: {error}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: GgufError,
    },
    /// A file of a plugin's format that cannot be read.
    #[error("{}: weight format {format}: {error}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Name of the format.
        format: String,
        /// What is wrong with it.
        #[source]
        error: Box<ForeignError>,
    },
    /// Parts of a quantised weight that do not fit together.
    #[error(transparent)]
    Quantised(#[from] QuantisedError),
    /// A config that says the weights are quantised, and weights of which none is.
    #[error(
        "{}: expected quantised weights ({scheme}), whose parts end in {parts}; found none: if the weights are what they \
         seem, take away `quantization_config`, or the file that stands in for it", path.display()
    )]
    NotQuantized {
        /// One of the weight files.
        path: PathBuf,
        /// What the config says.
        scheme: String,
        /// Endings of names.
        parts: String,
    },
    /// The index is not what an index is.
    #[error("{}: {why}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What was expected and found.
        why: String,
    },
    /// The index names a file outside the checkpoint.
    #[error("{}: tensor `{tensor}` is said to be in `{file}`; a shard has to be a plain path inside the checkpoint", path.display())]
    OutsidePath {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The path given for it.
        file: String,
    },
    /// The index names a file that is not there.
    #[error("{}: tensor `{tensor}` is said to be in `{file}`, which is missing; fetch that shard again", path.display())]
    MissingFile {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The missing file.
        file: String,
    },
    /// The index names a tensor that its file does not hold.
    #[error("{}: tensor `{tensor}` is said to be in `{file}`, which does not hold it; index and shards are of different downloads", path.display())]
    MissingTensor {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// Two shards hold a tensor of one name.
    #[error("tensor `{tensor}` is in {} and in {}; one of the shards is left over from another download", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// A file that holds it.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
}
