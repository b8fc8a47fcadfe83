//! A line that is far or thin: what ssh's `ProxyCommand` runs, between ssh and the sshd.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const PIECE: usize = 16 * 1024;
// As much may be on its way as any line here holds.
const PIECES: usize = 4096;

/// The word that makes the bench a line.
pub const FLAG: &str = "--line";

/// Connects standard input and output with a port of this machine, as `PORT MILLISECONDS BYTES_PER_SECOND` say: so long one
/// way takes, and no more than so many pass in either direction; 0 is no limit.
pub fn run(arguments: &[String]) -> Result<()> {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).context("a number is missing");
    let socket = TcpStream::connect(("127.0.0.1", number(0)? as u16))?;
    socket.set_nodelay(true)?;
    let (delay, rate) = (Duration::from_millis(number(1)?), number(2)?);
    let (up, down) = (socket.try_clone()?, socket.try_clone()?);
    let there = thread::spawn(move || {
        carry(std::io::stdin(), &up, delay, rate);
        let _ = up.shutdown(Shutdown::Write);
    });
    carry(down, std::io::stdout(), delay, rate);
    drop(there);
    Ok(())
}

fn carry(from: impl Read + Send + 'static, mut to: impl Write, delay: Duration, rate: u64) {
    let (sender, receiver) = sync_channel(PIECES);
    thread::spawn(move || read(from, &sender));
    let mut free = Instant::now();
    for (came, bytes) in receiver {
        let bytes: Vec<u8> = bytes;
        // The line is busy with one piece at a time, and each is on its way for as long.
        let takes = bytes.len() as f64 / if rate == 0 { f64::INFINITY } else { rate as f64 };
        free = free.max(came) + Duration::from_secs_f64(takes);
        thread::sleep((free + delay).saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

fn read(mut from: impl Read, sender: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = [0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}
