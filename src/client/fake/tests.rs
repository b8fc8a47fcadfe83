use std::time::Duration;

use super::*;
use crate::client::list::{AnnouncedDirectory, Changes, EntriesPage, Problem, Root, Skipped, Wanted};
use crate::client::{FetchEvent, FetchJob, HashKind, HashOutcome, ListRequest};
use crate::error::Kind;
use crate::path::AbsPath;
use crate::queue::bounded_by_number;

fn path(text: &str) -> AbsPath {
    AbsPath::new(text).unwrap()
}

fn machine() -> Arc<Machine> {
    let machine = Machine::new();
    for name in ["/d/a", "/d/b", "/d/below/c", "/e"] {
        machine.write(&path(name), name.as_bytes(), 5.into());
    }
    machine
}

/// Counts what a listing says.
#[derive(Default)]
struct Counting {
    events: u64,
}

impl ListSink for Counting {
    fn roots(&mut self, roots: Vec<Root>) -> Result<()> {
        self.events += roots.len() as u64;
        Ok(())
    }

    fn directory(&mut self, _: AnnouncedDirectory) -> Result<Wanted> {
        self.events += 1;
        Ok(Wanted::All)
    }

    fn entries(&mut self, _: EntriesPage) -> Result<()> {
        self.events += 1;
        Ok(())
    }

    fn changes(&mut self, _: Changes) -> Result<()> {
        self.events += 1;
        Ok(())
    }

    fn problem(&mut self, _: Problem) -> Result<()> {
        self.events += 1;
        Ok(())
    }

    fn skipped(&mut self, _: Skipped) {}
}

fn list(client: &FakeClient) -> (Result<()>, u64) {
    let mut counting = Counting::default();
    let request = ListRequest { roots: vec![b"/".to_vec()], ..ListRequest::default() };
    (client.list(&request, &mut counting), counting.events)
}

fn hash(client: &FakeClient, of: &str) -> Result<HashOutcome> {
    let node = client.machine().node(&path(of)).unwrap();
    let (sender, jobs) = bounded_by_number(1);
    let FileStateOf { size, mtime, uid } = (&node).into();
    sender.send(HashJob { id: 0, path: path(of), size, mtime, uid, kind: HashKind::Plain }).unwrap();
    drop(sender);
    let mut found = None;
    client.hash(&[0; 32], &jobs, &mut |_, outcome| {
        found = Some(outcome);
        Ok(())
    })?;
    Ok(found.unwrap())
}

fn fetch(client: &FakeClient, of: &str) -> Result<Vec<FetchEvent>> {
    let node = client.machine().node(&path(of)).unwrap();
    let (sender, jobs) = bounded_by_number(1);
    let FileStateOf { size, mtime, uid } = (&node).into();
    let (data, basis) = (None, None);
    sender.send(FetchJob { id: 0, path: path(of), size, mtime, uid, offset: 0, dedup: false, data, basis }).unwrap();
    drop(sender);
    let (events, arrived) = bounded_by_number(100);
    client.fetch(Fetch { jobs: &jobs, events: &events, is_wanted: &|_, _, _| Ok(true), expects_many: false })?;
    drop(events);
    Ok(arrived.iter().collect())
}

struct FileStateOf {
    size: u64,
    mtime: crate::entry::Time,
    uid: u32,
}

impl From<&Node> for FileStateOf {
    fn from(node: &Node) -> FileStateOf {
        FileStateOf { size: node.entry.size, mtime: node.entry.mtime, uid: node.entry.uid }
    }
}

#[test]
fn connection_is_lost_after_any_number_of_events_and_a_new_one_is_not() {
    let all = list(&FakeClient::connect(&machine())).1;
    for after_events in 0..all {
        let machine = machine();
        let client = FakeClient::connect(&machine);
        machine.state().faults.plan(Fault { call: Some(Call::List), after_events, kind: FaultKind::Disconnect });
        let (listed, events) = list(&client);
        assert_eq!(listed.unwrap_err().kind(), Kind::Unreachable);
        assert!(events <= after_events);
        assert!(hash(&client, "/e").is_err(), "every call of a lost connection fails");
        assert!(list(&FakeClient::connect(&machine)).0.is_ok());
    }
}

#[test]
fn fault_of_one_call_spares_the_others() {
    let machine = machine();
    let client = FakeClient::connect(&machine);
    machine.state().faults.plan(Fault { call: Some(Call::Hash), after_events: 1, kind: FaultKind::Fail(Kind::Failed) });
    assert!(list(&client).0.is_ok() && hash(&client, "/e").is_ok());
    assert_eq!(hash(&client, "/e").unwrap_err().kind(), Kind::Failed);
}

#[test]
fn stalled_client_is_reported_as_that() {
    let machine = machine();
    let client = FakeClient::connect(&machine);
    machine.state().faults.plan(Fault { call: None, after_events: 0, kind: FaultKind::Stall });
    assert_eq!(fetch(&client, "/e").unwrap_err().kind(), Kind::Unreachable);
    assert!(client.has_stalled());
}

#[test]
fn lies_are_told_of_one_file() {
    let machine = machine();
    let client = FakeClient::connect(&machine);
    machine.edit(&path("/e"), |node| node.lie = Some(Lie::Hash([3; 32])));
    assert_eq!(hash(&client, "/e").unwrap(), HashOutcome::Done { hash: [3; 32], proof: None });
    machine.edit(&path("/e"), |node| node.lie = Some(Lie::Content(Arc::from(*b"other"))));
    assert!(matches!(&fetch(&client, "/e").unwrap()[..], [FetchEvent::Full { bytes, .. }] if bytes == b"other"));
    machine.edit(&path("/e"), |node| node.lie = Some(Lie::KeepsChanging));
    assert_eq!(hash(&client, "/e").unwrap(), HashOutcome::Changed);
    let events = fetch(&client, "/e").unwrap();
    assert!(matches!(events.last(), Some(FetchEvent::End { consistent: false, .. })));
    assert!(matches!(hash(&client, "/d/a").unwrap(), HashOutcome::Done { .. }));
}

#[test]
fn clock_moves_with_events_and_bytes_alone() {
    let machine = machine();
    {
        let mut state = machine.state();
        state.latency = Duration::from_millis(10);
        state.bytes_per_second = Some(1000);
    }
    machine.write(&path("/large"), vec![1; 500], 5.into());
    let client = FakeClient::connect(&machine);
    fetch(&client, "/large").unwrap();
    assert_eq!(machine.now(), Duration::from_millis(510));
}

#[test]
fn renamed_directory_keeps_its_inode_and_what_is_below() {
    let machine = machine();
    let inode = machine.node(&path("/d")).unwrap().inode;
    machine.rename(&path("/d"), &path("/new/place"));
    assert_eq!(machine.node(&path("/new/place")).unwrap().inode, inode);
    assert!(machine.node(&path("/new/place/below/c")).is_some() && machine.node(&path("/d/a")).is_none());
    machine.link(&path("/e"), &path("/f"));
    let names = ["/e", "/f"].map(|name| machine.node(&path(name)).unwrap().entry.inode);
    assert!(names[0].is_some() && names[0] == names[1]);
    machine.remove(&path("/new"));
    assert_eq!(machine.paths().iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), ["/e", "/f"]);
}
