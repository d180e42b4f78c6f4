//! Finding plugins, and the digest that ties a manifest to its artifact.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use dtta_plugin::{Loading, Plugin, Registry};
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
fn a_name_may_have_a_dot() {
    let folder = tempfile::tempdir().unwrap();
    let (base, elsewhere) = (
        folder.path().join("experiment"),
        folder.path().join("elsewhere"),
    );
    fs::create_dir(&base).unwrap();
    package(&elsewhere.join("mine.v2"), "mine");
    fs::write(elsewhere.join("alone.v2.wasm"), support::mapper_component()).unwrap();
    let mut registry = Registry::default();
    registry.add_folder(&elsewhere);
    for (reference, name) in [
        ("mine.v2", "mine"),
        ("alone.v2", "fixture"),
        ("alone.v2.wasm", "fixture"),
    ] {
        assert_eq!(
            registry.find(reference, &base).unwrap().name(),
            name,
            "{reference}"
        );
    }
    assert_eq!(
        registry.find("./mine.v2", &base).unwrap_err().code(),
        "not-found"
    );
}

#[test]
fn a_file_that_is_no_plugin_does_not_stand_for_one_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes"), "of an experiment").unwrap();
    fs::write(folder.path().join("mine"), "my notes").unwrap();
    package(&folder.path().join("plugins/mine"), "mine");
    let registry = Registry::default();
    assert_eq!(registry.find("mine", folder.path()).unwrap().name(), "mine");
    let error = registry.find("notes", folder.path()).unwrap_err();
    assert_eq!(error.code(), "not-found");
    assert!(
        error
            .to_string()
            .contains("notes` (a file, but not a plugin)"),
        "{error}"
    );
    // A path is meant as it is.
    assert_eq!(
        registry.find("./notes", folder.path()).unwrap_err().code(),
        "not-a-component"
    );
}

#[test]
fn a_digest_that_is_asked_for_may_be_in_capitals_and_holds_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), "fixture");
    fs::write(
        folder.path().join("alone.wasm"),
        support::mapper_component(),
    )
    .unwrap();
    let digest = dtta_base::sha256(&support::mapper_component());
    for reference in ["plugin.json", "./plugin.json", "./alone.wasm"] {
        let load = |sha256: &str| {
            let loading = Loading {
                sha256: Some(sha256.into()),
                ..Loading::default()
            };
            Registry::default().load(reference, folder.path(), &loading)
        };
        assert_eq!(load(&digest.to_uppercase()).unwrap().digest(), digest);
        let error = load(&digest.replace(['0', '1'], "2")).unwrap_err();
        assert_eq!(error.code(), "pin", "{error}");
        assert!(error.to_string().contains(&digest), "{error}");
    }
}

/// A manifest that names an artifact, and nothing else.
fn naming(folder: &Path, artifact: &str) -> PathBuf {
    let manifest = json!({
        "name": "fixture", "version": "1.0.0", "interface": "0.1", "roles": ["mapper"],
        "artifact": artifact, "sha256": "00",
    });
    let path = folder.join("plugin.json");
    fs::write(&path, manifest.to_string()).unwrap();
    path
}

#[test]
fn an_artifact_lies_in_the_folder_of_its_manifest() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("fixture.wasm");
    fs::write(&file, support::mapper_component()).unwrap();
    let folder = outside.path().join("plugin");
    fs::create_dir(&folder).unwrap();
    let absolute = file.display().to_string();
    for artifact in ["../fixture.wasm", &absolute, "./../plugin/../fixture.wasm"] {
        let error = Plugin::from_manifest(&naming(&folder, artifact)).unwrap_err();
        assert_eq!(error.code(), "artifact", "{error}");
        assert!(
            error
                .to_string()
                .contains("not in the folder of its manifest"),
            "{error}"
        );
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&file, folder.join("linked.wasm")).unwrap();
        let error = Plugin::from_manifest(&naming(&folder, "linked.wasm")).unwrap_err();
        assert_eq!(error.code(), "artifact", "{error}");
    }
    fs::create_dir(folder.join("deeper")).unwrap();
    fs::write(
        folder.join("deeper/fixture.wasm"),
        support::mapper_component(),
    )
    .unwrap();
    let error = Plugin::from_manifest(&naming(&folder, "deeper/fixture.wasm")).unwrap_err();
    assert_eq!(error.code(), "digest", "{error}");
}

#[test]
#[cfg(unix)]
fn an_artifact_is_a_plain_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(folder.path().join("pipe.wasm"))
        .status();
    assert!(pipe.unwrap().success());
    fs::create_dir(folder.path().join("folder.so")).unwrap();
    for artifact in ["pipe.wasm", "folder.so"] {
        let error = Plugin::from_manifest(&naming(folder.path(), artifact)).unwrap_err();
        assert_eq!(error.code(), "artifact", "{error}");
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let error = Plugin::from_file(&folder.path().join(artifact)).unwrap_err();
        assert_eq!(error.code(), "artifact", "{error}");
    }
    let error = Registry::default()
        .find("./pipe.wasm", folder.path())
        .unwrap_err();
    assert!(
        error.to_string().contains("(not a regular file)"),
        "{error}"
    );
    for device in ["/dev/zero", "/dev/null"] {
        let error = Plugin::from_file(Path::new(device)).unwrap_err();
        assert_eq!(error.code(), "artifact", "{error}");
        assert_eq!(
            Plugin::from_manifest(Path::new(device)).unwrap_err().code(),
            "artifact"
        );
    }
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
