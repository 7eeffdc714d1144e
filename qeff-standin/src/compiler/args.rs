//! The command line of `qaic-compile` and `qaic-exec`: one dash, `-name` or `-name=value`. What is not known is refused.

use std::collections::BTreeMap;

use super::Refused;

/// How an option is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `-name`.
    Flag,
    /// `-name=value`.
    Value,
    /// Either; some releases take `=true` and `=false`.
    Either,
}

/// All that the compiler knows, from its usage text and from what efficient-transformers passes.
const OPTIONS: &[(&str, Form)] = &[
    ("aic-binary-dir", Form::Value),
    ("aic-depth-first-mem", Form::Value),
    ("aic-enable-depth-first", Form::Flag),
    ("aic-hw", Form::Flag),
    ("aic-hw-version", Form::Value),
    ("aic-num-cores", Form::Value),
    ("aic-num-of-instances", Form::Value),
    ("aic-perf-metrics", Form::Flag),
    ("aic-perf-warnings", Form::Flag),
    ("aic-pmu-events", Form::Value),
    ("aic-pmu-recipe", Form::Value),
    ("aic-preproc", Form::Flag),
    ("allocator-dealloc-delay", Form::Value),
    ("allow-mxint8-mdp-io", Form::Flag),
    ("always-expand-onnx-functions", Form::Flag),
    ("batchsize", Form::Value),
    ("combine-inputs", Form::Either),
    ("combine-outputs", Form::Either),
    ("compile-only", Form::Flag),
    ("compile-threads", Form::Value),
    ("convert-to-fp16", Form::Flag),
    ("custom-IO-list-file", Form::Value),
    ("ddr-stats", Form::Flag),
    ("execute-nodes-in-fp16", Form::Value),
    ("host-preproc", Form::Flag),
    ("io-crc", Form::Flag),
    ("io-crc-stride", Form::Value),
    ("io-encrypt", Form::Either), // an option of efficient-transformers' command line
    ("keep-original-precision-for-nodes", Form::Value),
    ("m", Form::Value),
    ("mdp-dump-partition-config", Form::Value),
    ("mdp-load-partition-config", Form::Value),
    ("mdts-mos", Form::Value),
    ("model", Form::Value),
    ("mos", Form::Value),
    ("multicast-weights", Form::Flag),
    ("mxfp6-matmul", Form::Flag),
    ("network-specialization-config", Form::Value),
    ("node-precision-info", Form::Value),
    ("ols", Form::Value),
    ("onnx-define-symbol", Form::Value),
    ("qpc-crc", Form::Flag), // in efficient-transformers' examples
    ("retained-state", Form::Flag),
    ("sdp-cluster-sizes", Form::Value),
    ("size-split-granularity", Form::Value),
    ("split-model-io", Form::Flag),
    ("split-retained-state-io", Form::Flag),
    ("stats-batchsize", Form::Value),
    ("stats-level", Form::Value),
    ("sub-functions", Form::Flag),
    ("time-passes", Form::Flag),
    ("use-producer-dma", Form::Either),
    ("user-tiled", Form::Flag),
    ("v", Form::Flag),
    ("vtcm-working-set-limit-ratio", Form::Value),
    ("vv", Form::Flag),
    ("vvv", Form::Flag),
];

/// Options that name files or folders: they do not go into a QPC.
const PATHS: &[&str] = &[
    "aic-binary-dir",
    "custom-IO-list-file",
    "m",
    "mdp-dump-partition-config",
    "mdp-load-partition-config",
    "model",
    "network-specialization-config",
    "node-precision-info",
];

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Args {
    given: BTreeMap<&'static str, Vec<String>>,
    /// The options as they go into a QPC: in the order of the alphabet, without paths.
    pub(super) kept: Vec<String>,
}

impl Args {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Refused> {
        let mut args = Args::default();
        for argument in arguments {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let bare = name.strip_prefix('-').unwrap_or_default();
            let known = OPTIONS.iter().find(|(known, form)| {
                *known == bare
                    && match form {
                        Form::Flag => value.is_none(),
                        Form::Value => value.is_some(),
                        Form::Either => value.is_none_or(|value| matches!(value, "true" | "false")),
                    }
            });
            let Some(&(known, _)) = known else {
                return Err(Refused::new(
                    1,
                    format!("Invalid option {name}. Use -h, -help, or --help for list of options."),
                ));
            };
            let values = args.given.entry(known).or_default();
            if !values.is_empty() && known != "onnx-define-symbol" {
                return Err(Refused::new(1, format!("Option {name} is given more than once.")));
            }
            values.push(value.unwrap_or_default().to_owned());
            if !PATHS.contains(&known) {
                args.kept.push(argument.clone());
            }
        }
        args.kept.sort();
        Ok(args)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.get(name).into_iter().flatten().map(String::as_str)
    }
}
