//! The host's end of the socket, and of the pipe that a plugin prints into.
//!
//! A message is its length in eight bytes, then so many bytes. Nothing here waits past a deadline, and a length is believed
//! only as far as bytes arrive.

use std::io::{self, IoSlice, PipeReader, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Most bytes that are kept of what a plugin prints.
const MAX_PRINTED: usize = 4096;
/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;
/// Most descriptors that go with a message.
pub(super) const MAX_DESCRIPTORS: usize = 3;

/// Why a conversation is over.
#[derive(Debug)]
pub(super) enum Failure {
    /// The deadline passed.
    Late,
    /// The other side is gone.
    Closed,
    /// It announced a message of so many bytes.
    TooLong(u64),
    /// It said something that is no message.
    Garbage(String),
    /// The system has trouble.
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Failure::Closed,
            _ => Failure::System(error),
        }
    }
}

impl From<prost::DecodeError> for Failure {
    fn from(error: prost::DecodeError) -> Self {
        Failure::Garbage(error.to_string())
    }
}

pub(super) struct Channel {
    socket: UnixStream,
    output: PipeReader,
    printed: Vec<u8>,
}

impl Channel {
    /// `output` is the end of a pipe that the worker prints into.
    pub(super) fn new(socket: UnixStream, output: PipeReader) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Channel { socket, output, printed: vec![] })
    }

    /// Sends a message, and open files with it.
    pub(super) fn send(&mut self, message: &[u8], files: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), Failure> {
        let length = (message.len() as u64).to_le_bytes();
        let mut rest = length.as_slice();
        if !files.is_empty() {
            // Files go with the first byte; eight bytes fit into a socket that is empty.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(files));
            let slices = [IoSlice::new(&length)];
            let sent = sendmsg(&self.socket, &slices, &mut ancillary, SendFlags::NOSIGNAL).map_err(io::Error::from)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        self.write(rest, deadline)?;
        self.write(message, deadline)
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(0) => return Err(Failure::Closed),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message, of at most `longest` bytes.
    pub(super) fn receive(&mut self, longest: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let length = self.read(8, deadline)?;
        let length = u64::from_le_bytes(*length.first_chunk().ok_or(Failure::Closed)?);
        let message = match usize::try_from(length) {
            Ok(length) if length <= longest => self.read(length, deadline)?,
            _ => return Err(Failure::TooLong(length)),
        };
        self.drain();
        Ok(message)
    }

    fn read(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![];
        while bytes.len() < length {
            let from = bytes.len();
            bytes.resize(length.min(from + PIECE), 0);
            match self.socket.read(bytes.get_mut(from..).unwrap_or_default()) {
                Ok(0) => return Err(Failure::Closed),
                Ok(n) => bytes.truncate(from + n),
                Err(error) => {
                    bytes.truncate(from);
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => self.wait(PollFlags::IN, deadline)?,
                        _ => return Err(error.into()),
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Waits until the socket is ready for `what`, taking in what is printed meanwhile.
    fn wait(&mut self, what: PollFlags, deadline: Instant) -> Result<(), Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Late);
            }
            let (ready, printed) = {
                let mut ends = [PollFd::new(&self.socket, what), PollFd::new(&self.output, PollFlags::IN)];
                // A closed pipe is always ready; it is looked at again after a while.
                match poll(&mut ends, Some(&timespec(left))) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
                (!ends[0].revents().is_empty(), !ends[1].revents().is_empty())
            };
            if printed && !self.drain() && !ready {
                // The plugin closed what it prints into, and nothing else has happened.
                std::thread::sleep(Duration::from_millis(5).min(left));
            }
            if ready {
                return Ok(());
            }
        }
    }

    /// Takes in what was printed; whether there was anything.
    pub(super) fn drain(&mut self) -> bool {
        let mut piece = [0; 4096];
        let mut any = false;
        // A plugin that prints without end shall not keep us here.
        for _ in 0..64 {
            match self.output.read(&mut piece) {
                Ok(n) if n > 0 => {
                    any = true;
                    self.printed.extend_from_slice(piece.get(..n).unwrap_or_default());
                    let over = self.printed.len().saturating_sub(MAX_PRINTED);
                    self.printed.drain(..over);
                }
                _ => break,
            }
        }
        any
    }

    /// The last of what was printed, made harmless for a terminal.
    pub(super) fn take_printed(&mut self) -> String {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.printed)).into_owned();
        let text: String = text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
        text.trim().to_owned()
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().min(1 << 20) as _, tv_nsec: time.subsec_nanos() as _ }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> (Channel, UnixStream, io::PipeWriter) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        (Channel::new(ours, reader).unwrap(), theirs, writer)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    fn said(bytes: &[u8], longest: usize) -> Result<Vec<u8>, Failure> {
        let (mut channel, mut theirs, _writer) = channel();
        theirs.write_all(bytes).unwrap();
        channel.receive(longest, soon())
    }

    #[test]
    fn a_message_arrives_whole() {
        let message: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let (mut channel, mut theirs, _writer) = channel();
        let expected = message.clone();
        let other = std::thread::spawn(move || {
            let mut length = [0; 8];
            theirs.read_exact(&mut length).unwrap();
            let mut got = vec![0; u64::from_le_bytes(length) as usize];
            theirs.read_exact(&mut got).unwrap();
            theirs.write_all(&length).unwrap();
            theirs.write_all(&got).unwrap();
            got
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        channel.send(&message, &[], deadline).unwrap();
        assert!(channel.receive(1 << 20, deadline).unwrap() == expected);
        assert!(other.join().unwrap() == expected);
    }

    #[test]
    fn what_is_no_message_is_an_event() {
        let long = |n: u64| n.to_le_bytes();
        assert!(matches!(said(&long(11), 10), Err(Failure::TooLong(11))));
        assert!(matches!(said(&long(u64::MAX), 10), Err(Failure::TooLong(u64::MAX))));
        // An announced length takes no memory before its bytes come.
        assert!(matches!(said(&long(1 << 40), 1 << 50), Err(Failure::Late)));
        assert!(matches!(said(&[1, 2], 10), Err(Failure::Late)));
        let (mut channel, theirs, _writer) = channel();
        drop(theirs);
        assert!(matches!(channel.receive(10, soon()), Err(Failure::Closed)));
        assert!(matches!(channel.send(b"x", &[], soon()), Err(Failure::Closed)));
    }

    #[test]
    fn a_reader_that_does_not_read_is_late() {
        let (mut channel, _theirs, _writer) = channel();
        assert!(matches!(channel.send(&vec![0; 64 << 20], &[], soon()), Err(Failure::Late)));
    }

    #[test]
    fn the_end_of_what_is_printed_is_kept() {
        let (mut channel, mut theirs, mut writer) = channel();
        writer.write_all("\u{1b}[31mred\nlast words\n".as_bytes()).unwrap();
        theirs.write_all(&0u64.to_le_bytes()).unwrap();
        channel.receive(10, soon()).unwrap();
        assert_eq!(channel.take_printed(), "?[31mred\nlast words");
        assert_eq!(channel.take_printed(), "");
        writer.write_all(&[b'x'; 10_000]).unwrap();
        channel.drain();
        assert_eq!(channel.take_printed().len(), MAX_PRINTED);
        // A pipe that is closed is no reason to spin or to stop.
        drop(writer);
        assert!(matches!(channel.receive(10, soon()), Err(Failure::Late)));
    }
}
