//! The reader against a real sftp-server, and (in `fake`) against one that follows a script.

mod fake;
mod flood;
mod real;

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use super::*;
use crate::client::FileState;
use crate::client::testing::{Got, assert_read, collect, listed, noise, state};
use crate::entry::Time;
use crate::path::AbsPath;
