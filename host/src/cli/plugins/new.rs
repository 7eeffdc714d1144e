//! `plugins new`: a crate to begin with.
//!
//! What is written stands in `host/template`, as files of a crate for a family called `my-arch`; here names are put in the
//! place of that one. The manifest is called otherwise there: cargo leaves a folder that has a `Cargo.toml` out of a package.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use serde_json::json;

use super::super::talk;

/// Flags of `plugins new`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the family, e.g. `my-arch`: the crate is qeff-plugin-my-arch, the architecture MyArchForCausalLM.
    name: String,
    /// Folder to write to, which must not be there or be empty [default: ./qeff-plugin-NAME].
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Where qeff-plugin-api comes from: a folder, the URL of a git repository, or a version [default: the version of this
    /// host].
    #[arg(long, value_name = "PATH|URL|VERSION")]
    api: Option<String>,
    /// Print one JSON document instead of the path.
    #[arg(long)]
    json: bool,
}

/// A crate of the template: where a file goes, and what is in it.
const FILES: &[(&str, &[u8])] = &[
    ("Cargo.toml", include_bytes!("../../../template/manifest.toml")),
    ("README.md", include_bytes!("../../../template/README.md")),
    (".gitignore", include_bytes!("../../../template/gitignore")),
    (".github/workflows/ci.yml", include_bytes!("../../../template/.github/workflows/ci.yml")),
    ("src/lib.rs", include_bytes!("../../../template/src/lib.rs")),
    ("tests/hugging_face.rs", include_bytes!("../../../template/tests/hugging_face.rs")),
    (
        "tests/snapshots/hugging_face__description.snap",
        include_bytes!("../../../template/tests/snapshots/hugging_face__description.snap"),
    ),
    ("tests/checkpoint/make.py", include_bytes!("../../../template/tests/checkpoint/make.py")),
    ("tests/checkpoint/config.json", include_bytes!("../../../template/tests/checkpoint/config.json")),
    ("tests/checkpoint/expected.json", include_bytes!("../../../template/tests/checkpoint/expected.json")),
    ("tests/checkpoint/model.safetensors", include_bytes!("../../../template/tests/checkpoint/model.safetensors")),
];

/// The line of the manifest that says where qeff-plugin-api comes from.
const API_LINE: &str = "qeff-plugin-api = API";

pub(super) fn run(args: &Args) -> Result<()> {
    let name = Name::parse(&args.name)?;
    let api = dependency(args.api.as_deref())?;
    let folder = args.path.clone().unwrap_or_else(|| format!("qeff-plugin-{}", name.kebab).into());
    let entries = match fs::read_dir(&folder) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if entries.is_some() {
        bail!("{} is not empty: give another folder with --path", folder.display());
    }
    for &(file, content) in FILES {
        let path = folder.join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, name.put_into(content, &api))?;
    }
    if args.json {
        let files: Vec<_> = FILES.iter().map(|(file, _)| file).collect();
        return talk::json(&json!({ "path": folder, "files": files, "api": api }));
    }
    talk::say(&format!("now: cd {} && cargo test", folder.display()));
    talk::data(&format!("{}\n", folder.display()))
}

/// The name of a family in the spellings that files want.
struct Name {
    /// `my-arch`
    kebab: String,
    /// `my_arch`
    snake: String,
    /// `MyArch`
    camel: String,
}

impl Name {
    fn parse(name: &str) -> Result<Self> {
        let kebab = name.replace('_', "-");
        let word = |word: &str| {
            let letters = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            letters && !word.is_empty()
        };
        if !kebab.split('-').all(word) || !kebab.starts_with(|c: char| c.is_ascii_lowercase()) || kebab.len() > 40 {
            bail!(
                "`{name}` cannot name a crate: expected at most 40 small letters, digits and dashes, a letter first, e.g. my-arch"
            );
        }
        let capital = |word: &str| format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        Ok(Name { snake: kebab.replace('-', "_"), camel: kebab.split('-').map(capital).collect(), kebab })
    }

