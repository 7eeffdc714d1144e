//! The host's side: a loaded plugin's items behind the same traits as linked ones.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use abi_stable::std_types::{RResult, RSlice, RSliceMut};
use prost::Message as _;

use super::message::{self, DescribeRequest, ModelAnswer, ModelRequest};
use super::{Manifest, PluginModRef, RawError, code};
use crate::config::{Config, ConfigError};
use crate::graph::Model;
use crate::plugin::{
    Architecture, Fit, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Request, WeightFormat, named_fit,
};
use crate::{TensorIndex, wire};

/// A plugin in this process. It stays loaded until the process ends.
#[derive(Debug)]
pub struct LoadedPlugin {
    path: PathBuf,
    manifest: Manifest,
    remote: Arc<Remote>,
}

impl LoadedPlugin {
    pub(super) fn new(path: PathBuf, manifest: Manifest, remote: Remote) -> Self {
        LoadedPlugin { path, manifest, remote: Arc::new(remote) }
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its families of models.
    pub fn architectures(&self) -> Vec<Box<dyn Architecture>> {
        self.items(&self.manifest.architectures, |item| Box::new(item) as _)
    }

    /// Its pooling heads.
    pub fn pooling_heads(&self) -> Vec<Box<dyn PoolingHead>> {
        self.items(&self.manifest.pooling, |item| Box::new(item) as _)
    }

    /// Its rewrites.
    pub fn rewrites(&self) -> Vec<Box<dyn GraphRewrite>> {
        self.items(&self.manifest.rewrites, |item| Box::new(item) as _)
    }

    /// Its weight formats.
    pub fn formats(&self) -> Vec<Box<dyn WeightFormat>> {
        self.items(&self.manifest.formats, |item| Box::new(item) as _)
    }

    fn items<N: Clone, T>(&self, names: &[N], make: impl Fn(Item<N>) -> T) -> Vec<T> {
        let item = |(number, name): (u32, &N)| Item { remote: Arc::clone(&self.remote), number, name: name.clone() };
        (0..).zip(names).map(item).map(make).collect()
    }
}

/// A loaded module, retired after its first panic: what it left half done is unknown.
pub(super) struct Remote {
    module: PluginModRef,
    retired: OnceLock<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("retired", &self.retired).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(module: PluginModRef) -> Self {
        Remote { module, retired: OnceLock::new() }
    }

    fn call<T>(&self, function: impl FnOnce(PluginModRef) -> RResult<T, RawError>) -> Result<T, PluginError> {
        if let Some(panic) = self.retired.get() {
            return Err(PluginError::Retired(panic.clone()));
        }
        let error = match function(self.module).into_result() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let message = error.message.into_string();
        Err(match (error.code, error.context.as_slice()) {
            (code::CONFIG, [field, expected, found]) => {
                let [field, expected, found] = [field, expected, found].map(|text| text.to_string());
                PluginError::Config(ConfigError { field, expected, found })
            }
            (code::PANIC, _) => {
                let error = PluginError::Panic { message, location: error.location.into_string() };
                self.retired.get_or_init(|| error.to_string());
                error
            }
            _ => PluginError::Other(message),
        })
    }

    /// The model of an answer, and the config fields that were read for it.
    fn model(&self, answer: &[u8], tensors: &TensorIndex) -> Result<(Model, String), PluginError> {
        // The wire form has its own limit; this one keeps a longer answer from being copied first.
        if answer.len() > wire::MAX_BYTES + (1 << 20) {
            return Err(PluginError::Other(format!("its answer of {} bytes is too long", answer.len())));
        }
        let ModelAnswer { model, read } = message::read(answer)?;
        Ok((wire::decode(&model, tensors)?, read))
    }

    fn edit(
        &self,
        model: &Model,
        tensors: &TensorIndex,
        function: impl FnOnce(PluginModRef, RSlice<'_, u8>) -> RResult<abi_stable::std_types::RVec<u8>, RawError>,
    ) -> Result<Model, PluginError> {
        let request = ModelRequest { model: wire::encode(model), tensors: message::tensors(tensors) }.encode_to_vec();
        let answer = self.call(|module| function(module, RSlice::from_slice(&request)))?;
        Ok(self.model(&answer, tensors)?.0)
    }
}

/// One item of a loaded plugin.
struct Item<N> {
    remote: Arc<Remote>,
    number: u32,
    name: N,
}

impl Architecture for Item<Vec<String>> {
    fn names(&self) -> Vec<&str> {
        self.name.iter().map(String::as_str).collect()
    }

    fn recognise(&self, config: &Config) -> Option<Fit> {
        let text = config.to_text();
        match self.remote.call(|module| module.recognise()(self.number, text.as_str().into())) {
            Ok(0) => None,
            Ok(1) => Some(Fit::Generic),
            Ok(_) => Some(Fit::Exact),
            // Judged by its names, so that the reason comes out when it is asked to describe.
            Err(_) => named_fit(&self.names(), config),
        }
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let bytes = DescribeRequest { config: request.config.to_text(), tensors: message::tensors(&request.tensors) }
            .encode_to_vec();
        let answer = self.remote.call(|module| module.describe()(self.number, RSlice::from_slice(&bytes)))?;
        let (model, read) = self.remote.model(&answer, &request.tensors)?;
        let read: Vec<String> = serde_json::from_str(&read).unwrap_or_default();
        request.config.mark_read(read);
        Ok(model)
    }
}

impl PoolingHead for Item<String> {
    fn name(&self) -> &str {
        &self.name
    }

    fn append(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        self.remote.edit(&model, tensors, |module, request| module.pool()(self.number, request))
    }
}

impl GraphRewrite for Item<String> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        self.remote.edit(&model, tensors, |module, request| module.rewrite()(self.number, request))
    }
}

impl WeightFormat for Item<String> {
    fn name(&self) -> &str {
        &self.name
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        let probe = |module: PluginModRef| module.probe()(self.number, RSlice::from_slice(head), file_name.into());
        self.remote.call(probe).unwrap_or(false)
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        let index = |module: PluginModRef| module.index()(self.number, RSlice::from_slice(head), length);
        message::read_index(&self.remote.call(index)?)
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        let (bytes, out) = (RSlice::from_slice(bytes), RSliceMut::from_mut_slice(out));
        self.remote.call(|module| module.decode()(self.number, encoding.into(), bytes, out))
    }
}
