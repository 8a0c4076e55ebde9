//! The migrations are compiled in; a new one has to recompile the crate.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
