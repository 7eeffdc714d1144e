//! From a QPC to a program that is active on cards.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail};

use super::status::{Fail, Status};
use super::{Context, Flag, Memory, Runtime, level, lock};
use crate::compiler::digest;
use crate::config::{SimConfig, StateInit};
use crate::graph::engine::{Executable, LoadError};
use crate::graph::model::Model;
use crate::graph::tensor::{Form, Tensor};
use crate::graph::weights::Files;
use crate::qpc::image::{Image, Marker};

/// A number that f16 has, that no softmax and no sum survives, and that times 0 is 0.
const POISON: f32 = 60000.0;

/// An opened QPC.
pub struct Qpc {
    /// What is in it.
    pub image: Image,
    embedded: Vec<u8>,
    /// What the caller promised to keep, with what it held.
    lent: Option<(Arc<dyn Memory>, String)>,
    loaded: Mutex<Option<Arc<Executable>>>,
    /// Programs made of it.
    pub programs: AtomicUsize,
    /// What the C side handed out and has to keep.
    pub handed_out: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Qpc {
    pub(super) fn open(file: &[u8], memory: Option<Arc<dyn Memory>>) -> Result<Self> {
        let (image, embedded) = Image::read(file)?;
        let lent = memory.map(|memory| (memory, digest(file)));
        let (programs, handed_out) = (AtomicUsize::new(0), OnceLock::new());
        Ok(Qpc { image, embedded, lent, loaded: Mutex::default(), programs, handed_out })
    }

    /// What the program computes. Loading it takes long, so it is done once.
    fn executable(&self, config: &SimConfig) -> Result<Arc<Executable>> {
        let mut loaded = lock(&self.loaded);
        if let Some(executable) = loaded.as_ref() {
            return Ok(Arc::clone(executable));
        }
        let marker =
            self.image.marker.as_ref().context("the QPC was not made by the stand-in, which cannot execute it")?;
        let (paths, files) = files(marker, &self.embedded)?;
        let model = Model::of(&marker.model, paths)?;
        let executable = Executable::load(model, files, config.negative_rows).map_err(|error| match error {
            LoadError::Operator { node, why } => anyhow!("node `{node}`: {why}"),
            LoadError::Other(error) => error,
        })?;
        Ok(Arc::clone(loaded.insert(Arc::new(executable))))
    }
}

/// The files of weights, which must be those that the compiler saw.
fn files(marker: &Marker, embedded: &[u8]) -> Result<(BTreeMap<String, PathBuf>, Files)> {
    let (mut paths, mut files) = (BTreeMap::new(), Files::new());
    let mut rest = embedded;
    for file in &marker.facts.external {
        let bytes = if file.path.is_empty() {
            let (bytes, behind) =
                rest.split_at_checked(file.size as usize).context("embedded weights are cut short")?;
            rest = behind;
            bytes.to_vec()
        } else {
            std::fs::read(&file.path).with_context(|| format!("weights of the QPC: {}", file.path))?
        };
        if bytes.len() as u64 != file.size || digest(&bytes) != file.sha256 {
            bail!("weights of the QPC: {} was changed since it was compiled", file.path);
        }
        paths.insert(file.location.clone(), PathBuf::from(&file.path));
        files.insert(file.location.clone(), bytes);
    }
    Ok((paths, files))
}

/// What a caller wants of a program.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// The card, where there is one; a negative number leaves the choice to the library.
    pub device: i32,
    /// `devMapping`: cards in the order of the partition.
    pub mapping: Option<String>,
    /// `dataPathTimeoutMs`, where the library has it.
    pub timeout_ms: Option<u32>,
}

/// Who activates a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The caller, who has to deactivate it.
    Caller,
    /// An execution object, since nobody did.
    ExecObj,
}

