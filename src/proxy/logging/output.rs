//! Standard error, written without blocking.
//!
//! A daemon that waits for the reader of its log stops serving when that stops reading. Lines that
//! cannot be written at once are dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{SendFlags, send};

/// The longest line with its line feed: PIPE_BUF of Linux, up to which a write to a pipe is atomic
/// (pipe(7)).
pub(super) const MAX_LINE: usize = 4096;

/// A descriptor for log lines.
#[derive(Debug)]
pub(super) struct Output<F> {
    fd: F,
    sink: Sink,
    /// The rest of a text that was written in part.
    rest: Vec<u8>,
    lost: u64,
}

/// The way to write without blocking, by the type of the descriptor.
#[derive(Debug)]
enum Sink {
    /// A pipe or terminal that was opened again: O_NONBLOCK on the inherited open file description
    /// would affect all processes that share it.
    Reopened(OwnedFd),
    /// A pipe or terminal that cannot be opened again, because it is another user's or has no
    /// reader.
    Polled,
    Socket,
    /// A regular file, or a device other than a terminal such as /dev/null: writing does not block.
    File,
}

impl<F: AsFd> Output<F> {
    pub(super) fn new(fd: F) -> Self {
        Self {
            sink: Sink::of(&fd),
            fd,
            rest: Vec::new(),
            lost: 0,
        }
    }

    /// Writes a line, which ends with a line feed. The first line after a loss is preceded by
    /// `notice` of the number of lost lines and the reason.
    pub(super) fn line(&mut self, line: &[u8], notice: impl FnOnce(u64, &str) -> Vec<u8>) {
        let why = match self.sink {
            Sink::File => "standard error could not be written",
            _ => "standard error was not read",
        };
        // In one write: the notice alone would fit more often than the line, and fill the pipe.
        let mut text = if self.lost > 0 {
            notice(self.lost, why)
        } else {
            Vec::new()
        };
        text.extend(line);
        if self.write_rest() && self.write_text(&text) {
            self.lost = 0;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Returns the lines lost since the last notice.
    #[cfg(test)]
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn write_rest(&mut self) -> bool {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() && !self.write_text(&rest) {
            self.rest = rest;
        }
        self.rest.is_empty()
    }

    /// Returns whether the text was written. The rest of a partial write is kept and written first.
    fn write_text(&mut self, text: &[u8]) -> bool {
        match self.write(text) {
            Ok(length @ 1..) => {
                self.rest = text.get(length..).unwrap_or_default().to_vec();
                true
            }
            Ok(0) | Err(_) => false,
        }
    }

    fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        rustix::io::retry_on_intr(|| match &self.sink {
            Sink::Reopened(reopened_fd) => rustix::io::write(reopened_fd, bytes),
            Sink::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Sink::File => rustix::io::write(&self.fd, bytes),
            Sink::Polled => {
                // A pipe is ready when it has room for a line (`pipe_poll` in fs/pipe.c).
                let at_once = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                match poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&at_once))? {
                    0 => Err(rustix::io::Errno::AGAIN),
                    _ => rustix::io::write(&self.fd, &bytes[..bytes.len().min(MAX_LINE)]),
                }
            }
        })
    }
}

