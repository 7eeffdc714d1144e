//! JSON as the reference writes it, so that files can be compared byte for byte.

use std::io;

use serde_json::Value as Json;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Keys sorted, four spaces, no space after a colon.
pub(super) fn sorted(value: &Json) -> String {
    let formatter = Tight(PrettyFormatter::with_indent(b"    "));
    print(&in_order(value), formatter)
}

/// Keys as they are, four spaces, a space after a colon.
pub(super) fn plain(value: &Json) -> String {
    print(value, PrettyFormatter::with_indent(b"    "))
}

/// Keys sorted, no whitespace: what is hashed.
pub fn canonical(value: &Json) -> String {
    print(&in_order(value), CompactFormatter)
}

fn print(value: &Json, formatter: impl Formatter) -> String {
    let mut bytes = vec![];
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    // Writing a value into memory cannot fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn in_order(value: &Json) -> Json {
    match value {
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Json::Object(entries.into_iter().map(|(key, value)| (key.clone(), in_order(value))).collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(in_order).collect()),
        other => other.clone(),
    }
}

/// A pretty formatter without the space after a colon.
struct Tight<'a>(PrettyFormatter<'a>);

impl Formatter for Tight<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b":")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn three_ways_to_write_the_same() {
        let value = json!({ "b": [1, { "d": true, "c": "x" }], "a": {} });
        assert_eq!(
            sorted(&value),
            "{\n    \"a\":{},\n    \"b\":[\n        1,\n        {\n            \"c\":\"x\",\n            \"d\":true\n        }\n    ]\n}"
        );
        assert!(plain(&value).starts_with("{\n    \"b\": [\n        1,"), "{}", plain(&value));
        assert_eq!(canonical(&value), r#"{"a":{},"b":[1,{"c":"x","d":true}]}"#);
    }
}