/// A program.
pub struct Program {
    /// Its context.
    pub context: Arc<Context>,
    /// What it was made of.
    pub qpc: Arc<Qpc>,
    /// Its cards, in the order of the partition.
    pub cards: Vec<i32>,
    /// Its name.
    pub name: String,
    /// When a run is given up.
    pub timeout_ms: Option<u32>,
    /// Its `IoDesc`.
    pub io_desc: Vec<u8>,
    /// Execution objects.
    pub children: AtomicUsize,
    /// Whether its cards are lost.
    pub lost: Flag,
    stage: Mutex<Stage>,
    /// What the C side handed out and has to keep.
    pub handed_out: OnceLock<Box<dyn Any + Send + Sync>>,
}

#[derive(Default)]
struct Stage {
    loaded: Option<Arc<Executable>>,
    is_loaded: bool,
    active: Option<(Arc<Activation>, By)>,
}

/// A program on its cards: what it computes, and its states.
pub struct Activation {
    /// `None` if the config wants nothing to be executed.
    pub executable: Option<Arc<Executable>>,
    /// The state of each input that has one; made when the first row says its shape.
    pub states: Mutex<BTreeMap<usize, Tensor>>,
}

impl Program {
    pub(super) fn create(runtime: &Runtime, context: Arc<Context>, qpc: Arc<Qpc>, wish: Wish) -> Result<Self, Fail> {
        if let Some((memory, before)) = &qpc.lent
            && digest(&memory.read()) != *before
        {
            return Err(Fail::misuse(Status::INVAL, "the QPC was opened without a copy, and its memory was changed"));
        }
        let (slices, cores) = (qpc.image.cards, qpc.image.network.cores);
        let invalid = |said: String| Fail::new(Status::INVAL, said);
        let cards = match &wish.mapping {
            Some(mapping) => {
                let cards = mapping.split(':').map(|qid| qid.parse::<i32>().ok()).collect::<Option<Vec<_>>>();
                let cards = cards.ok_or_else(|| invalid(format!("devMapping \"{mapping}\": expected \"0:1:…\"")))?;
                if (1..cards.len()).any(|i| cards[..i].contains(&cards[i])) {
                    return Err(invalid(format!("devMapping \"{mapping}\" names a device twice")));
                }
                cards
            }
            None if wish.device >= 0 => vec![wish.device],
            None => {
                let free = |&&qid: &&i32| runtime.cards.check(&[qid], cores).is_ok();
                vec![*context.devices.iter().find(free).unwrap_or(&context.devices[0])]
            }
        };
        if cards.len() != slices {
            return Err(invalid(format!("the program is for {slices} devices, and devMapping names {}", cards.len())));
        }
        if let Some(qid) = cards.iter().find(|qid| !context.devices.contains(qid)) {
            return Err(Fail::new(Status::NODEV, format!("device {qid} is not one of the context's")));
        }
        runtime.cards.check(&cards, cores)?;
        context.children.fetch_add(1, Ordering::Relaxed);
        qpc.programs.fetch_add(1, Ordering::Relaxed);
        Ok(Program {
            io_desc: qpc.image.network.io_desc(),
            context,
            qpc,
            cards,
            name: wish.name,
            timeout_ms: wish.timeout_ms.filter(|&ms| ms > 0),
            children: AtomicUsize::new(0),
            lost: Flag::new(false),
            stage: Mutex::default(),
            handed_out: OnceLock::new(),
        })
    }

    /// How the numbers of a binding are stored.
    pub fn form(&self, i: usize) -> Option<Form> {
        let network = &self.qpc.image.network;
        let fact = self.qpc.image.marker.as_ref()?.facts.ports.get(i)?;
        Some(Form { stored: network.bindings.get(i)?.elem, elem: fact.elem, mxint8: fact.mxint8 })
    }

