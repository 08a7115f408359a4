//! Reads every key of the index in Redis, for `rollcall audit`.
//!
//! Owns the meaning of key names. Uses only commands whose time does not depend on the size of the index (`SCAN`,
//! `SSCAN`), and writes nothing. An entry that exists during the whole scan is found at least once; one that appears or
//! disappears meanwhile may or may not be found.

use std::collections::BTreeMap;

use ::redis::{Pipeline, RedisError};

use super::{RedisDirectory, read_entry};
use crate::directory::{DirectoryError, NodeEntry, Result};
use crate::names::{NameError, NodeId, Room, SocketId};

/// The `COUNT` of `SCAN`: how many keys Redis reads in one step.
const KEYS_PER_STEP: usize = 256;
/// The `COUNT` of `SSCAN`.
const MEMBERS_PER_STEP: usize = 1000;
/// Maximum number of printed bytes of a foreign key or member.
const MAX_SHOWN_BYTES: usize = 80;

/// The content of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScannedKey {
    /// The owner set of a room.
    Owners { room: Room, nodes: Vec<NodeId> },
    /// The socket set of a room and a node.
    Sockets { node: NodeId, room: Room, sockets: Vec<SocketId> },
    /// A key, or a member of a set, that no node can have written. Escaped and truncated.
    Foreign { key: String, member: Option<String> },
}

/// The kind of a key, by its name.
enum KeyKind {
    Owners(Room),
    Sockets(NodeId, Room),
    /// Not part of the scan.
    Other,
}

/// A cursor, and the elements of one `SCAN` step.
type Page = (Vec<u8>, Vec<Vec<u8>>);

impl RedisDirectory {
    /// Returns the nodes that have a lease. Unlike [`Directory::nodes`](crate::directory::Directory::nodes), removes no
    /// registration: an audit must not change what it examines.
    ///
    /// # Errors
    /// If Redis does not answer, or refuses.
    pub async fn registered(&self) -> Result<BTreeMap<NodeId, NodeEntry>> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.nodes_key());
        let (members,): (Vec<Vec<u8>>,) = self.run(&commands).await?;
        let ids: Vec<_> =
            members.iter().filter_map(|member| NodeId::parse(str::from_utf8(member).ok()?).ok()).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut commands = ::redis::pipe();
        for id in &ids {
            commands.cmd("GET").arg(self.lease_key(id));
        }
        let leases: Vec<Option<Vec<u8>>> = self.run(&commands).await?;
        let entries = ids.into_iter().zip(leases);
        Ok(entries.filter_map(|(id, lease)| Some((id, read_entry(&lease?, &self.anomalies)?))).collect())
    }

    /// Passes the content of every key to `visit`.
    ///
    /// # Errors
    /// If Redis does not answer, or refuses. Its user needs `SCAN` and `SSCAN`.
    pub async fn scan(&self, mut visit: impl FnMut(ScannedKey)) -> Result<()> {
        let pattern = format!("{}*", escape_pattern(&self.prefix));
        let mut cursor = b"0".to_vec();
        loop {
            let mut command = ::redis::pipe();
            command.cmd("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(KEYS_PER_STEP);
            let ((next, keys),): (Page,) = self.run(&command).await?;
            self.read(keys, &mut visit).await?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Reads the sets with these keys.
    async fn read(&self, keys: Vec<Vec<u8>>, visit: &mut impl FnMut(ScannedKey)) -> Result<()> {
        let mut sets = Vec::new();
        for key in keys {
            match self.key_kind(&key) {
                Some(KeyKind::Other) => {}
                Some(kind) => sets.push((key, kind)),
                None => visit(ScannedKey::Foreign { key: shown(&key), member: None }),
            }
        }
        let mut commands = ::redis::pipe();
        for (key, _) in &sets {
            page(&mut commands, key, b"0");
        }
        let pages = if sets.is_empty() { Vec::new() } else { self.pages(&commands).await? };
        for ((key, kind), page) in sets.into_iter().zip(pages) {
            let Some(page) = page else {
                visit(ScannedKey::Foreign { key: shown(&key), member: None });
                continue;
            };
            let Some(members) = self.remaining_members(&key, page).await? else { continue };
            match kind {
                KeyKind::Owners(room) => {
                    let nodes = parse_members(&key, &members, NodeId::parse, visit);
                    visit(ScannedKey::Owners { room, nodes });
                }
                KeyKind::Sockets(node, room) => {
                    let sockets = parse_members(&key, &members, SocketId::parse, visit);
                    visit(ScannedKey::Sockets { node, room, sockets });
                }
                KeyKind::Other => {}
            }
        }
        Ok(())
    }

    /// Returns the members on this page and the following ones. `None` if the key has changed its type meanwhile.
    async fn remaining_members(&self, key: &[u8], (mut next, mut members): Page) -> Result<Option<Vec<Vec<u8>>>> {
        while next != b"0" {
            let mut command = ::redis::pipe();
            page(&mut command, key, &next);
            let Some(Some((cursor, more))) = self.pages(&command).await?.pop() else { return Ok(None) };
            members.extend(more);
            next = cursor;
        }
        Ok(Some(members))
    }

    /// Returns a page of each set, and `None` for keys that are not sets.
    async fn pages(&self, commands: &Pipeline) -> Result<Vec<Option<Page>>> {
        let mut commands = commands.clone();
        commands.ignore_errors();
        let answers: Vec<std::result::Result<Page, RedisError>> = self.run(&commands).await?;
        let read = |answer: std::result::Result<Page, RedisError>| match answer {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            Err(error) => Err(DirectoryError::Refused(error.to_string())),
        };
        answers.into_iter().map(read).collect()
    }

    fn key_kind(&self, key: &[u8]) -> Option<KeyKind> {
        let name = str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let Some((kind, rest)) = name.split_once(':') else {
            return matches!(name, "nodes" | "epoch").then_some(KeyKind::Other);
        };
        match kind {
            "node" => NodeId::parse(rest).ok().map(|_| KeyKind::Other),
            "probe" => Some(KeyKind::Other),
            "owners" => Some(KeyKind::Owners(Room::parse(rest).ok()?)),
            "room" => {
                let (node, room) = rest.split_once(':')?;
                Some(KeyKind::Sockets(NodeId::parse(node).ok()?, Room::parse(room).ok()?))
            }
            _ => None,
        }
    }
}

fn page(commands: &mut Pipeline, key: &[u8], cursor: &[u8]) {
    commands.cmd("SSCAN").arg(key).arg(cursor).arg("COUNT").arg(MEMBERS_PER_STEP);
}

/// Parses the members, and reports those that no node can have written.
fn parse_members<T>(
    key: &[u8],
    members: &[Vec<u8>],
    parse: impl Fn(&str) -> std::result::Result<T, NameError>,
    visit: &mut impl FnMut(ScannedKey),
) -> Vec<T> {
    let known = members.iter().filter_map(|member| {
        let parsed = str::from_utf8(member).ok().and_then(|text| parse(text).ok());
        if parsed.is_none() {
            visit(ScannedKey::Foreign { key: shown(key), member: Some(shown(member)) });
        }
        parsed
    });
    known.collect()
}

/// Escapes foreign bytes for a terminal.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAX_SHOWN_BYTES)].escape_ascii().to_string()
}

/// Escapes a text so that `MATCH` takes it literally.
fn escape_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
