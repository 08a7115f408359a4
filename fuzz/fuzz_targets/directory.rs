//! Reads arbitrary values of Redis keys under this cluster's prefix: the members of a set, one per line, and the entry of a
//! lease. Foreign values are skipped and counted, and the values of nodes are read without loss.
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
    assert_eq!(nodes.len() as u64 + foreign, members.len() as u64, "every member is a node or counted as foreign");
    let mut rest = members.iter();
    for node in &nodes {
        assert!(rest.any(|member| member == node.as_str().as_bytes()), "{node} is not a member, or out of order");
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
    let mesh = if value.is_array() { value[1].as_str() } else { value["mesh"].as_str() };
    assert_eq!(mesh, Some(entry.mesh.as_str()));
    let written = serde_json::to_vec(&entry).expect("an entry can be serialized");
    assert_eq!(read_entry(&written, &anomalies), Some(entry));
}

fuzz_target!(|bytes: &[u8]| {
    members(bytes);
    entry(bytes);
});
