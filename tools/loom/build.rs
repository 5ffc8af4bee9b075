fn main() {
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rustc-check-cfg=cfg(feature, values(\"rayon\"))");
    println!("cargo::rustc-cfg=loom");
}
