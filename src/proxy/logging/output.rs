//! Standard error, written without waiting for its reader.
//!
//! A daemon that waits for whatever reads its log stops serving when that stops reading. Lines that
//! cannot be taken at once are lost, and counted.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{SendFlags, send};

/// The longest line, its line feed included: PIPE_BUF of Linux, up to which a pipe takes all of a
/// write or nothing of it (pipe(7)).
pub(super) const LONGEST: usize = 4096;

/// A descriptor that lines are written to.
#[derive(Debug)]
pub(super) struct Output<F> {
    fd: F,
    sink: Sink,
    /// The end of a text of which only the beginning was taken.
    rest: Vec<u8>,
    lost: u64,
}

/// The way to write without waiting, by the kind of the descriptor.
#[derive(Debug)]
enum Sink {
    /// A pipe or a terminal, opened once more: O_NONBLOCK on the inherited open file description
    /// would be set for all the processes that share it.
    Own(OwnedFd),
    /// A pipe or a terminal that cannot be opened again, of another user or without a reader.
    Polled,
    Socket,
    /// A regular file takes what it is given. So does what is no terminal and yet a device, such as
    /// /dev/null.
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

    /// Writes a line, which ends with a line feed. Before the first one after a loss comes what
    /// `notice` makes of the number of lines lost and the reason.
    pub(super) fn line(&mut self, line: &[u8], notice: impl FnOnce(u64, &str) -> Vec<u8>) {
        let why = match self.sink {
            Sink::File => "standard error could not be written",
            _ => "standard error was not read",
        };
        // Together: a notice alone would fit more often than the line, and fill the pipe.
        let mut text = if self.lost > 0 {
            notice(self.lost, why)
        } else {
            Vec::new()
        };
        text.extend(line);
        if self.finish_line() && self.put(&text) {
            self.lost = 0;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// The number of lines lost that has not been told.
    #[cfg(test)]
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn finish_line(&mut self) -> bool {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() && !self.put(&rest) {
            self.rest = rest;
        }
        self.rest.is_empty()
    }

    /// Returns whether the text was taken. What is missing of it is kept, and nothing else is
    /// written before it.
    fn put(&mut self, text: &[u8]) -> bool {
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
            Sink::Own(own) => rustix::io::write(own, bytes),
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
                    _ => rustix::io::write(&self.fd, &bytes[..bytes.len().min(LONGEST)]),
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
        open().map_or(Self::Polled, Self::Own)
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

    /// Writes until many lines are lost, has `read` return all that was taken, and writes another
    /// one. Each line has to be there as a whole or not at all, and those that are not have to be
    /// counted.
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

    /// All that is in a pipe or a socket now.
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
        assert!(matches!(output.sink, Sink::Own(_)));
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
