//! What errors say of their causes, in every crate: each cause once, and by `source` alone, so that who prints the whole chain tells it once.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dtta_base::told;
use dtta_data::DataError;

fn nowhere() -> PathBuf {
    "/nowhere/file.json".into()
}

fn io() -> std::io::Error {
    fs::read(nowhere()).unwrap_err()
}

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("]").unwrap_err()
}

/// One of every kind of error that has a cause, through every crate that hands it on.
fn errors() -> Vec<Box<dyn Error>> {
    let (path, base) = (nowhere, |source| dtta_base::Error::Read {
        path: nowhere(),
        source,
    });
    let decoding = image::load_from_memory(b"\x89PNG\r\n\x1a\n").unwrap_err();
    let container = safetensors::SafeTensors::deserialize(b"short").unwrap_err();
    let png = png::Decoder::new(std::io::Cursor::new(b"none"));
    let png = png.read_info().map(drop).unwrap_err();
    vec![
        Box::new(base(io())),
        Box::new(dtta_base::Error::Write {
            path: path(),
            source: io(),
        }),
        Box::new(dtta_base::Error::Json {
            path: path(),
            source: json(),
        }),
        Box::new(DataError::from(base(io()))),
        Box::new(DataError::Decode {
            path: path(),
            source: decoding,
        }),
        Box::new(DataError::Png {
            path: path(),
            source: png,
        }),
        Box::new(DataError::Container {
            path: path(),
            source: container,
        }),
        Box::new(DataError::Metadata {
            path: path(),
            source: json(),
        }),
        Box::new(dtta_models::ModelError::from(base(io()))),
        Box::new(dtta_plugin::PluginError::Read {
            path: path(),
            source: io(),
        }),
        Box::new(dtta::Error::from(base(io()))),
        Box::new(dtta::Error::from(DataError::from(base(io())))),
        Box::new(dtta_train::Error::from(base(io()))),
    ]
}

#[test]
fn every_error_leaves_its_cause_to_the_chain() {
    for error in errors() {
        let mut link: &dyn Error = &*error;
        let mut links = 1;
        while let Some(cause) = link.source() {
            let (text, words) = (link.to_string(), cause.to_string());
            // What other crates make of their own causes is theirs.
            assert!(
                links > 1 || !text.contains(&words),
                "`{text}` repeats `{words}`"
            );
            (link, links) = (cause, links + 1);
        }
        assert!(links > 1, "`{error}` has no cause");
    }
}

#[test]
fn no_cause_is_told_twice_and_none_is_left_out() {
    for error in errors() {
        let text = told(&*error);
        let mut cause = error.source();
        while let Some(link) = cause {
            assert_eq!(text.matches(&link.to_string()).count(), 1, "{text}");
            cause = link.source();
        }
    }
    let nowhere = Path::new("/nowhere/file.json");
    let failed = fs::read(nowhere).context("cannot begin").unwrap_err();
    let text = told(failed.as_ref());
    assert!(text.starts_with("cannot begin: No such file"), "{text}");
}
