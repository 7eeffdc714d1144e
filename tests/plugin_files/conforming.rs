//! Every built-in plugin keeps what is asked of those that others write.

use std::time::{Duration, Instant};

use qeff::fixture;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::conformance::{Verdict, check};
use qeff_host::plugins::Registry;

use super::same::EXPORTS;

/// Longest time for one plugin in a debug build: nothing that a config says may keep it busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those that make nothing of tokens alone.
const MEDIA: [&str; 4] = ["internvl", "llava", "wav2vec2", "whisper"];

#[test]
fn every_built_in_plugin_conforms() {
    let registry = Registry::builtin();
    let mut failures = vec![];
    for plugin in registry.list() {
        let name = plugin.name.as_str();
        let (_, model, _) = EXPORTS.iter().find(|(listed, ..)| *listed == name).expect("an export");
        let checkpoint = Checkpoint::open(&fixture(model)).expect("a checkpoint");
        let started = Instant::now();
        let rows = check(&registry, &plugin, name, Some(&checkpoint));
        let failed = rows.iter().filter(|row| row.verdict == Verdict::Fail);
        failures.extend(failed.map(|row| format!("{name}: {}: {}", row.check, row.detail)));
        let ran = rows.iter().filter(|row| row.check == "runs" && row.verdict == Verdict::Pass).count();
        let expected = if MEDIA.contains(&name) { 0 } else { plugin.pooling.len().max(1) };
        if ran != expected || started.elapsed() > PATIENCE {
            failures.push(format!("{name}: {ran} ran, {expected} expected, in {:?}", started.elapsed()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
