use super::*;

fn layout(text: &str) -> Result<Layout, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("QAicApi.h");
    std::fs::write(&path, text).unwrap();
    Layout::read(&path).map_err(|why| why.replace(&format!("{}", path.display()), "HEADER"))
}

const OLDER: &str = "
#include <stdint.h>
#define LRT_LIB_MAJOR_VERSION 10
#define LRT_LIB_MINOR_VERSION (3U)
typedef uint32_t QAicMask;   // chosen bits
typedef struct QBuffer { size_t size; uint8_t *buf; } QBuffer;
/* The properties; struct QAicProgramProperties { int not; } */
typedef struct QAicProgramProperties {
  QAicMask selectMask; ///< which
  uint32_t SubmitNumRetries;
  uint32_t SubmitRetryTimeoutMs;
  const char *devMapping; /* \"0:1\" */
  uint64_t reserved[2];
} QAicProgramProperties_t;
";

#[test]
fn releases_differ_and_both_are_read() {
    let older = layout(OLDER).unwrap();
    assert_eq!((older.version, older.size), (Some((10, 3)), 40));
    assert_eq!((older.device_mapping, older.timeout_ms), (Some(16), None));

    let newer = layout(
        "typedef enum { A = 0, B = 1 } QAicMode;
         struct QAicProgramProperties { uint32_t selectMask; QAicMode mode; uint8_t flag; uint16_t retries;
           uint32_t dataPathTimeoutMs; char name[3]; const char * devMapping; };
         typedef struct QAicProgramProperties QAicProgramProperties_t;",
    )
    .unwrap();
    assert_eq!((newer.version, newer.size), (None, 32));
    assert_eq!((newer.timeout_ms, newer.device_mapping), (Some(12), Some(24)));

    let unnamed = layout("typedef struct\n{\n  uint32_t a;\n  char *devMapping;\n} QAicProgramProperties_t;").unwrap();
    assert_eq!(unnamed.device_mapping, Some(8));
}

#[test]
fn what_is_included_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("QAicApi.h");
    std::fs::write(&path, "#include \"QAicApiTypes.h\"\n#include \"missing.h\"\n#include \"../secret.h\"\n").unwrap();
    std::fs::write(dir.path().join("QAicApiTypes.h"), OLDER).unwrap();
    assert_eq!(Layout::read(&path).unwrap().device_mapping, Some(16));
}

#[test]
fn what_is_not_understood_is_refused() {
    let of = |fields: &str| layout(&format!("struct QAicProgramProperties_t {{ {fields} }};")).unwrap_err();
    let cases = [
        "uint32_t a : 3;",
        "Unknown a;",
        "uint32_t a, b;",
        "void (*call)(int);",
        "uint32_t a[N];",
        "struct { int x; } inner;",
    ];
    for fields in cases {
        let error = of(fields);
        assert!(error.starts_with("HEADER: QAicProgramProperties_t: cannot tell the layout because of `"), "{error}");
    }
    assert!(of("\n#ifdef NEW\nint a;\n#endif\n").contains("because of `#ifdef NEW`"));
    assert_eq!(of("uint32_t devMapping;"), "HEADER: QAicProgramProperties_t: field devMapping has 4 bytes; expected 8");
    assert_eq!(layout("int x;").unwrap_err(), "HEADER: expected a struct QAicProgramProperties_t, found none");
    assert!(Layout::read(Path::new("/nowhere/QAicApi.h")).unwrap_err().starts_with("cannot read /nowhere/QAicApi.h: "));
}

#[test]
fn any_text_is_an_answer_or_an_error() {
    for text in [
        "/",
        "/*",
        "//",
        "struct",
        "struct {",
        "struct }{",
        "typedef",
        "typedef struct X {",
        "#define",
        "{}{}",
        "\\\n/ü",
    ] {
        assert!(layout(text).is_err(), "{text}");
    }
    for end in 0..OLDER.len() {
        let _ = layout(&OLDER[..end]);
    }
}
