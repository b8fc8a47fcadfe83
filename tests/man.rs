//! The manual pages say what the program does: what can be generated or checked is.
//!
//! `UPDATE_MAN=1` (`make man`) writes the generated parts anew instead of comparing them.

use std::fs;
use std::path::{Path, PathBuf};

use archive_helper::protocol::{
    AbsPath, Announced, Bytes, Changes, ChunkRequest, Chunks, Differences, Entries, HashOutcome, Mounted, Piece,
    Problem, ReadOutcome, Reply, Request, Root, SkipReason, Skipped, StreamOutcome, StreamRequest, Streamed, Time,
    Walk, write_frame,
};
use clap_mangen::Man;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What stands in a page between the comments `PART begin` and `PART end`, and what comes before and after.
fn parts<'a>(page: &'a str, part: &str) -> (&'a str, &'a str, &'a str) {
    let (begin, end) = (format!(".\\\" {part} begin\n"), format!(".\\\" {part} end\n"));
    let from = page.find(&begin).expect("the page has the part's first comment") + begin.len();
    let until = from + page[from..].find(&end).expect("the page has the part's last comment");
    (&page[..from], &page[from..until], &page[until..])
}

fn must_hold(path: &str, part: &str, wanted: &str) {
    let page = fs::read_to_string(file(path)).unwrap();
    let (before, found, after) = parts(&page, part);
    if std::env::var_os("UPDATE_MAN").is_some() {
        fs::write(file(path), [before, wanted, after].concat()).unwrap();
    } else {
        assert!(found == wanted, "the {part} in {path} are not those of the program: run `make man`");
    }
}

/// The options of every command, as a section of archive(1).
fn options() -> String {
    let mut command = archive::cli::command();
    command.build();
    let mut text = ".SH OPTIONS\n".to_owned();
    text += &options_of(&command, "Options for every command", true);
    for command in commands(&command) {
        let usage = command.clone().render_usage().to_string();
        let heading = usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default().to_owned();
        text += &options_of(&command, &heading, false);
    }
    text
}

/// The commands that do something, in the order of the help.
fn commands(command: &clap::Command) -> Vec<clap::Command> {
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    visible
        .flat_map(|command| if command.has_subcommands() { commands(command) } else { vec![command.clone()] })
        .collect()
}

fn options_of(command: &clap::Command, heading: &str, global: bool) -> String {
    let command = command.clone().mut_args(|argument| {
        let is_everywhere = argument.is_global_set() || ["help", "version"].contains(&argument.get_id().as_str());
        let is_hidden = argument.is_hide_set() || is_everywhere != global;
        argument.hide(is_hidden)
    });
    let mut rendered = Vec::new();
    Man::new(command).render_options_section(&mut rendered).unwrap();
    let rendered = String::from_utf8(rendered).unwrap().replace(".br\n\n.br\n", ".br\n").replace("\\*(Aq", "\\(aq");
    let body = rendered.split_once(".SH OPTIONS\n").map_or("", |(_, body)| body);
    if body.trim().is_empty() { String::new() } else { format!(".SS \"{}\"\n{body}", heading.replace('-', "\\-")) }
}

#[test]
fn the_options_in_archive_1_are_those_of_the_program() {
    must_hold("man/archive.1", "options", &options());
}

#[test]
fn synopsis_of_archive_1_has_every_command() {
    let page = fs::read_to_string(file("man/archive.1")).unwrap();
    let synopsis = page.split_once(".SH SYNOPSIS\n").unwrap().1.split_once(".SH ").unwrap().0.replace("\\-", "-");
    let plain = ["\\fR", "\\fB", "\\fI"].iter().fold(synopsis, |text, font| text.replace(font, ""));
    for command in archive::cli::command().get_subcommands() {
        let name = command.get_name();
        let line = plain.lines().find(|line| {
            let words = line.trim_start_matches(".B archive ").trim_start_matches("[OPTION...] ");
            words.split(' ').next() == Some(name)
        });
        let line = line.unwrap_or_else(|| panic!("the synopsis lacks `{name}`"));
        let below = command.get_subcommands().map(|below| below.get_name().to_owned());
        // As in `SOURCE:PATH`, or in an own way where there are alternatives.
        let arguments = command.get_positionals().flat_map(|argument| argument.get_value_names().unwrap_or_default());
        let arguments = arguments.map(ToString::to_string).filter(|_| name != "find");
        for word in below.chain(arguments) {
            assert!(line.contains(&word), "the synopsis of `{name}` lacks `{word}`");
        }
    }
}

#[test]
fn the_schema_in_archive_tree_5_is_that_of_the_index() {
    for part in ["schema", "contents"] {
        let schema = fs::read_to_string(file(&format!("src/repository/index/{part}.sql"))).unwrap();
        let statements = schema.split_once('\n').map_or("", |(_comment, statements)| statements);
        must_hold("man/archive-tree.5", part, &statements.replace('\\', "\\e"));
    }
}

#[test]
fn the_example_in_archive_helper_5_is_what_goes_over_the_wire() {
    let page = fs::read_to_string(file("man/archive-helper.5")).unwrap();
    let (_, example, _) = parts(&page, "example");
    // The bytes end where two spaces begin.
    let digits = example.lines().flat_map(|line| line.split("  ").next().unwrap_or_default().split(' '));
    let bytes: Vec<u8> = digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let walk = Walk { roots: vec![b"/etc".to_vec()], repository: "5f0c".to_owned(), ..Walk::default() };
    let mut frame = Vec::new();
    write_frame(&mut frame, &Request::Walk(walk)).unwrap();
    assert_eq!(bytes, frame);
}

