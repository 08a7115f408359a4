//! What Redis holds under this cluster's prefix, written by whomever: the members of a set, line by line, and the entry
//! under a lease. What no node wrote is skipped and counted; what one wrote is read as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rollcall::directory::redis::{read_entry, read_nodes};
use rollcall::names::{NodeId, NodeName};
use rollcall::telemetry::anomalies::{Anomalies, Anomaly};
use serde_json::Value;

fn members(bytes: &[u8]) {
    let members: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let anomalies = Anomalies::default();
    let nodes = read_nodes(&members, &anomalies);
    let foreign = anomalies.count(Anomaly::ForeignMember);
    assert_eq!(nodes.len() as u64 + foreign, members.len() as u64, "each is a node or counted");
    let mut rest = members.iter();
    for node in &nodes {
        assert!(rest.any(|member| member == node.as_str().as_bytes()), "{node} is not a member, or not in its place");
        assert_eq!(NodeId::parse(node.as_str()).as_ref(), Ok(node));
    }
}

fn entry(bytes: &[u8]) {
    let anomalies = Anomalies::default();
    let read = read_entry(bytes, &anomalies);
    assert_eq!(anomalies.count(Anomaly::ForeignEntry), u64::from(read.is_none()));
    let Some(entry) = read else { return };
    assert_eq!(NodeName::parse(entry.name.as_str()).as_ref(), Ok(&entry.name));
    let value: Value = serde_json::from_slice(bytes).expect("an entry is JSON");
    let said = if value.is_array() { value[1].as_str() } else { value["mesh"].as_str() };
    assert_eq!(said, Some(entry.mesh.as_str()));
    let written = serde_json::to_vec(&entry).expect("an entry is plain text and a flag");
    assert_eq!(read_entry(&written, &anomalies), Some(entry));
}

fuzz_target!(|bytes: &[u8]| {
    members(bytes);
    entry(bytes);
});
