//! Reading everything that is in the directory, for those who check it.
//!
//! Owns what a key means that begins with the prefix. Reads with commands that are short whatever is there (`SCAN`, `SSCAN`),
//! and writes nothing. What comes or goes meanwhile may be found or not; what stays is found at least once.

use std::collections::BTreeMap;

use ::redis::{Pipeline, RedisError};

use super::{RedisDirectory, read_entry};
use crate::directory::{DirectoryError, NodeEntry, Result};
use crate::names::{NameError, NodeId, Room, SocketId};

/// Keys that are looked at in one step of Redis.
const KEYS: usize = 256;
/// Members of a set that are read in one step.
const MEMBERS: usize = 1000;
/// How much of what is in no form of ours is shown, in bytes.
const SHOWN: usize = 80;

/// What was found under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScannedKey {
    /// The owner set of a room.
    Owners { room: Room, nodes: Vec<NodeId> },
    /// The sockets of a room on a node.
    Sockets { node: NodeId, room: Room, sockets: Vec<SocketId> },
    /// A key, or a member of a set, that no node has written; escaped, and cut where it is long.
    Foreign { key: String, member: Option<String> },
}

/// What a key is for, by its name.
enum Purpose {
    Owners(Room),
    Sockets(NodeId, Room),
    /// Read elsewhere, or of no lasting content.
    Other,
}

type Page = (Vec<u8>, Vec<Vec<u8>>);

impl RedisDirectory {
    /// The nodes that have a lease now. Unlike [`Directory::nodes`](crate::directory::Directory::nodes), leaves the others
    /// registered.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses.
    pub async fn registered(&self) -> Result<BTreeMap<NodeId, NodeEntry>> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.nodes_key());
        let ((members,), _): ((Vec<Vec<u8>>,), _) = self.run(&commands).await?;
        let ids: Vec<_> =
            members.iter().filter_map(|member| NodeId::parse(str::from_utf8(member).ok()?).ok()).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut commands = ::redis::pipe();
        for id in &ids {
            commands.cmd("GET").arg(self.lease_key(id));
        }
        let (leases, _): (Vec<Option<Vec<u8>>>, _) = self.run(&commands).await?;
        let entries = ids.into_iter().zip(leases);
        Ok(entries.filter_map(|(id, lease)| Some((id, read_entry(&lease?)?))).collect())
    }

    /// Shows all that there is.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses: its user needs `SCAN` and `SSCAN`.
    pub async fn scan(&self, mut see: impl FnMut(ScannedKey)) -> Result<()> {
        let pattern = format!("{}*", literally(&self.prefix));
        let mut cursor = b"0".to_vec();
        loop {
            let mut command = ::redis::pipe();
            command.cmd("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(KEYS);
            let (((next, keys),), _): ((Page,), _) = self.run(&command).await?;
            self.read(keys, &mut see).await?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Reads the sets under these keys.
    async fn read(&self, keys: Vec<Vec<u8>>, see: &mut impl FnMut(ScannedKey)) -> Result<()> {
        let mut sets = Vec::new();
        for key in keys {
            match self.purpose(&key) {
                Some(Purpose::Other) => {}
                Some(purpose) => sets.push((key, purpose)),
                None => see(ScannedKey::Foreign { key: shown(&key), member: None }),
            }
        }
        let mut commands = ::redis::pipe();
        for (key, _) in &sets {
            page(&mut commands, key, b"0");
        }
        let pages = if sets.is_empty() { Vec::new() } else { self.pages(&commands).await? };
        for ((key, purpose), page) in sets.into_iter().zip(pages) {
            let Some(page) = page else {
                see(ScannedKey::Foreign { key: shown(&key), member: None });
                continue;
            };
            let Some(members) = self.rest(&key, page).await? else { continue };
            match purpose {
                Purpose::Owners(room) => {
                    let nodes = ours(&key, &members, NodeId::parse, see);
                    see(ScannedKey::Owners { room, nodes });
                }
                Purpose::Sockets(node, room) => {
                    let sockets = ours(&key, &members, SocketId::parse, see);
                    see(ScannedKey::Sockets { node, room, sockets });
                }
                Purpose::Other => {}
            }
        }
        Ok(())
    }

    /// The members on this page and on those after it. `None`: it has become another kind of key meanwhile.
    async fn rest(&self, key: &[u8], (mut next, mut members): Page) -> Result<Option<Vec<Vec<u8>>>> {
        while next != b"0" {
            let mut command = ::redis::pipe();
            page(&mut command, key, &next);
            let Some(Some((cursor, more))) = self.pages(&command).await?.pop() else { return Ok(None) };
            members.extend(more);
            next = cursor;
        }
        Ok(Some(members))
    }

    /// A page of each set; `None` where the key is no set.
    async fn pages(&self, commands: &Pipeline) -> Result<Vec<Option<Page>>> {
        let mut commands = commands.clone();
        commands.ignore_errors();
        let (answers, _): (Vec<std::result::Result<Page, RedisError>>, _) = self.run(&commands).await?;
        let read = |answer: std::result::Result<Page, RedisError>| match answer {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            Err(error) => Err(DirectoryError::Refused(error.to_string())),
        };
        answers.into_iter().map(read).collect()
    }

    fn purpose(&self, key: &[u8]) -> Option<Purpose> {
        let name = str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let Some((kind, rest)) = name.split_once(':') else {
            return matches!(name, "nodes" | "epoch").then_some(Purpose::Other);
        };
        match kind {
            "node" => NodeId::parse(rest).ok().map(|_| Purpose::Other),
            "probe" => Some(Purpose::Other),
            "owners" => Some(Purpose::Owners(Room::parse(rest).ok()?)),
            "room" => {
                let (node, room) = rest.split_once(':')?;
                Some(Purpose::Sockets(NodeId::parse(node).ok()?, Room::parse(room).ok()?))
            }
            _ => None,
        }
    }
}

fn page(commands: &mut Pipeline, key: &[u8], cursor: &[u8]) {
    commands.cmd("SSCAN").arg(key).arg(cursor).arg("COUNT").arg(MEMBERS);
}

/// The members that nodes have written; shows the others.
fn ours<T>(
    key: &[u8],
    members: &[Vec<u8>],
    parse: impl Fn(&str) -> std::result::Result<T, NameError>,
    see: &mut impl FnMut(ScannedKey),
) -> Vec<T> {
    let parsed = members.iter().filter_map(|member| {
        let ours = str::from_utf8(member).ok().and_then(|text| parse(text).ok());
        if ours.is_none() {
            see(ScannedKey::Foreign { key: shown(key), member: Some(shown(member)) });
        }
        ours
    });
    parsed.collect()
}

/// Outside text as it may be printed.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string()
}

/// A pattern of `MATCH` that stands for this text and nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