/// The first byte of a message is the number of its variant.
fn number_of(message: &impl serde::Serialize) -> u8 {
    postcard::to_stdvec(message).unwrap()[0]
}

#[test]
fn every_message_stands_in_archive_helper_5_under_its_number() {
    let page = fs::read_to_string(file("man/archive-helper.5")).unwrap();
    let path = AbsPath::root;
    let requests = [
        (Request::Walk(Walk::default()), "Walk"),
        (Request::Verdicts(Vec::new()), "Verdicts"),
        (Request::Key([0; 32]), "Key"),
        (Request::Hash(Vec::new()), "Hash"),
        (Request::Read(Vec::new()), "Read"),
        (
            Request::Chunk(ChunkRequest {
                id: 0,
                path: path(),
                size: 0,
                mtime: Time::default(),
                uid: 0,
                average: 0,
                ranges: Vec::new(),
                grouped: false,
            }),
            "Chunk",
        ),
        (
            Request::Stream(StreamRequest {
                id: 0,
                path: path(),
                size: 0,
                mtime: Time::default(),
                uid: 0,
                ranges: Vec::new(),
                as_found: false,
            }),
            "Stream",
        ),
        (Request::Pack, "Pack"),
    ]
    .map(|(request, name)| (number_of(&request), name));
    let announced = Announced {
        directory: 0,
        path: path(),
        inode: 0,
        fingerprint: [0; 16],
        entries: 0,
        complete: true,
        mounted: Mounted::Nothing,
        excluded: 0,
    };
    let replies = [
        (Reply::Root(Root::Invalid), "Root"),
        (Reply::Directory(announced), "Directory"),
        (Reply::Entries(Entries { directory: 0, entries: Vec::new(), last: true, order: Vec::new() }), "Entries"),
        (Reply::Problem(Problem { path: path(), errno: 0 }), "Problem"),
        (Reply::Skipped(Skipped { path: path(), reason: SkipReason::Cache }), "Skipped"),
        (Reply::End, "End"),
        (Reply::Hashed(Vec::new()), "Hashed"),
        (Reply::Read(Vec::new()), "Read"),
        (Reply::Chunks(Chunks { id: 0, chunks: Vec::new(), end: None }), "Chunks"),
        (Reply::Piece(Piece { id: 0, bytes: Bytes::new([]).unwrap() }), "Piece"),
        (Reply::Streamed(Streamed { id: 0, outcome: StreamOutcome::Done }), "Streamed"),
        (Reply::Packed(Bytes::new([]).unwrap()), "Packed"),
        (Reply::Changes(Changes { directory: 0, differences: Differences::default(), entries: Vec::new() }), "Changes"),
    ]
    .map(|(reply, name)| (number_of(&reply), name));
    let roots = [
        (Root::Found { path: path(), entry: None, empty: true }, "Found"),
        (Root::Missing { path: path() }, "Missing"),
        (Root::Unreadable { path: path(), errno: 0 }, "Unreadable"),
        (Root::Invalid, "Invalid"),
    ]
    .map(|(root, name)| (number_of(&root), name));
    let hashed = [
        (HashOutcome::Done { hash: [0; 32], proof: None }, "Done"),
        (HashOutcome::Changed, "Changed"),
        (HashOutcome::Vanished, "Vanished"),
        (HashOutcome::Failed(0), "Failed"),
        (HashOutcome::Sampled { sample: 0, other: None }, "Sampled"),
    ]
    .map(|(outcome, name)| (number_of(&outcome), name));
    let read = [
        (ReadOutcome::Content(Bytes::new([]).unwrap()), "Content"),
        (ReadOutcome::Sent([0; 32]), "Sent"),
        (ReadOutcome::Changed, "Changed"),
        (ReadOutcome::Vanished, "Vanished"),
        (ReadOutcome::Failed(0), "Failed"),
    ]
    .map(|(outcome, name)| (number_of(&outcome), name));
    for variants in [&requests[..], &replies, &roots, &hashed, &read] {
        let lines: Vec<_> = variants.iter().map(|(number, name)| format!(".It {number} Vt {name}\n")).collect();
        // All of one kind stand one after the other, in their order.
        let mut rest = page.as_str();
        for line in &lines {
            let at = rest.find(line.as_str());
            rest = &rest[at.unwrap_or_else(|| panic!("{line}")) + line.len()..];
        }
    }
}

#[test]
fn every_limit_of_the_protocol_stands_in_archive_helper_5() {
    use archive_helper::protocol::{
        MAX_AVERAGE, MAX_BUNDLED, MAX_CHATTER, MAX_DIGESTS, MAX_ENTRIES, MAX_FRAME, MAX_HASHES, MAX_NAME, MAX_PATH,
        MAX_READING, MAX_SENT, MAX_STREAMS, MIN_AVERAGE,
    };
    let page = fs::read_to_string(file("man/archive-helper.5")).unwrap();
    let counts =
        [MAX_CHATTER, MAX_DIGESTS, MAX_ENTRIES, MAX_FRAME, MAX_HASHES, MAX_NAME, MAX_PATH, MAX_SENT, MAX_STREAMS];
    for limit in counts.map(|count| count as u64).into_iter().chain([
        MAX_BUNDLED,
        MAX_READING,
        MAX_AVERAGE.into(),
        MIN_AVERAGE.into(),
    ]) {
        let digits = limit.to_string();
        let grouped = match digits.len() {
            7.. => format!("{},{},{}", &digits[..1], &digits[1..4], &digits[4..]),
            4.. => format!("{},{}", &digits[..digits.len() - 3], &digits[digits.len() - 3..]),
            _ => digits,
        };
        assert!(page.contains(&format!(" Ta {grouped}")), "{limit}");
    }
}
