//! The records of the system group, command by command.

use std::collections::BTreeMap;

use bytes::Bytes;
use weft_core::codec;
use weft_core::entry::{Command, Entry};
use weft_core::ids::{GroupId, Incarnation, NodeId, PgEpoch, PgId, ReplicaId, SiteId, TenantId, VolumeId};
use weft_core::machine;
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::site::plan::{Presence, Report, Seen, plan};
use weft_core::site::{
    self, Labels, MemberState, NodeJoin, NodeStatus, Pg, PgMember, ROOT_VOLUME, SiteCommand, SiteMap, SiteOutcome,
    Volume,
};
use weft_core::time::Timestamp;

const SITE: SiteId = SiteId(0xabcdef);

#[derive(Default)]
struct System {
    records: BTreeMap<Bytes, Bytes>,
}

impl System {
    /// A site of one node and two groups for volumes.
    fn new() -> System {
        let mut system = System::default();
        let joined = SiteOutcome::Joined { node: NodeId(1), site: SITE };
        assert_eq!(system.ask(init(2, 1)), Ok(joined));
        system
    }

    fn ask(&mut self, command: SiteCommand) -> Result<SiteOutcome, Refusal> {
        let entry = Entry { time: Timestamp::from_nanos(5), caller: None, command: Command::Site(command) };
        let entry = codec::decode_entry(&codec::encode_entry(&entry)).expect("an entry");
        let applied = machine::apply(&self.records, GroupId::SYSTEM, &entry).expect("a map in memory does not fail");
        for (key, change) in applied.changes {
            match change {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        match applied.reply {
            Ok(Outcome::Site(outcome)) => Ok(outcome),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        }
    }

    fn map(&self) -> SiteMap {
        let map = site::map(&self.records).expect("a map in memory does not fail");
        assert_eq!(codec::decode_sitemap(&codec::encode_sitemap(&map)).as_ref(), Ok(&map));
        map
    }

    fn volume(&mut self, name: &str, token: u64) -> Result<Volume, Refusal> {
        let tenant = TenantId(0);
        match self.ask(SiteCommand::CreateVolume { name: name.into(), replication: 2, token, tenant })? {
            SiteOutcome::Volume(volume) => Ok(volume),
            other => panic!("{other:?}"),
        }
    }
}

fn join(number: u64) -> NodeJoin {
    NodeJoin { incarnation: Incarnation(100 + number), addr: format!("n{number}:7400"), meta: true, chunk: true }
}

fn init(groups: u32, replication: u8) -> SiteCommand {
    SiteCommand::Init { site: SITE, name: "here".into(), groups, replication, first: join(1) }
}

#[test]
fn a_site_begins_with_one_node_its_groups_and_a_root_volume_to_be_made() {
    let mut system = System::new();
    let map = system.map();
    assert_eq!((map.version, map.site, &map.name[..]), (1, SITE, "here"));
    let first = ReplicaId { node: NodeId(1), incarnation: Incarnation(101) };
    assert_eq!(map.groups.iter().map(|group| group.id.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(map.groups.iter().all(|group| group.replicas == [first]));
    let [root] = &map.volumes[..] else { panic!("one volume") };
    assert_eq!((&root.name[..], root.replication, root.ready, root.group), (ROOT_VOLUME, 1, false, GroupId(1)));
    // Again changes nothing; another site is refused.
    assert_eq!(system.ask(init(2, 1)), Ok(SiteOutcome::Joined { node: NodeId(1), site: SITE }));
    assert_eq!(system.map(), map);
    let other = SiteCommand::Init { site: SiteId(1), name: String::new(), groups: 1, replication: 1, first: join(9) };
    assert!(matches!(system.ask(other), Err(Refusal::Invalid { .. })));
}

#[test]
fn a_site_that_can_not_be_is_not_made() {
    let mut system = System::default();
    assert_eq!(system.map(), SiteMap::default());
    assert!(matches!(system.ask(SiteCommand::Join(join(2))), Err(Refusal::NotServed { .. })));
    for command in [init(0, 1), init(1, 0), init(1, 4)] {
        assert!(matches!(system.ask(command), Err(Refusal::Invalid { .. })));
    }
    assert!(system.records.is_empty());
}

#[test]
fn a_folder_keeps_its_number_and_a_lost_one_gives_it_to_the_next() {
    let mut system = System::new();
    let joined = |node| Ok(SiteOutcome::Joined { node: NodeId(node), site: SITE });
    assert_eq!(system.ask(SiteCommand::Join(join(2))), joined(2));
    let version = system.map().version;
    assert_eq!(system.ask(SiteCommand::Join(join(2))), joined(2));
    assert_eq!(system.map().version, version);
    let anew = NodeJoin { incarnation: Incarnation(999), ..join(2) };
    assert_eq!(system.ask(SiteCommand::Join(anew)), joined(2));
    assert_eq!(system.map().nodes[1].incarnation, Incarnation(999));
    assert_eq!(system.ask(SiteCommand::Join(join(3))), joined(3));
    let moved = SiteCommand::UpdateNode {
        replica: ReplicaId { node: NodeId(3), incarnation: Incarnation(103) },
        addr: "elsewhere:1".into(),
        labels: Labels { rack: "r1".into(), ..Labels::default() },
        lost_logs: 0,
    };
    assert_eq!(system.ask(moved), Ok(SiteOutcome::Done));
    assert_eq!(system.map().nodes[2].addr, "elsewhere:1");
    assert_eq!(system.map().nodes[2].labels.rack, "r1");
    let former = SiteCommand::UpdateNode {
        replica: ReplicaId { node: NodeId(2), incarnation: Incarnation(102) },
        addr: "late:1".into(),
        labels: Labels::default(),
        lost_logs: 0,
    };
    assert!(matches!(system.ask(former), Err(Refusal::WrongRecipient { .. })));
}

#[test]
fn a_node_that_gave_up_its_log_is_another_member_of_meta_groups_and_the_same_chunk_server() {
    let mut system = System::new();
    system.ask(SiteCommand::Join(join(2))).expect("a node");
    let before = system.map().nodes[1].clone();
    let update = |lost_logs| SiteCommand::UpdateNode {
        replica: before.replica(),
        addr: before.addr.clone(),
        labels: Labels::default(),
        lost_logs,
    };
    assert_eq!(before.meta_replica(), before.replica());
    system.ask(update(2)).expect("taken");
    let after = system.map().nodes[1].clone();
    assert_eq!(after.replica(), before.replica());
    assert_ne!(after.meta_replica(), before.meta_replica());
    // A heartbeat that was long on its way takes nothing back.
    let version = system.map().version;
    system.ask(update(1)).expect("taken");
    assert_eq!((system.map().nodes[1].lost_logs, system.map().version), (2, version));
    // Another life of its folder begins anew.
    system.ask(SiteCommand::Join(NodeJoin { incarnation: Incarnation(999), ..join(2) })).expect("joined");
    assert_eq!(system.map().nodes[1].lost_logs, 0);
}

#[test]
fn volumes_have_a_name_of_their_own_and_go_where_there_are_fewest() {
    let mut system = System::new();
    let first = system.volume("data", 7).expect("a volume");
    assert_eq!(system.volume("data", 7).as_ref(), Ok(&first), "the same token, the same volume");
    assert_eq!(system.volume("data", 8), Err(Refusal::VolumeExists { name: "data".into() }));
    assert_eq!(system.volume(ROOT_VOLUME, 0), Err(Refusal::VolumeExists { name: ROOT_VOLUME.into() }));
    let second = system.volume("more", 9).expect("a volume");
    assert_eq!((first.group, second.group), (GroupId(2), GroupId(1)));
    assert_ne!((first.space, first.slot, first.view), (second.space, second.slot, second.view));
    for name in ["", "a/b", ".."] {
        assert_eq!(system.volume(name, 1), Err(Refusal::BadName));
    }
    let version = system.map().version;
    assert_eq!(system.ask(SiteCommand::VolumeReady { volume: first.id }), Ok(SiteOutcome::Done));
    assert_eq!(system.ask(SiteCommand::VolumeReady { volume: first.id }), Ok(SiteOutcome::Done));
    let map = system.map();
    assert_eq!(map.version, version + 1);
    assert!(map.volumes.iter().find(|volume| volume.id == first.id).is_some_and(|volume| volume.ready));
    let unknown = SiteCommand::VolumeReady { volume: VolumeId(99) };
    assert!(matches!(system.ask(unknown), Err(Refusal::NoVolume { .. })));
}

#[test]
fn a_deleted_volume_gives_its_name_back_at_once_and_goes_when_its_group_says_so() {
    let mut system = System::new();
    let create = |token| SiteCommand::CreateVolume { name: "team".into(), replication: 1, token, tenant: TenantId(0) };
    let Ok(SiteOutcome::Volume(first)) = system.ask(create(1)) else { panic!("no volume") };
    let delete = || SiteCommand::DeleteVolume { volume: first.id };
    assert!(matches!(system.ask(delete()), Err(Refusal::Busy { .. })), "its records may be on their way");
    assert_eq!(system.ask(SiteCommand::VolumeGone { volume: first.id }), Ok(SiteOutcome::Done), "of one that stays");
    assert_eq!(system.ask(SiteCommand::VolumeReady { volume: first.id }), Ok(SiteOutcome::Done));
    let before = system.map().version;
    assert_eq!(system.ask(delete()), Ok(SiteOutcome::Done));
    assert_eq!(system.ask(delete()), Ok(SiteOutcome::Done), "again changes nothing");
    assert_eq!(system.map().version, before + 1);
    assert!(system.map().volumes.iter().any(|volume| volume.id == first.id && volume.deleting));
    let Ok(SiteOutcome::Volume(second)) = system.ask(create(2)) else { panic!("the name is not free") };
    assert!(second.id != first.id && second.space != first.space && !second.deleting);
    assert_eq!(system.ask(SiteCommand::VolumeGone { volume: first.id }), Ok(SiteOutcome::Done));
    assert!(system.map().volumes.iter().all(|volume| volume.id != first.id));
    assert!(matches!(system.ask(delete()), Err(Refusal::NoVolume { .. })));
    let root = system.map().volumes.iter().find(|volume| volume.name == ROOT_VOLUME).map(|volume| volume.id);
    let root = SiteCommand::DeleteVolume { volume: root.expect("a root volume") };
    assert!(matches!(system.ask(root), Err(Refusal::Invalid { .. })));
}

#[test]
fn client_ids_are_handed_out_once() {
    let mut system = System::new();
    let mut first_of = |count| match system.ask(SiteCommand::ClientIds { count }) {
        Ok(SiteOutcome::ClientIds { first, count: given, site: SITE }) if given == count => Ok(first),
        Err(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    };
    assert_eq!((first_of(10), first_of(1), first_of(1024)), (Ok(1), Ok(11), Ok(12)));
    assert!(first_of(0).is_err() && first_of(1025).is_err());
}

#[test]
fn placement_groups_change_one_epoch_at_a_time_and_all_or_none() {
    let mut system = System::new();
    let replica = ReplicaId { node: NodeId(1), incarnation: Incarnation(101) };
    let pg = |id, epoch| Pg {
        id: PgId(id),
        factor: 1,
        epoch: PgEpoch(epoch),
        members: vec![PgMember { replica, state: MemberState::Serving }],
    };
    assert_eq!(system.ask(SiteCommand::SetPgs { pgs: vec![pg(1, 1), pg(2, 1)] }), Ok(SiteOutcome::Done));
    let late = SiteCommand::SetPgs { pgs: vec![pg(1, 2), pg(2, 1)] };
    assert_eq!(system.ask(late), Err(Refusal::StalePlacement { pg: PgId(2), epoch: PgEpoch(1) }));
    assert_eq!(system.map().pgs, [pg(1, 1), pg(2, 1)]);
    let nobody = Pg { members: vec![], ..pg(1, 2) };
    assert!(matches!(system.ask(SiteCommand::SetPgs { pgs: vec![nobody] }), Err(Refusal::Invalid { .. })));
}

#[test]
fn what_the_planner_wants_can_be_applied_and_comes_to_rest() {
    let mut system = System::new();
    for number in 2..=3 {
        assert!(system.ask(SiteCommand::Join(join(number))).is_ok());
    }
    let alive = || Presence::Alive(Report::default());
    let mut settle = |third: Presence| {
        let nodes = [(NodeId(1), alive()), (NodeId(2), alive()), (NodeId(3), third)].into();
        let seen = Seen { nodes, repair_after_ms: 1000 };
        for _ in 0..3 {
            for command in plan(&system.map(), &seen) {
                assert_eq!(system.ask(command), Ok(SiteOutcome::Done));
            }
        }
        assert_eq!(plan(&system.map(), &seen), vec![]);
        system.map()
    };
    let map = settle(alive());
    assert!(map.groups.iter().all(|group| group.replicas.len() == 3));
    assert!((1..=3).all(|factor| map.pgs.iter().any(|pg| pg.factor == factor)));
    let map = settle(Presence::Silent { for_ms: 10 });
    assert_eq!(map.nodes[2].status, NodeStatus::Away);
    let map = settle(alive());
    assert_eq!(map.nodes[2].status, NodeStatus::Up);
    assert!(map.groups.iter().all(|group| group.replicas.len() == 3));
}

#[test]
fn a_node_is_forgotten_when_it_holds_nothing_or_what_it_held_is_elsewhere() {
    let mut system = System::new();
    for number in 2..=4 {
        assert!(system.ask(SiteCommand::Join(join(number))).is_ok());
    }
    let member = |node: u32, state| PgMember {
        replica: ReplicaId { node: NodeId(node), incarnation: Incarnation(100 + u64::from(node)) },
        state,
    };
    let serving = |nodes: &[u32]| nodes.iter().map(|node| member(*node, MemberState::Serving)).collect::<Vec<_>>();
    let pg = |id, factor, members| Pg { id: PgId(id), factor, epoch: PgEpoch(1), members };
    let pgs = vec![pg(1, 1, serving(&[4])), pg(2, 2, serving(&[3, 4])), pg(3, 2, serving(&[4, 3]))];
    assert_eq!(system.ask(SiteCommand::SetPgs { pgs }), Ok(SiteOutcome::Done));
    let remove = |node, force| SiteCommand::RemoveNode { node: NodeId(node), force };
    let why = |answer| match answer {
        Err(Refusal::Invalid { why }) => why,
        other => panic!("{other:?}"),
    };
    let away = |node| SiteCommand::NodeStatus { changes: vec![(NodeId(node), NodeStatus::Away)] };
    assert!(why(system.ask(remove(4, false))).contains("drain it first"));
    assert!(why(system.ask(remove(4, true))).contains("stop it first"));
    assert!(why(system.ask(remove(1, false))).contains("drain it first"));
    assert_eq!(system.ask(SiteCommand::DrainNode { node: NodeId(4), on: true }), Ok(SiteOutcome::Done));
    assert!(system.map().nodes[3].draining);
    assert!(why(system.ask(remove(4, false))).contains("still a member of 3 placement groups"));
    // Node 3 is away, and has all there was when it went: one live member took nothing more.
    let alone =
        Pg { epoch: PgEpoch(2), ..pg(3, 2, vec![member(4, MemberState::Serving), member(3, MemberState::Away)]) };
    assert_eq!(system.ask(SiteCommand::SetPgs { pgs: vec![alone.clone()] }), Ok(SiteOutcome::Done));
    assert_eq!(system.ask(away(4)), Ok(SiteOutcome::Done));
    // Somebody else takes chunks with it: then node 3 lacks them.
    let members = [alone.members, vec![member(2, MemberState::Behind)]].concat();
    assert_eq!(
        system.ask(SiteCommand::SetPgs { pgs: vec![Pg { epoch: PgEpoch(3), members, ..pg(3, 2, vec![]) }] }),
        Ok(SiteOutcome::Done)
    );
    assert!(why(system.ask(remove(4, true))).contains("1 placement groups are served by node 4 alone"));
    let copied = Pg { epoch: PgEpoch(4), ..pg(3, 2, serving(&[4, 2])) };
    assert_eq!(system.ask(SiteCommand::SetPgs { pgs: vec![copied] }), Ok(SiteOutcome::Done));
    assert_eq!(system.ask(remove(4, true)), Ok(SiteOutcome::Done), "what is lost kept one copy only");
    assert!(why(system.ask(remove(4, true))).contains("no node 4"));
    assert_eq!(system.map().nodes.len(), 3);
    // The number is not given again.
    assert_eq!(system.ask(SiteCommand::Join(join(9))), Ok(SiteOutcome::Joined { node: NodeId(5), site: SITE }));
}
