//! Tests of the text form.

mod errors;
mod print;
mod round_trip;

use qeff_plugin_api::graph::{Model, PositionLimit, Program, Task};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};

/// An index of tensors from names and shapes.
pub(crate) fn tensors(entries: &[(&str, &[u64])]) -> TensorIndex {
    let info = |shape: &[u64]| TensorInfo { dtype: DType::F32, shape: shape.to_vec() };
    entries.iter().map(|(name, shape)| ((*name).to_owned(), info(shape))).collect()
}

/// A model of some programs.
pub(crate) fn model(programs: Vec<Program>) -> Model {
    Model {
        architecture: "Tiny".into(),
        task: Task::CausalLm,
        positions: Some(PositionLimit { trained: 16, hard: false }),
        stale_tensors: vec![],
        programs,
        links: vec![],
    }
}
