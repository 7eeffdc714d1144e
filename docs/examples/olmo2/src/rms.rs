//! Pooling head `rms`: the root of the mean of squares, over the tokens of a text.

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::blocks::pool;
use qeff_plugin_api::build::GraphBuilder;
use qeff_plugin_api::graph::{Model, Role};
use qeff_plugin_api::plugin::{PluginError, PoolingHead};

struct Rms;

qeff_plugin_api::register!(pooling: Rms);

impl PoolingHead for Rms {
    fn name(&self) -> &str {
        "rms"
    }

    fn append(&self, mut model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        let lacks = |what: &str| PluginError::Other(format!("rms pooling: the model has no {what}"));
        let place = model.programs.iter().position(|program| program.output(Role::Hidden).is_some());
        let place = place.ok_or_else(|| lacks("hidden states to pool"))?;
        let program = model.programs.remove(place);
        let hidden = program.output(Role::Hidden).map(|output| output.value).ok_or_else(|| lacks("hidden states"))?;
        let mask = program.input(Role::Mask).map(|input| input.value);
        let mask = mask.ok_or_else(|| lacks("mask that tells tokens from padding"))?;
        // The same builder as for a description, over what is there already.
        let g = GraphBuilder::resume(program, tensors);
        let (at, hidden, mask) = (g.at("pooling.rms"), g.existing(hidden), g.existing(mask));
        let squares = pool::mean(at, at.mul(hidden, hidden), mask);
        g.output("pooled", Role::Pooled, at.unary("Sqrt", squares));
        model.programs.insert(place, g.finish()?);
        Ok(model)
    }
}
