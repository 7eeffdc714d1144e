//! What crosses the boundary, whatever the way: in this process, or between processes.

use crate::plugin::PluginError;

/// A question to one item of a plugin. Items are numbered in the order of the plugin's [`Manifest`](super::Manifest), each
/// kind by itself; requests and answers are bytes of this module's messages.
#[derive(Debug)]
pub enum Call<'a> {
    /// How well an architecture fits a config: one byte, 0 not, 1 in general, 2 exactly.
    Recognise {
        /// config.json.
        config: &'a str,
    },
    /// A description of a model.
    Describe {
        /// Config and tensors.
        request: &'a [u8],
    },
    /// A model with a pooling head.
    Pool {
        /// Model and tensors.
        request: &'a [u8],
    },
    /// A rewritten model.
    Rewrite {
        /// Model and tensors.
        request: &'a [u8],
    },
    /// Whether a file is of a format: one byte, 0 or 1.
    Probe {
        /// Beginning of the file.
        head: &'a [u8],
        /// Its name.
        file_name: &'a str,
    },
    /// The tensors of a file.
    Index {
        /// Beginning of the file.
        head: &'a [u8],
        /// Bytes of the whole file.
        length: u64,
    },
    /// The elements of a tensor. The answer is empty; they are written to `out`.
    Decode {
        /// How the format calls the encoding.
        encoding: &'a str,
        /// Stored bytes.
        bytes: &'a [u8],
        /// Where the elements go.
        out: &'a mut [u8],
    },
}

/// Whoever passes calls to a plugin and answers back: the table of C functions of a loaded image, or a process that holds
/// such an image.
pub trait Calls: Send + Sync {
    /// Asks item `number` of the kind that `call` is about. The answer is as trustworthy as the plugin.
    ///
    /// # Errors
    /// What the plugin says, or what became of it.
    fn call(&self, number: u32, call: Call<'_>) -> Result<Vec<u8>, PluginError>;
}
