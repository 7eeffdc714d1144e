//! A program on cards, called by the names of its inputs and outputs.
//!
//! A program has several executions: one call of each may be in progress at a time, and all of them share what the program
//! retains. States are left out of calls unless somebody gives one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use half::{bf16, f16};
use qeff_core::mapping::Mapping;
use qeff_core::qpc::{self, Binding, Direction, Elem, Interface, Qpc, State};

use super::error::{CallError, QaicError, Status};
use super::ffi::Library;
use super::header::Layout;
use super::locate::Located;
use super::objects::{Activation, Context, Execution, Program, Properties, Queue};
use super::{placement, rows};
use crate::runtime::{Callable, Data, RuntimeError, Tensor};

/// When a call is given up, unless somebody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The file of a QPC that a runtime loads.
pub const FILE: &str = "programqpc.bin";

/// How a program is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Cards in the order of the program's slices.
    pub cards: Vec<i32>,
    /// When a call is given up.
    pub timeout: Duration,
    /// Calls that may be in progress at once.
    pub executions: usize,
}

/// A library that is open, with what its header says.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The library.
    pub library: Arc<Library>,
    /// Layout of the struct that differs between releases, or why it is not known.
    pub layout: Result<Option<Layout>, String>,
}

impl Installed {
    /// Opens a library that was found.
    ///
    /// # Errors
    /// If it cannot be opened, lacks a function, or is older than its header.
    pub fn open(located: &Located) -> Result<Self, QaicError> {
        let library = Arc::new(Library::open(&located.library, &located.by)?);
        let layout = located.header.as_deref().map(Layout::read).transpose();
        if let Ok(Some(Layout { header, version: Some(expected), .. })) = &layout {
            let found = library.version()?;
            if found.0 != expected.0 || found.1 < expected.1 {
                let (library, header) = (located.library.clone(), header.clone());
                return Err(QaicError::Version { library, found, header, expected: *expected });
            }
        }
        Ok(Installed { library, layout })
    }
}

/// The file in a folder that holds a QPC, or the file itself.
pub fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(FILE) } else { path.to_owned() }
}

/// Reads what a QPC says of itself, from a file or its folder.
///
/// # Errors
/// If it cannot be read or is none.
pub fn read(path: &Path) -> Result<Qpc, QaicError> {
    let path = file_of(path);
    let mapping = Mapping::open(&path).map_err(|error| QaicError::Unfit(error.to_string()))?;
    Qpc::parse(mapping.all()).map_err(|error| QaicError::Qpc { path, error })
}

/// A program that has its cores and can be called.
#[derive(Debug)]
pub struct QaicProgram {
    // Released in this order.
    executions: Vec<Execution>,
    _activation: Arc<Activation>,
    interface: Interface,
    states: Vec<State>,
    timeout: Duration,
    on: String,
    lost: bool,
}

impl QaicProgram {
    /// Loads a QPC, from its file or folder, and takes cores for it.
    ///
    /// # Errors
    /// If it does not fit the cards, or the library refuses.
    pub fn open(installed: &Installed, path: &Path, options: &OpenOptions) -> Result<Self, QaicError> {
        let file = file_of(path);
        let qpc = read(&file)?;
        fits(&qpc, options, &file)?;
        let library = &installed.library;
        placement::check(library, &options.cards, qpc.cores())?;
        let layout = match &installed.layout {
            Ok(layout) => layout.as_ref(),
            // One card needs nothing of the header but the timeout, which has a default.
            Err(why) if options.cards.len() > 1 => return Err(QaicError::Header { why: why.clone() }),
            Err(why) => {
                tracing::warn!("the header is not understood: {why}");
                None
            }
        };
        let context = Context::new(Arc::clone(library), &options.cards)?;
        let queue = Queue::new(&context)?;
        let explain = |error| explained(error, library, &options.cards, qpc.cores());
        let properties = Properties { layout, timeout: options.timeout };
        let program = Program::load(&context, &file, properties).map_err(explain)?;
        let descriptor = program.descriptor()?;
        let interface = match descriptor.as_slice() {
            [] => qpc.interface().cloned().unwrap_or_else(|| Interface {
                program: String::new(),
                bindings: vec![],
                rows: vec![],
            }),
            bytes => qpc::io_descriptor(bytes).map_err(|error| QaicError::Qpc { path: file.clone(), error })?,
        };
        let sizes = interface.bindings.iter().map(elem_size).collect::<Result<Vec<_>, _>>()?;
        let activation = program.activate().map_err(explain)?;
        let executions = (0..options.executions.max(1))
            .map(|_| Execution::new(&activation, &queue, &descriptor, &sizes))
            .collect::<Result<_, _>>()?;
        let states = interface.states();
        let on = context.on().to_owned();
        Ok(QaicProgram {
            executions,
            _activation: activation,
            interface,
            states,
            timeout: patience(layout, options.timeout),
            on,
            lost: false,
        })
    }

