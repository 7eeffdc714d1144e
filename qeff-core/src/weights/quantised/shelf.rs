//! The stored tensors of a checkpoint while its logical tensors are put together.

use std::collections::BTreeSet;

use qeff_plugin_api::{DType, TensorInfo};

use super::coded::Coded;
use super::error::QuantisedError;
use super::part::Part;
use crate::weights::Checkpoint;

/// Endings of tensors that describe activations or caches, neither of which is computed quantised.
const ACTIVATIONS: &[&str] = &[
    ".activation_scale",
    ".input_global_scale",
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".k_scale",
    ".k_zero_point",
    ".kv_scale",
    ".output_scale",
    ".output_zero_point",
    ".q_scale",
    ".v_scale",
    ".v_zero_point",
];

/// See the module documentation.
pub(super) struct Shelf<'c> {
    checkpoint: &'c Checkpoint,
    taken: BTreeSet<String>,
    /// Tensors put together so far.
    made: Vec<(String, TensorInfo, Coded)>,
}

/// What becomes of a checkpoint.
pub(super) struct Cleared {
    /// Tensors put together.
    pub(super) made: Vec<(String, TensorInfo, Coded)>,
    /// Stored tensors that are no tensors of the model.
    pub(super) hidden: BTreeSet<String>,
}

impl<'c> Shelf<'c> {
    pub(super) fn new(checkpoint: &'c Checkpoint) -> Self {
        Shelf { checkpoint, taken: BTreeSet::new(), made: vec![] }
    }

    /// The modules that have a tensor with this ending, by name.
    pub(super) fn modules(&self, ending: &str) -> Vec<String> {
        self.checkpoint.stored_names().filter_map(|name| name.strip_suffix(ending)).map(str::to_owned).collect()
    }

    /// The stored tensor `module` + `ending`, if there is one, without taking it.
    pub(super) fn peek(&self, module: &str, ending: &str) -> Option<Part> {
        self.checkpoint.part(&format!("{module}{ending}"))
    }

    /// The stored tensor `module` + `ending`, if there is one.
    pub(super) fn opt(&mut self, module: &str, ending: &str) -> Option<Part> {
        let part = self.peek(module, ending)?;
        self.taken.insert(part.name.clone());
        Some(part)
    }

    /// The stored tensor `module` + `ending`, which `beside` cannot do without.
    pub(super) fn take(&mut self, module: &str, ending: &str, beside: &Part) -> Result<Part, QuantisedError> {
        self.opt(module, ending).ok_or_else(|| QuantisedError {
            tensor: format!("{module}{ending}"),
            file: beside.mapping.path().to_owned(),
            expected: format!("this tensor beside `{}`", beside.name),
            found: "none of that name in the checkpoint".into(),
        })
    }

    /// Adds a logical tensor. A stored one of that name has to be one of its parts.
    pub(super) fn put(&mut self, name: String, shape: Vec<u64>, coded: Coded) -> Result<(), QuantisedError> {
        if let Some(stored) = self.checkpoint.part(&name).filter(|_| !self.taken.contains(&name)) {
            let expected =
                format!("no such tensor beside `{}`, which holds the same weight quantised", coded.codes.part.name);
            return Err(stored.refuse(expected, "both".into()));
        }
        self.made.push((name, TensorInfo { dtype: DType::F32, shape }, coded));
        Ok(())
    }

    /// Ends the work: what has one of `endings` must have been taken.
    pub(super) fn clear(mut self, endings: &[&str]) -> Result<Cleared, QuantisedError> {
        for name in self.checkpoint.stored_names().filter(|name| !self.taken.contains(*name)) {
            let ends = |ending: &&&str| name.ends_with(**ending);
            if let (Some(ending), Some(part)) = (endings.iter().find(ends), self.checkpoint.part(name)) {
                let expected = "the other parts of a quantised weight beside it".to_owned();
                return Err(part.refuse(expected, format!("only this `{}`", ending.trim_start_matches('.'))));
            }
        }
        let activations =
            self.checkpoint.stored_names().filter(|name| ACTIVATIONS.iter().any(|end| name.ends_with(end)));
        self.taken.extend(activations.map(str::to_owned));
        Ok(Cleared { made: self.made, hidden: self.taken })
    }
}
