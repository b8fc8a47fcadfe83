//! Where the progress line is drawn: standard error, with room left for what a terminal echoes of Ctrl-C.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressDrawTarget, TermLike};

// Of the whole process, for the thread that ends it.
static IS_DRAWN: AtomicBool = AtomicBool::new(false);

const ERASE: &str = "\r\x1b[2K";

/// The target of a progress line.
pub(super) fn target() -> ProgressDrawTarget {
    const DRAWN_PER_SECOND: u8 = 8;
    IS_DRAWN.store(true, Ordering::Relaxed);
    ProgressDrawTarget::term_like_with_hz(Box::new(Margin), DRAWN_PER_SECOND)
}

/// Notes that the line is cleared for good.
pub(super) fn is_cleared() {
    IS_DRAWN.store(false, Ordering::Relaxed);
}

/// Erases the progress line, if there is one, before the process ends at once.
pub fn erase_line() {
    const MAX_WAIT: Duration = Duration::from_millis(100);
    if !IS_DRAWN.load(Ordering::Relaxed) {
        return;
    }
    // A terminal whose output is stopped must not keep the process from ending.
    let (written, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::stderr().write_all(ERASE.as_bytes());
        let _ = written.send(());
    });
    let _ = wait.recv_timeout(MAX_WAIT);
}

/// Standard error as a terminal that is a few columns narrower. The line is padded with spaces up to its width; in the last
/// column, the `^C` that terminals echo would move to the next row, and the line above it would never be erased.
#[derive(Debug)]
struct Margin;

impl Margin {
    const COLUMNS: u16 = 4;

    fn size() -> (u16, u16) {
        const USUAL: (u16, u16) = (80, 24);
        let size = rustix::termios::tcgetwinsize(io::stderr()).map_or(USUAL, |size| (size.ws_col, size.ws_row));
        // Some terminals don't know their size.
        if size.0 == 0 || size.1 == 0 { USUAL } else { size }
    }

    fn move_cursor(count: usize, direction: char) -> io::Result<()> {
        match count {
            0 => Ok(()),
            _ => write!(io::stderr(), "\x1b[{count}{direction}"),
        }
    }
}

impl TermLike for Margin {
    fn width(&self) -> u16 {
        Margin::size().0.saturating_sub(Margin::COLUMNS).max(1)
    }

    fn height(&self) -> u16 {
        Margin::size().1
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        Margin::move_cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        Margin::move_cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        Margin::move_cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        Margin::move_cursor(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{text}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        io::stderr().write_all(text.as_bytes())
    }

    fn clear_line(&self) -> io::Result<()> {
        io::stderr().write_all(ERASE.as_bytes())
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}
