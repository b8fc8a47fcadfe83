use archive::{path::*, report::*, source::*, repository::Repository, pull};
struct R;
impl Report for R {
    fn begin(&self, s: &SourceName, r: Option<i64>) { eprintln!("begin {s} {r:?}"); }
    fn message(&self, l: Level, t: &dyn std::fmt::Display) { eprintln!("{l:?}: {t}"); }
    fn change(&self, c: Change, p: &AbsPath) { if std::env::var("V").is_ok() { println!("{} {p}", c.word()); } }
    fn progress(&self, _: &Progress) {}
    fn summary(&self, s: &Summary) { println!("{} {:?} exit {} {:?} {:.2}s", s.source, s.outcome, s.exit, s.remote, s.seconds); for (n, c) in COUNT_NAMES.iter().zip(s.counts) { print!("{n}={c} "); } println!(); }
}
fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_env("ARCHIVE_LOG")).with_writer(std::io::stderr).init();
    let a: Vec<String> = std::env::args().collect();
    let dry = std::env::var("DRY").is_ok();
    let repo = if dry { Repository::open(a[1].as_ref()).ok() } else { Some(Repository::open_or_create(a[1].as_ref()).unwrap()) };
    let (ssh, path) = match a[2].split_once(':') { Some((h, p)) => (Some(Ssh { host: h.into(), config: std::env::var_os("F").map(Into::into), ..Default::default() }), p), None => (None, &a[2][..]) };
    let mut settings = Settings::default();
    if std::env::var("SERVER").is_ok() { settings.hash = HashWhere::Server; }
    if std::env::var("ALL").is_ok() { settings.archive = ArchiveWhat::All; }
    if std::env::var("EXACT").is_ok() { settings.link = LinkWhen::Exact; }
    let name = SourceName::new(&std::env::var("NAME").unwrap_or(ssh.as_ref().map_or("localhost".into(), |s| s.host.clone()))).unwrap();
    let source = Source { name, ssh, paths: vec![path.as_bytes().to_vec()], settings };
    let s = pull::pull(repo.as_ref(), &source, &pull::Options { dry_run: dry, ..Default::default() }, &R);
    std::process::exit(s.exit.into());
}
