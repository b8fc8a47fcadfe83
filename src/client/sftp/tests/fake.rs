//! Against a server that follows a script.

use std::os::unix::net::UnixStream;

use super::*;

const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const LIMITS: u8 = 200;

/// One packet of the reader's.
pub(super) struct Request {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Request> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body)?;
        Ok(Request { kind: body.remove(0), body })
    }

    fn id(&self) -> u32 {
        u32::from_be_bytes(self.body[..4].try_into().unwrap())
    }

    // The path of OPEN, or the handle of all others.
    fn string(&self) -> &[u8] {
        let length = u32::from_be_bytes(self.body[4..8].try_into().unwrap()) as usize;
        &self.body[8..8 + length]
    }

    fn offset(&self) -> usize {
        let at = self.body.len() - 12;
        u64::from_be_bytes(self.body[at..at + 8].try_into().unwrap()) as usize
    }

    pub(super) fn length(&self) -> usize {
        u32::from_be_bytes(self.body[self.body.len() - 4..].try_into().unwrap()) as usize
    }
}

fn packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind], &body].concat()
}

fn answer(kind: u8, request: &Request, parts: &[&[u8]]) -> Vec<u8> {
    packet(kind, &[&[&request.id().to_be_bytes()[..]], parts].concat())
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn status(request: &Request, code: u32, message: &[u8]) -> Vec<u8> {
    answer(101, request, &[&code.to_be_bytes(), &string(message), &string(b"")])
}

fn data(request: &Request, bytes: &[u8]) -> Vec<u8> {
    answer(103, request, &[&string(bytes)])
}

fn attributes(request: &Request, size: u64, mode: u32) -> Vec<u8> {
    let numbers = [7, 7, mode, 1, 1].map(u32::to_be_bytes).concat();
    answer(105, request, &[&15_u32.to_be_bytes(), &size.to_be_bytes(), &numbers])
}

/// A file that the fake server has: its path says its size.
pub(super) fn file(id: u64, size: usize) -> FetchJob {
    let path = AbsPath::new(format!("/{size}")).unwrap();
    FetchJob {
        id,
        path,
        size: size as u64,
        mtime: Time::from(1_500_000_000),
        uid: 7,
        offset: 0,
        dedup: false,
        data: None,
        basis: None,
    }
}

fn content(request: &Request) -> usize {
    String::from_utf8_lossy(request.string()).trim_start_matches("/").parse().unwrap_or(0)
}

/// The bytes of all files at an offset.
fn bytes_at(offset: usize, length: usize) -> Vec<u8> {
    (offset..offset + length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// What a good server says; its handles are the paths.
pub(super) fn honest(request: &Request) -> Vec<u8> {
    match request.kind {
        1 => packet(2, &[&3_u32.to_be_bytes(), &string(b"limits@openssh.com"), &string(b"1")]),
        LIMITS => answer(201, request, &[&[262_144, 261_120, 261_120, 1019].map(u64::to_be_bytes).concat()]),
        OPEN => answer(102, request, &[&string(request.string())]),
        CLOSE => status(request, 0, b""),
        READ => honest_read(request, request.length()),
        LSTAT | FSTAT => attributes(request, content(request) as u64, 0o100_644),
        kind => panic!("nobody asked for {kind}"),
    }
}

fn honest_read(request: &Request, most: usize) -> Vec<u8> {
    match content(request).saturating_sub(request.offset()).min(most) {
        0 => status(request, 1, b"End of file"),
        length => data(request, &bytes_at(request.offset(), length)),
    }
}

/// Reads `files` from a server that does `serve` until it returns.
pub(super) fn read_from(
    files: Vec<FetchJob>,
    silence: Duration,
    serve: impl FnOnce(UnixStream) + Send,
) -> (Result<(), Broken>, HashMap<u64, Got>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(silence)).unwrap();
    ours.set_write_timeout(Some(silence)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || serve(theirs));
        let read = |wanted: &Receiver<FetchJob>, arrived: &Sender<FetchEvent>| {
            Sftp::start(&ours, &ours, Options::default())?.read_files(wanted, arrived)
        };
        let got = collect(files, |_| (), read);
        drop(ours);
        got
    })
}

