fn main() { println!("cargo:rustc-env=ARCHIVE_HELPER=/bin/true"); }
