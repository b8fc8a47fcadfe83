//! Files to pull: the same in every run, and of a content that nothing compresses.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

// Files in one directory.
const WIDTH: u64 = 100;

/// Writes so many files with sizes as in a home directory, log-normal with a median of 3 KiB; returns their bytes. Another
/// `host` has others.
pub fn small_files(directory: &Path, count: u64, host: u64) -> io::Result<u64> {
    let mut random = Random(host + 1);
    let mut bytes = 0;
    for number in 0..count {
        // This spread makes the mean 5.9 KB.
        let size = (3072.0 * (1.14 * random.normal()).exp()).min(4e6) as u64;
        write_file(&file(directory, number)?, size, host << 40 | (number + 1))?;
        bytes += size;
    }
    Ok(bytes)
}

/// Makes so many names, a thousand of each file of this size.
pub fn linked_files(directory: &Path, count: u64, size: u64) -> io::Result<()> {
    let files = count.div_ceil(1000);
    even_files(directory, files, size)?;
    for number in files..count {
        fs::hard_link(file(directory, number % files)?, file(directory, number)?)?;
    }
    Ok(())
}

/// Gives one file in a hundred other content, another hundredth each round; returns how many.
pub fn change_some(directory: &Path, count: u64, round: u64) -> io::Result<u64> {
    let chosen: Vec<u64> = (0..count).filter(|number| number % 100 == round % 100).collect();
    for number in &chosen {
        let path = file(directory, *number)?;
        let size = fs::metadata(&path)?.len();
        // Another size, for rsync looks at whole seconds only.
        write_file(&path, size + 1, (round + 1) << 32 | number)?;
    }
    Ok(chosen.len() as u64)
}

/// Writes so many files of words, as program text or documents are: some words are everywhere, most are rare; returns their
/// bytes.
pub fn text_files(directory: &Path, count: u64) -> io::Result<u64> {
    let mut random = Random(5);
    let words: Vec<String> = (0..20_000).map(|_| word(&mut random)).collect();
    let mut bytes = 0;
    for number in 0..count {
        let mut text = String::new();
        let length = (6000.0 * (0.9 * random.normal()).exp()).min(100_000.0) as usize;
        while text.len() < length {
            // By Zipf's law, about.
            let at = (words.len() as f64).powf(random.unit()) as usize - 1;
            text.push_str(&words[at.min(words.len() - 1)]);
            text.push(if random.next().is_multiple_of(9) { '\n' } else { ' ' });
        }
        bytes += text.len() as u64;
        fs::write(file(directory, number)?, text)?;
    }
    Ok(bytes)
}

fn word(random: &mut Random) -> String {
    let length = 2 + random.next() % 9;
    (0..length).map(|_| char::from(b'a' + (random.unit() * random.unit() * 25.9) as u8)).collect()
}

/// Puts a byte in front of a file.
pub fn put_in_front(path: &Path, round: u64) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut new = fs::File::create(&beside)?;
    new.write_all(&[round as u8])?;
    io::copy(&mut fs::File::open(path)?, &mut new)?;
    fs::rename(beside, path)
}

/// Overwrites one per cent of a file in a hundred places.
pub fn overwrite_some(path: &Path, round: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path)?;
    let size = file.metadata()?.len();
    let mut random = Random(round + 99);
    for place in 0..100 {
        let bytes: Vec<u8> = (0..size / 10_000).map(|_| random.next() as u8).collect();
        file.write_all_at(&bytes, size / 100 * place + 777)?;
    }
    Ok(())
}

/// Overwrites a hundred bytes of each of these files, in another place each time.
pub fn edit_each(directory: &Path, count: u64, time: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut random = Random(time + 1234);
    for number in 0..count {
        let file = fs::File::options().write(true).open(file(directory, number)?)?;
        let size = file.metadata()?.len();
        let bytes: Vec<u8> = (0..100).map(|_| random.next() as u8).collect();
        file.write_all_at(&bytes, random.next() % (size - 100))?;
    }
    Ok(())
}

/// Writes some files of one size.
pub fn large_files(directory: &Path, count: u64, size: u64) -> io::Result<()> {
    (0..count).try_for_each(|number| write_file(&directory.join(format!("large-{number}")), size, number + 7))
}

/// Writes many files of one size.
pub fn even_files(directory: &Path, count: u64, size: u64) -> io::Result<()> {
    (0..count).try_for_each(|number| write_file(&file(directory, number)?, size, number + 3))
}

// Three levels of at most 100 entries each, and then some.
fn file(directory: &Path, number: u64) -> io::Result<PathBuf> {
    let parent = number / WIDTH;
    let directory = directory.join(format!("d{:03}/e{:02}", parent / WIDTH, parent % WIDTH));
    if number.is_multiple_of(WIDTH) {
        fs::create_dir_all(&directory)?;
    }
    Ok(directory.join(format!("file-{number:07}.data")))
}

fn write_file(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    // Mixed once more, or one file would be the next one, shifted.
    let mut random = Random(Random(seed).next());
    let mut file = fs::File::create(path)?;
    let mut left = size as usize;
    let mut buffer = vec![0; left.min(1 << 20)];
    while left > 0 {
        let count = left.min(buffer.len());
        for piece in buffer[..count].chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
        file.write_all(&buffer[..count])?;
        left -= count;
    }
    Ok(())
}

/// SplitMix64: a small generator whose every seed will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// The standard normal distribution, by the method of Box and Muller.
    fn normal(&mut self) -> f64 {
        let (one, other) = (self.unit(), self.unit());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
    }
}
