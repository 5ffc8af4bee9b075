//! What the shipped crates stand on: nothing that builds C or C++, and nothing that README does not give a reason for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The crates of a package's tree for all systems, build scripts included, as `name vVersion`.
fn tree(package: &str, depth: &str) -> BTreeSet<String> {
    let args = ["tree", "--locked", "--package", package, "--edges", "normal,build", "--target", "all"];
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--prefix", "none", "--format", "{p}", "--depth", depth])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    String::from_utf8(output.stdout).unwrap().lines().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn no_shipped_crate_builds_c_or_c_plus_plus() {
    // What build scripts call a C compiler with, and what finds or makes bindings to C libraries.
    const BUILDERS: [&str; 10] =
        ["autotools", "bindgen", "cc", "cmake", "cxx-build", "gcc", "meson", "nasm-rs", "pkg-config", "vcpkg"];
    // Declarations of what the system or the browser has; they build nothing.
    const DECLARATIONS: [&str; 4] = ["js-sys", "linux-raw-sys", "web-sys", "windows-sys"];
    for package in ["tiny-t5", "tiny-t5-cli"] {
        let tree = tree(package, "1000");
        assert!(tree.len() > 30, "{package}: {tree:?}");
        for found in &tree {
            let name = found.split(' ').next().unwrap();
            let binds = name.ends_with("-sys") && !DECLARATIONS.contains(&name);
            assert!(!binds && !BUILDERS.contains(&name), "{package} builds C or C++ through {found}");
        }
    }
}

#[test]
fn readme_gives_the_reason_for_every_direct_dependency() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for package in ["tiny-t5-kernels", "tiny-t5-checkpoint", "tiny-t5", "tiny-t5-cli"] {
        for found in tree(package, "1") {
            let name = found.split(' ').next().unwrap();
            let row = format!("| `{name}` |");
            assert!(name.starts_with("tiny-t5") || readme.contains(&row), "{package}: README has no row {row}");
        }
    }
}
