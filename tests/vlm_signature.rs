//! Programs of models that look at images, for AI 100: what a compiler and a runtime see of them is what they see of the
//! reference's (`tests/goldens/programs`).

use anyhow::{Context as _, Result, ensure};
use qeff::{describe_with, root};
use qeff_core::lower::{Lowered, Target};
use qeff_core::passes::{Features, fix_packing, join};
use qeff_core::weights::Facets;
use qeff_host::prepare::prepare;
use qeff_host::vision::Size;
use qeff_host::vision::grid::{Packing, best_grid};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::{Model, Role};
use qeff_plugin_api::onnx::{ValueInfoProto, dtype, tensor_shape_proto::dimension::Value, type_proto};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};
use serde_json::{Value as Json, json};

#[test]
fn llava() -> Result<()> {
    compare("llava+dual", |_| Ok(()))
}

/// One program of both.
#[test]
fn llava_in_one() -> Result<()> {
    compare("llava+single", |model| Ok(join(model).map(|_| ())?))
}

/// The reference's one size of images, and what it makes of it.
#[test]
fn llava_next() -> Result<()> {
    let image = Size::new(1109, 1610);
    let golden = golden("llava_next+dual")?;
    let pairs = golden["config"]["image_grid_pinpoints"].as_array().context("no grids")?;
    let side = |pair: &Json, i: usize| pair[i].as_u64().unwrap_or(0) as u32;
    let grids: Vec<Size> = pairs.iter().map(|pair| Size::new(side(pair, 0), side(pair, 1))).collect();
    let grid = best_grid(image, &grids).context("no grid fits")?;
    let tiles = Size::new(grid.height / 384, grid.width / 384);
    let packing = Packing::new(image, tiles, Size::square(384 / 14)).context("too many tiles")?;
    assert_eq!((packing.tile_count(), packing.len()), (10, 5239), "num_patches and vision_size");
    compare("llava_next+dual", |model| {
        let place = model.programs.iter().position(|program| program.input(Role::Packing).is_some());
        let vision = &mut model.programs[place.context("no program packs")?];
        *vision = fix_packing(vision, &packing.index(), "vision")?;
        Ok(())
    })
}

/// A recording that is added gets a test.
#[test]
fn every_golden_is_compared() -> Result<()> {
    let entries = std::fs::read_dir(root().join("tests/goldens/programs"))?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    names.sort();
    assert_eq!(names, ["llava+dual.json", "llava+single.json", "llava_next+dual.json"]);
    Ok(())
}

fn golden(case: &str) -> Result<Json> {
    let path = root().join(format!("tests/goldens/programs/{case}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn compare(case: &str, change: impl FnOnce(&mut Model) -> Result<()>) -> Result<()> {
    let golden = golden(case)?;
    let tensors = tensors(&golden["config"])?;
    let mut model = describe_with(&Config::parse(&golden["config"].to_string())?, &tensors)?;
    change(&mut model)?;
    let nothing = Nothing(tensors);
    let prepared = prepare(model, &Facets::new(&nothing), &Features::default(), Target::Aic)?;
    let expected = golden["programs"].as_array().context("no programs")?;
    ensure!(prepared.programs.len() == expected.len(), "{} programs", prepared.programs.len());
    for (found, expected) in prepared.programs.iter().zip(expected) {
        assert_eq!(interface(found), meant(expected)?, "{case}");
    }
    Ok(())
}

/// Tensors without numbers: a lowering asks for names and shapes.
#[derive(Debug)]
struct Nothing(TensorIndex);

impl qeff_core::weights::TensorSource for Nothing {
    fn index(&self) -> &TensorIndex {
        &self.0
    }

    fn lend(
        &self,
        name: &str,
        _: std::ops::Range<u64>,
    ) -> Result<std::borrow::Cow<'_, [u8]>, qeff_core::weights::SourceError> {
        Err(qeff_core::weights::SourceError::Missing(name.to_owned()))
    }
}

fn interface(lowered: &Lowered) -> Json {
    let domains: serde_json::Map<String, Json> =
        lowered.opset_import.iter().map(|import| (import.domain.clone(), json!(import.version))).collect();
    let custom = lowered.graph.node.iter().filter(|node| !node.domain.is_empty());
    let mut custom: Vec<String> = custom.map(|node| format!("{}::{}", node.domain, node.op_type)).collect();
    custom.sort();
    json!({
        "ir_version": lowered.ir_version,
        "opset_import": domains,
        "inputs": lowered.graph.input.iter().map(port).collect::<Vec<_>>(),
        "outputs": lowered.graph.output.iter().map(port).collect::<Vec<_>>(),
        "custom_ops": custom,
    })
}

fn port(info: &ValueInfoProto) -> Json {
    let Some(type_proto::Value::TensorType(ty)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
        return json!(info.name);
    };
    let elem = match dtype(ty.elem_type) {
        Some(DType::F32) => "FLOAT",
        Some(DType::I64) => "INT64",
        _ => "something else",
    };
    let dims = ty.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match &dim.value {
        Some(Value::DimValue(n)) => json!(n),
        Some(Value::DimParam(name)) => json!(name),
        None => Json::Null,
    });
    json!({ "name": info.name, "dtype": elem, "shape": dims.collect::<Vec<_>>() })
}

