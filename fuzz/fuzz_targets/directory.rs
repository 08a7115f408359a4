//! What Redis holds under this cluster's prefix, written by whomever: owner members, line by line, and node entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rollcall::directory::redis::{read_entry, read_nodes};
use rollcall::names::{NodeId, NodeName};

fuzz_target!(|bytes: &[u8]| {
    let members: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let nodes = read_nodes(&members);
    let valid = members.iter().filter_map(|member| NodeId::parse(std::str::from_utf8(member).ok()?).ok());
    assert_eq!(nodes, valid.collect::<Vec<_>>());
    if let Some(entry) = read_entry(bytes) {
        assert_eq!(NodeName::parse(entry.name.as_str()), Ok(entry.name.clone()));
        let written = serde_json::to_vec(&entry).expect("an entry is plain text and a flag");
        assert_eq!(read_entry(&written), Some(entry));
    }
});
