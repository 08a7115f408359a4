//! The slot of a key on a Redis Cluster, and the prefix that puts all keys of an index into one slot.
//!
//! Owns the rule of [hash tags](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags): if
//! a key has text between its first `{` and the next `}`, only that text determines the slot. Keys with the same tag are
//! on the same node, so one connection reaches all of them, and a pipeline or script may use several.

use crc::{CRC_16_XMODEM, Crc};

const SLOT_COUNT: u16 = 16_384;
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

pub(super) fn slot(key: &str) -> u16 {
    CRC.checksum(tag(key).unwrap_or(key).as_bytes()) % SLOT_COUNT
}

/// Returns the prefix with a hash tag: the prefix itself if it has one, otherwise `{prefix}`. `None` if the tag would be
/// empty or end too early.
pub fn tagged(prefix: &str) -> Option<String> {
    if tag(prefix).is_some() {
        return Some(prefix.to_owned());
    }
    let name = prefix.trim_end_matches(':');
    let tagged = format!("{{{name}}}{}", &prefix[name.len()..]);
    tag(&tagged).is_some().then_some(tagged)
}

/// The text between the braces, if it is not empty.
fn tag(key: &str) -> Option<&str> {
    let (_, after) = key.split_once('{')?;
    let (tag, _) = after.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_cluster_specification() {
        // From CLUSTER KEYSLOT of Redis 7.0.
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
    fn a_prefix_without_a_hash_tag_becomes_one() {
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
