//! Finding plugins, and the digest that ties a manifest to its artifact.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use std::fs;
use std::path::Path;

use dtta_plugin::{Plugin, Registry};
use serde_json::json;

/// A packaged fixture in a folder of its own.
fn package(folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    let bytes = support::mapper_component();
    fs::write(folder.join("fixture.wasm"), &bytes).unwrap();
    let manifest = json!({
        "schema_version": 1, "name": name, "version": "1.0.0", "interface": "0.1", "roles": ["mapper"],
        "artifact": "fixture.wasm", "sha256": dtta_base::sha256(&bytes),
        "config_schema": {"mapper": {"type": "object", "additionalProperties": false}},
    });
    fs::write(folder.join("plugin.json"), manifest.to_string()).unwrap();
}

#[test]
fn finds_plugins_by_path_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("experiment");
    let elsewhere = folder.path().join("elsewhere");
    package(&base.join("plugins/near/dist"), "near");
    package(&elsewhere.join("far"), "far");
    fs::write(base.join("alone.wasm"), support::mapper_component()).unwrap();
    let mut registry = Registry::default();
    registry.add_folder(&elsewhere);
    let absolute = elsewhere.join("far/plugin.json").display().to_string();
    for (reference, name) in [
        ("near", "near"),
        ("./plugins/near", "near"),
        ("plugins/near/dist/plugin.json", "near"),
        ("plugins/near/dist/fixture.wasm", "near"),
        ("far", "far"),
        ("../elsewhere/far", "far"),
        (&absolute, "far"),
        ("alone", "fixture"),
        ("alone.wasm", "fixture"),
    ] {
        let plugin = registry.find(reference, &base).unwrap();
        assert_eq!(plugin.name(), name, "{reference}");
    }
    let error = registry.find("nowhere", &base).unwrap_err();
    assert_eq!(error.code(), "not-found");
    for place in [
        "experiment/nowhere",
        "experiment/plugins/nowhere",
        "elsewhere/nowhere",
    ] {
        assert!(error.to_string().contains(place), "{error}");
    }
    let error = registry.find("./plugins/far", &base).unwrap_err();
    assert!(!error.to_string().contains("elsewhere"), "{error}");
}

#[test]
fn lists_without_loading() {
    let folder = tempfile::tempdir().unwrap();
    package(&folder.path().join("plugins/good"), "good");
    package(&folder.path().join("plugins/torn"), "torn");
    fs::write(
        folder.path().join("plugins/torn/fixture.wasm"),
        "nothing of worth",
    )
    .unwrap();
    package(&folder.path().join("plugins/worn"), "worn");
    fs::write(folder.path().join("plugins/worn/plugin.json"), "{").unwrap();
    let listed = Registry::default().list(folder.path());
    let names: Vec<Option<&str>> = listed
        .iter()
        .map(|listing| {
            listing
                .manifest
                .as_ref()
                .ok()
                .map(|manifest| manifest.name.as_str())
        })
        .collect();
    assert_eq!(names, [Some("good"), Some("torn"), None]);
}

#[test]
fn refuses_an_artifact_that_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), "fixture");
    assert!(Plugin::from_manifest(&folder.path().join("plugin.json")).is_ok());
    let artifact = folder.path().join("fixture.wasm");
    let mut bytes = fs::read(&artifact).unwrap();
    bytes.push(0);
    fs::write(&artifact, bytes).unwrap();
    for path in ["plugin.json", "fixture.wasm"] {
        let error = Registry::default().find(path, folder.path()).unwrap_err();
        assert_eq!(error.code(), "digest", "{error}");
    }
    fs::remove_file(&artifact).unwrap();
    let error = Plugin::from_manifest(&folder.path().join("plugin.json")).unwrap_err();
    assert!(error.to_string().contains("fixture.wasm"), "{error}");
}

#[test]
fn refuses_a_manifest_that_claims_a_role_too_many() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), "fixture");
    let path = folder.path().join("plugin.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(r#"["mapper"]"#, r#"["mapper","head"]"#)).unwrap();
    let error = Plugin::from_manifest(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin `fixture` has no role `head`; it offers mapper"
    );
}
