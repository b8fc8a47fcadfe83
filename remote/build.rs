//! Builds the helper as a static program and tells rustc where it is, for the server to embed.
//!
//! A nested cargo builds it into a target directory of its own: the outer one is locked while this runs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=ARCHIVE_HELPER_PREBUILT");
    for source in ["remote/archive-helper/src", "remote/archive-helper/Cargo.toml", "remote/build.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={source}");
    }
    let helper = match env::var_os("ARCHIVE_HELPER_PREBUILT") {
        Some(ready) => PathBuf::from(ready),
        None => build(),
    };
    assert!(helper.is_file(), "there is no helper at {}", helper.display());
    println!("cargo:rustc-env=ARCHIVE_HELPER={}", helper.display());
}

fn build() -> PathBuf {
    let target = static_target(&env::var("TARGET").expect("cargo sets TARGET"));
    let directory = target_directory().join("helper");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo
        .args(["build", "--package", "archive-helper", "--bin", "archive-helper", "--profile", "helper", "--locked"])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&directory)
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    // What the outer build set for itself would change this one, or build it anew each time.
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_outer_build(name)) {
        cargo.env_remove(name);
    }
    // With --target this reaches the helper alone, not what is built to run here.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the helper can't be built");
    directory.join(target).join("helper/archive-helper")
}

// musl makes the smallest static program, where it is installed.
fn static_target(target: &str) -> String {
    let musl = target.replace("-gnu", "-musl");
    let sysroot = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    match Path::new(sysroot.trim()).join("lib/rustlib").join(&musl).is_dir() {
        true => musl,
        false => target.to_owned(),
    }
}

// Cargo marks its target directory with a file.
fn target_directory() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).unwrap_or(&out).to_owned()
}

fn is_of_outer_build(name: &OsString) -> bool {
    const KEPT: [&str; 4] = ["CARGO", "CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS"];
    const ITS_OWN: [&str; 8] = ["TARGET", "HOST", "OUT_DIR", "PROFILE", "DEBUG", "OPT_LEVEL", "MAKEFLAGS", "CFLAGS"];
    let Some(name) = name.to_str() else { return false };
    let kept = KEPT.contains(&name)
        || ["CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_", "CARGO_HTTP_"].iter().any(|prefix| name.starts_with(prefix))
        || name.ends_with("_LINKER")
        || ["RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&name);
    let prefixed = ["CARGO", "RUST", "CLIPPY", "LLVM_PROFILE"].iter().any(|prefix| name.starts_with(prefix));
    !kept && (prefixed || ITS_OWN.contains(&name))
}
