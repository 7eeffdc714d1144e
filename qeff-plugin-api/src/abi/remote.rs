//! The host's side: a plugin's items behind the same traits as linked ones.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prost::Message as _;

use super::message::{self, DescribeRequest, ModelAnswer, ModelRequest};
use super::{Call, Calls, MAX_ANSWER, Manifest};
use crate::config::Config;
use crate::graph::Model;
use crate::plugin::{
    Architecture, Fit, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Request, WeightFormat, named_fit,
};
use crate::{TensorIndex, wire};

/// A plugin that was built elsewhere.
#[derive(Debug)]
pub struct Plugin {
    manifest: Manifest,
    remote: Arc<Remote>,
}

impl Plugin {
    /// The plugin that says of itself what `manifest` holds and answers to `calls`.
    pub fn new(manifest: Manifest, calls: Arc<dyn Calls>) -> Self {
        Plugin { manifest, remote: Arc::new(Remote { calls, retired: OnceLock::new(), unheard: Mutex::new(None) }) }
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

    /// What became of it when it was asked something that cannot fail, once: nobody else hears of that.
    pub fn take_unheard(&self) -> Option<PluginError> {
        self.remote.unheard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn items<N: Clone, T>(&self, names: &[N], make: impl Fn(Item<N>) -> T) -> Vec<T> {
        let item = |(number, name): (u32, &N)| Item { remote: Arc::clone(&self.remote), number, name: name.clone() };
        (0..).zip(names).map(item).map(make).collect()
    }
}

/// The way to a plugin, given up after its first panic or its end: what it left half done is unknown.
struct Remote {
    calls: Arc<dyn Calls>,
    retired: OnceLock<String>,
    unheard: Mutex<Option<PluginError>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("retired", &self.retired).finish_non_exhaustive()
    }
}

impl Remote {
    fn call(&self, number: u32, call: Call<'_>) -> Result<Vec<u8>, PluginError> {
        if let Some(event) = self.retired.get() {
            return Err(PluginError::Retired(event.clone()));
        }
        let answer = self.calls.call(number, call);
        if let Err(error @ (PluginError::Panic { .. } | PluginError::Died(_))) = &answer {
            self.retired.get_or_init(|| error.to_string());
        }
        answer
    }

    /// The model of an answer, and the config fields that were read for it.
    fn model(answer: &[u8], tensors: &TensorIndex) -> Result<(Model, String), PluginError> {
        // The wire form has its own limit; this one keeps a longer answer from being copied first.
        if answer.len() > MAX_ANSWER {
            return Err(PluginError::Other(format!("its answer of {} bytes is too long", answer.len())));
        }
        let ModelAnswer { model, read } = message::read(answer)?;
        Ok((wire::decode(&model, tensors)?, read))
    }
}

fn model_request(model: &Model, tensors: &TensorIndex) -> Vec<u8> {
    ModelRequest { model: wire::encode(model), tensors: message::tensors(tensors) }.encode_to_vec()
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
        match self.remote.call(self.number, Call::Recognise { config: &config.to_text() }).as_deref() {
            Ok([0]) => None,
            Ok([1]) => Some(Fit::Generic),
            Ok(_) => Some(Fit::Exact),
            // Judged by its names, so that the reason comes out when it is asked to describe.
            Err(_) => named_fit(&self.names(), config),
        }
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let bytes = DescribeRequest { config: request.config.to_text(), tensors: message::tensors(&request.tensors) }
            .encode_to_vec();
        let answer = self.remote.call(self.number, Call::Describe { request: &bytes })?;
        let (model, read) = Remote::model(&answer, &request.tensors)?;
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
        let answer = self.remote.call(self.number, Call::Pool { request: &model_request(&model, tensors) })?;
        Ok(Remote::model(&answer, tensors)?.0)
    }
}

impl GraphRewrite for Item<String> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        let answer = self.remote.call(self.number, Call::Rewrite { request: &model_request(&model, tensors) })?;
        Ok(Remote::model(&answer, tensors)?.0)
    }
}

impl WeightFormat for Item<String> {
    fn name(&self) -> &str {
        &self.name
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        self.remote.call(self.number, Call::Probe { head, file_name }).map_or_else(
            |error| {
                self.remote.unheard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                false
            },
            |answer| answer == [1],
        )
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        message::read_index(&self.remote.call(self.number, Call::Index { head, length })?)
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        self.remote.call(self.number, Call::Decode { encoding, bytes, out }).map(|_| ())
    }
}
