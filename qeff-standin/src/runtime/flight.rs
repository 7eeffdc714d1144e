//! Execution objects: the buffers of a run, and the run from enqueue to completion.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::program::{Activation, Program, first_state};
use super::queue::Queue;
use super::status::{Fail, Status};
use super::{Event, Memory, Runtime, lock, thread};
use crate::config::What;
use crate::graph::tensor::Tensor;
use crate::qpc::network::bytes;

/// A buffer as a caller describes it.
pub struct Buffer {
    /// Its memory.
    pub memory: Arc<dyn Memory>,
    /// Its length in bytes.
    pub size: usize,
    /// Its shape; `None` stands for the largest one.
    pub dims: Option<Vec<usize>>,
    /// Bytes of an element, as the caller says.
    pub elem_size: Option<usize>,
    /// Kind of memory: 0 is the heap.
    pub kind: u32,
}

/// A buffer that was accepted.
#[derive(Clone)]
struct Slot {
    memory: Arc<dyn Memory>,
    dims: Vec<usize>,
    skipped: bool,
}

/// An execution object.
pub struct Exec {
    /// Its program.
    pub program: Arc<Program>,
    id: u64,
    slots: Mutex<Option<Vec<Slot>>>,
    flight: Mutex<Option<Arc<Flight>>>,
}

/// One run.
#[derive(Default)]
struct Flight {
    state: Mutex<FlightState>,
    /// Rung when the run is done, or is given up.
    bell: Condvar,
}

#[derive(Default)]
struct FlightState {
    done: Option<Result<(), Fail>>,
    /// Somebody waited in vain, and may give it up.
    overdue: bool,
    /// It was given up: memory of the caller must not be touched any more.
    given_up: bool,
}

impl Exec {
    pub(super) fn new(id: u64, program: Arc<Program>) -> Self {
        Exec { program, id, slots: Mutex::default(), flight: Mutex::default() }
    }

    fn in_flight(&self) -> Option<Arc<Flight>> {
        lock(&self.flight).clone().filter(|flight| lock(&flight.state).done.is_none())
    }

    /// Sets all buffers, in the order of the bindings. Only descriptions are kept.
    ///
    /// # Errors
    /// 6 if one cannot be a buffer of its binding, 4 during a run.
    pub fn set(&self, buffers: Vec<Buffer>) -> Result<(), Fail> {
        self.program.activation()?;
        if self.in_flight().is_some() {
            return Err(Fail::misuse(Status::BUSY, "buffers are set during a run"));
        }
        let bindings = &self.program.qpc.image.network.bindings;
        let invalid = |said: String| Fail::new(Status::INVAL, said);
        if buffers.len() != bindings.len() {
            return Err(invalid(format!("{} buffers for {} bindings", buffers.len(), bindings.len())));
        }
        let mut slots = vec![];
        for (buffer, binding) in buffers.into_iter().zip(bindings) {
            let name = &binding.name;
            if buffer.kind != 0 {
                return Err(invalid(format!(
                    "buffer `{name}`: type {}, and only heap buffers (0) can be set",
                    buffer.kind
                )));
            }
            if buffer.elem_size.is_some_and(|size| size != binding.elem.size()) {
                return Err(invalid(format!(
                    "buffer `{name}`: sizeOfElem {:?}, it is {}",
                    buffer.elem_size,
                    binding.elem.size()
                )));
            }
            // Without dims, a buffer of no size is one that is left out.
            let dims = match buffer.dims {
                Some(dims) => dims,
                None if buffer.size == 0 => vec![0],
                None => binding.dims.clone(),
            };
            let skipped = dims == [0];
            if skipped && !binding.partial {
                return Err(invalid(format!("buffer `{name}` is left out, and is no retained state")));
            }
            let size = if skipped { 0 } else { bytes(binding.elem, &dims) };
            if buffer.size != size {
                return Err(invalid(format!(
                    "buffer `{name}`: {} bytes for dims {dims:?}, expected {size}",
                    buffer.size
                )));
            }
            slots.push(Slot { memory: buffer.memory, dims, skipped });
        }
        *lock(&self.slots) = Some(slots);
        Ok(())
    }

