//! Models that look at images, as a person runs them.

use qeff::command::Command;
use qeff::fixture;
use qeff::scratch::Scratch;
use serde_json::{Value as Json, json};

use crate::{qeff, snapshot};

fn image(name: &str) -> std::path::PathBuf {
    fixture("vision").join(name)
}

fn run(model: &str) -> Command {
    qeff("run").model(&fixture(model)).words("--task vlm --json --ignore-eos --max-new-tokens 4")
}

fn first(command: Command) -> Json {
    command.succeeds().json()["outputs"][0].clone()
}

fn expected(model: &str, case: usize) -> Json {
    let text = std::fs::read_to_string(fixture(model).join("expected.json")).expect("a file");
    serde_json::from_str::<Json>(&text).expect("JSON")["cases"][case].clone()
}

fn expected_token(model: &str) -> u64 {
    let text = std::fs::read_to_string(fixture(model).join("config.json")).expect("a file");
    serde_json::from_str::<Json>(&text).expect("JSON")["image_token_index"].as_u64().expect("an id")
}

/// The first four of greedy ids.
fn greedy(case: &Json) -> Json {
    json!(case["greedy_ids"].as_array().expect("ids")[..4])
}

#[test]
fn images_have_their_places() {
    for model in ["llava/base", "llava_next/base", "internvl/base"] {
        let case = expected(model, 1);
        // `<image>` marks a place whatever the model's own token is.
        let text = case["text"].as_str().expect("a text").replace("<IMG_CONTEXT>", "<image>");
        let files = case["images"].as_array().expect("images").iter().map(|file| image(file.as_str().expect("a name")));
        let command =
            files.fold(run(model).args(["--prompt", &text]), |command, file| command.arg("--image").arg(file));
        let output = first(command);
        assert_eq!(output["prompt_ids"], case["prompt_ids"], "{model}");
        assert_eq!(output["generated_ids"], greedy(&case), "{model}");
    }
}

#[test]
fn an_image_without_a_place_comes_first() {
    let case = expected("llava/base", 0);
    let text = case["text"].as_str().expect("a text").strip_prefix("<image>").expect("a mark");
    let asked = || run("llava/base").arg("--image").arg(image("rgb.png"));
    let output = first(asked().args(["--prompt", text]));
    assert_eq!(output["prompt_ids"], case["prompt_ids"]);
    // By ids: one for each row, one for the image.
    let ids = |ids: Vec<u64>| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let all: Vec<u64> = case["prompt_ids"].as_array().expect("ids").iter().filter_map(Json::as_u64).collect();
    let mut once = all.clone();
    let token = expected_token("llava/base");
    once.dedup_by(|a, b| *a == token && a == b);
    for given in [all, once] {
        let output = first(asked().args(["--prompt-ids", &ids(given)]));
        assert_eq!((&output["prompt_ids"], &output["generated_ids"]), (&case["prompt_ids"], &greedy(&case)));
    }
}

/// Two prompts about one image, and two about one each.
#[test]
fn prompts_share_images_or_have_their_own() {
    let ask = |words: &[&str], files: &[&str]| {
        let command = files.iter().fold(run("llava/base"), |command, file| command.arg("--image").arg(image(file)));
        let outputs = words.iter().fold(command, |command, text| command.args(["--prompt", text])).succeeds().json();
        outputs["outputs"].as_array().expect("outputs").clone()
    };
    let alone = |text: &str, file: &str| ask(&[text], &[file])[0]["generated_ids"].clone();
    let shared = ask(&["a <image>", "b <image>"], &["rgb.png"]);
    assert_eq!(shared[0]["generated_ids"], alone("a <image>", "rgb.png"));
    assert_eq!(shared[1]["generated_ids"], alone("b <image>", "rgb.png"));
    let all = ask(&["a", "b"], &["rgb.png", "tall.png"]);
    assert_eq!(all[1]["generated_ids"], ask(&["<image><image>b"], &["rgb.png", "tall.png"])[0]["generated_ids"]);
    let own = ask(&["a <image>", "b <image>"], &["rgb.png", "wide.png"]);
    assert_eq!(own[0]["generated_ids"], alone("a <image>", "rgb.png"));
    assert_eq!(own[1]["generated_ids"], alone("b <image>", "wide.png"));
}

/// Turns with images of their own are laid out by the chat template, and answered as the same text typed.
#[test]
fn several_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("turns.json");
    let turns = json!([
        { "role": "user", "content": [{ "type": "image" }, { "type": "text", "text": "What is this?" }] },
        { "role": "assistant", "content": "A slope." },
        { "role": "user", "content": [{ "type": "text", "text": "And" }, { "type": "image", "path": image("tall.png") }] },
    ]);
    std::fs::write(&file, turns.to_string()).expect("a file");
    let talk = first(run("llava/base").arg("--messages").arg(&file).arg("--image").arg(image("rgb.png")));
    let text = "<|im_start|>user\n<image>What is this?<|im_end|>\n<|im_start|>assistant\nA slope.<|im_end|>\n<|im_start|>user\n\
                And<image><|im_end|>\n<|im_start|>assistant\n";
    let tokenizer = qeff_host::text::Tokenizer::open(&fixture("llava/base")).expect("a tokenizer").expect("one");
    let expanded = text.replace("<image>", &"<image>".repeat(16));
    assert_eq!(talk["prompt_ids"], json!(tokenizer.encode(&expanded, false).expect("ids")));
    assert_eq!(talk["generated_ids"].as_array().expect("ids").len(), 4);
}

