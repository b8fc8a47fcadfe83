//! Signals: how a person, or the system, ends a verb that takes long.

use std::time::Duration;

use crate::client::{Stop, end_connections};
use crate::error::{Kind, OnServer, Result};
use crate::report::terminal::erase_line;

/// The first signal has a verb finish what it has in hand; a second one, or two seconds, end the process at once. That is
/// safe, too: what is under way is in the journal, or has no name yet.
pub(super) fn heed_signals() -> Result<Stop> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    const GRACE: Duration = Duration::from_millis(1700);
    let stop = Stop::default();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).on_server("can't heed signals")?;
    let asked = stop.clone();
    std::thread::spawn(move || {
        let mut last = None;
        for signal in signals.forever() {
            let kind = if signal == SIGINT { Kind::Interrupted } else { Kind::Terminated };
            asked.ask(kind);
            if last.is_some() {
                leave(kind);
            }
            last = Some(signal);
            std::thread::spawn(move || {
                std::thread::sleep(GRACE);
                leave(kind);
            });
        }
    });
    Ok(stop)
}

fn leave(kind: Kind) -> ! {
    end_connections();
    erase_line();
    std::process::exit(kind.exit_status().into())
}