fn read(
    files: Vec<FetchJob>,
    mut script: impl FnMut(&Request) -> Vec<u8> + Send,
) -> (Result<(), Broken>, HashMap<u64, Got>) {
    read_from(files, Duration::from_secs(20), move |mut stream| {
        while let Ok(request) = Request::read(&mut stream) {
            if stream.write_all(&script(&request)).is_err() {
                break;
            }
        }
    })
}

pub(super) fn assert_all_read(files: &[FetchJob], got: &HashMap<u64, Got>) {
    assert_eq!(got.len(), files.len());
    for wanted in files {
        assert_read(&got[&wanted.id], wanted, &bytes_at(0, wanted.size as usize));
    }
}

type Lie = fn(&Request) -> Vec<u8>;

// Of each lie: to which request it is the answer, and what the error must say.
const LIES: &[(u8, &str, Lie)] = &[
    (1, "not VERSION", |_| packet(3, &[&3_u32.to_be_bytes()])),
    (1, "older than 3", |_| packet(2, &[&2_u32.to_be_bytes()])),
    (1, "shorter than its fields", |_| packet(2, &[&3_u32.to_be_bytes(), &string(b"name")])),
    (1, "shorter than its fields", |_| vec![0; 4]),
    (1, "prints `Welcome to this machine!`", |_| b"Welcome to this machine!\n".to_vec()),
    (LIMITS, "shorter than its fields", |request| answer(201, request, &[&[0; 31]])),
    (LIMITS, "limits is of the wrong type", |request| data(request, b"x")),
    (LIMITS, "not asked", |_| packet(101, &[&99_u32.to_be_bytes(), &[0; 12]])),
    (OPEN, "too long", |_| (257 * 1024 + 1_u32).to_be_bytes().to_vec()),
    (OPEN, "too long", |_| vec![0xff; 4]),
    (OPEN, "shorter than its fields", |_| vec![0; 4]),
    (OPEN, "not asked", |_| packet(102, &[&99_u32.to_be_bytes(), &string(b"5000")])),
    (OPEN, "not asked", |request| [honest(request), honest(request)].concat()),
    (LSTAT, "LSTAT is of the wrong type", |request| data(request, b"x")),
    (LSTAT, "LSTAT is of the wrong type", |request| status(request, 0, b"")),
    (OPEN, "OPEN is of the wrong type", |request| data(request, b"x")),
    (OPEN, "OPEN is of the wrong type", |request| status(request, 0, b"")),
    (OPEN, "type that was not asked for", |request| answer(104, request, &[&[0; 4]])),
    (OPEN, "type that was not asked for", |request| answer(255, request, &[])),
    (OPEN, "longer than 256 bytes", |request| answer(102, request, &[&string(&[b'1'; 257])])),
    (OPEN, "shorter than its fields", |request| answer(102, request, &[&5_u32.to_be_bytes(), b"1234"])),
    (OPEN, "shorter than its fields", |request| answer(101, request, &[&4_u32.to_be_bytes(), &[0xff; 4]])),
    (READ, "READ is of the wrong type", |request| status(request, 0, b"")),
    (READ, "READ is of the wrong type", |request| attributes(request, 5000, 0o100_644)),
    (READ, "longer than what was asked for", |request| data(request, &bytes_at(0, request.length() + 1))),
    (READ, "no data", |request| data(request, b"")),
    (READ, "shorter than its fields", |request| answer(103, request, &[&u32::MAX.to_be_bytes(), b"1234"])),
    (READ, "not asked", |request| [honest(request), honest(request)].concat()),
    (FSTAT, "FSTAT is of the wrong type", |request| status(request, 0, b"")),
    (FSTAT, "FSTAT is of the wrong type", |request| data(request, b"x")),
    (FSTAT, "shorter than its fields", |request| answer(105, request, &[&15_u32.to_be_bytes(), &[0; 27]])),
    (FSTAT, "larger than files can be", |request| attributes(request, 1 << 63, 0o100_644)),
    (CLOSE, "CLOSE is of the wrong type", |request| data(request, b"x")),
    (CLOSE, "not asked", |request| [honest(request), honest(request)].concat()),
];

