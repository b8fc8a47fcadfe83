//! What processes take while a pull runs: read from /proc, for what a client's processes took nobody else can tell.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(10);

/// What was seen of a pull.
#[derive(Clone, Copy, Default)]
pub struct Watched {
    /// The largest resident size of the process itself, without those that it started.
    pub peak_kib: u64,
    /// The same of those that it had run on the client, added up.
    pub client_peak_kib: u64,
    /// Their user time in seconds; the last milliseconds of it are not seen.
    pub client_seconds: f64,
}

/// Watches a process, and those on the client, until it is over.
pub fn watch(pid: u32, over: &AtomicBool) -> Watched {
    let (mut peak_kib, mut clients) = (0, HashMap::new());
    // They are none of this pull's, and looking takes time.
    let others: HashSet<String> = processes().collect();
    while !over.load(Ordering::Relaxed) {
        peak_kib = peak(&pid.to_string()).unwrap_or(0).max(peak_kib);
        for client in processes().filter(|number| !others.contains(number) && is_client(number)) {
            if let (Some(peak), Some(ticks)) = (peak(&client), user_ticks(&client)) {
                clients.insert(client, (peak, ticks));
            }
        }
        std::thread::sleep(PAUSE);
    }
    let ticks: u64 = clients.values().map(|(_, ticks)| ticks).sum();
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let client_peak_kib = clients.values().map(|(peak, _)| peak).sum();
    Watched { peak_kib, client_peak_kib, client_seconds: ticks as f64 / a_second as f64 }
}

// By their numbers.
fn processes() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

// Helpers, SFTP, and what rsync starts to send.
fn is_client(number: &str) -> bool {
    let process = Path::new("/proc").join(number);
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let arguments = || std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    name.starts_with("archive-helper")
        || name.trim_end() == "sftp-server"
        || name.trim_end() == "rsync" && arguments().contains("--sender")
}

// The kernel keeps the peak itself, and shows it as long as the process lives.
fn peak(number: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

// The twelfth field behind the name, which may hold anything: see proc_pid_stat(5).
fn user_ticks(number: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(11)?.parse().ok()
}
