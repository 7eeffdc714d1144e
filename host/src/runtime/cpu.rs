//! The CPU runtime: rten, pure Rust, nothing to download.
//!
//! States are handed to the engine by value and come back as results, so it updates them in place. They begin small and
//! grow with the longest sequence: attention reads every row of a state, so rows that nobody needs would cost time. Each
//! state has one row more than positions, the slack row, where writes at position −1 go.
//!
//! With several slots there are two programs over the same weights: *indexed* writes one sequence into its slot, *plain*
//! advances all slots at once without moving any state.

use qeff_plugin_api::graph::{Declaration, Program, Role};
use rten::{Model, NodeId, Value, ValueOrView};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};

use super::{Logits, Row, RuntimeError, Session};

const ENGINE: &str = "rten";

/// Rows that a state begins with.
const FIRST_ROWS: usize = 256;

/// A program ready to run.
pub struct CpuProgram {
    model: Model,
    tokens: NodeId,
    positions: NodeId,
    batch_index: Option<NodeId>,
    states: Vec<StatePort>,
    /// Logits, then the states in order.
    outputs: Vec<NodeId>,
}

struct StatePort {
    input: NodeId,
    heads: usize,
    width: usize,
}

impl CpuProgram {
    /// Finds the ports of a program in the engine's model of it.
    ///
    /// # Errors
    /// If the engine's model lacks one of the program's ports.
    pub fn new(model: Model, program: &Program) -> Result<Self, RuntimeError> {
        let find = |name: &str| {
            model.node_id(name).map_err(|error| RuntimeError::Load { engine: ENGINE, why: error.to_string() })
        };
        let input = |role: Role| program.input(role).map(|input| find(&input.name)).transpose();
        let missing = |what: &str| RuntimeError::Load { engine: ENGINE, why: format!("the program has no {what}") };
        let tokens = input(Role::Tokens)?.ok_or_else(|| missing("tokens"))?;
        let positions = input(Role::Positions)?.ok_or_else(|| missing("positions"))?;
        let batch_index = input(Role::BatchIndex)?;
        let logits = program.output(Role::Logits).ok_or_else(|| missing("logits"))?;
        let mut outputs = vec![find(&logits.name)?];
        let mut states = vec![];
        for declaration in program.declarations() {
            let Declaration::State(slot) = *declaration else { continue };
            let state = program.state(slot);
            for (name, &part) in state.names.iter().zip(&state.parts) {
                let dim = |axis: usize| program.ty(part).dims.get(axis).and_then(|dim| dim.fixed());
                let (Some(heads), Some(width)) = (dim(1), dim(3)) else {
                    return Err(missing(&format!("fixed shape of state {name}")));
                };
                states.push(StatePort { input: find(name)?, heads: heads as usize, width: width as usize });
                outputs.push(find(&format!("{name}_RetainedState"))?);
            }
        }
        Ok(CpuProgram { model, tokens, positions, batch_index, states, outputs })
    }
}

/// Retained state of some sequences on the CPU.
pub struct CpuSession {
    /// Advances all slots at once.
    plain: CpuProgram,
    /// Writes one slot; only needed if there are several.
    indexed: Option<CpuProgram>,
    slots: usize,
    context: usize,
    rows: usize,
    states: Vec<Value>,
}

impl CpuSession {
    /// A session of `slots` sequences of at most `context` positions. `indexed` is needed for more than one slot.
    pub fn new(plain: CpuProgram, indexed: Option<CpuProgram>, slots: usize, context: usize) -> Self {
        let rows = FIRST_ROWS.min(context);
        let states = plain.states.iter().map(|port| empty(port, slots, rows)).collect();
        CpuSession { plain, indexed, slots, context, rows, states }
    }