#[test]
fn every_lie_breaks_the_connection() {
    for (number, &(kind, message, lie)) in LIES.iter().enumerate() {
        let script = move |request: &Request| if request.kind == kind { lie(request) } else { honest(request) };
        let (result, _) = read((0..40).map(|id| file(id, 5000)).collect(), script);
        let error = result.map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|error| error.contains(message)), "lie {number}: {error:?}");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let (result, _) = read_from(vec![file(0, 1)], Duration::from_millis(100), |mut stream| {
        for _ in 0..2 {
            let request = Request::read(&mut stream).unwrap();
            stream.write_all(&honest(&request)).unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert!(matches!(result, Err(Broken::Silent(0))), "{result:?}");
}

/// `None` says nothing any more.
type Script = fn(&Request) -> Option<Vec<u8>>;

/// Reads files over as many servers as there are scripts.
fn read_over(files: Vec<FetchJob>, scripts: Vec<Script>) -> (crate::error::Result<()>, HashMap<u64, Got>) {
    let scripts = std::sync::Mutex::new(scripts.into_iter());
    let start = || {
        let script = scripts.lock().unwrap().next().ok_or_else(crate::client::connection_lost)?;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        thread::spawn(move || {
            while let Ok(request) = Request::read(&mut theirs) {
                match script(&request) {
                    Some(answer) => theirs.write_all(&answer).unwrap(),
                    None => drop(theirs.read_to_end(&mut Vec::new())),
                }
            }
        });
        Ok((ours.try_clone().unwrap(), ours))
    };
    let read = |wanted: &Receiver<FetchJob>, arrived: &Sender<FetchEvent>| {
        super::super::read_files(start, Options::default(), wanted, arrived).map(|usable| usable.unwrap())
    };
    collect(files, |_| (), read)
}

fn stuck_at(request: &Request, path: &[u8]) -> Option<Vec<u8>> {
    (request.kind != OPEN || request.string() != path).then(|| honest(request))
}

#[test]
fn file_that_can_not_be_opened_keeps_no_other_from_being_read() {
    let files = Vec::from_iter([700_000, 1, 2, 3, 900_000].into_iter().zip(0..).map(|(size, id)| file(id, size)));
    let scripts: Vec<Script> =
        vec![|request| stuck_at(request, b"/2"), |request| stuck_at(request, b"/3"), |request| Some(honest(request))];
    let (result, got) = read_over(files.clone(), scripts);
    result.unwrap();
    for id in [2, 3] {
        let Some(Err(ReadError::Refused(why))) = &got[&id].end else { panic!("{:?}", got[&id].end) };
        assert!(why.contains("opening it takes longer"), "{why}");
    }
    for id in [0, 1, 4] {
        assert_eq!(got[&id].end, Some(Ok((state(&files[id as usize]), true))), "{id}");
        assert!(got[&id].bytes == bytes_at(0, files[id as usize].size as usize), "{id}");
    }
}

#[test]
fn silent_client_is_no_fault_of_the_file_that_was_to_be_opened() {
    let (result, got) = read_over(vec![file(0, 2), file(1, 1)], vec![|request| stuck_at(request, b"/2")]);
    assert_eq!(result.unwrap_err().kind(), crate::error::Kind::Unreachable);
    assert!(!matches!(got.get(&0), Some(Got { end: Some(_), .. })), "nothing is known of it");
    let stuck: Script = |request| (request.kind != OPEN).then(|| honest(request));
    let (result, _) = read_over((0..9).map(|id| file(id, 1)).collect(), vec![stuck; 9]);
    assert_eq!(result.unwrap_err().kind(), crate::error::Kind::Unreachable, "not again and again");
}

#[test]
fn fifo_is_never_opened() {
    let fifo = |request: &Request| match request.kind {
        LSTAT if request.string() == b"/2" => attributes(request, 2, 0o010_644),
        OPEN if request.string() == b"/2" => panic!("the server would wait for ever"),
        _ => honest(request),
    };
    let (result, got) = read(vec![file(1, 1), file(2, 2)], fifo);
    result.unwrap();
    assert_eq!(got[&2].end, Some(Err(ReadError::irregular())));
    assert_read(&got[&1], &file(1, 1), &bytes_at(0, 1));
}

#[test]
fn a_lost_connection_is_no_end_of_a_file() {
    for bytes in [0, 3, 4, 20] {
        let (result, got) = read_from(vec![file(0, 5000)], Duration::from_secs(20), |mut stream| {
            loop {
                let request = Request::read(&mut stream).unwrap();
                let answer = honest(&request);
                if request.kind == READ {
                    return stream.write_all(&answer[..bytes]).unwrap();
                }
                stream.write_all(&answer).unwrap();
            }
        });
        assert!(matches!(result, Err(Broken::Closed)), "{result:?}");
        assert_eq!(got.len(), 0);
    }
}

#[test]
fn what_broke_stays_broken() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..2 {
                let request = Request::read(&mut theirs).unwrap();
                theirs.write_all(&honest(&request)).unwrap();
            }
        });
        let mut sftp = Sftp::start(&ours, &ours, Options::default()).unwrap();
        let (first, _) = collect(vec![file(0, 1)], |_| (), |wanted, arrived| sftp.read_files(wanted, arrived));
        let (second, _) = collect(vec![file(0, 1)], |_| (), |wanted, arrived| sftp.read_files(wanted, arrived));
        assert!(matches!(first, Err(Broken::Closed)), "{first:?}");
        assert!(matches!(second, Err(Broken::Already)), "{second:?}");
    });
}