/// transformers' InternVL has no `image_token_index`; a file that has one means nothing by it.
#[test]
fn internvl_has_one_name_for_its_token() {
    let scratch = Scratch::new("internvl/base");
    let shown = |dir: &std::path::Path| {
        let asked = qeff("run").model(dir).words("--json --max-new-tokens 2 --prompt x");
        first(asked.arg("--image").arg(image("rgb.png")))["generated_ids"].clone()
    };
    let expected = shown(scratch.dir());
    scratch.edit_json("config.json", |json| json["image_token_index"] = json!(5));
    assert_eq!(shown(scratch.dir()), expected);
}

#[test]
fn what_cannot_be_shown() {
    let llava = || qeff("run").model(&fixture("llava/base")).words("--max-new-tokens 1");
    let show =
        |command: Command, file: &std::path::Path| command.path("--image", file, "IMAGE").args(["--prompt", "x"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let whole = std::fs::read(image("rgb.png")).expect("a file");
    let jpeg = std::fs::read(image("444.jpg")).expect("a file");
    let mut broken = whole.clone();
    broken.iter_mut().skip(200).step_by(7).for_each(|byte| *byte ^= 0x55);
    let without = |name: &str| {
        let scratch = Scratch::new("llava/base");
        scratch.remove(name);
        scratch
    };
    let (no_processor, no_tokenizer) = (without("preprocessor_config.json"), without("tokenizer.json"));
    let spoiled = Scratch::new("llava/base");
    spoiled.edit_json("preprocessor_config.json", |json| json["resample"] = json!(0));
    let other_size = Scratch::new("llava/base");
    other_size.edit_json("preprocessor_config.json", |json| json["crop_size"] = json!({ "height": 14, "width": 14 }));
    let uncropped = Scratch::new("llava/base");
    uncropped.edit_json("preprocessor_config.json", |json| json["do_center_crop"] = json!(false));
    let miscounted = Scratch::new("internvl/base");
    miscounted.edit_json("processor_config.json", |json| json["image_seq_length"] = json!(9));
    let on = |scratch: &Scratch| qeff("run").model(scratch.dir()).words("--max-new-tokens 1");
    let cases: Vec<(&str, Command)> = vec![
        ("no such file", show(llava(), &image("none.png"))),
        ("a folder", show(llava(), &fixture("vision"))),
        ("an empty file", show(llava(), &file("empty.png", b""))),
        ("another kind", show(llava(), &file("cat.png", b"GIF89a"))),
        ("no image", show(llava(), &file("text.png", b"hello"))),
        ("a PNG cut off", show(llava(), &file("cut.png", &whole[..1000]))),
        ("a broken PNG", show(llava(), &file("broken.png", &broken))),
        ("a JPEG cut off", show(llava(), &file("cut.jpg", &jpeg[..700]))),
        (
            "more places than images",
            llava().args(["--prompt", "<image><image>"]).path("--image", &image("rgb.png"), "IMAGE"),
        ),
        ("ids that fit no image", llava().words("--prompt-ids 5,5,1").path("--image", &image("rgb.png"), "IMAGE")),
        ("no processor config", show(on(&no_processor), &image("rgb.png"))),
        ("no tokenizer", show(on(&no_tokenizer), &image("rgb.png"))),
        ("a filter that is not there", show(on(&spoiled), &image("rgb.png"))),
        ("tiles of another size", show(on(&other_size), &image("rgb.png"))),
        ("tiles of the images' shapes", show(on(&uncropped), &image("rgb.png"))),
        ("another count of rows", show(on(&miscounted), &image("rgb.png"))),
        ("a model that sees nothing", show(qeff("run").model(&fixture("llama/base")), &image("rgb.png"))),
        (
            "a size for a model of one",
            qeff("export").model(&fixture("llava/base")).words("--output x --image-size 3x3"),
        ),
        ("no size", qeff("export").model(&fixture("llava_next/base")).words("--output x --image-size 3")),
        ("messages and a prompt", llava().words("--prompt x --messages y")),
    ];
    let said: String = cases.into_iter().map(|(name, command)| format!("## {name}\n{}\n", command.refuses())).collect();
    snapshot("vlm_refusals", &said);
}

/// What is compiled for two image sizes: a vision program each, and one language program with room for the larger.
#[test]
fn programs_for_cards() {
    let dry = qeff("compile")
        .model(&fixture("llava_next/base"))
        .words("--dry-run --json --image-size 45x60 --image-size 10x60");
    snapshot("vlm_compile", &sizes(&dry.succeeds().json()));
}

/// The specializations of each program of a dry run.
fn sizes(json: &Json) -> String {
    let mut out = String::new();
    for (name, file) in json["files"].as_object().expect("files") {
        let Some(program) = name.strip_suffix("/specializations.json") else { continue };
        let all: Json = serde_json::from_str(file.as_str().expect("a text")).expect("JSON");
        out.push_str(&format!("{program}\n"));
        for one in all["specializations"].as_array().expect("a list") {
            let symbols = one["symbols"].as_object().expect("symbols").iter();
            let symbols: Vec<_> = symbols.map(|(name, n)| format!("{name}={}", n.as_str().expect("a text"))).collect();
            out.push_str(&format!("  {}: {}\n", one["name"].as_str().expect("a name"), symbols.join(" ")));
        }
    }
    out
}
