//! The LLaVA family: LlavaForConditionalGeneration, LlavaNextForConditionalGeneration.
//!
//! An image encoder (CLIP or Siglip), a projector, and a language model that finds the projected rows in the place of its
//! image tokens. LLaVA shows it one image of one size. LLaVA-Next shows it tiles of a grid and a small version of the whole,
//! and packs their rows in an order that depends on the image's size.

mod config;

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::blocks::vision::{self, VISION, clip, language, packed, packing_input, siglip};
use qeff_plugin_api::build::BuildError;
use qeff_plugin_api::graph::{Dim, Link, Model, PositionLimit, Program, Role, Task};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

use crate::config::{Encoder, Llava, Packing};

/// The family.
pub struct LlavaFamily;

qeff_plugin_api::register!(architecture: LlavaFamily);

impl Architecture for LlavaFamily {
    fn names(&self) -> Vec<&str> {
        vec!["LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let next = config.texts("architectures")?.first().is_some_and(|name| name == self.names()[1]);
        let c = Llava::read(config, if next { Packing::ByImage } else { Packing::None })?;
        let programs = vec![see(&c, tensors)?, language(&c.text, tensors, c.token)?];
        let end = |program: &str| (program.to_owned(), vision::EMBEDS.to_owned());
        Ok(Model {
            architecture: self.names()[usize::from(next)].to_owned(),
            task: Task::ImageTextToText,
            positions: Some(PositionLimit { trained: c.text.decoder.rope.positions, hard: false }),
            stale_tensors: stale(&c, tensors),
            programs,
            links: vec![Link { from: end(VISION), to: end(vision::LANGUAGE) }],
        })
    }
}

/// Scope of the image encoder.
const TOWER: &str = "vision_tower.vision_model";

/// The vision program.
fn see(c: &Llava, tensors: &TensorIndex) -> Result<Program, BuildError> {
    let g = vision::program(VISION, tensors);
    let tower = &c.tower;
    let colours = tower.patches.channels;
    let pixels = match c.packing {
        Packing::None => vision::pixels(&g, &["batch_size"], colours),
        Packing::ByImage => {
            let all = vision::pixels(&g, &["batch_size", "num_patches"], colours);
            // There is one image, and its tiles are what the tower has a batch of. The size is that of a tile: fixed.
            let [height, width] = tower.patches.image;
            let dims = [colours, height, width];
            let shape: Vec<i64> = [-1].into_iter().chain(dims.map(|n| n as i64)).collect();
            g.at(TOWER).reshape(all, &shape, [Dim::symbol("num_patches")].into_iter().chain(dims.map(Dim::Fixed)))
        }
    };
    let at = g.at(TOWER);
    let rows = match c.encoder {
        Encoder::Clip => clip::embed(tower, at, pixels),
        Encoder::Siglip => siglip::embed(tower, at, pixels),
    };
    let layers = tower.run(at, rows, &c.after);
    let width = tower.hidden().saturating_mul(layers.len() as u64);
    let rows = match layers.as_slice() {
        [one] => *one,
        several => at.concat(2, several, width),
    };
    let rows = match c.drops_first {
        true => at.slice(rows, 1, 1, i64::MAX, c.rows()),
        false => rows,
    };
    let shown = c.projector.apply(g.at("multi_modal_projector"), rows);
    match c.packing {
        Packing::None => g.output(vision::EMBEDS, Role::Embeds, shown),
        Packing::ByImage => {
            let line_break = g.root().weight_of_shape(g.root().tensor("image_newline"), &[c.text.decoder.hidden]);
            packed(g.at("packing"), shown, line_break, packing_input(&g));
        }
    }
    g.finish()
}

/// Tensors of the tower behind the last layer that anybody looks at, and what old files carry.
fn stale(c: &Llava, tensors: &TensorIndex) -> Vec<String> {
    let last = c.after.iter().copied().max().unwrap_or(0);
    let behind = |name: &str| {
        let own = name.strip_prefix("model.").unwrap_or(name);
        let Some(part) = own.strip_prefix(TOWER).and_then(|part| part.strip_prefix('.')) else { return false };
        let layer = part.strip_prefix("encoder.layers.").and_then(|part| part.split('.').next()?.parse::<u64>().ok());
        layer.is_some_and(|layer| layer >= last) || part.starts_with("post_layernorm.") || part.starts_with("head.")
    };
    let unseen = tensors.iter().map(|(name, _)| name).filter(|name| behind(name)).map(str::to_owned);
    unseen.chain([".rotary_emb.inv_freq".into(), ".embeddings.position_ids".into()]).collect()
}

qeff_plugin_api::export_plugin! {
    architectures: ["LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"],
}
