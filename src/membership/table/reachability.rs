//! Whether the other nodes reach this one at its advertised address.
//!
//! Owns the record of their announcements to this node. Each member announces itself to every incarnation of this node that it
//! learns of, so a member that has not done so cannot connect. Its replies prove nothing: this node opened those connections.

use super::MemberTable;
use crate::names::NodeId;

impl MemberTable {
    /// Records that the member announced itself to `own`, the present incarnation of this node.
    pub fn record_announcement(&mut self, node: &NodeId, own: &NodeId) {
        if let Some(member) = self.get_mut(node) {
            member.announced_to = Some(own.clone());
        }
    }

    /// Whether at least half of the members with a lease have announced themselves to `own`.
    pub fn is_reached(&self, own: &NodeId) -> bool {
        let leased = self.members.values().filter(|member| member.leased);
        let (reaching, others): (Vec<_>, Vec<_>) = leased.partition(|member| member.announced_to.as_ref() == Some(own));
        reaching.len() >= others.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::BootInstant;
    use crate::directory::NodeEntry;
    use crate::names::NodeName;

    #[test]
    fn a_node_is_reached_when_half_of_the_members_have_announced() {
        let (own, others) = (NodeId::new_process(), [(); 3].map(|()| NodeId::new_process()));
        let mut table = MemberTable::new(&own, Duration::from_secs(5));
        assert!(table.is_reached(&own), "there is nobody else");
        for node in &others {
            let name = NodeName::from_any("other");
            let entry = NodeEntry { name, mesh: "127.0.0.1:1".into(), since: "now".into(), draining: false };
            table.add_from_directory(node, &entry, BootInstant::now());
        }
        assert!(!table.is_reached(&own));
        table.record_announcement(&others[0], &own);
        assert!(!table.is_reached(&own), "one of three");
        table.record_announcement(&others[1], &own);
        assert!(table.is_reached(&own), "two of three");
        assert!(!table.is_reached(&own.next_incarnation()), "they announced to another incarnation");
    }
}
