//! Against servers that answer late, in any order, or garbled.

use std::collections::HashSet;
use std::os::unix::net::UnixStream;

use crate::queue::bounded_by_number;

use super::fake::{Request, file, honest, read_from};
use super::*;

/// The most that was unanswered at a time.
#[derive(Debug, Default)]
struct Most {
    requests: usize,
    request_bytes: usize,
    read_bytes: usize,
    open_files: usize,
}

// Answers only when the reader asks no more, and then the last request first, but not before what it depends on.
fn answer_backwards(mut stream: UnixStream, most: &mut Most) {
    stream.set_read_timeout(Some(Duration::from_millis(15))).unwrap();
    let mut open = 0;
    loop {
        let mut requests = Vec::new();
        let error = loop {
            match Request::read(&mut stream) {
                Ok(request) => requests.push(request),
                Err(error) => break error,
            }
        };
        if error.kind() != ErrorKind::WouldBlock {
            return;
        }
        let count = |kind: u8| requests.iter().filter(|request| request.kind == kind).count();
        let reads = requests.iter().filter(|request| request.kind == 5);
        open += count(3);
        most.open_files = most.open_files.max(open);
        most.requests = most.requests.max(requests.len());
        most.request_bytes = most.request_bytes.max(requests.iter().map(|request| request.body.len() + 5).sum());
        most.read_bytes = most.read_bytes.max(reads.map(Request::length).sum());
        open -= count(4);
        for request in requests.iter().rev() {
            if stream.write_all(&honest(request)).is_err() {
                return;
            }
        }
    }
}

#[test]
fn limits_are_kept_and_the_order_of_answers_does_not_matter() {
    let sizes = [9_000_000; 5].into_iter().chain((0..1500).map(|number| number * 11));
    let files = Vec::from_iter(sizes.zip(0..).map(|(size, id)| file(id, size)));
    let mut most = Most::default();
    let (result, got) = read_from(files.clone(), Duration::from_secs(20), |stream| answer_backwards(stream, &mut most));
    result.unwrap();
    fake::assert_all_read(&files, &got);
    assert!(most.requests <= 512, "{most:?}");
    assert!(most.request_bytes <= 64 * 1024, "{most:?}");
    assert!(most.read_bytes < 16 * 1024 * 1024 + 261_120, "{most:?}");
    assert!(most.open_files <= 1000, "{most:?}");
}

#[test]
fn long_paths_count() {
    let long = |id: u64| {
        let path = format!("/{:0>210}", id % 10 + 1);
        FetchJob { path: AbsPath::new(path).unwrap(), ..file(id, (id % 10) as usize + 1) }
    };
    let files = Vec::from_iter((0..2000).map(long));
    let mut most = Most::default();
    let (result, got) = read_from(files.clone(), Duration::from_secs(20), |stream| answer_backwards(stream, &mut most));
    result.unwrap();
    fake::assert_all_read(&files, &got);
    assert!(most.request_bytes <= 64 * 1024, "{most:?}");
}

// Takes up files until there is no room; gives the requests that this makes.
fn fill(transfers: &mut Transfers<'_>, files: impl IntoIterator<Item = FetchJob>) -> Vec<Request> {
    for file in files {
        transfers.ask();
        if !transfers.has_room() {
            break;
        }
        transfers.begin(file);
    }
    transfers.ask();
    requests(&transfers.take_output().unwrap_or_default())
}

fn requests(mut output: &[u8]) -> Vec<Request> {
    std::iter::from_fn(|| Request::read(&mut output).ok()).collect()
}

// Whether the limits are used up, which no server's clock has a say in.
#[test]
fn as_much_is_asked_for_as_the_limits_allow() {
    let limits = Limits { read_bytes: 261_120, handles: 1000 };
    let (to_collect, _arrived) = bounded_by_number(1 << 20);
    let begin = || Transfers::new(limits, Pace::new(None, Instant::now()), 0, &to_collect);

    assert_eq!(fill(&mut begin(), (0..9999).map(|id| file(id, 1))).len(), 512);

    let long = AbsPath::new(format!("/{:0>210}", 1)).unwrap();
    let long = (0..9999).map(|id| FetchJob { path: long.clone(), ..file(id, 1) });
    let bytes: usize = fill(&mut begin(), long).iter().map(|request| request.body.len() + 5).sum();
    assert!((56 * 1024..=64 * 1024).contains(&bytes), "{bytes}");

    for (count, most) in [(1, 4), (3, 12), (9, 16)] {
        let mut transfers = begin();
        let looks = fill(&mut transfers, (0..count).map(|id| file(id, 100_000_000)));
        looks.iter().for_each(|look| transfers.answer(&honest(look)[4..]).unwrap());
        transfers.ask();
        let opens = requests(&transfers.take_output().unwrap());
        opens.iter().for_each(|open| transfers.answer(&honest(open)[4..]).unwrap());
        transfers.ask();
        let reads = requests(&transfers.take_output().unwrap());
        let bytes: usize = reads.iter().map(Request::length).sum();
        assert!(bytes.abs_diff(most * 1024 * 1024) <= count as usize * 261_120, "{count} files: {bytes}");
    }
}

// One wrong bit in some packet: whatever comes of it, it is no panic and has an end.
#[test]
fn garbled_answers_have_an_end() {
    let mut outcomes = HashSet::new();
    for case in 0..300_usize {
        let garble = |mut stream: UnixStream| {
            for turn in 0_usize.. {
                let Ok(request) = Request::read(&mut stream) else { return };
                let mut answer = honest(&request);
                if turn == case % 23 {
                    let at = case * 31 % answer.len().min(64);
                    answer[at] ^= 1 << (case % 8);
                }
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        };
        let files = [10, 3000, 600_000, 0, 77].into_iter().zip(0..).map(|(size, id)| file(id, size));
        let (result, _) = read_from(files.collect(), Duration::from_millis(50), garble);
        outcomes.insert(result.map_or_else(|error| error.to_string(), |()| "well".to_owned()));
    }
    assert!(outcomes.len() >= 5, "{outcomes:?}");
}
