//! Where plugins are looked for, and whose word counts.

use std::fs;
use std::path::Path;
use std::process;

use serde_json::json;

use super::{check, plugin_in, qeff, table};

/// A folder with one plugin.
fn folder_with(plugin: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    plugin_in(folder.path(), plugin);
    folder
}

#[test]
fn folders_are_searched_in_their_order() {
    let (a, b) = (folder_with("everything"), folder_with("everything"));
    let data = tempfile::tempdir().expect("a folder");
    qeff("plugins").args(["add"]).arg(a.path().join("everything.so")).env("XDG_DATA_HOME", data.path()).succeeds();
    let listed = |path: &str| {
        let command = qeff("plugins").arg("list").env("QEFF_PLUGIN_PATH", path).env("XDG_DATA_HOME", data.path());
        let text = command.succeeds().stdout;
        let line = text.lines().find(|line| line.starts_with("everything ")).map(str::to_owned);
        line.unwrap_or_default()
    };
    let from = |dir: &Path, file: &str| format!("everything 0.1.0 ({})", dir.join(file).display());
    let (a, b) = (a.path(), b.path());
    assert_eq!(listed(&format!("{}:{}", a.display(), b.display())), from(a, "everything.so"));
    assert_eq!(listed(&format!("{}:{}", b.display(), a.display())), from(b, "everything.so"));
    assert_eq!(listed(""), from(data.path(), "qeff/plugins/everything.so"));
}

/// Neither the working directory nor a relative folder is searched.
#[test]
fn the_working_directory_is_not_searched() {
    let here = folder_with("everything");
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"));
    command.args(["plugins", "list"]).current_dir(here.path());
    command.env("QEFF_PLUGIN_PATH", ".:").env("XDG_DATA_HOME", here.path().join("data"));
    let output = command.output().expect("the binary starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && text.contains("llama") && !text.contains("everything"), "{text}");
}

#[test]
fn exact_fits_go_before_generic_ones_and_equal_ones_need_a_choice() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = plugin_in(folder.path(), "everything");
    let inspect = |config: &serde_json::Value| {
        let command = qeff("inspect").env("QEFF_PLUGIN_PATH", folder.path());
        (table(config), command)
    };
    // Nobody names it, and one knows its kind.
    let (model, command) = inspect(&json!({ "architectures": ["UnknownModel"], "any_bag": true, "width": 3 }));
    check(&command.model(model.path()).succeeds().stdout, "plugin        everything");
    // Somebody names it: what the other knows of its kind does not count.
    let (model, command) = inspect(&json!({ "architectures": ["LlamaForCausalLM"], "any_bag": true }));
    check(&command.model(model.path()).refuses(), "plugin llama 0.1.0 (built-in)");
    // Two of the same name, and a third of another name that claims the same.
    fs::copy(&path, folder.path().join("again.so")).expect("a copy");
    let llama = plugin_in(folder.path(), "llama");
    let checkpoint = qeff::fixture("llama/base");
    let inspect = || qeff("inspect").env("QEFF_PLUGIN_PATH", folder.path()).model(&checkpoint);
    let said = inspect().refuses();
    check(&said, "the architecture `LlamaForCausalLM` is claimed by llama 0.1.0 (built-in) and by llama 0.1.0 (");
    check(&said, "llama.so)");
    inspect().arg("--plugin").arg(&llama).succeeds();
    let said = inspect().args(["--plugin", "nobody"]).refuses();
    check(&said, "there is no plugin called `nobody`; known: bert, ");
    check(&said, ", everything, gpt-oss, gpt2, granite, ");
}

/// `plugins list`, `info` and `add` execute nothing of a plugin, not even what the loader would.
#[test]
fn looking_executes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("executed");
    let manifest = r#"{"name":"trap","version":"1.0.0","api":"0","rustc":"x","target":"x","panic":"unwind","architectures":[["TrapModel"]],"pooling":[],"rewrites":[],"formats":[]}"#;
    let manifest = format!("{manifest:width$}", width = manifest.len().next_multiple_of(4));
    let source = format!(
        "#include <stdio.h>\n\
         static const struct {{ unsigned a, b, c; char d[8]; char e[{0}]; }} note\n\
         __attribute__((section(\".note.qeff\"), used, aligned(4))) = {{5, {0}, 1, \"QEFF\", \"{1}\"}};\n\
         char qeff_plugin_v1__trap[512] = {{1}};\n\
         __attribute__((constructor)) static void run(void) {{ FILE *f = fopen(\"{2}\", \"w\"); if (f) fclose(f); }}\n",
        manifest.len(),
        manifest.replace('"', "\\\""),
        trace.display(),
    );
    let (c, so) = (folder.path().join("trap.c"), folder.path().join("trap.so"));
    fs::write(&c, source).expect("a source");
    let built = process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&so, &c]).status();
    assert!(built.expect("a C compiler, which links Rust too").success());
    let data = folder.path().join("data");
    let plugins = |verb: &str| qeff("plugins").arg(verb).env("XDG_DATA_HOME", &data);
    check(&plugins("list").env("QEFF_PLUGIN_PATH", folder.path()).succeeds().stdout, "trap 1.0.0");
    check(&plugins("info").arg(&so).succeeds().stdout, "architectures: TrapModel");
    plugins("add").arg(&so).succeeds();
    plugins("verify").succeeds();
    check(&plugins("list").succeeds().stdout, "trap 1.0.0");
    assert!(!trace.exists(), "looking at it executed it");
    // It is executed where it can do nothing; and for what it is, it is refused.
    let model = table(&json!({ "architectures": ["TrapModel"] }));
    let said = qeff("inspect").model(model.path()).arg("--plugin").arg(&so).refuses();
    check(&said, "its plugin header is malformed");
    assert!(!trace.exists(), "the sandbox let it write a file");
    // The trap would have sprung: in this process, nothing holds it.
    let pinned = qeff("inspect").model(model.path()).arg("--plugin").arg(&so).arg("--in-process");
    pinned.env("XDG_DATA_HOME", &data).refuses();
    assert!(trace.exists(), "the test's plugin does nothing");
}
