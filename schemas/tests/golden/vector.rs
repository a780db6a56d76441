//! Reads vector files, and adds fields that version 1 does not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

/// One message in both encodings.
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) json: String,
    pub(super) msgpack: Vec<u8>,
}

fn directory(under: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(under)
}

/// What the files of a directory are about: their names without extension.
pub(super) fn subjects(under: &str, extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory(under)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            assert_eq!(path.extension().unwrap(), extension, "{}", path.display());
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect()
}

/// The text of a file that is one JSON body.
pub(super) fn body(under: &str, name: &str) -> String {
    let path = directory(under).join(name).with_extension("json");
    let text = fs::read_to_string(&path).unwrap();
    text.trim_end().to_owned()
}

/// The vectors of one file, in its order.
pub(super) fn read(under: &str, subject: &str) -> Vec<Vector> {
    let path = directory(under).join(subject).with_extension("txt");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{subject} has no vectors, {}: {error}", path.display()));
    let vectors: Vec<Vector> = text.trim_end().split("\n\n").map(section).collect();
    let names: BTreeSet<&str> = vectors.iter().map(|vector| vector.name.as_str()).collect();
    assert_eq!(
        names.len(),
        vectors.len(),
        "{subject}: a name is used twice"
    );
    vectors
}

fn section(text: &str) -> Vector {
    let mut lines = text.lines();
    let name = lines.next().unwrap().to_owned();
    let json = lines.next().unwrap().strip_prefix("json ");
    let json = json.unwrap_or_else(|| panic!("{name}: no json")).to_owned();
    assert_eq!(lines.next(), Some("msgpack"), "{name}");
    let digits: Vec<u8> = lines
        .flat_map(str::bytes)
        .filter(|byte| *byte != b' ')
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty(), "{name}: half a byte");
    let msgpack = pairs.iter().map(|pair| byte(pair)).collect();
    Vector {
        name,
        json,
        msgpack,
    }
}

/// Fields of a later version, which readers of this one ignore.
fn unknown() -> [(&'static str, Value); 3] {
    [
        ("zz0", json!({ "a": [null, true, -5, "x"], "k": "quote" })),
        ("zz1", json!([])),
        ("zz2", Value::Null),
    ]
}

/// The JSON object with unknown fields before and behind its own.
pub(super) fn widened_json(object: &str) -> String {
    let fields = object.strip_prefix('{').and_then(|o| o.strip_suffix('}'));
    let [first, second, third] = unknown().map(|(key, value)| format!("\"{key}\":{value}"));
    format!("{{{first},{},{second},{third}}}", fields.unwrap())
}

/// The MessagePack map with unknown fields before and behind its own.
pub(super) fn widened_msgpack(map: &[u8]) -> Vec<u8> {
    let mut fields = map;
    let length = rmp::decode::read_map_len(&mut fields).unwrap();
    let [first, second, third] = unknown().map(|(key, value)| {
        let mut field = rmp_serde::to_vec(key).unwrap();
        field.extend(rmp_serde::to_vec_named(&value).unwrap());
        field
    });
    let mut widened = Vec::new();
    rmp::encode::write_map_len(&mut widened, length + 3).unwrap();
    for part in [&first, fields, &second, &third] {
        widened.extend_from_slice(part);
    }
    widened
}
