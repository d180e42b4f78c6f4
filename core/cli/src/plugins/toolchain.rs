//! Where the compiler for WebAssembly comes from: rustup's target if it is there or can be added,
//! else Debian's compiler, which has the target but no prebuilt standard library for it. And how
//! plugins are compiled, for WebAssembly and natively.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::build::{output, run};
use super::source::Project;
use crate::say::say;

/// The target of every plugin: no operating system, so a component can import nothing but what
/// the interface offers.
pub const TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-19";

/// A compiler that builds for [`TARGET`].
pub struct Toolchain {
    kind: Kind,
    version: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The `cargo` and `rustc` that run this, with the target's prebuilt standard library.
    Prebuilt,
    /// Debian's, which builds the standard library from source.
    Debian,
}

impl Toolchain {
    /// Finds a toolchain, or has rustup add the target.
    ///
    /// # Errors
    /// Says what was tried and what to install.
    pub fn find() -> Result<Self> {
        if has_prebuilt() || (add_target() && has_prebuilt()) {
            return Self::new(Kind::Prebuilt);
        }
        if !has_debian() {
            bail!(
                "no compiler for {TARGET} was found; run `rustup target add {TARGET}`, or on Debian `apt-get install {}`",
                DEBIAN_PACKAGES.join(" ")
            );
        }
        Self::new(Kind::Debian)
    }

    fn new(kind: Kind) -> Result<Self> {
        let rustc = match kind {
            Kind::Prebuilt => "rustc",
            Kind::Debian => "/usr/bin/rustc",
        };
        let output = output(clean(&mut Command::new(rustc), kind).arg("-vV"))?;
        let output = String::from_utf8(output).context("`rustc -vV` is not UTF-8")?;
        let host = output
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .unwrap_or("an unknown host");
        let version = output.lines().next().unwrap_or("rustc");
        Ok(Self {
            kind,
            version: format!("{version} on {host}"),
        })
    }

    /// What decides the bytes of an artifact, besides its source.
    pub fn built_with(&self) -> String {
        match self.kind {
            Kind::Prebuilt => self.version.clone(),
            Kind::Debian => format!("{}, standard library from source", self.version),
        }
    }

    /// The module that a package builds to, in a target folder of its own.
    ///
    /// # Errors
    /// Whatever the build fails with.
    pub fn build(&self, project: &Project, package: &str) -> Result<PathBuf> {
        let target = project.target().join("wasm");
        let cargo = match self.kind {
            Kind::Prebuilt => "cargo",
            Kind::Debian => "/usr/bin/cargo",
        };
        let mut command = Command::new(cargo);
        clean(&mut command, self.kind)
            .current_dir(&project.root)
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(project)?)
            .args([
                if project.is_apart() { "rustc" } else { "build" },
                "--release",
                "--lib",
                "--target",
                TARGET,
                "-p",
                package,
            ])
            .args(project.locked())
            .arg("--target-dir")
            .arg(&target);
        for setting in PROFILE {
            command.args(["--config", setting]);
        }
        if self.kind == Kind::Debian {
            command
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTC", "/usr/bin/rustc")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER)
                .arg("-Zbuild-std=std,panic_abort");
        }
        // For the plugin alone: flags of all crates that differ between plugins would compile the SDK anew for each.
        if project.is_apart() {
            command.args(["--", &remap(&project.root, "/plugin")]);
        }
        run(&mut command)?;
        Ok(target
            .join(TARGET)
            .join("release")
            .join(package.replace('-', "_"))
            .with_extension("wasm"))
    }

    /// Compiler flags, in cargo's encoding. Paths that differ between checkouts must not reach
    /// the artifact through panic messages.
    fn flags(&self, project: &Project) -> Result<String> {
        let mut remapped: Vec<(PathBuf, String)> = Vec::new();
        if !project.is_apart() {
            remapped.push((project.root.clone(), "/plugin".into()));
        }
        remapped.extend(project.sdk.clone().map(|sdk| (sdk, "/dtta".into())));
        let home = cargo_home().context("neither CARGO_HOME nor HOME is set")?;
        let sources = home.join("registry").join("src");
        // One folder for each registry, whose name has a digest of its address.
        let registries = std::fs::read_dir(&sources)
            .map(|entries| entries.flatten().collect())
            .unwrap_or(Vec::new());
        remapped.extend(
            registries
                .iter()
                .map(|registry| (registry.path(), "/registry".to_owned())),
        );
        if self.kind == Kind::Prebuilt {
            let output =
                output(clean(&mut Command::new("rustc"), self.kind).args(["--print", "sysroot"]))?;
            remapped.push((
                PathBuf::from(String::from_utf8_lossy(&output).trim()),
                "/rust".into(),
            ));
        }
        let flags = remapped.iter().map(|(from, to)| remap(from, to));
        Ok(flags.collect::<Vec<_>>().join("\x1f"))
    }
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// The shared library that a package builds to, with its entry exported.
///
/// # Errors
/// Whatever the build fails with.
pub fn build_native(project: &Project, package: &str) -> Result<PathBuf> {
    let target = project.target().join("native");
    let mut command = Command::new("cargo");
    clean(&mut command, Kind::Prebuilt)
        .current_dir(&project.root)
        .args(["build", "--release", "--lib", "-p", package])
        .args(["--features", "dtta-sdk/cdylib"])
        .args(project.locked())
        .arg("--target-dir")
        .arg(&target);
    run(&mut command)?;
    let file = format!(
        "{}{}{}",
        env::consts::DLL_PREFIX,
        package.replace('-', "_"),
        env::consts::DLL_SUFFIX
    );
    Ok(target.join("release").join(file))
}

/// How components are compiled: small, and without unwinding, which the sandbox makes needless.
pub const PROFILE: [&str; 6] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=true",
    "profile.release.debug=false",
];

/// Removes what the cargo that runs this has set, and what a developer may have set for other
/// builds; keeps where packages come from.
fn clean(command: &mut Command, kind: Kind) -> &mut Command {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let is_cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let is_rust = text.starts_with("RUSTC") || matches!(text, "RUSTFLAGS" | "RUSTDOCFLAGS");
        let is_rustup = text == "RUSTUP_TOOLCHAIN" && kind == Kind::Debian;
        if is_cargo || is_rust || is_rustup {
            command.env_remove(&name);
        }
    }
    command
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
}

/// Whether the compiler in use has a standard library for the target.
fn has_prebuilt() -> bool {
    let mut command = Command::new("rustc");
    let output = output(clean(&mut command, Kind::Prebuilt).args([
        "--print",
        "target-libdir",
        "--target",
        TARGET,
    ]));
    output.is_ok_and(|folder| {
        let folder = PathBuf::from(String::from_utf8_lossy(&folder).trim());
        let mut libraries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        libraries.any(|file| file.path().extension() == Some(OsStr::new("rlib")))
    })
}

fn add_target() -> bool {
    let mut command = Command::new("rustup");
    let added = output(clean(&mut command, Kind::Prebuilt).args(["target", "add", TARGET]));
    if let Err(error) = &added {
        say!("rustup has no {TARGET}: {error:#}");
    }
    added.is_ok()
}

fn has_debian() -> bool {
    [
        "/usr/bin/rustc",
        "/usr/bin/cargo",
        DEBIAN_LINKER,
        DEBIAN_SOURCE,
    ]
    .iter()
    .all(|path| Path::new(path).exists())
}
