//! What the host itself takes of a step on cards: everything but the card, and the choice of tokens.
//!
//! The functions of the runtime library are replaced by ones that do nothing, so what remains is ours. Run it in release, on a
//! machine that does nothing else:
//!
//! ```sh
//! cargo bench --bench overhead
//! ```
#![allow(unsafe_code, clippy::print_stdout)]

use std::ffi::{c_char, c_void};
use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use qeff_host::generate::{Flow, Observer, Options, Request, Sampler, Sampling, generate};
use qeff_host::runtime::qaic::ffi::{Buffer, Bytes, Dimensions, ErrorHandler, Functions, Handle, Library, LogCallback};
use qeff_host::runtime::qaic::program::{DEFAULT_TIMEOUT, Installed};
use qeff_host::runtime::qaic::session::EXECUTIONS;
use qeff_host::runtime::qaic::{OpenOptions, QaicProgram, QaicSession};
use qeff_host::runtime::{Row, Session};
use qeff_standin::qpc::container::{self, Segment};
use qeff_standin::qpc::network::{Binding, Elem, Network};
use rayon::prelude::*;

/// Logits of a token, as many as Llama 3 has.
const VOCAB: usize = 128_256;
/// Steps of a measurement, of which the median counts.
const STEPS: usize = 2000;
/// Layers of the program, each with two states.
const LAYERS: usize = 80;

static DESCRIPTOR: OnceLock<Vec<u8>> = OnceLock::new();

/// Functions that do nothing but answer.
mod nothing {
    use super::*;

    pub(super) unsafe extern "C" fn make(place: *mut Handle) {
        // SAFETY: the host gives a place for a handle.
        unsafe { *place = std::ptr::without_provenance_mut(8) }
    }

    pub(super) unsafe extern "C" fn version(
        _: *mut u16,
        _: *mut u16,
        _: *mut *const c_char,
        _: *mut *const c_char,
    ) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn context(
        place: *mut Handle,
        _: *const c_void,
        _: u32,
        _: *const i32,
        _: Option<LogCallback>,
        _: *mut c_void,
        _: Option<ErrorHandler>,
        _: *mut c_void,
    ) -> u32 {
        // SAFETY: as above.
        unsafe { make(place) };
        0
    }

    pub(super) unsafe extern "C" fn release(_: Handle) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn qpc(place: *mut Handle, _: *const c_char) -> u32 {
        // SAFETY: as above.
        unsafe { make(place) };
        0
    }

    pub(super) unsafe extern "C" fn properties(_: *mut c_void) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn program(
        _: Handle,
        place: *mut Handle,
        _: *mut c_void,
        _: i32,
        _: *const c_char,
        _: Handle,
    ) -> u32 {
        // SAFETY: as above.
        unsafe { make(place) };
        0
    }

    pub(super) unsafe extern "C" fn activation(_: Handle, _: u32) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn descriptor(_: Handle, place: *mut Bytes) -> u32 {
        let bytes = DESCRIPTOR.get().map_or(&[][..], Vec::as_slice);
        // SAFETY: the host gives a place, and only reads what it says.
        unsafe { *place = Bytes { size: bytes.len(), data: bytes.as_ptr().cast_mut() } };
        0
    }

    pub(super) unsafe extern "C" fn queue(_: Handle, place: *mut Handle, _: *const c_void, _: i32) -> u32 {
        // SAFETY: as above.
        unsafe { make(place) };
        0
    }

    pub(super) unsafe extern "C" fn execution(
        _: Handle,
        place: *mut Handle,
        _: *const c_void,
        _: Handle,
        _: *const Bytes,
        _: *mut u32,
        _: *mut *mut Buffer,
    ) -> u32 {
        // SAFETY: as above.
        unsafe { make(place) };
        0
    }

    pub(super) unsafe extern "C" fn data(_: Handle, _: u32, _: *mut Buffer, _: *mut Dimensions) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn enqueue(_: Handle, _: Handle, _: Handle) -> u32 {
        0
    }

    pub(super) unsafe extern "C" fn wait(_: Handle, _: u32) -> u32 {
        0
    }
}

fn library() -> Library {
    let functions = Functions {
        get_version: nothing::version,
        create_context: nothing::context,
        release_context: nothing::release,
        open_qpc: nothing::qpc,
        close_qpc: nothing::release,
        init_properties: nothing::properties,
        create_program: nothing::program,
        release_program: nothing::release,
        load_program: nothing::release,
        unload_program: nothing::release,
        run_activation: nothing::activation,
        get_descriptor: nothing::descriptor,
        create_queue: nothing::queue,
        release_queue: nothing::release,
        create_execution: nothing::execution,
        release_execution: nothing::release,
        set_data: nothing::data,
        enqueue: nothing::enqueue,
        wait: nothing::wait,
        get_device_info: None,
        get_resource_info: None,
    };
    // SAFETY: they keep to the interface: they answer, and touch nothing.
    unsafe { Library::of(functions, "nothing") }
}