#[test]
fn short_answers_lose_nothing() {
    let sizes = [1, 2, 3, 100, 4096, 261_120, 261_121, 3_000_000, 20_000_000];
    let files = Vec::from_iter(sizes.into_iter().zip(0..).map(|(size, id)| file(id, size)));
    let half = |request: &Request| match request.kind {
        READ => honest_read(request, request.length().div_ceil(2)),
        _ => honest(request),
    };
    let (result, got) = read(files.clone(), half);
    result.unwrap();
    assert_all_read(&files, &got);

    let mut turn = 0;
    let fickle = move |request: &Request| {
        turn += 1;
        match request.kind {
            READ if turn % 3 == 0 => honest_read(request, 1 + turn * 7919 % 50_000),
            _ => honest(request),
        }
    };
    let (result, got) = read(files.clone(), fickle);
    result.unwrap();
    assert_all_read(&files, &got);

    let files = vec![file(0, 300)];
    let one = |request: &Request| if request.kind == READ { honest_read(request, 1) } else { honest(request) };
    let (result, got) = read(files.clone(), one);
    result.unwrap();
    assert_all_read(&files, &got);
}

#[test]
fn a_handle_is_not_used_after_it_was_closed() {
    let mut open = HashMap::<Vec<u8>, usize>::new();
    let mut opened = 0;
    let strict = move |request: &Request| match request.kind {
        OPEN => {
            opened += 1;
            let handle = format!("{}/{}", String::from_utf8_lossy(&request.string()[1..]), opened).into_bytes();
            open.insert(handle.clone(), content(request));
            answer(102, request, &[&string(&handle)])
        }
        1 | LIMITS | LSTAT => honest(request),
        kind => {
            let size = *open.get(request.string()).expect("a handle that is not open");
            match kind {
                CLOSE => open.remove(request.string()).map(|_| status(request, 0, b"")).unwrap(),
                FSTAT => attributes(request, size as u64, 0o100_644),
                _ => data(request, &bytes_at(request.offset(), request.length().div_ceil(2))),
            }
        }
    };
    let files = Vec::from_iter((0..600).map(|id| file(id, 1 + id as usize * 401)));
    let (result, got) = read(files.clone(), strict);
    result.unwrap();
    assert_all_read(&files, &got);
}

