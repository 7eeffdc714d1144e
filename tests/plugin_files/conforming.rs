//! Every built-in plugin keeps what is asked of those that others write.

use std::time::Duration;

use qeff::fixture;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::conformance::{Verdict, check};
use qeff_host::plugins::Registry;

use super::same::EXPORTS;

/// Longest time for one plugin in a debug build: nothing that a config says may keep it busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_built_in_plugin_conforms() {
    let registry = Registry::builtin();
    for plugin in registry.list() {
        let (_, model, _) = EXPORTS.iter().find(|(name, ..)| *name == plugin.name).expect("an export");
        let checkpoint = Checkpoint::open(&fixture(model)).expect("a checkpoint");
        let started = std::time::Instant::now();
        let rows = check(&registry, &plugin, &plugin.name, Some(&checkpoint));
        let failed: Vec<_> = rows.iter().filter(|row| row.verdict == Verdict::Fail).collect();
        assert!(failed.is_empty(), "{}: {failed:#?}", plugin.name);
        let ran = rows.iter().filter(|row| row.check == "runs" && row.verdict == Verdict::Pass).count();
        let media = ["internvl", "llava", "wav2vec2", "whisper"].contains(&plugin.name.as_str());
        let expected = if media { 0 } else { plugin.pooling.len().max(1) };
        assert_eq!(ran, expected, "{}: {rows:#?}", plugin.name);
        assert!(started.elapsed() < PATIENCE, "{}: {:?}", plugin.name, started.elapsed());
    }
}
