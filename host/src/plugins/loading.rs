//! From a checked file to a plugin that answers, here or in a process of its own.

use std::sync::Arc;

use qeff_plugin_api::abi::{self, Calls, Plugin};

use super::PluginsError;
use super::entry::{Origin, Source};
use super::file::PluginFile;
use super::worker::{StartError, Worker, WorkerOptions};

/// Where plugins from files run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Each in a sandboxed process of its own.
    #[default]
    Worker,
    /// In this process, with all its rights.
    InProcess,
}

/// How plugins from files are loaded.
#[derive(Debug, Clone, Default)]
pub struct Loading {
    /// Where they run.
    pub place: Place,
    /// How a worker is started.
    pub worker: WorkerOptions,
}

/// A plugin that answers.
pub(super) struct Opened {
    pub(super) plugin: Plugin,
    pub(super) worker: Option<Arc<Worker>>,
}

/// The origin of a plugin of a file, by what the file declares.
pub(super) fn origin(file: &PluginFile) -> Origin {
    Origin {
        plugin: file.manifest.name.clone(),
        source: Source::File(file.path.clone()),
        version: file.manifest.version.clone(),
    }
}

/// Loads a plugin, and checks that it is what its file declares.
pub(super) fn open(file: &PluginFile, loading: &Loading) -> Result<Opened, PluginsError> {
    let opened = match loading.place {
        Place::Worker => in_worker(file, &loading.worker)?,
        Place::InProcess => in_process(file)?,
    };
    file.manifest.agrees_with(opened.plugin.manifest()).map_err(|why| refused(file, why))?;
    Ok(opened)
}

fn refused(file: &PluginFile, why: String) -> PluginsError {
    PluginsError::Load { path: file.path.clone(), why }
}

fn in_worker(file: &PluginFile, options: &WorkerOptions) -> Result<Opened, PluginsError> {
    let (worker, manifest) = Worker::start(file, options).map_err(|error| match error {
        StartError::Load(why) => refused(file, why),
        StartError::Ended(source) => {
            PluginsError::Refused { plugin: origin(file).to_string(), source: Box::new(source) }
        }
        other => PluginsError::Worker { path: file.path.clone(), error: Box::new(other) },
    })?;
    let worker = Arc::new(worker);
    let plugin = Plugin::new(manifest, Arc::clone(&worker) as Arc<dyn Calls>);
    Ok(Opened { plugin, worker: Some(worker) })
}

fn in_process(file: &PluginFile) -> Result<Opened, PluginsError> {
    if file.manifest.panic != "unwind" {
        return Err(PluginsError::Abort { path: file.path.clone() });
    }
    let image = file.image()?;
    let path = image.path();
    // The loader takes a name that it has seen for the library that it has loaded, so the number of this descriptor must not
    // be given away again. Like what is loaded, it stays until the process ends, whatever the plugin turns out to be.
    std::mem::forget(image);
    let module = abi::load(&path, file.symbol()).map_err(|fault| refused(file, fault.to_string()))?;
    let manifest = module.manifest().clone();
    Ok(Opened { plugin: Plugin::new(manifest, Arc::new(module)), worker: None })
}