/// A decoder with continuous batching: so many slots, prompts of 128 tokens.
fn network(slots: usize) -> Network {
    let binding = |name: &str, output, elem, dims: &[usize], partial| Binding {
        name: name.to_owned(),
        output,
        elem,
        dims: dims.to_vec(),
        partial,
    };
    let state = [slots, 8, 4096, 128];
    let widest = |prompt: bool| if prompt { (1, 128) } else { (slots, 1) };
    let mut bindings = vec![
        binding("input_ids", false, Elem::I64, &[slots, 128], false),
        binding("position_ids", false, Elem::I64, &[slots, 128], false),
        binding("batch_index", false, Elem::I64, &[slots, 1], false),
    ];
    let names: Vec<String> = (0..LAYERS).flat_map(|i| [format!("past_key.{i}"), format!("past_value.{i}")]).collect();
    bindings.extend(names.iter().map(|name| binding(name, false, Elem::F16, &state, true)));
    bindings.push(binding("logits", true, Elem::F32, &[slots, 1, VOCAB], false));
    bindings.extend(names.iter().map(|name| binding(&format!("{name}_RetainedState"), true, Elem::F16, &state, true)));
    let row = |prompt: bool| -> Vec<Vec<usize>> {
        let (batch, tokens) = widest(prompt);
        let mut row = vec![vec![batch, tokens], vec![batch, tokens], vec![batch, 1]];
        row.extend(names.iter().map(|_| state.to_vec()));
        row.push(vec![batch, 1, VOCAB]);
        row.extend(names.iter().map(|_| state.to_vec()));
        row
    };
    Network { name: "QAicGraph".into(), cores: 16, bindings, rows: vec![row(true), row(false)] }
}

fn session(slots: usize, dir: &Path) -> Result<QaicSession> {
    let network = network(slots);
    let descriptor = network.encode();
    let file = container::write(&[Segment { name: "networkdesc.bin", bytes: &descriptor }]);
    let path = dir.join("programqpc.bin");
    std::fs::write(&path, file)?;
    DESCRIPTOR.get_or_init(|| network.io_desc());
    let installed = Installed { library: Arc::new(library()), layout: Ok(None) };
    let options = OpenOptions { cards: vec![0], timeout: DEFAULT_TIMEOUT, executions: EXECUTIONS };
    Ok(QaicSession::new(QaicProgram::open(&installed, &path, &options)?, None)?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Notes when the first sequence gets its ids: one a step.
#[derive(Default)]
struct Clock {
    ids: Vec<Instant>,
}

impl Observer for Clock {
    fn token(&mut self, request: usize, _: u32) -> Result<Flow> {
        if request == 0 {
            self.ids.push(Instant::now());
        }
        Ok(Flow::Continue)
    }
}

fn main() -> Result<()> {
    // One number of slots a process, since the descriptor is one; cargo passes flags of its own.
    let slots: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let Some(&slots) = slots.first() else {
        for slots in [1, 32] {
            let program = std::env::current_exe()?;
            let status = std::process::Command::new(program).arg(slots.to_string()).status()?;
            anyhow::ensure!(status.success(), "{slots} slots: {status}");
        }
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let mut session = session(slots, dir.path())?;
    anyhow::ensure!(session.slots() == slots);

    let mut steps = vec![];
    for step in 0..STEPS {
        let begun = Instant::now();
        let token = [step as u32];
        let rows: Vec<Row<'_>> = (0..slots).map(|slot| Row { slot, tokens: &token, position: step }).collect();
        let logits = session.decode(&rows)?;
        black_box(logits.row(slots - 1).first().copied());
        steps.push(begun.elapsed());
    }
    let step = median(steps);

    // The same with the scheduler around it, and a choice of tokens that is then subtracted.
    let requests: Vec<Request> =
        (0..slots).map(|_| Request { prompt: vec![1, 2, 3], max_new_tokens: STEPS / 4 }).collect();
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk: 128, keep_logits: false };
    let logits = session.decode(&[Row { slot: 0, tokens: &[1], position: 0 }])?;
    let one = logits.row(0).to_vec();
    drop(logits);
    let mut clock = Clock::default();
    generate(&mut session, &requests, &options, &mut clock)?;
    let whole = median(clock.ids.windows(2).map(|pair| pair[1] - pair[0]).collect());

    // Logits as a model would give them: the largest anywhere.
    let mut all: Vec<f32> = one;
    all.resize(VOCAB * slots, 0.0);
    all.iter_mut().enumerate().for_each(|(i, logit)| *logit = ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32);
    let mut samplers = vec![Sampler::new(&Sampling::default())?; slots];
    let (mut choices, mut maxima) = (vec![], vec![]);
    for _ in 0..STEPS / 10 {
        let begun = Instant::now();
        let ids: Vec<u32> = if slots == 1 {
            vec![samplers[0].pick(&all, &[])?]
        } else {
            samplers
                .par_iter_mut()
                .zip(all.par_chunks(VOCAB))
                .map(|(sampler, row)| sampler.pick(row, &[]))
                .collect::<Result<_, _>>()?
        };
        choices.push(begun.elapsed());
        black_box(ids);
        let begun = Instant::now();
        let halves: Vec<f32> = all.par_chunks(all.len().div_ceil(2)).map(maximum).collect();
        maxima.push(begun.elapsed());
        black_box(halves);
    }
    let (choice, maximum) = (median(choices), median(maxima));
    println!(
        "{slots:2} slots: a decode step takes {:.1} us of the host, {:.1} us with scheduler and the choice of tokens; choosing {slots} of {VOCAB} {:.1} us, the largest of all on 2 threads {:.1} us: {:.2} times",
        step.as_secs_f64() * 1e6,
        whole.as_secs_f64() * 1e6,
        choice.as_secs_f64() * 1e6,
        maximum.as_secs_f64() * 1e6,
        choice.as_secs_f64() / maximum.as_secs_f64(),
    );
    Ok(())
}

/// The largest number, by vector instructions.
fn maximum(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<32>();
    let mut lanes = [f32::NEG_INFINITY; 32];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = if x > *lane { x } else { *lane });
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}
