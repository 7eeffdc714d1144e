use super::*;

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
]"#;

/// What is made of a folder of these files.
fn open(files: &[(&str, &str)]) -> Result<Option<Recipe>> {
    let dir = tempfile::tempdir()?;
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
        std::fs::write(path, text)?;
    }
    Recipe::open(dir.path())
        .map_err(|error| anyhow::anyhow!(format!("{error:#}").replace(&dir.path().display().to_string(), "DIR")))
}

#[test]
fn a_folder_without_modules_is_none() {
    assert_eq!(open(&[("config.json", "{}")]).unwrap(), None);
}

#[test]
fn everything_is_read() {
    let recipe = open(&[
        ("modules.json", MODULES),
        (
            "1_Pooling/config.json",
            r#"{"word_embedding_dimension": 8, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true,
                "pooling_mode_max_tokens": false, "pooling_mode_lasttoken": true, "include_prompt": false}"#,
        ),
        ("sentence_bert_config.json", r#"{"max_seq_length": 77, "do_lower_case": true}"#),
        (
            "config_sentence_transformers.json",
            r#"{"prompts": {"query": "Find: ", "document": ""}, "default_prompt_name": "query"}"#,
        ),
    ])
    .unwrap()
    .unwrap();
    assert_eq!(recipe.pooling, ["cls", "mean", "last"]);
    assert_eq!((recipe.longest, recipe.lower_case, recipe.width), (Some(77), true, Some(8)));
    assert!(!recipe.pools_prompt);
    assert_eq!(recipe.stages, [Stage::Normalise]);
    assert_eq!(recipe.prompt(None).unwrap(), "Find: ");
    assert_eq!(recipe.prompt(Some("document")).unwrap(), "");
    let error = recipe.prompt(Some("title")).unwrap_err().to_string();
    assert_eq!(error, "--prompt-name: expected one of the checkpoint's prompts (document, query), found title");
}

#[test]
fn a_pooling_that_says_nothing_is_the_mean() {
    let recipe = open(&[("modules.json", MODULES), ("1_Pooling/config.json", "{}")]).unwrap().unwrap();
    assert_eq!(recipe.pooling, ["mean"]);
}

#[test]
fn refusals_name_file_field_and_what_was_expected() {
    let module = |i: usize, kind: &str, path: &str| format!(r#"{{"idx": {i}, "path": "{path}", "type": "s.{kind}"}}"#);
    let modules = |last: &str, path: &str| {
        format!("[{}, {}, {}]", module(0, "Transformer", ""), module(1, "Pooling", "1_Pooling"), module(2, last, path))
    };
    let mean = r#"{"pooling_mode_mean_tokens": true}"#;
    let cases: [(&str, &str, &str, &str); 9] = [
        ("{}", mean, "{}", "DIR/modules.json: expected a list of modules, found {}"),
        ("[3]", mean, "{}", "DIR/modules.json: module 0: expected a `type`, found 3"),
        (
            &format!("[{}]", module(0, "CLIPModel", "")),
            mean,
            "{}",
            "DIR/modules.json: module 0: `type`: expected a Transformer as the first module, found CLIPModel",
        ),
        (
            &format!("[{}]", module(0, "Transformer", "../..")),
            mean,
            "{}",
            r#"DIR/modules.json: module 0: `path`: expected a folder within the checkpoint, found "../..""#,
        ),
        (
            &modules("WordWeights", "2_W"),
            mean,
            "{}",
            "DIR/modules.json: module 2: `type`: expected Dense or Normalize after pooling, found WordWeights, which cannot \
             be computed; with --pooling the folder's own steps are left out",
        ),
        (
            &modules("Normalize", "2_N"),
            r#"{"pooling_mode_mean_tokens": 1}"#,
            "{}",
            "DIR/1_Pooling/config.json: `pooling_mode_mean_tokens`: expected true or false, found 1",
        ),
        (
            &modules("Normalize", "2_N"),
            r#"{"pooling_mode_mean_tokens": false}"#,
            "{}",
            "DIR/1_Pooling/config.json: expected a pooling mode that is true, found none",
        ),
        (
            &modules("Normalize", "2_N"),
            r#"{"pooling_mode_median_tokens": true}"#,
            "{}",
            "DIR/1_Pooling/config.json: `pooling_mode_median_tokens`: expected one of pooling_mode_cls_token, \
             pooling_mode_max_tokens, pooling_mode_mean_tokens, pooling_mode_mean_sqrt_len_tokens, \
             pooling_mode_weightedmean_tokens, pooling_mode_lasttoken",
        ),
        (
            &modules("Normalize", "2_N"),
            mean,
            r#"{"default_prompt_name": "query"}"#,
            "DIR/config_sentence_transformers.json: `default_prompt_name`: found \"query\", expected the name of a prompt",
        ),
    ];
    for (modules, pooling, prompts, expected) in cases {
        let files = [
            ("modules.json", modules),
            ("1_Pooling/config.json", pooling),
            ("config_sentence_transformers.json", prompts),
        ];
        assert_eq!(open(&files).unwrap_err().to_string(), expected);
    }
}
