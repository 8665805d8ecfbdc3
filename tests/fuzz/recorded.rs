//! The frames of real servers under tests/corpus/recorded, as they were on the wire.

use std::path::Path;
use std::sync::LazyLock;

/// What each frame is, by its file and its comment line, and the frame.
pub static ALL: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(read);

/// A file is made of comment lines, which begin with `#`, each followed by its frame in hexadecimal
/// digits.
fn read() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/recorded");
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            if let Some(name) = line.strip_prefix("# ") {
                all.push((
                    format!("{}: {name}", file.file_stem().unwrap().display()),
                    Vec::new(),
                ));
                continue;
            }
            let (_, frame) = all
                .last_mut()
                .expect("a comment line before the first frame");
            frame.extend(
                (0..line.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()),
            );
        }
    }
    all
}

/// The UDP payload of a frame, taken at its fixed place: none of these has IPv4 options.
pub fn payload(frame: &[u8]) -> &[u8] {
    let end = 34 + usize::from(u16::from_be_bytes([frame[38], frame[39]]));
    &frame[42..end]
}
