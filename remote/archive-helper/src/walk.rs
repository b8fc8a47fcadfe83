//! Walking: lists directories below the roots with several threads, announces each, sends what is wanted.

use std::env;
use std::io;
use std::process;
use std::sync::Arc;
use std::thread;

use crate::attributes::Reading;
use crate::exclude::Excludes;
use crate::held::{Held, Listed};
use crate::outgoing::Outgoing;
use crate::protocol::{self, AbsPath, Announced, Problem, Reply, Skipped, Verdict, Wish};
use crate::root;
use crate::stack::{Place, Stack};
use crate::system::Errno;
use crate::visit::{self, Found, Visitor};

// More would only be in each other's way.
const MOST_THREADS: usize = 16;

/// How many threads work at a time: as many as the environment says, or else as there are processors, four at most.
pub fn threads() -> usize {
    let told = env::var(protocol::THREADS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let usual = || thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    told.filter(|threads| (1..=MOST_THREADS).contains(threads)).unwrap_or_else(usual)
}

/// A walk under way.
pub struct Walking {
    held: Held,
    outgoing: Arc<Outgoing>,
}

impl Walking {
    /// Starts to walk.
    pub fn start(walk: protocol::Walk, outgoing: Arc<Outgoing>) -> io::Result<Arc<Walking>> {
        let walking = Arc::new(Walking { held: Held::new(walk.all), outgoing });
        let walker = Arc::clone(&walking);
        thread::Builder::new().spawn(move || walker.run(walk))?;
        Ok(walking)
    }

    /// Takes verdicts; false if one is on a directory that does not wait for it. Never waits.
    pub fn judge(&self, verdicts: Vec<Verdict>) -> bool {
        self.held.judge(verdicts)
    }

    fn run(&self, walk: protocol::Walk) {
        let stack = Stack::new(self.find_roots(&walk.roots));
        let options = visit::Options {
            excludes: Excludes::new(&walk.exclude),
            exclude_caches: walk.exclude_caches,
            exclude_if_present: walk.exclude_if_present,
            one_file_system: walk.one_file_system,
            repository: walk.repository.into_bytes(),
            own: root::own_directory(),
            names_excluded: walk.names_excluded,
        };
        thread::scope(|scope| {
            let send = || {
                self.held.send_wanted(|directory, wish, Listed { place, listing }| {
                    let opened = place.root.directory.open_below(place.relative());
                    let attributes = Reading::begin(opened, &place.path, |path, errno| self.report(path, errno));
                    let of = |name: &[u8], sparse| attributes.of(name, sparse);
                    let changes = match wish {
                        Wish::Changes(known) => listing.changes(directory, known, of),
                        Wish::Nothing | Wish::All => None,
                    };
                    match changes {
                        Some(frame) => self.outgoing.push(frame),
                        None => listing.each_frame(directory, of, |frame| self.outgoing.push(frame)),
                    }
                })
            };
            spawn(scope, send);
            thread::scope(|scope| {
                (1..threads()).for_each(|_| spawn(scope, || self.walk_on(&stack, &options)));
                self.walk_on(&stack, &options);
            });
            self.held.finish();
        });
        self.outgoing.send(&Reply::End);
    }

    // Tells the server of every root before anything else; the directories among them are to be walked.
    fn find_roots(&self, written: &[Vec<u8>]) -> Vec<Place> {
        written.iter().filter_map(|written| self.find_root(written)).collect()
    }

    fn find_root(&self, written: &[u8]) -> Option<Place> {
        let (reply, directory) = root::find(written);
        self.outgoing.send(&Reply::Root(reply));
        directory.map(|root| Place { path: root.path.clone(), device: root.device, border: true, root: root.into() })
    }

    fn walk_on(&self, stack: &Stack, options: &visit::Options) {
        let report = |path: AbsPath, errno: Errno| self.report(path, errno);
        let mut visitor = Visitor::new(options, &report);
        while let Some(place) = stack.take() {
            match visitor.visit(&place) {
                Ok(found) => self.announce(place, found, stack),
                Err(errno) => self.report(place.path, errno),
            }
            stack.done();
        }
    }

    fn announce(&self, place: Place, found: Found, stack: &Stack) {
        let Found { inode, listing, complete, skipped, left_out, excluded, mounted, below } = found;
        if let Some(reason) = skipped {
            self.outgoing.send(&Reply::Skipped(Skipped { path: place.path.clone(), reason }));
        }
        left_out.into_iter().for_each(|skipped| self.outgoing.send(&Reply::Skipped(skipped)));
        let (fingerprint, entries) = (listing.digests().fingerprint(), listing.entries());
        let path = place.path.clone();
        self.held.announce(Listed { place, listing }, |directory| {
            let announced = Announced { directory, path, inode, fingerprint, entries, complete, mounted, excluded };
            self.outgoing.send(&Reply::Directory(announced));
        });
        // Only now, so that a parent is announced before its children.
        below.into_iter().for_each(|siblings| stack.push(siblings));
    }

    fn report(&self, path: AbsPath, errno: Errno) {
        self.outgoing.send(&Reply::Problem(Problem { path, errno: errno.raw_os_error() }));
    }
}

// Without its threads a walk would never end, so the connection does.
fn spawn<'scope>(scope: &'scope thread::Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    thread::Builder::new().spawn_scoped(scope, work).unwrap_or_else(|_| process::exit(1));
}
