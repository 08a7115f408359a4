//! Compiles the mesh protocol (protox: no protoc on the machine) and embeds the page's scripts where they were built.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost::Message;

const PROTOS: [&str; 2] = ["rollcall/v1/mesh.proto", "rollcall/v1/polling.proto"];
const SCRIPTS: [&str; 2] = ["front.js", "room.js"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile_proto(&out)?;
    embed_scripts(&out)
}

fn compile_proto(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    fs::write(out.join("rollcall.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

/// Writes `scripts.rs`: the bundled scripts of `web/dist`, or `None` when they were not built. The binary then
/// compiles all the same and serves a page that says how to get them.
fn embed_scripts(out: &Path) -> Result<(), Box<dyn Error>> {
    let dist = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("web/dist");
    println!("cargo:rerun-if-changed={}", dist.display());
    let mut source = format!("pub const SCRIPTS: Option<[(&str, &[u8]); {}]> = ", SCRIPTS.len());
    if SCRIPTS.iter().all(|script| dist.join(script).is_file()) {
        source.push_str("Some([");
        for script in SCRIPTS {
            let path = dist.join(script);
            write!(source, "({script:?}, include_bytes!({path:?}) as &[u8]), ")?;
        }
        source.push_str("]);\n");
    } else {
        source.push_str("None;\n");
    }
    fs::write(out.join("scripts.rs"), source)?;
    Ok(())
}
