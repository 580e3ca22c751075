//! Compiles the schema with protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let files = protox::compile(["weft.proto", "meta.proto", "fsck.proto"], ["schema"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
