//! Every function of the boundary, there and back in one image: what a loader does, without the system's part of it.
//!
//! These are the tests that Miri runs, which cannot load a shared object but sees every byte that crosses (`.ci/miri`).

use std::sync::Arc;

use super::load::module;
use super::{Header, Identity, Plugin, header};
use crate::build::GraphBuilder;
use crate::config::Config;
use crate::graph::{Model, Role, Task};
use crate::plugin::{
    Architecture, Fit, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Request, StoredBlock, StoredTensor,
    WeightFormat,
};
use crate::{DType, TensorIndex, TensorInfo, wire};

/// The plugin that this image is.
struct Image;

impl Identity for Image {
    const NAME: &'static str = "image";
    const VERSION: &'static str = "1.2.3";
}

static HEADER: Header = header::<Image>();

/// One item of every kind.
struct Everything;

crate::register!(architecture: Everything);
crate::register!(pooling: Everything);
crate::register!(rewrite: Everything);
crate::register!(format: Everything);

impl Architecture for Everything {
    fn names(&self) -> Vec<&str> {
        vec!["EverythingModel"]
    }

    fn recognise(&self, config: &Config) -> Option<Fit> {
        config.flag_or("generic", false).ok()?.then_some(Fit::Generic)
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let width = request.config.count("width")?;
        assert!(width != 13, "a width of {width} is bad luck");
        if width == 12 {
            std::panic::panic_any(width);
        }
        let g = GraphBuilder::new("main", &request.tensors);
        let ids = g.tokens();
        let words = crate::blocks::embed(g.at("table"), ids, [2, width], crate::graph::Embedding::default());
        g.output("hidden", Role::Hidden, words);
        Ok(Model {
            architecture: "EverythingModel".into(),
            task: Task::Encoder,
            positions: None,
            stale_tensors: vec![],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

impl PoolingHead for Everything {
    fn name(&self) -> &str {
        "same"
    }

    fn append(&self, mut model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        model.architecture = format!("Pooled{}", tensors.len());
        Ok(model)
    }
}

impl GraphRewrite for Everything {
    fn name(&self) -> &str {
        "rename"
    }

    fn rewrite(&self, _: Model, _: &TensorIndex) -> Result<Model, PluginError> {
        Err(PluginError::Other("it stays as it is".into()))
    }
}

impl WeightFormat for Everything {
    fn name(&self) -> &str {
        "bytes"
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        head.is_empty() && file_name == "ä"
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        if head.len() < 3 {
            return Ok(HeaderNeed::More(3));
        }
        Ok(HeaderNeed::Tensors(vec![StoredTensor {
            name: "t".into(),
            info: TensorInfo { dtype: DType::BF16, shape: vec![u64::from(head[2]), 1] },
            offset: 3,
            length: length - 3,
            encoding: "e".into(),
            block: StoredBlock { elements: 7, bytes: 9 },
        }]))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        assert_eq!(encoding, "e");
        out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte ^ 0xff);
        Ok(())
    }
}

fn plugin() -> Plugin {
    let module = module(&HEADER).unwrap_or_else(|fault| panic!("{fault}"));
    Plugin::new(module.manifest().clone(), Arc::new(module))
}

fn request(width: u64) -> Request {
    let config = Config::parse(&format!(r#"{{"width": {width}, "generic": true, "other": [1, "x"]}}"#)).unwrap();
    let table = TensorInfo { dtype: DType::F32, shape: vec![2, width] };
    Request { config, tensors: [("table.weight".to_owned(), table)].into_iter().collect() }
}

#[test]
fn a_manifest_and_a_description_come_back_as_they_are() {
    let plugin = plugin();
    let manifest = plugin.manifest();
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("image", "1.2.3"));
    assert_eq!(manifest.architectures, [["EverythingModel"]]);
    let architecture = plugin.architectures().remove(0);
    let request = request(4);
    assert_eq!(architecture.recognise(&request.config), Some(Fit::Generic));
    let crossed = architecture.describe(&request).unwrap();
    assert_eq!(wire::encode(&crossed), wire::encode(&Everything.describe(&request).unwrap()));
    assert_eq!(request.config.unread(), ["generic", "other"]);
}

#[test]
fn errors_and_panics_come_back_with_their_parts() {
    let architecture = plugin().architectures().remove(0);
    let config = Config::parse(r#"{"width": "wide"}"#).unwrap();
    let error = architecture.describe(&Request { config, tensors: TensorIndex::new() }).unwrap_err();
    assert!(matches!(&error, PluginError::Config(error) if error.field == "width"), "{error}");
    let misfit = architecture.describe(&Request { tensors: TensorIndex::new(), ..request(4) }).unwrap_err();
    assert!(misfit.to_string().contains("no tensor `table.weight`"), "{misfit}");
    let PluginError::Panic { message, location } = architecture.describe(&request(13)).unwrap_err() else {
        panic!("no panic")
    };
    assert!(
        message == "a width of 13 is bad luck" && location.contains("round_trip_tests.rs:"),
        "{message} {location}"
    );
    // Another plugin over the same image is asked afresh; what it throws is no text.
    let thrown = plugin().architectures().remove(0).describe(&request(12)).unwrap_err();
    assert!(matches!(&thrown, PluginError::Panic { message, .. } if message == "(no message)"), "{thrown}");
}

#[test]
fn heads_rewrites_and_formats_cross() {
    let plugin = plugin();
    let Request { config, tensors } = request(4);
    let model = Everything.describe(&Request { config, tensors: tensors.clone() }).unwrap();
    let pooled = plugin.pooling_heads()[0].append(model.clone(), &tensors).unwrap();
    assert_eq!(pooled.architecture, "Pooled1");
    let refused = plugin.rewrites()[0].rewrite(model, &tensors).unwrap_err();
    assert_eq!(refused.to_string(), "it stays as it is");

    let format = plugin.formats().remove(0);
    assert!(format.probe(&[], "ä") && !format.probe(&[1], "ä"));
    assert_eq!(format.index(&[1], 20), Ok(HeaderNeed::More(3)));
    assert_eq!(format.index(&[1, 2, 3, 4], 20), Everything.index(&[1, 2, 3, 4], 20));
    let (bytes, mut out) = ([1, 2, 3, 4, 5], [0; 5]);
    format.decode("e", &bytes, &mut out).unwrap();
    assert_eq!(out, bytes.map(|byte| byte ^ 0xff));
    format.decode("e", &[], &mut []).unwrap();
}