    /// Makes room for positions up to `position`.
    fn reserve(&mut self, position: usize) -> Result<(), RuntimeError> {
        if position >= self.context {
            return Err(RuntimeError::Full { position, context: self.context });
        }
        if position < self.rows {
            return Ok(());
        }
        let rows = (2 * self.rows).max(position + 1).min(self.context);
        for (state, port) in self.states.iter_mut().zip(&self.plain.states) {
            let mut larger: NdTensor<f32, 4> = NdTensor::zeros([self.slots, port.heads, rows + 1, port.width]);
            let old: NdTensor<f32, 4> = take(std::mem::replace(state, Tensor::<f32>::zeros(&[0]).into()))?;
            larger.slice_mut((.., .., ..self.rows, ..)).copy_from(&old.slice((.., .., ..self.rows, ..)));
            *state = larger.into_dyn().into();
        }
        self.rows = rows;
        Ok(())
    }

    fn run(
        &mut self,
        indexed: bool,
        tokens: NdTensor<i32, 2>,
        positions: NdTensor<i32, 2>,
        batch_index: Option<NdTensor<i32, 2>>,
    ) -> Result<Logits, RuntimeError> {
        let program = match (&self.indexed, indexed) {
            (Some(program), true) => program,
            _ => &self.plain,
        };
        let mut inputs: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(self.states.len() + 3);
        inputs.push((program.tokens, tokens.into_dyn().into()));
        inputs.push((program.positions, positions.into_dyn().into()));
        if let (Some(node), Some(batch_index)) = (program.batch_index, batch_index) {
            inputs.push((node, batch_index.into_dyn().into()));
        }
        for (port, state) in program.states.iter().zip(self.states.drain(..)) {
            inputs.push((port.input, ValueOrView::Value(state)));
        }
        let failed = |why: String| RuntimeError::Run { engine: ENGINE, why };
        let mut results =
            program.model.run(inputs, &program.outputs, None).map_err(|error| failed(error.to_string()))?;
        self.states = results.split_off(1);
        let logits: Tensor<f32> = match results.pop() {
            Some(Value::FloatTensor(logits)) => logits,
            _ => return Err(failed("logits are not f32".into())),
        };
        let vocab = logits.shape().last().copied().unwrap_or(0);
        Ok(Logits::new(logits.to_vec(), vocab))
    }
}

fn empty(port: &StatePort, slots: usize, rows: usize) -> Value {
    Tensor::<f32>::zeros(&[slots, port.heads, rows + 1, port.width]).into()
}

fn take(value: Value) -> Result<NdTensor<f32, 4>, RuntimeError> {
    value.try_into().map_err(|_| RuntimeError::Run { engine: ENGINE, why: "a state changed its type".into() })
}

impl Session for CpuSession {
    fn slots(&self) -> usize {
        self.slots
    }

    fn context(&self) -> usize {
        self.context
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        let count = row.tokens.len();
        self.reserve(row.position + count.max(1) - 1)?;
        let tokens = NdTensor::from_fn([1, count], |[_, i]| row.tokens[i] as i32);
        let positions = NdTensor::from_fn([1, count], |[_, i]| (row.position + i) as i32);
        let slot = NdTensor::from_fn([1, 1], |_| row.slot as i32);
        self.run(true, tokens, positions, Some(slot))
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        // One sequence among several slots costs less in the program that touches its slot only.
        if let [row] = rows
            && self.slots > 1
        {
            return self.prefill(*row);
        }
        for row in rows {
            self.reserve(row.position)?;
        }
        // Slots without a row are idle: position −1 writes to the slack row.
        let mut tokens = NdTensor::zeros([self.slots, 1]);
        let mut positions = NdTensor::full([self.slots, 1], -1);
        for row in rows {
            tokens[[row.slot, 0]] = row.tokens[0] as i32;
            positions[[row.slot, 0]] = row.position as i32;
        }
        let all = self.run(false, tokens, positions, None)?;
        let data = rows.iter().flat_map(|row| all.row(row.slot).iter().copied()).collect();
        Ok(Logits::new(data, all.vocab))
    }
}
