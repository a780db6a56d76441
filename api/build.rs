//! Rebuilds when a migration or a page changes: they are embedded.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=console");
}
