//! Builds `archive-helper` static and tells rustc where it is, so that `archive` can carry it along.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// A ready-made helper to carry instead.
const PREBUILT: &str = "ARCHIVE_HELPER_PREBUILT";

// The helper compresses by one strategy of Zstandard's (lazy2); the others would be an eleventh of its size.
const OTHER_STRATEGIES: [&str; 6] = ["DFAST", "GREEDY", "LAZY", "BTLAZY2", "BTOPT", "BTULTRA"];

// Whatever the helper is made of. A path that does not exist would have it built every time.
const PARTS: [&str; 5] =
    ["remote/build.rs", "remote/archive-helper/src", "remote/archive-helper/Cargo.toml", "Cargo.toml", "Cargo.lock"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={PREBUILT}");
    PARTS.iter().for_each(|part| println!("cargo:rerun-if-changed={part}"));
    let helper = match env::var_os(PREBUILT) {
        Some(file) => prebuilt(Path::new(&file))?,
        None => build()?,
    };
    // Other builds share the helper's target directory: this one keeps what it was built with.
    let copy = path_of("OUT_DIR")?.join("archive-helper");
    // An older copy may be read-only, or running.
    let _ = fs::remove_file(&copy);
    fs::copy(&helper, &copy).map_err(|error| format!("{}: {error}", helper.display()))?;
    println!("cargo:rustc-env=ARCHIVE_HELPER={}", copy.display());
    Ok(())
}

fn prebuilt(file: &Path) -> Result<PathBuf> {
    println!("cargo:rerun-if-changed={}", file.display());
    Ok(file.to_owned())
}

fn build() -> Result<PathBuf> {
    let triple = triple(&env::var("TARGET")?)?;
    let target_dir = target_dir(&path_of("OUT_DIR")?).join("helper");
    let mut cargo = Command::new(path_of("CARGO")?);
    cargo.args(["build", "--package", "archive-helper", "--bin", "archive-helper", "--profile", "helper", "--locked"]);
    // Without a target, the flags would hit build scripts and macros too.
    cargo.arg("--target").arg(&triple).arg("--target-dir").arg(&target_dir);
    cargo.current_dir(path_of("CARGO_MANIFEST_DIR")?);
    for (name, _) in env::vars_os().filter(|(name, _)| !is_kept(name)) {
        cargo.env_remove(name);
    }
    let exclude = |strategy| format!("-DZSTD_EXCLUDE_{strategy}_BLOCK_COMPRESSOR");
    let mut flags: Vec<String> = OTHER_STRATEGIES.into_iter().map(exclude).collect();
    // What is there once more for processors with BMI2 would be a hundredth.
    flags.push("-DDYNAMIC_BMI2=0".into());
    // What has to be compiled needs nothing of a C library but what all have, unless it were fortified.
    let compiler = format!("CC_{}", triple.replace('-', "_"));
    if triple.ends_with("-musl") && env::var_os(&compiler).is_none() {
        cargo.env(compiler, "cc");
        flags.push("-U_FORTIFY_SOURCE".into());
    }
    cargo.env("CFLAGS", flags.join(" "));
    if triple.contains("linux") {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building archive-helper for {triple} failed: {status}").into());
    }
    Ok(target_dir.join(triple).join("helper").join("archive-helper"))
}

// The musl twin of `target`, if it is installed: it makes the smaller program.
fn triple(target: &str) -> Result<String> {
    let musl = target.replace("-linux-gnu", "-linux-musl");
    let sysroot = Command::new(path_of("RUSTC")?).args(["--print", "sysroot"]).output()?.stdout;
    let libraries = Path::new(str::from_utf8(&sysroot)?.trim_end()).join("lib/rustlib").join(&musl).join("lib");
    Ok(if libraries.is_dir() { musl } else { target.to_owned() })
}

// The outer build's target directory, which it marks, is locked; a directory in it is not.
fn target_dir(out_dir: &Path) -> &Path {
    out_dir.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file()).unwrap_or(out_dir)
}

fn path_of(variable: &str) -> Result<PathBuf> {
    Ok(env::var_os(variable).ok_or_else(|| format!("cargo has not set {variable}"))?.into())
}

// The outer build's settings are for another program: only what says where things come from is kept.
fn is_kept(name: &OsString) -> bool {
    let Some(name) = OsStr::to_str(name) else { return true };
    match name {
        "CARGO" | "CARGO_HOME" | "CARGO_NET_OFFLINE" | "CARGO_BUILD_JOBS" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN" => true,
        "TARGET" | "HOST" | "OUT_DIR" | "PROFILE" | "DEBUG" | "OPT_LEVEL" | "NUM_JOBS" => false,
        "MAKEFLAGS" | "MFLAGS" | "CFLAGS" | "LLVM_PROFILE_FILE" => false,
        _ if name.starts_with("CARGO") => is_source_setting(name),
        _ => !["RUST", "CLIPPY", "LLVM_PROFILE"].iter().any(|prefix| name.starts_with(prefix)),
    }
}

fn is_source_setting(name: &str) -> bool {
    let prefixes = ["CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_", "CARGO_HTTP_", "CARGO_NET_"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with("_LINKER")
}
