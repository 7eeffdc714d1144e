//! SDKs, models and programs for the stand-in's own tests.

#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use prost::Message as _;
use qeff_plugin_api::onnx::ModelProto;
use qeff_standin::client::{Answer, Client, ProgramWish, Tensor};
use qeff_standin::header::Properties;
use qeff_standin::{Built, Root, SimConfig, sim_root, testing};
use serde_json::Value as Json;
use tempfile::TempDir;

/// A laid-out SDK, with a folder for models.
pub struct Sdk {
    pub dir: TempDir,
    pub root: Root,
    pub config: SimConfig,
}

impl Sdk {
    pub fn new(config: SimConfig) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let built = Built::with_tool(Path::new(env!("CARGO_BIN_EXE_qeff-standin"))).expect("the library");
        let root = sim_root(&dir.path().join("sdk"), &config, &built).expect("an SDK");
        // A process has a library once, by what is stored where; with an own copy each test of a process has its own.
        if config.library && config.missing_symbols.is_empty() {
            let library = root.dir.join("dev/lib/x86_64/libQAic.so");
            std::fs::remove_file(&library).expect("a library");
            std::fs::copy(&built.library, &library).expect("a library");
        }
        Sdk { dir, root, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    pub fn model(&self, model: &ModelProto) -> PathBuf {
        self.write("model.onnx", model.encode_to_vec())
    }

    /// Runs a tool of the SDK.
    pub fn tool(&self, name: &str, arguments: &[String]) -> Output {
        Command::new(self.root.dir.join(name)).args(arguments).output().expect("a process")
    }

    /// Compiles the adder with rows of 4 and of 1 ids and a context of 8; what is in `more` is added to the command line.
    pub fn compile(&self, more: &[String]) -> Output {
        let model = self.path("model.onnx");
        if !model.exists() {
            self.model(&testing::adder());
        }
        let specializations = self.path("specializations.json");
        if !specializations.exists() {
            std::fs::write(&specializations, SPECIALIZATIONS).expect("a file");
        }
        let custom_io = self.path("custom_io.yaml");
        if !custom_io.exists() {
            std::fs::write(&custom_io, CUSTOM_IO).expect("a file");
        }
        let mut arguments = vec![
            "-aic-hw".to_owned(),
            "-aic-hw-version=ai100".to_owned(),
            format!("-m={}", model.display()),
            "-retained-state".to_owned(),
            "-convert-to-fp16".to_owned(),
            "-aic-num-cores=16".to_owned(),
            format!("-network-specialization-config={}", specializations.display()),
            format!("-custom-IO-list-file={}", custom_io.display()),
            format!("-aic-binary-dir={}", self.qpc().parent().expect("a folder").display()),
        ];
        for more in more {
            // What is given anew replaces what is there.
            let name = more.split('=').next().unwrap_or(more);
            arguments.retain(|old| old.split('=').next() != Some(name));
            arguments.push(more.clone());
        }
        self.tool("exec/qaic-compile", &arguments)
    }

    /// Compiles the adder, for so many cards.
    pub fn compiled(self, cards: u64) -> Self {
        let mut more = vec![];
        if cards > 1 {
            let devices: Vec<Json> =
                (0..cards).map(|id| serde_json::json!({ "deviceId": id, "numCores": 16 })).collect();
            let partition = serde_json::json!({
                "connections": [{ "devices": (0..cards).collect::<Vec<_>>(), "type": "p2p" }],
                "partitions": [{ "name": "Partition0", "devices": devices }],
            });
            let path = self.write("mdp.json", partition.to_string());
            more.push(format!("-mdp-load-partition-config={}", path.display()));
        }
        let output = self.compile(&more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self
    }

    pub fn qpc(&self) -> PathBuf {
        self.path("qpc/programqpc.bin")
    }

    pub fn client(&self) -> Client {
        Client::open(&self.root.dir.join("dev/lib/x86_64/libQAic.so")).expect("a library")
    }

    pub fn layout(&self) -> Properties {
        Properties::of(self.config.layout)
    }

    /// The log's lines of the library; without those of tools.
    pub fn calls(&self) -> Vec<Json> {
        let all = self.root.calls().expect("a log");
        let of_library = |line: &Json| {
            line.get("run").is_some()
                || line["call"].as_str().is_some_and(|call| call.starts_with("qaic") && !call.contains('-'))
        };
        all.into_iter().filter(of_library).collect()
    }

    /// Lines about wrong use.
    pub fn misuses(&self) -> Vec<String> {
        self.calls().iter().filter_map(|line| line["misuse"].as_str().map(str::to_owned)).collect()
    }
}

pub const SPECIALIZATIONS: &str = r#"{"specializations":[
    {"name":"Prefill","symbols":{"seq_len":"4","ctx_len":"8"}},
    {"name":"Decode","symbols":{"seq_len":"1","ctx_len":"8"}}]}"#;
pub const CUSTOM_IO: &str =
    " - IOName: past_key.0\n   Precision: float16\n\n - IOName: past_key.0_RetainedState\n   Precision: float16\n\n";

/// The adder, active.
pub struct Active<'a> {
    pub client: &'a Client,
    pub context: u64,
    pub queue: u64,
    pub qpc: u64,
    pub program: u64,
    pub exec: u64,
}

impl<'a> Active<'a> {
    pub fn new(sdk: &Sdk, client: &'a Client) -> Answer<Self> {
        Active::with(sdk, client, &ProgramWish::default())
    }

    pub fn with(sdk: &Sdk, client: &'a Client, wish: &ProgramWish<'_>) -> Answer<Self> {
        let context = client.create_context(&[], None)?;
        let queue = client.create_queue(context, 0)?;
        let qpc = client.open_qpc(&sdk.qpc())?;
        let program = client.create_program(context, qpc, sdk.layout(), wish)?;
        client.one("qaicLoadProgram", program)?;
        client.activation(program, true)?;
        let exec = client.create_exec(context, program)?;
        Ok(Active { client, context, queue, qpc, program, exec })
    }

    /// The sum that the adder answers to some ids at positions from `start` on, in a call of `width`.
    pub fn add(&self, width: usize, start: i64, ids: &[i64]) -> Answer<f32> {
        let mut tensors = call(width, start, ids);
        self.client.run(self.queue, self.exec, &mut tensors)?;
        Ok(tensors[3].as_f32()[0])
    }

    pub fn close(&self) -> Answer<()> {
        self.client.one("qaicReleaseExecObj", self.exec)?;
        self.client.activation(self.program, false)?;
        self.client.one("qaicUnloadProgram", self.program)?;
        self.client.one("qaicReleaseProgram", self.program)?;
        self.client.one("qaicCloseQpc", self.qpc)?;
        self.client.one("qaicReleaseQueue", self.queue)?;
        self.client.one("qaicReleaseContext", self.context)
    }
}

/// The buffers of a call of the adder: ids, positions, state, logits, state.
pub fn call(width: usize, start: i64, ids: &[i64]) -> Vec<Tensor> {
    let dims = [1, width as u32];
    let pad = |numbers: Vec<i64>, fill| numbers.into_iter().chain(std::iter::repeat(fill)).take(width);
    let positions = (0..ids.len() as i64).map(|i| start + i).collect();
    vec![
        Tensor::i64(&dims, pad(ids.to_vec(), 0)),
        Tensor::i64(&dims, pad(positions, -1)),
        Tensor::skipped(2),
        Tensor::room(&[1, 1, 1], 4),
        Tensor::skipped(2),
    ]
}