    /// Inputs, outputs and the shapes that calls may have.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// What the program retains.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Calls that may be in progress at once.
    pub fn executions(&self) -> usize {
        self.executions.len()
    }

    /// One of the executions, to set what its next call takes and to read what its last one gave.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn execution(&mut self, number: usize) -> Result<&mut Execution, QaicError> {
        let count = self.executions.len();
        let missing = || QaicError::Misuse(format!("there are {count} executions, and {number} was asked for"));
        self.executions.get_mut(number).ok_or_else(missing)
    }

    /// Hands the next call of an execution over; others may be in progress.
    ///
    /// # Errors
    /// If no specialization has its shapes, the program is lost, or the library refuses. Then there is no call.
    pub fn submit(&mut self, number: usize) -> Result<Ticket, QaicError> {
        if self.lost {
            return Err(QaicError::GivenUp { on: self.on.clone() });
        }
        let QaicProgram { executions, interface, .. } = self;
        let execution =
            executions.get_mut(number).ok_or_else(|| QaicError::Misuse(format!("there is no execution {number}")))?;
        if execution.has_changed() {
            if rows::find(interface, |binding| execution.dims(binding)).is_none() {
                return Err(QaicError::Misuse(rows::describe(interface, |binding| execution.dims(binding))));
            }
            execution.settle();
        }
        let submitted = execution.submit();
        self.note(submitted)?;
        Ok(Ticket { number })
    }

    /// Waits for a call.
    ///
    /// # Errors
    /// If it failed, or does not come back in time.
    pub fn complete(&mut self, ticket: Ticket) -> Result<&mut Execution, QaicError> {
        let timeout = self.timeout;
        let completed = self.execution(ticket.number)?.complete(timeout);
        self.note(completed)?;
        self.execution(ticket.number)
    }

    fn note(&mut self, outcome: Result<(), QaicError>) -> Result<(), QaicError> {
        self.lost |= outcome.as_ref().is_err_and(QaicError::is_lost);
        outcome
    }

    /// Whether a binding is one half of a state.
    fn is_state(&self, binding: usize) -> bool {
        self.states.iter().any(|state| state.input == binding || state.output == binding)
    }

    fn call(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>, QaicError> {
        /// The execution of calls by name.
        const FIRST: usize = 0;
        let mut given: Vec<Option<&Tensor>> = vec![None; self.interface.bindings.len()];
        for (name, tensor) in inputs {
            let found = self.interface.input(name);
            let binding = found.ok_or_else(|| QaicError::Misuse(format!("the program has no input `{name}`")))?;
            given[binding] = Some(tensor);
        }
        for (binding, of) in self.interface.bindings.iter().enumerate() {
            if of.direction == Direction::Input && given[binding].is_none() && !self.is_state(binding) {
                return Err(QaicError::Misuse(format!("nobody gives `{}`", of.name)));
            }
        }
        // Outputs have the shapes of the row that the inputs choose.
        let shapes: Vec<Vec<u32>> = given.iter().map(|tensor| tensor.map_or_else(|| vec![0], shape)).collect();
        let Some(row) = rows::find(&self.interface, |binding| &shapes[binding]) else {
            return Err(QaicError::Misuse(rows::describe(&self.interface, |binding| &shapes[binding])));
        };
        let wanted: Vec<bool> = (0..given.len())
            .map(|binding| self.interface.bindings[binding].direction == Direction::Output && !self.is_state(binding))
            .collect();
        for binding in 0..given.len() {
            let elem = self.interface.bindings[binding].elem;
            let dims = self.interface.rows[row][binding].clone();
            let execution = self.execution(FIRST)?;
            match given[binding] {
                Some(tensor) => write(tensor, elem, execution.set(binding, &shapes[binding])?)?,
                None if wanted[binding] => drop(execution.set(binding, &dims)?),
                None => execution.skip(binding)?,
            }
        }
        let ticket = self.submit(FIRST)?;
        self.complete(ticket)?;
        let mut outputs = vec![];
        for binding in (0..wanted.len()).filter(|&binding| wanted[binding]) {
            let Binding { elem, .. } = self.interface.bindings[binding];
            let name = self.interface.bindings[binding].public_name();
            let execution = self.execution(FIRST)?;
            let dims = execution.dims(binding).iter().map(|&dim| dim as usize).collect();
            outputs.push((name, read_tensor(elem, dims, execution.bytes(binding)?)?));
        }
        Ok(outputs)
    }
}

impl Callable for QaicProgram {
    fn call(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        Ok(QaicProgram::call(self, inputs)?)
    }
}

/// A call in progress.
#[derive(Debug)]
#[must_use = "a call in progress has to be completed"]
pub struct Ticket {
    number: usize,
}

