//! The usual ways to make one vector of the hidden states of a text: mean, max, the first or last token, and their kin.
//!
//! Each takes the output of role `hidden` and the input of role `mask`, and puts out one vector a text. Another one is another
//! crate: implement [`PoolingHead`], register it, done.

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::blocks::pool;
use qeff_plugin_api::build::{GraphBuilder, Scope, Value};
use qeff_plugin_api::graph::{Model, Role};
use qeff_plugin_api::plugin::{PluginError, PoolingHead};

/// `[B, N]` of hidden states `[B, S, N]` and a mask `[B, S]`.
type Pool = for<'g> fn(Scope<'g>, Value<'g>, Value<'g>) -> Value<'g>;

/// A head of this crate.
pub struct Head {
    name: &'static str,
    pool: Pool,
}

/// The mean of the tokens.
pub static MEAN: Head = Head { name: "mean", pool: pool::mean };
/// The same under the reference's other name for it.
pub static AVG: Head = Head { name: "avg", pool: pool::mean };
/// The largest number of each place.
pub static MAX: Head = Head { name: "max", pool: pool::max };
/// The first token.
pub static CLS: Head = Head { name: "cls", pool: |at, h, _| pool::first(at, h) };
/// The last token.
pub static LAST: Head = Head { name: "last", pool: pool::last };
/// The mean of the tokens, each weighing as much as its place.
pub static WEIGHTED_MEAN: Head = Head { name: "weighted-mean", pool: pool::weighted_mean };
/// The sum of the tokens by the root of their number.
pub static MEAN_SQRT_LEN: Head = Head { name: "mean-sqrt-len", pool: pool::mean_by_root };

qeff_plugin_api::register!(pooling: MEAN);
qeff_plugin_api::register!(pooling: AVG);
qeff_plugin_api::register!(pooling: MAX);
qeff_plugin_api::register!(pooling: CLS);
qeff_plugin_api::register!(pooling: LAST);
qeff_plugin_api::register!(pooling: WEIGHTED_MEAN);
qeff_plugin_api::register!(pooling: MEAN_SQRT_LEN);

impl PoolingHead for Head {
    fn name(&self) -> &str {
        self.name
    }

    fn append(&self, mut model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        let lacks = |what: &str| PluginError::Other(format!("{} pooling: the model has no {what}", self.name));
        let place = model.programs.iter().position(|program| program.output(Role::Hidden).is_some());
        let place = place.ok_or_else(|| lacks("hidden states to pool"))?;
        let program = model.programs.remove(place);
        let hidden = program.output(Role::Hidden).map(|output| output.value).ok_or_else(|| lacks("hidden states"))?;
        let mask = program.input(Role::Mask).map(|input| input.value);
        let mask = mask.ok_or_else(|| lacks("input of role mask that tells tokens from padding"))?;
        let g = GraphBuilder::resume(program, tensors);
        let pooled = (self.pool)(g.at("pooling").at(self.name), g.existing(hidden), g.existing(mask));
        g.output(&format!("pooled_{}", self.name), Role::Pooled, pooled);
        model.programs.insert(place, g.finish()?);
        Ok(model)
    }
}

qeff_plugin_api::export_plugin! {
    pooling: ["mean", "avg", "max", "cls", "last", "weighted-mean", "mean-sqrt-len"],
}
