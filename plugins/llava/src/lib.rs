//! The LLaVA family: LlavaForConditionalGeneration, LlavaNextForConditionalGeneration.
//!
//! An image encoder (CLIP or Siglip), a projector, and a language model that finds the projected rows in the place of its
//! image tokens. LLaVA shows it one image of one size. LLaVA-Next shows it tiles of a grid and a small version of the whole,
//! and packs their rows in an order that depends on the image's size.

mod config;

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::blocks::decoder::Place;
use qeff_plugin_api::blocks::vision::{self, VISION, clip, language, packed, packing_input, siglip};
use qeff_plugin_api::build::{BuildError, GraphBuilder};
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
        let names = Names::of(tensors);
        let programs = vec![see(&c, &names, tensors)?, language(&c.text, names.text, tensors, c.token)?];
        let end = |program: &str| (program.to_owned(), vision::EMBEDS.to_owned());
        Ok(Model {
            architecture: self.names()[usize::from(next)].to_owned(),
            task: Task::ImageTextToText,
            positions: Some(PositionLimit { trained: c.text.decoder.rope.positions, hard: false }),
            stale_tensors: stale(&c, &names, tensors),
            programs,
            links: vec![Link { from: end(VISION), to: end(vision::LANGUAGE) }],
        })
    }
}

/// Where a checkpoint keeps its parts.
struct Names {
    tower: &'static str,
    projector: &'static str,
    /// What stands before `image_newline`.
    top: &'static str,
    text: Place,
}

impl Names {
    /// Files say `language_model.model.…`, or, as transformers calls the parts in memory since 4.52, `model.language_model.…`.
    fn of(tensors: &TensorIndex) -> Self {
        if tensors.has_prefix("model.") {
            return Names {
                tower: "model.vision_tower.vision_model",
                projector: "model.multi_modal_projector",
                top: "model",
                text: Place {
                    base: "model.language_model",
                    embedding: "model.language_model.embed_tokens",
                    head: "lm_head",
                },
            };
        }
        Names {
            tower: "vision_tower.vision_model",
            projector: "multi_modal_projector",
            top: "",
            text: Place {
                base: "language_model.model",
                embedding: "language_model.model.embed_tokens",
                head: "language_model.lm_head",
            },
        }
    }
}

/// The vision program.
fn see(c: &Llava, names: &Names, tensors: &TensorIndex) -> Result<Program, BuildError> {
    let g = GraphBuilder::new(VISION, tensors);
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
            g.at(names.tower).reshape(all, &shape, [Dim::symbol("num_patches")].into_iter().chain(dims.map(Dim::Fixed)))
        }
    };
    let at = g.at(names.tower);
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
    let shown = c.projector.apply(g.at(names.projector), rows);
    match c.packing {
        Packing::None => g.output(vision::EMBEDS, Role::Embeds, shown),
        Packing::ByImage => {
            let top = if names.top.is_empty() { g.root() } else { g.at(names.top) };
            let stored = top.weight_of_shape(top.tensor("image_newline"), &[c.text.decoder.hidden]);
            packed(g.at("packing"), shown, stored, packing_input(&g));
        }
    }
    g.finish()
}

/// Tensors of the tower behind the last layer that anybody looks at, and what old files carry.
fn stale(c: &Llava, names: &Names, tensors: &TensorIndex) -> Vec<String> {
    let last = c.after.iter().copied().max().unwrap_or(0);
    let behind = |name: &str| {
        let Some(part) = name.strip_prefix(names.tower).and_then(|part| part.strip_prefix('.')) else { return false };
        let layer = part.strip_prefix("encoder.layers.").and_then(|part| part.split('.').next()?.parse::<u64>().ok());
        layer.is_some_and(|layer| layer >= last) || part.starts_with("post_layernorm.") || part.starts_with("head.")
    };
    let unseen = tensors.iter().map(|(name, _)| name).filter(|name| behind(name)).map(str::to_owned);
    unseen.chain([".rotary_emb.inv_freq".into(), ".embeddings.position_ids".into()]).collect()
}

qeff_plugin_api::export_plugin!();