#[test]
fn an_early_end_counts_as_a_change() {
    let early = |request: &Request| match request.kind {
        READ if request.offset() > 0 => status(request, 1, b""),
        _ => honest(request),
    };
    let (result, got) = read(vec![file(0, 1_000_000)], early);
    result.unwrap();
    assert_eq!(got[&0].restarts, 2);
    assert_eq!(got[&0].end, Some(Ok((state(&file(0, 1_000_000)), false))));
    assert!(got[&0].bytes == bytes_at(0, 261_120));
}

#[test]
fn what_a_server_refuses_is_told_in_words_that_harm_nobody() {
    let refuse = |request: &Request| match (request.kind, request.string_or_empty()) {
        (OPEN, b"/1") => status(request, 2, b"No such file"),
        (OPEN, b"/2") => status(request, 3, b"Per\x1b[31mmission\r\n"),
        (OPEN, b"/3") => answer(101, request, &[&4_u32.to_be_bytes()]),
        (READ, b"/4") => status(request, 4, &[b'z'; 100_000]),
        (FSTAT, b"/5") => status(request, 4, b"Failure"),
        (FSTAT, b"/6") => answer(105, request, &[&0_u32.to_be_bytes()]),
        (FSTAT, b"/7") => attributes(request, 7, 0o010_644),
        _ => honest(request),
    };
    let (result, got) = read((1..9).map(|id| file(id, id as usize)).collect(), refuse);
    result.unwrap();
    let refused = |why: &str| Some(Err(ReadError::Refused(why.to_owned())));
    assert_eq!(got[&1].end, Some(Err(ReadError::Vanished)));
    assert_eq!(got[&2].end, refused(r"Per\x1b[31mmission\x0d\x0a"));
    assert_eq!(got[&3].end, refused("failure"));
    assert_eq!(got[&4].end, refused(&"z".repeat(200)));
    assert_eq!(got[&5].end, refused("Failure"));
    assert_eq!(got[&6].end, refused("its size and time are not told"));
    assert_eq!(got[&7].end, refused("is no longer a regular file"));
    assert_read(&got[&8], &file(8, 8), &bytes_at(0, 8));
}

impl Request {
    fn string_or_empty(&self) -> &[u8] {
        if self.kind == 1 { b"" } else { self.string() }
    }
}

#[test]
fn without_limits_of_its_own_a_server_gets_modest_requests() {
    let modest = |request: &Request| match request.kind {
        1 => packet(2, &[&3_u32.to_be_bytes(), &string(b"posix-rename@openssh.com"), &string(b"1")]),
        LIMITS => panic!("it did not say that it knows limits"),
        READ if request.length() > 32_768 => panic!("a READ of {} bytes", request.length()),
        _ => honest(request),
    };
    let files = vec![file(0, 5_000_000), file(1, 10)];
    let (result, got) = read(files.clone(), modest);
    result.unwrap();
    assert_all_read(&files, &got);
}

#[test]
fn small_files_do_not_wait_for_large_ones_nor_the_other_way_round() {
    let large = 60_000_000;
    let sizes = [large].into_iter().chain([100; 2000]).chain([large]).chain([100; 20_000]);
    let files = Vec::from_iter(sizes.zip(0..).map(|(size, id)| file(id, size)));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ended = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(request) = Request::read(&mut theirs) {
                if theirs.write_all(&honest(&request)).is_err() {
                    break;
                }
            }
        });
        let see = |arrived: &FetchEvent| {
            if let FetchEvent::End { id, .. } = arrived {
                ended.push(*id);
            }
        };
        let (result, _) = collect(files, see, |wanted, arrived| {
            Sftp::start(&ours, &ours, Options::default())?.read_files(wanted, arrived)
        });
        drop(ours);
        result.unwrap();
    });
    let place = |id| ended.iter().position(|&ended| ended == id).unwrap();
    assert!(place(0) > 1000, "the first large file came before {} small ones", place(0));
    assert!(place(2001) < 22_001, "the second large file came last");
}