    /// A file of the template with this name in it; one that is not text stays as it is.
    fn put_into(&self, content: &[u8], api: &str) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(content) else { return content.to_vec() };
        let text = text.replace(API_LINE, &format!("qeff-plugin-api = {api}"));
        text.replace("my-arch", &self.kebab).replace("my_arch", &self.snake).replace("MyArch", &self.camel).into_bytes()
    }
}

/// What the manifest says of qeff-plugin-api.
fn dependency(api: Option<&str>) -> Result<String> {
    let quoted = |text: &str| toml_text(text);
    let Some(api) = api else { return Ok(quoted(env!("CARGO_PKG_VERSION"))) };
    if api.contains("://") || api.starts_with("git@") {
        return Ok(format!("{{ git = {} }}", quoted(api)));
    }
    if semver::VersionReq::parse(api).is_ok() {
        return Ok(quoted(api));
    }
    let given = Path::new(api);
    // The repository holds the crate in a folder of that name.
    let folder = [given.to_owned(), given.join("qeff-plugin-api")].into_iter().find(|folder| is_api(folder));
    let Some(folder) = folder else {
        bail!(
            "--api {api}: expected a folder with the crate qeff-plugin-api, the URL of a git repository, or a version such as {}",
            env!("CARGO_PKG_VERSION")
        );
    };
    let folder = absolute(&folder).with_context(|| format!("cannot make {} absolute", folder.display()))?;
    let folder =
        folder.to_str().with_context(|| format!("{} is not UTF-8, which a manifest has to be", folder.display()))?;
    Ok(format!("{{ path = {} }}", quoted(folder)))
}

/// Whether a folder holds the crate.
fn is_api(folder: &Path) -> bool {
    let manifest = fs::read_to_string(folder.join("Cargo.toml"));
    manifest.is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "name = \"qeff-plugin-api\""))
}

/// A text as TOML has it.
fn toml_text(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_each_place_wants_them() {
        let name = Name::parse("my_Arch2-b".to_lowercase().as_str()).unwrap();
        assert_eq!(
            (name.kebab.as_str(), name.snake.as_str(), name.camel.as_str()),
            ("my-arch2-b", "my_arch2_b", "MyArch2B")
        );
        for odd in ["", "-a", "a-", "a--b", "2a", "A", "a b", "ä", "a/../b", &"a".repeat(41)] {
            assert!(Name::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_template_has_the_line_and_the_names_that_are_replaced() {
        let name = Name::parse("other").unwrap();
        for (file, content) in FILES {
            let text = name.put_into(content, "\"1\"");
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("my-arch") && !text.contains("my_arch") && !text.contains("MyArch"), "{file}");
        }
        let manifest = String::from_utf8(name.put_into(FILES[0].1, "\"1\"")).unwrap();
        assert!(
            manifest.contains("name = \"qeff-plugin-other\"") && manifest.contains("qeff-plugin-api = \"1\"\n"),
            "{manifest}"
        );
    }

    #[test]
    fn the_api_may_come_from_anywhere() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = dependency(repository.to_str()).unwrap();
        assert!(path.starts_with("{ path = \"/") && path.ends_with("/qeff-plugin-api\" }"), "{path}");
        assert_eq!(dependency(Some("https://x/y.git")).unwrap(), "{ git = \"https://x/y.git\" }");
        assert_eq!(dependency(Some("^0.1")).unwrap(), "\"^0.1\"");
        assert_eq!(dependency(None).unwrap(), format!("\"{}\"", env!("CARGO_PKG_VERSION")));
        let error = dependency(Some("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("--api /nowhere: expected a folder with the crate qeff-plugin-api"), "{error}");
        assert_eq!(toml_text("a\"\\\n"), "\"a\\\"\\\\\\u000A\"");
    }
}
