use super::cards::{Card, parse};
use super::*;

fn compiler(tool: Tool, version: &str) -> (Dialect, String) {
    let compiler = Compiler::new(tool, PathBuf::from("/x"), Version::parse(version));
    (compiler.dialect.0, compiler.hw_version.0)
}

#[test]
fn versions_decide_dialects() {
    let cases = [
        (Tool::QaicCompile, "1.22.0.58", Dialect::Named, "ai100"),
        (Tool::QaicCompile, "", Dialect::Named, "ai100"),
        (Tool::QaicCompile, "1.21.4", Dialect::Classic, "ai100"),
        (Tool::QaicExec, "1.21.0", Dialect::Classic, "ai100"),
        (Tool::QaicExec, "1.20.2.0", Dialect::Classic, "2.0"),
        (Tool::QaicExec, "", Dialect::Classic, "2.0"),
        (Tool::QaicExec, "2.0.0", Dialect::Named, "ai100"),
    ];
    for (tool, version, dialect, hw) in cases {
        assert_eq!(compiler(tool, version), (dialect, hw.to_owned()), "{} {version}", tool.name());
    }
}

#[test]
fn an_sdk_is_what_lies_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    assert!(Sdk::find(Some(dir.path())).is_err(), "an empty folder is no SDK");
    write("exec/qaic-exec", "");
    write("versions/apps.xml", "<versions><ci_build><base_version> 1.20.2 </base_version></ci_build></versions>");
    let sdk = Sdk::find(Some(dir.path())).expect("an SDK").expect("found");
    assert_eq!((sdk.apps_version.as_deref(), sdk.platform_version.as_deref()), (Some("1.20.2"), None));
    assert_eq!(sdk.compiler().map(|compiler| compiler.tool), Some(Tool::QaicExec));
    write("exec/qaic-compile", "");
    let sdk = Sdk::at(dir.path(), "test");
    assert_eq!(sdk.compiler().map(|compiler| compiler.tool), Some(Tool::QaicCompile));
}

#[test]
fn cards_are_read_from_the_listing() {
    let text = "QID 0\n\tStatus:Ready\n\tFW IMAGE_VARIANT:AIC.1.0\n\tDram Total:32768 MB\n\tNsp Total:14\n\tNsp Free:12\n\
                \tBoard serial:ABC\nQID 3\n\tStatus:Error\n\tFW IMAGE_VARIANT : qcom_AIC200_x\n";
    let cards = parse(text);
    let first = Card {
        qid: 0,
        status: "Ready".into(),
        variant: "AIC.1.0".into(),
        cores: Some(14),
        free_cores: Some(12),
        memory_mb: Some(32768),
        free_memory_mb: None,
        board: "ABC".into(),
    };
    assert_eq!(cards.first(), Some(&first));
    assert_eq!(cards.iter().map(|card| (card.qid, card.is_ai200())).collect::<Vec<_>>(), [(0, false), (3, true)]);
    assert_eq!(Compiler::assumed().for_cards(&cards).hw_version.0, "ai200");
    assert_eq!(parse("no cards here: none\n"), []);
}