    /// Waits for the run.
    ///
    /// # Errors
    /// 9 if it takes longer than so many microseconds, else what the run answers.
    pub fn wait(&self, timeout_us: u32) -> Result<(), Fail> {
        let flight = lock(&self.flight).clone();
        let flight =
            flight.ok_or_else(|| Fail::misuse(Status::INVAL, "nothing was enqueued that could be waited for"))?;
        let state = lock(&flight.state);
        let timeout = Duration::from_micros(timeout_us.into());
        let waited = flight.bell.wait_timeout_while(state, timeout, |state| state.done.is_none());
        let (state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        let late = || Fail::new(Status::TIMEDOUT, format!("the run is not done after {timeout_us} µs"));
        state.done.clone().unwrap_or_else(|| Err(late()))
    }

    /// Somebody has waited and got nothing: from now on the run may be given up.
    pub fn waited_in_vain(&self) {
        if let Some(flight) = self.in_flight() {
            lock(&flight.state).overdue = true;
        }
    }

    /// Gives up what nobody can wait for any longer.
    pub(super) fn end(&self) -> Result<(), Fail> {
        let Some(flight) = self.in_flight() else { return Ok(()) };
        let mut state = lock(&flight.state);
        if !state.overdue {
            return Err(Fail::misuse(Status::BUSY, "an execution object is released during its run"));
        }
        state.given_up = true;
        flight.bell.notify_all();
        Ok(())
    }
}

/// Enqueues the run of an execution object.
///
/// # Errors
/// 6 without buffers or with a queue of another context, 4 during a run.
pub fn enqueue(
    runtime: &'static Runtime,
    queue: &Queue,
    exec: &Arc<Exec>,
    event: Option<Arc<Event>>,
) -> Result<(), Fail> {
    let activation = exec.program.activation()?;
    if queue.context.id != exec.program.context.id {
        return Err(Fail::misuse(Status::INVAL, "the queue is of another context"));
    }
    if exec.in_flight().is_some() {
        return Err(Fail::misuse(Status::BUSY, "an execution object is enqueued during its run"));
    }
    let slots = lock(&exec.slots).clone();
    let slots = slots.ok_or_else(|| Fail::misuse(Status::INVAL, "an execution object is enqueued without buffers"))?;
    let flight = Arc::new(Flight::default());
    *lock(&exec.flight) = Some(Arc::clone(&flight));
    let run = Run { runtime, exec: Arc::clone(exec), activation, flight, seals: seals(runtime, &slots), slots };
    queue.submit(Box::new(move || {
        run.fly();
        if let Some(event) = event {
            event.ring();
        }
    }))
}

/// What buffers hold, in a number each: whoever changes one during a run is found out.
fn seals(runtime: &Runtime, slots: &[Slot]) -> Vec<u64> {
    if !runtime.config.execute {
        return vec![];
    }
    slots.iter().map(|slot| if slot.skipped { 0 } else { seal(&slot.memory.read()) }).collect()
}

fn seal(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

struct Run {
    runtime: &'static Runtime,
    exec: Arc<Exec>,
    activation: Arc<Activation>,
    flight: Arc<Flight>,
    slots: Vec<Slot>,
    seals: Vec<u64>,
}

impl Run {
    /// All of it, on a thread of a queue.
    fn fly(&self) {
        let mut note = json!({
            "run": super::objects::spell(self.exec.id),
            "cards": self.exec.program.cards,
            "thread": thread(),
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.execute(&mut note)));
        let outcome = outcome.unwrap_or_else(|_| Err(Fail::new(Status::ERROR, "the stand-in panicked")));
        note["status"] = outcome.as_ref().map_or_else(|fail| fail.status.0, |()| 0).into();
        if let Err(fail) = &outcome {
            note["said"] = fail.said.clone().into();
            if let Some(misuse) = &fail.misuse {
                note["misuse"] = misuse.clone().into();
            }
            self.exec.program.context.say(super::level::ERROR, &fail.said);
        }
        // Logged before anybody who waits goes on, so that lines stand in the order of what happened.
        self.runtime.note(&note);
        lock(&self.flight.state).done = Some(outcome);
        self.flight.bell.notify_all();
    }

    fn execute(&self, note: &mut Json) -> Result<(), Fail> {
        let begun = Instant::now();
        let program = &self.exec.program;
        let mut least = Duration::from_millis(self.runtime.config.latency_ms);
        match self.runtime.fault("run") {
            Some(What::Hang) => least = Duration::MAX,
            Some(What::Delay(ms)) => least += Duration::from_millis(*ms),
            Some(What::Status(status, said)) => return Err(Fail::new(Status(*status), said.clone())),
            Some(What::DeviceError) => {
                program.lose(self.runtime);
                return Err(Fail::new(Status::DEV_ERROR, "the device is lost"));
            }
            None => {}
        }
        self.linger(least)?;
        // What was lost meanwhile does not answer.
        program.activation()?;
        let row = self.row(note)?;
        if let Some(executable) = &self.activation.executable {
            let mut states = lock(&self.activation.states);
            let inputs = self.inputs(row, &mut states)?;
            let outputs = executable.run(inputs).map_err(|error| Fail::new(Status::ERROR, format!("{error:#}")))?;
            self.deliver(row, outputs, &mut states)?;
        }
        match program.timeout_ms {
            Some(ms) if begun.elapsed() > Duration::from_millis(ms.into()) => Err(self.overdue(ms)),
            _ => Ok(()),
        }
    }

    /// Takes so long at least, unless it is given up.
    fn linger(&self, least: Duration) -> Result<(), Fail> {
        if least.is_zero() {
            return Ok(());
        }
        let limit = self.exec.program.timeout_ms;
        let time = limit.map_or(least, |ms| least.min(Duration::from_millis(ms.into())));
        let state = lock(&self.flight.state);
        // Longer than any test runs; what has no end cannot be waited for.
        let time = time.min(Duration::from_secs(86400));
        let waited = self.flight.bell.wait_timeout_while(state, time, |state| !state.given_up);
        let (state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.given_up {
            return Err(Fail::new(Status::ERROR, "the run was given up"));
        }
        match limit {
            Some(ms) if least > Duration::from_millis(ms.into()) => Err(self.overdue(ms)),
            _ => Ok(()),
        }
    }

    fn overdue(&self, ms: u32) -> Fail {
        let card = self.exec.program.cards[0];
        let said = format!(
            "Dev {card} wait in kernel failed; Increase QAicProgramProperties::dataPathTimeoutMs, current: {ms}."
        );
        Fail::new(Status::ERROR, said)
    }

    /// The first row that has the shapes of all buffers that are there.
    fn row(&self, note: &mut Json) -> Result<usize, Fail> {
        let network = &self.exec.program.qpc.image.network;
        let fits =
            |row: &&Vec<Vec<usize>>| row.iter().zip(&self.slots).all(|(dims, slot)| slot.skipped || *dims == slot.dims);
        let rows: Vec<usize> = network.rows.iter().enumerate().filter(|(_, row)| fits(row)).map(|(i, _)| i).collect();
        let Some(&row) = rows.first() else {
            let passed: Vec<_> = self.slots.iter().map(|slot| &slot.dims).collect();
            let said = format!("No matching dimension found: passed {passed:?}, allowed {:?}", network.rows);
            return Err(Fail::new(Status::ERROR, said));
        };
        note["row"] = row.into();
        let skipped = self.slots.iter().zip(&network.bindings).filter(|(slot, _)| slot.skipped);
        note["skipped"] = skipped.map(|(_, binding)| Json::from(binding.name.clone())).collect();
        // Rows that are the same in every binding differ in nothing that could be chosen.
        if rows.iter().any(|&other| network.rows[other] != network.rows[row]) {
            note["ambiguous"] = json!(rows);
        }
        Ok(row)
    }

    /// The caller's inputs, and the states of those that are left out.
    fn inputs(&self, row: usize, states: &mut std::collections::BTreeMap<usize, Tensor>) -> Result<Vec<Tensor>, Fail> {
        let program = &self.exec.program;
        let network = &program.qpc.image.network;
        let mut inputs = vec![];
        for (i, (slot, binding)) in self.slots.iter().zip(&network.bindings).enumerate() {
            if binding.output {
                break;
            }
            let form = program.form(i).ok_or_else(|| Fail::new(Status::ERROR, "the QPC does not say its ports"))?;
            let dims = &network.rows[row][i];
            if !slot.skipped {
                let bytes = self.touch(|| slot.memory.read())?;
                if seal(&bytes) != self.seals[i] {
                    return Err(self.changed(i));
                }
                let tensor = form.decode(&bytes, dims);
                inputs.push(tensor.map_err(|error| Fail::new(Status::INVAL, format!("`{}`: {error}", binding.name)))?);
                continue;
            }
            let state = states.entry(i).or_insert_with(|| first_state(form, dims, self.runtime.config.state_init));
            if state.dims != *dims {
                let said = format!("state `{}` is {:?}, and the chosen shapes want {dims:?}", binding.name, state.dims);
                return Err(Fail::new(Status::ERROR, said));
            }
            inputs.push(state.clone());
        }
        Ok(inputs)
    }

    /// Keeps the new states, and writes what the caller asked for.
    fn deliver(
        &self,
        row: usize,
        outputs: Vec<Tensor>,
        states: &mut std::collections::BTreeMap<usize, Tensor>,
    ) -> Result<(), Fail> {
        let program = &self.exec.program;
        let network = &program.qpc.image.network;
        let error = |what: String| Fail::new(Status::ERROR, what);
        let retained = program.qpc.image.marker.as_ref().map_or(&[][..], |marker| &marker.facts.retained);
        let first = network.bindings.iter().take_while(|binding| !binding.output).count();
        let mut writes = vec![];
        for (i, output) in (first..).zip(outputs) {
            let (slot, binding) = (&self.slots[i], &network.bindings[i]);
            let form = program.form(i).ok_or_else(|| error("the QPC does not say its ports".into()))?;
            if output.dims != network.rows[row][i] {
                let said = format!("`{}` is {:?}, declared {:?}", binding.name, output.dims, network.rows[row][i]);
                return Err(error(said));
            }
            let output = form.round(output);
            if !slot.skipped {
                let bytes = form.encode(&output).map_err(|why| error(format!("`{}`: {why}", binding.name)))?;
                writes.push((i, bytes));
            }
            if let Some(&(input, _)) = retained.iter().find(|&&(_, output)| output == i) {
                states.insert(input, output);
            }
        }
        self.touch(|| {
            for (i, slot) in self.slots.iter().enumerate() {
                if !slot.skipped && seal(&slot.memory.read()) != self.seals[i] {
                    return Err(self.changed(i));
                }
            }
            writes.iter().for_each(|(i, bytes)| self.slots[*i].memory.write(bytes));
            Ok(())
        })?
    }

    /// Touches memory of the caller, unless the run was given up. Nobody can give it up meanwhile.
    fn touch<T>(&self, what: impl FnOnce() -> T) -> Result<T, Fail> {
        let state = lock(&self.flight.state);
        if state.given_up {
            return Err(Fail::new(Status::ERROR, "the run was given up"));
        }
        let result = what();
        drop(state);
        Ok(result)
    }

    fn changed(&self, i: usize) -> Fail {
        let name = &self.exec.program.qpc.image.network.bindings[i].name;
        Fail::misuse(Status::ERROR, format!("buffer `{name}` was changed between enqueue and the end of the run"))
    }
}
