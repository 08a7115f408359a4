//! The slot of a key on a Redis Cluster, and the prefix that puts all keys of an index into one.
//!
//! Owns the rule of the [hash tags](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags):
//! of a key with something between its first `{` and the next `}`, that alone says the slot. Keys that begin with the
//! same tag are on the same node, so one plain connection reaches all of them.

use crc::{CRC_16_XMODEM, Crc};

/// How many slots the keys of a Cluster are spread over.
const SLOTS: u16 = 16_384;
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The slot of a key.
pub(super) fn slot(key: &str) -> u16 {
    CRC.checksum(tag(key).unwrap_or(key).as_bytes()) % SLOTS
}

/// The prefix that keys have on a Cluster: as it is where it holds a hash tag, and otherwise made one. `None`: the tag
/// would be empty, or end too early, and mean nothing.
pub fn tagged(prefix: &str) -> Option<String> {
    if tag(prefix).is_some() {
        return Some(prefix.to_owned());
    }
    let name = prefix.trim_end_matches(':');
    let tagged = format!("{{{name}}}{}", &prefix[name.len()..]);
    tag(&tagged).is_some().then_some(tagged)
}

/// What is between the braces, where there is something.
fn tag(key: &str) -> Option<&str> {
    let (_, after) = key.split_once('{')?;
    let (tag, _) = after.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // As CLUSTER KEYSLOT of Redis 7.0 says.
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("a{foo}{bar}", 12_182),
            ("{}foo", 9_500),
            ("", 0),
            ("{rollcall}:epoch", 3_437),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        assert_eq!(slot("{rollcall}:owners:a{b}"), slot("{rollcall}:nodes"));
    }

    #[test]
    fn a_prefix_without_a_hash_tag_is_made_one() {
        for (prefix, expected) in [
            ("rollcall:", Some("{rollcall}:")),
            ("rollcall", Some("{rollcall}")),
            ("a:b::", Some("{a:b}::")),
            ("{rollcall}:", Some("{rollcall}:")),
            ("a{b}c:", Some("a{b}c:")),
            ("a{b", Some("{a{b}")),
            ("a{}:", Some("{a{}}:")),
            ("", None),
            (":", None),
            ("}a:", None),
        ] {
            assert_eq!(tagged(prefix).as_deref(), expected, "{prefix}");
        }
        for prefix in ["a{b", "a{}:", "rollcall:"] {
            let prefix = tagged(prefix).unwrap();
            assert_eq!(slot(&format!("{prefix}room:}}:{{x}}")), slot(&format!("{prefix}nodes")), "{prefix}");
        }
    }
}