/// The golden with the dimensions it means, where the tracer lost them.
fn meant(golden: &Json) -> Result<Json> {
    let mut meant = golden.clone();
    for output in meant["outputs"].as_array_mut().context("no outputs")? {
        for dim in output["shape"].as_array_mut().context("no shape")? {
            *dim = match dim.as_str() {
                // Rows of an image of 336 pixels, less that of the whole.
                Some("Addvision_embeds_dim_0") => json!("batch_size"),
                Some("Addvision_embeds_dim_1") => json!(576),
                Some("Unsqueezevision_embeds_dim_1") => json!(5239),
                Some("Castlogits_dim_0") => json!("batch_size"),
                Some("Castlogits_dim_1") => json!(1),
                _ => continue,
            };
        }
    }
    Ok(json!({
        "ir_version": meant["ir_version"],
        "opset_import": meant["opset_import"],
        "inputs": meant["inputs"],
        "outputs": meant["outputs"],
        "custom_ops": meant["custom_ops"],
    }))
}

/// The tensors that a checkpoint of the config has.
fn tensors(config: &Json) -> Result<TensorIndex> {
    let (text, vision) = (&config["text_config"], &config["vision_config"]);
    let count = |of: &Json, field: &str| of[field].as_u64().with_context(|| format!("no {field}"));
    let mut tensors = TensorIndex::new();
    let mut add = |name: String, shape: &[u64]| {
        tensors.insert(name, TensorInfo { dtype: DType::F32, shape: shape.to_vec() });
    };
    let (hidden, inner) = (count(vision, "hidden_size")?, count(vision, "intermediate_size")?);
    let (patch, grid) = (count(vision, "patch_size")?, count(vision, "image_size")? / count(vision, "patch_size")?);
    let clip = vision["model_type"] == "clip_vision_model";
    let tower = "vision_tower.vision_model";
    add(format!("{tower}.embeddings.patch_embedding.weight"), &[hidden, 3, patch, patch]);
    add(format!("{tower}.embeddings.position_embedding.weight"), &[grid * grid + u64::from(clip), hidden]);
    if clip {
        add(format!("{tower}.embeddings.class_embedding"), &[hidden]);
        add(format!("{tower}.pre_layrnorm.weight"), &[hidden]);
        add(format!("{tower}.pre_layrnorm.bias"), &[hidden]);
    } else {
        add(format!("{tower}.embeddings.patch_embedding.bias"), &[hidden]);
    }
    for layer in 0..count(vision, "num_hidden_layers")? {
        let mut both = |name: &str, out: u64, shape: &[u64]| {
            add(format!("{tower}.encoder.layers.{layer}.{name}.weight"), shape);
            add(format!("{tower}.encoder.layers.{layer}.{name}.bias"), &[out]);
        };
        for name in ["layer_norm1", "layer_norm2"] {
            both(name, hidden, &[hidden]);
        }
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            both(&format!("self_attn.{name}"), hidden, &[hidden, hidden]);
        }
        both("mlp.fc1", inner, &[inner, hidden]);
        both("mlp.fc2", hidden, &[hidden, inner]);
    }
    let (width, inner, vocab) =
        (count(text, "hidden_size")?, count(text, "intermediate_size")?, count(text, "vocab_size")?);
    let seen = hidden * config["vision_feature_layer"].as_array().map_or(1, |list| list.len() as u64);
    for (name, from) in [("linear_1", seen), ("linear_2", width)] {
        add(format!("multi_modal_projector.{name}.weight"), &[width, from]);
        add(format!("multi_modal_projector.{name}.bias"), &[width]);
    }
    add("image_newline".into(), &[width]);
    let heads = |field| Ok::<_, anyhow::Error>(count(text, field)? * count(text, "head_dim")?);
    let (q, kv) = (heads("num_attention_heads")?, heads("num_key_value_heads")?);
    for layer in 0..count(text, "num_hidden_layers")? {
        let shapes: [(&str, &[u64]); 9] = [
            ("input_layernorm", &[width]),
            ("post_attention_layernorm", &[width]),
            ("self_attn.q_proj", &[q, width]),
            ("self_attn.k_proj", &[kv, width]),
            ("self_attn.v_proj", &[kv, width]),
            ("self_attn.o_proj", &[width, q]),
            ("mlp.gate_proj", &[inner, width]),
            ("mlp.up_proj", &[inner, width]),
            ("mlp.down_proj", &[width, inner]),
        ];
        for (name, shape) in shapes {
            add(format!("language_model.model.layers.{layer}.{name}.weight"), shape);
        }
    }
    add("language_model.model.embed_tokens.weight".into(), &[vocab, width]);
    add("language_model.model.norm.weight".into(), &[width]);
    add("language_model.lm_head.weight".into(), &[vocab, width]);
    Ok(tensors)
}