/// How long a call is waited for. Where the library gives calls up itself, it is waited for that: it knows more of why.
fn patience(layout: Option<&Layout>, timeout: Duration) -> Duration {
    const GRACE: Duration = Duration::from_secs(2);
    if layout.is_some_and(|layout| layout.timeout_ms.is_some()) { timeout.saturating_add(GRACE) } else { timeout }
}

/// Whether cards and program go together.
fn fits(qpc: &Qpc, options: &OpenOptions, file: &Path) -> Result<(), QaicError> {
    let (needs, cards) = (qpc.devices(), options.cards.len());
    if needs != cards {
        let names = |n: usize| if n == 1 { "1 card".to_owned() } else { format!("{n} cards") };
        return Err(QaicError::Unfit(format!(
            "{} is compiled for {}, and {} {} given; name as many with --device-group, or compile for {cards}",
            file.display(),
            names(needs),
            names(cards),
            if cards == 1 { "is" } else { "are" },
        )));
    }
    Ok(())
}

fn elem_size(binding: &Binding) -> Result<usize, QaicError> {
    let refused =
        || QaicError::Unfit(format!("binding `{}` has {}, which is not known", binding.name, binding.elem.name()));
    binding.elem.bytes().ok_or_else(refused)
}

/// Says what is free beside what is needed, if a program did not get its cores.
fn explained(error: QaicError, library: &Library, cards: &[i32], cores: u32) -> QaicError {
    let QaicError::Call(call) = error else { return error };
    let free: Vec<String> = cards
        .iter()
        .filter_map(|&card| {
            Some(format!(
                "card {card} has {} of {}",
                library.resources(card)?.nsp_free,
                library.resources(card)?.nsp_total
            ))
        })
        .collect();
    if free.is_empty() || matches!(call.status, Status::NO_DEVICE | Status::TIMED_OUT) {
        return QaicError::Call(call);
    }
    let note = Some(format!("the program takes {cores} cores of each card; free: {}", free.join(", ")));
    QaicError::Call(Box::new(CallError { note, ..*call }))
}

fn shape(tensor: &Tensor) -> Vec<u32> {
    if tensor.shape.is_empty() {
        return vec![1];
    }
    tensor.shape.iter().map(|&dim| u32::try_from(dim).unwrap_or(u32::MAX)).collect()
}

/// Writes numbers in the type of a binding.
fn write(tensor: &Tensor, elem: Elem, to: &mut [u8]) -> Result<(), QaicError> {
    fn all<T: Copy, const N: usize>(from: &[T], to: &mut [u8], bytes: impl Fn(T) -> [u8; N]) {
        for (to, &number) in to.chunks_exact_mut(N).zip(from) {
            to.copy_from_slice(&bytes(number));
        }
    }
    match (&tensor.data, elem) {
        (Data::F32(data), Elem::F32) => all(data, to, f32::to_le_bytes),
        (Data::F32(data), Elem::F16) => all(data, to, |x| f16::from_f32(x).to_le_bytes()),
        (Data::F32(data), Elem::Bf16) => all(data, to, |x| bf16::from_f32(x).to_le_bytes()),
        (Data::I64(data), Elem::I64) => all(data, to, i64::to_le_bytes),
        (Data::I64(data), Elem::I32) => {
            if let Some(wide) = data.iter().find(|&&n| i32::try_from(n).is_err()) {
                return Err(QaicError::Misuse(format!("{wide} does not fit an input of int32")));
            }
            all(data, to, |n| (n as i32).to_le_bytes());
        }
        (Data::Bool(data), Elem::I8 | Elem::U8) => all(data, to, |flag| [u8::from(flag)]),
        (data, elem) => {
            return Err(QaicError::Misuse(format!("{} cannot be given to an input of {}", data.name(), elem.name())));
        }
    }
    Ok(())
}

/// Numbers of a binding, widened.
fn read_tensor(elem: Elem, shape: Vec<usize>, bytes: &[u8]) -> Result<Tensor, QaicError> {
    fn all<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.chunks_exact(N).filter_map(|chunk| chunk.try_into().ok()).map(number).collect()
    }
    let data = match elem {
        Elem::F32 => Data::F32(all(bytes, f32::from_le_bytes)),
        Elem::F16 => Data::F32(all(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Elem::Bf16 => Data::F32(all(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        Elem::I64 => Data::I64(all(bytes, i64::from_le_bytes)),
        Elem::I32 => Data::I64(all(bytes, |b| i32::from_le_bytes(b).into())),
        Elem::I16 => Data::I64(all(bytes, |b| i16::from_le_bytes(b).into())),
        Elem::I8 => Data::I64(all(bytes, |b| i8::from_le_bytes(b).into())),
        Elem::U8 => Data::I64(all(bytes, |b: [u8; 1]| b[0].into())),
        Elem::Other(_) => return Err(QaicError::Unfit(format!("an output has {}, which is not known", elem.name()))),
    };
    Ok(Tensor { shape, data })
}
