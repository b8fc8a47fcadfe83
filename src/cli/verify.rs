//! `archive verify`.

use super::named::known_names;
use super::{Context, print_result};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::path::SourceName;
use crate::report::json::{object, text};
use crate::report::{counted, grouped};
use crate::source::Percent;
use crate::verify::{Options, verify};

/// Read the plain files and compare them with the index
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A source; without one, every source
    source: Option<String>,
    /// Read only this share of the files: the ones that were verified the longest ago
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    sample: Option<Percent>,
    /// Replace corrupt and missing plain files by good copies, and move corrupt ones to `damaged` in the repository; the
    /// next pull fetches what has no good copy, if the client still has it
    #[arg(long)]
    repair: bool,
}

fn share(text: &str) -> std::result::Result<Percent, String> {
    match text.parse::<Percent>()? {
        Percent(0) => Err("a sample of 0 % reads nothing: write it as in `5%`".to_owned()),
        percent => Ok(percent),
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let repository = context.repository()?;
    // Only a repair needs it.
    let config = if args.repair { context.config()? } else { Config::default() };
    let index = repository.known_index()?;
    let names = known_names(&index, args.source.as_deref())?;
    let mut bad = 0;
    for name in names {
        let source = SourceName::new(&name)?;
        if args.repair {
            config.check_known(&name)?;
        }
        let link = config.settings(&name).link;
        let sample = args.sample.map(|Percent(percent)| percent);
        let options = Options { sample, repair: args.repair.then_some(link) };
        let verified = verify(&repository, &source, options, &context.terminal())?;
        bad += verified.bad;
        if context.global.json {
            let mut line = object("verified");
            line.insert("source".to_owned(), source.as_str().into());
            if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(verified) {
                line.extend(fields);
            }
            print_result(&text(line))?;
        } else if !context.global.quiet {
            let read = match verified.sampled_from {
                Some(all) => format!("{} of {} read", grouped(verified.files), counted(all, "file")),
                None => format!("{}, {} of them read", counted(verified.files, "file"), grouped(verified.inodes)),
            };
            print_result(&format!(
                "{source}: {read} ({}), {} bad, {} repaired",
                bytesize::ByteSize(verified.bytes),
                grouped(verified.bad),
                grouped(verified.repaired),
            ))?;
        }
    }
    match bad {
        0 => Ok(0),
        1 => Err(is_bad("1 plain file is not what it was")),
        _ => Err(is_bad(&format!("{} plain files are not what they were", grouped(bad)))),
    }
}

fn is_bad(what: &str) -> Error {
    Error::new(Kind::Failed, what)
        .hint("`archive verify --repair` puts good copies in their places, where there are any")
}