    fn alive(&self) -> Result<(), Fail> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(Fail::new(Status::DEV_ERROR, "the program's device is lost")),
            false => Ok(()),
        }
    }

    /// Loads it.
    ///
    /// # Errors
    /// 6 if it is loaded, 500 if it cannot be.
    pub fn load(&self, runtime: &Runtime) -> Result<(), Fail> {
        self.alive()?;
        let mut stage = lock(&self.stage);
        if stage.is_loaded {
            return Err(Fail::misuse(Status::INVAL, "the program is loaded already"));
        }
        if runtime.config.execute {
            let failed = |error: anyhow::Error| Fail::new(Status::ERROR, format!("Failed to load program: {error:#}"));
            stage.loaded = Some(self.qpc.executable(&runtime.config).map_err(failed)?);
        }
        stage.is_loaded = true;
        self.context.say(level::INFO, &format!("program {} loaded", self.name));
        Ok(())
    }

    /// Unloads it.
    ///
    /// # Errors
    /// 6 if it is active, or not loaded.
    pub fn unload(&self) -> Result<(), Fail> {
        let mut stage = lock(&self.stage);
        if stage.active.is_some() {
            return Err(Fail::misuse(Status::INVAL, "the program is unloaded while it is active"));
        }
        if !stage.is_loaded {
            return Err(Fail::misuse(Status::INVAL, "the program is unloaded, and was not loaded"));
        }
        *stage = Stage::default();
        Ok(())
    }

    /// Activates it; one that is not loaded, only for an execution object.
    ///
    /// # Errors
    /// 6 if the caller has not loaded it or has activated it, 7 without cores.
    pub fn activate(&self, runtime: &Runtime, by: By) -> Result<(), Fail> {
        self.alive()?;
        if by == By::ExecObj {
            if lock(&self.stage).active.is_some() {
                return Ok(());
            }
            if !lock(&self.stage).is_loaded {
                self.load(runtime)?;
            }
        }
        let mut stage = lock(&self.stage);
        if !stage.is_loaded {
            return Err(Fail::misuse(Status::INVAL, "the program is activated, and was not loaded"));
        }
        if stage.active.is_some() {
            return Err(Fail::misuse(Status::INVAL, "the program is active already"));
        }
        runtime.cards.take(&self.cards, self.qpc.image.network.cores)?;
        let activation = Activation { executable: stage.loaded.clone(), states: Mutex::default() };
        stage.active = Some((Arc::new(activation), by));
        Ok(())
    }

    /// Deactivates it. Its states are gone.
    ///
    /// # Errors
    /// 6 if it is not active or has execution objects; 300 if its cards are lost, though it is inactive then.
    pub fn deactivate(&self, runtime: &Runtime) -> Result<(), Fail> {
        super::childless(&self.children, "the activation", "an execution object")?;
        let mut stage = lock(&self.stage);
        if stage.active.take().is_none() {
            return Err(Fail::misuse(Status::INVAL, "the program is deactivated, and is not active"));
        }
        runtime.cards.give_back(&self.cards, self.qpc.image.network.cores);
        self.alive()
    }

    /// Ends it with what an execution object began; what the caller began, the caller has to end.
    pub(super) fn end(&self, runtime: &Runtime) -> Result<(), Fail> {
        let by = lock(&self.stage).active.as_ref().map(|(_, by)| *by);
        match by {
            Some(By::Caller) => Err(Fail::misuse(Status::INVAL, "the program is released before it is deactivated")),
            Some(By::ExecObj) => self
                .deactivate(runtime)
                .or_else(|fail| if fail.status == Status::DEV_ERROR { Ok(()) } else { Err(fail) }),
            None => Ok(()),
        }
    }

    /// The activation.
    ///
    /// # Errors
    /// 6 if there is none, 300 if its cards are lost.
    pub fn activation(&self) -> Result<Arc<Activation>, Fail> {
        self.alive()?;
        let stage = lock(&self.stage);
        let active = stage.active.as_ref().map(|(activation, _)| Arc::clone(activation));
        active.ok_or_else(|| Fail::misuse(Status::INVAL, "the program is not active"))
    }

    /// Loses its cards.
    pub(super) fn lose(&self, runtime: &Runtime) {
        self.lost.store(true, Ordering::Relaxed);
        runtime.cards.lose(&self.cards);
    }
}

/// What a state holds before it is first written.
pub(super) fn first_state(form: Form, dims: &[usize], init: StateInit) -> Tensor {
    let number = match init {
        StateInit::Poison => POISON,
        StateInit::Nan => f32::NAN,
        StateInit::Zero => 0.0,
    };
    form.filled(dims, number)
}
