//! The helper as a child process on this machine, for sources without a host.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use archive_helper::protocol::THREADS_VARIABLE;

use crate::client::deploy;
use crate::client::stream::{Ends, Input, Output, Traffic};
use crate::error::{OnServer, Result};
use crate::fault;

/// The embedded helper, run from memory: no directory has to allow it.
#[derive(Debug)]
pub(super) struct Helper {
    // Once it was started.
    program: Mutex<Option<File>>,
    readers: Option<u8>,
    children: Mutex<Vec<Child>>,
}

impl Helper {
    /// One that reads with so many threads.
    pub(super) fn new(readers: Option<u8>) -> Helper {
        Helper { program: Mutex::default(), readers, children: Mutex::default() }
    }

    fn install() -> Result<File> {
        const WHAT: &str = "can't put the helper into memory";
        let memory = rustix::fs::memfd_create("archive-helper", rustix::fs::MemfdFlags::CLOEXEC);
        let mut program = File::from(memory.map_err(std::io::Error::from).on_server(WHAT)?);
        program.write_all(deploy::embedded()).on_server(WHAT)?;
        Ok(program)
    }

    /// Starts it.
    pub(super) fn run(&self, traffic: Arc<Traffic>) -> Result<(Input, Output)> {
        let (ends, stdin, stdout) = Ends::new()?;
        let mut program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        let program = match &mut *program {
            Some(program) => program,
            none => none.insert(Helper::install()?),
        };
        let child = fault::helper(program.as_raw_fd())
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::null())
            .envs(self.readers.map(|readers| (THREADS_VARIABLE, readers.to_string())))
            .spawn()
            .on_server("can't start the helper")?;
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        ends.counted(traffic)
    }

    /// Waits for what was started; its streams are closed, so it ends by itself.
    pub(super) fn close(self) {
        for mut child in self.children.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.wait();
        }
    }
}