impl Sink {
    fn of(fd: &impl AsFd) -> Self {
        let kind = fstat(fd).map_or(FileType::Unknown, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        });
        match kind {
            FileType::Socket => Self::Socket,
            FileType::Fifo => Self::reopened(fd),
            FileType::CharacterDevice if fd.as_fd().is_terminal() => Self::reopened(fd),
            _ => Self::File,
        }
    }

    fn reopened(fd: &impl AsFd) -> Self {
        let open = || -> io::Result<OwnedFd> {
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
            Ok(OpenOptions::new()
                .write(true)
                .custom_flags(flags.bits() as i32)
                .open(path)?
                .into())
        };
        open().map_or(Self::Polled, Self::Reopened)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use rustix::fs::fcntl_getfl;

    use super::*;

    fn notice(lost: u64, why: &str) -> Vec<u8> {
        format!("{lost} lost: {why}\n").into_bytes()
    }

    fn line(number: u64) -> Vec<u8> {
        format!("{number:06} {}\n", "x".repeat(number as usize % 1000)).into_bytes()
    }

    /// Writes until many lines are lost, calls `read`, and writes another line. Each line has to
    /// arrive as a whole or be counted as lost.
    fn overflow(mut output: Output<OwnedFd>, mut read: impl FnMut() -> Vec<u8>) {
        let mut written = 0;
        while output.lost < 500 {
            output.line(&line(written), notice);
            written += 1;
        }
        let mut said = read();
        output.line(&line(written), notice);
        said.extend(read());

        let said = String::from_utf8(said).unwrap();
        let (mut there, mut lost) = (Vec::new(), 0);
        for one in said.lines() {
            match one.split_once(" lost: ") {
                Some((count, why)) => {
                    assert_eq!(why, "standard error was not read");
                    lost += count.parse::<u64>().unwrap();
                }
                None => there.push(one[..6].parse::<u64>().unwrap()),
            }
            assert!(
                one.contains(" lost: ")
                    || format!("{one}\n").as_bytes() == line(*there.last().unwrap()),
                "{one}"
            );
        }
        assert!(there.is_sorted() && there.len() > 10, "{there:?}");
        assert_eq!(
            (there.len() as u64 + lost, there.last()),
            (written + 1, Some(&written))
        );
        assert!(lost >= 500, "{lost}");
    }

    fn pipe() -> (File, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        (OwnedFd::from(reader).into(), writer.into())
    }

    /// Reads everything that is in a pipe or socket.
    fn drain(reader: &mut (impl Read + AsFd)) -> Vec<u8> {
        let length = rustix::io::ioctl_fionread(&*reader).unwrap();
        let mut all = vec![0; length as usize];
        reader.read_exact(&mut all).unwrap();
        all
    }

    #[test]
    fn a_pipe_that_is_not_read_loses_whole_lines_and_stays_blocking_for_others() {
        let (mut reader, writer) = pipe();
        let shared = writer.try_clone().unwrap();
        let output = Output::new(writer);
        assert!(matches!(output.sink, Sink::Reopened(_)));
        overflow(output, || drain(&mut reader));
        assert!(!fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_again_is_asked_first() {
        let (mut reader, writer) = pipe();
        let output = Output {
            sink: Sink::Polled,
            ..Output::new(writer)
        };
        overflow(output, || drain(&mut reader));
    }

    #[test]
    fn a_socket_that_is_not_read_loses_whole_lines() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let output = Output::new(OwnedFd::from(writer));
        assert!(matches!(output.sink, Sink::Socket));
        overflow(output, || drain(&mut reader));
    }

    #[test]
    fn a_reader_that_has_gone_costs_lines_and_nothing_else() {
        let (reader, writer) = pipe();
        let (socket, other) = UnixStream::pair().unwrap();
        socket.shutdown(Shutdown::Both).unwrap();
        let mut outputs = [
            Output::new(writer.try_clone().unwrap()),
            Output::new(OwnedFd::from(other)),
        ];
        drop((reader, socket));
        for number in 0..1000 {
            outputs
                .iter_mut()
                .for_each(|output| output.line(&line(number), notice));
        }
        let mut late = Output::new(writer);
        late.line(&line(0), notice);
        assert_eq!(
            (outputs.map(|output| output.lost), late.lost),
            ([1000, 1000], 1)
        );
    }

    #[test]
    fn a_regular_file_gets_everything() {
        let mut file = tempfile::tempfile().unwrap();
        let mut output = Output::new(OwnedFd::from(file.try_clone().unwrap()));
        for number in 0..1000 {
            output.line(&line(number), notice);
        }
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(
            (output.lost, BufReader::new(file).lines().count()),
            (0, 1000)
        );
    }

    #[test]
    fn the_rest_of_a_line_comes_before_the_next_one() {
        let (mut reader, writer) = pipe();
        let mut output = Output {
            rest: b"of a line\n".to_vec(),
            ..Output::new(writer)
        };
        output.line(b"next\n", notice);
        assert_eq!(drain(&mut reader), b"of a line\nnext\n");
    }
}
