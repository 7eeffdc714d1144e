//! A plugin for tests: does what no plugin should in whichever function it is asked to, and then answers as if nothing had
//! happened.
//!
//! | function | what it does stands in |
//! |---|---|
//! | `recognise`, `describe` | the fields `recognise` and `behaviour` of the config |
//! | `append`, `rewrite` | the name of a tensor: `pool: segfault`, `rewrite: loop` |
//! | `probe`, `index`, `decode` | a line of the file: `probe: panic`, `index: sleep`, `decode: exit` |
#![allow(unsafe_code, clippy::print_stdout, clippy::print_stderr)] // That is the point.

mod behaviour;

use behaviour::behave;
use qeff_plugin_api::blocks::embed;
use qeff_plugin_api::build::GraphBuilder;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::{Embedding, Model, Role, Task};
use qeff_plugin_api::plugin::{
    Architecture, Fit, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Request, StoredBlock, StoredTensor,
    WeightFormat,
};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};

/// Describes a table.
pub struct Misbehaving;

qeff_plugin_api::register!(architecture: Misbehaving);
qeff_plugin_api::register!(pooling: Misbehaving);
qeff_plugin_api::register!(rewrite: Misbehaving);
qeff_plugin_api::register!(format: Misbehaving);

impl Architecture for Misbehaving {
    fn names(&self) -> Vec<&str> {
        vec!["MisbehavingModel"]
    }

    fn recognise(&self, config: &Config) -> Option<Fit> {
        behave(&config.opt_text("recognise").ok()?.unwrap_or_default());
        Some(Fit::Exact)
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        behave(&request.config.opt_text("behaviour")?.unwrap_or_default());
        let g = GraphBuilder::new("main", &request.tensors);
        let ids = g.tokens();
        let words = embed(g.at("table"), ids, [5, 3], Embedding::default());
        g.output("hidden", Role::Hidden, words);
        Ok(Model {
            architecture: "MisbehavingModel".into(),
            task: Task::Encoder,
            positions: None,
            stale_tensors: vec![],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

/// What a tensor's name asks of a function.
fn named(tensors: &TensorIndex, function: &str) -> String {
    tensors.iter().find_map(|(name, _)| asked(name, function)).unwrap_or_default()
}

/// What a line asks of a function: `FUNCTION: BEHAVIOUR`.
fn asked(line: &str, function: &str) -> Option<String> {
    Some(line.strip_prefix(function)?.strip_prefix(": ")?.to_owned())
}

impl PoolingHead for Misbehaving {
    fn name(&self) -> &str {
        "misbehaving"
    }

    fn append(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        behave(&named(tensors, "pool"));
        Ok(model)
    }
}

impl GraphRewrite for Misbehaving {
    fn name(&self) -> &str {
        "misbehaving"
    }

    fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginError> {
        behave(&named(tensors, "rewrite"));
        Ok(model)
    }
}

/// What a file asks of a function; `None` if it is no file of this format.
fn written(head: &[u8], function: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    (lines.next() == Some("misbehaving")).then(|| lines.find_map(|line| asked(line, function)).unwrap_or_default())
}

/// Bytes of the one tensor, which is a file's end.
const TABLE: u64 = 5 * 3 * 4;

impl WeightFormat for Misbehaving {
    fn name(&self) -> &str {
        "misbehaving"
    }

    fn probe(&self, head: &[u8], _: &str) -> bool {
        let asked = written(head, "probe");
        behave(asked.as_deref().unwrap_or_default());
        asked.is_some()
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        let asked = written(head, "index").unwrap_or_default();
        let offset = length.checked_sub(TABLE).ok_or_else(|| PluginError::Other("it is too short".into()))?;
        let table = StoredTensor {
            name: "table.weight".into(),
            info: TensorInfo { dtype: DType::F32, shape: vec![5, 3] },
            offset,
            length: TABLE,
            encoding: written(head, "decode").unwrap_or_default() + ".",
            block: StoredBlock { elements: 1, bytes: 4 },
        };
        Ok(HeaderNeed::Tensors(vec![match asked.as_str() {
            "ask for all there is" => return Ok(HeaderNeed::More(u64::MAX)),
            "ask for nothing more" => return Ok(HeaderNeed::More(0)),
            "a place without end" => StoredTensor { offset: u64::MAX, ..table },
            "a shape without end" => {
                StoredTensor { info: TensorInfo { dtype: DType::F32, shape: vec![u64::MAX; 40] }, ..table }
            }
            "a large block" => StoredTensor { block: StoredBlock { elements: 1 << 40, bytes: 4 }, ..table },
            "an empty block" => StoredTensor { block: StoredBlock::default(), ..table },
            other => {
                behave(other);
                table
            }
        }]))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        behave(encoding.trim_end_matches('.'));
        out.copy_from_slice(bytes);
        Ok(())
    }
}

qeff_plugin_api::export_plugin! {
    architectures: ["MisbehavingModel"],
    pooling: ["misbehaving"],
    rewrites: ["misbehaving"],
    formats: ["misbehaving"],
}
