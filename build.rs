//! Compiles the protocols with protox, which needs no `protoc`, and embeds the bundles of the pages if `make` built them.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost::Message;

const PROTOS: [&str; 2] = ["rollcall/v1/mesh.proto", "rollcall/v1/polling.proto"];
const BUILT: [&str; 4] = ["front.js", "room.js", "operator.js", "operator.css"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile_proto(&out)?;
    embed_built(&out)
}

fn compile_proto(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    fs::write(out.join("rollcall.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

/// Writes `built.rs`: the bundles in `web/dist`, or `None` if one is missing. The program also compiles without them, and
/// then serves a page that says how to build them.
fn embed_built(out: &Path) -> Result<(), Box<dyn Error>> {
    let dist = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("web/dist");
    println!("cargo:rerun-if-changed={}", dist.display());
    let mut source = format!("pub(crate) const BUILT: Option<[(&str, &[u8]); {}]> = ", BUILT.len());
    if BUILT.iter().all(|file| dist.join(file).is_file()) {
        source.push_str("Some([");
        for file in BUILT {
            let path = dist.join(file);
            write!(source, "({file:?}, include_bytes!({path:?}) as &[u8]), ")?;
        }
        source.push_str("]);\n");
    } else {
        source.push_str("None;\n");
    }
    fs::write(out.join("built.rs"), source)?;
    Ok(())
}
