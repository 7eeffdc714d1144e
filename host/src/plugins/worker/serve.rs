//! The worker's side: what the hidden verb `plugin-worker` does.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use memmap2::{Mmap, MmapMut};
use prost::Message as _;
use qeff_plugin_api::abi::{self, Call, Calls as _, Module};
use qeff_plugin_api::plugin::PluginError;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::channel::MAX_DESCRIPTORS;
use super::message::{Confined, Reply, Request, Start, kind};
use super::{raw, sandbox};
use crate::plugins::file::image_path;

/// Longest request that is read. A host sends what it has been sent by nobody; this only keeps a mistake small.
const MAX_REQUEST: u64 = 1 << 30;

/// Serves the host at the other end of standard input until it hangs up.
///
/// # Errors
/// If standard input is no such socket, or the system refuses what every worker needs.
pub fn serve() -> io::Result<()> {
    raw::close_from(3)?;
    let socket = Socket(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    // A plugin that reads its standard input reads nothing.
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    drop(nothing);
    let (start, [image, input, output]) = socket.start()?;
    sandbox::limit(start.memory, start.cpu_seconds)?;
    raw::report_forbidden_calls()?;
    let confined = sandbox::confine();
    let go_on = confined.is_ok() || start.allow_unsandboxed;
    // The first filter may hold although something else does not; then it stays.
    let why = confined.err().unwrap_or_default();
    let sandboxed = why.is_empty();
    socket.send(&Confined { why }.encode_to_vec())?;
    if !go_on {
        return Ok(());
    }

    let loaded = abi::load(&image_path(image.as_fd()), &start.symbol);
    let module = match loaded {
        Ok(module) => module,
        Err(fault) => return socket.reply(Err(PluginError::Other(fault.to_string()))),
    };
    if sandboxed && let Err(error) = sandbox::confine_further() {
        return socket.reply(Err(PluginError::Other(format!("the sandbox cannot be closed: {error}"))));
    }
    drop(image);
    socket.reply(Ok(module.manifest().to_json().to_string().into_bytes()))?;
    let mut arena = Mapped { input: input.into(), output: output.into(), maps: None };
    while let Some(bytes) = socket.receive()? {
        let request = Request::decode(bytes.as_slice()).map_err(io::Error::other)?;
        socket.reply(answer(&module, &request, &mut arena))?;
    }
    Ok(())
}

fn answer(module: &Module, request: &Request, arena: &mut Mapped) -> Result<Vec<u8>, PluginError> {
    let Request { kind, number, text, bytes, length, out } = request;
    let call = match *kind {
        kind::RECOGNISE => Call::Recognise { config: text },
        kind::DESCRIBE => Call::Describe { request: bytes },
        kind::POOL => Call::Pool { request: bytes },
        kind::REWRITE => Call::Rewrite { request: bytes },
        kind::PROBE => Call::Probe { head: bytes, file_name: text },
        kind::INDEX => Call::Index { head: bytes, length: *length },
        kind::DECODE => {
            let (bytes, out) = arena.slices(*length, *out).map_err(|error| {
                PluginError::Other(format!("its process cannot map {} bytes: {error}", length.saturating_add(*out)))
            })?;
            Call::Decode { encoding: text, bytes, out }
        }
        other => return Err(PluginError::Other(format!("no call has the number {other}"))),
    };
    module.call(*number, call)
}

/// The arena's files as memory, as much of them as has been asked for.
struct Mapped {
    input: File,
    output: File,
    maps: Option<(Mmap, MmapMut)>,
}

impl Mapped {
    fn slices(&mut self, length: u64, out: u64) -> io::Result<(&[u8], &mut [u8])> {
        let size = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let (length, out) = (size(length)?, size(out)?);
        let fits = self.maps.as_ref().is_some_and(|(input, output)| input.len() >= length && output.len() >= out);
        if !fits {
            let had = self.maps.take().map_or((0, 0), |(input, output)| (input.len(), output.len()));
            // No mapping is empty.
            let (input, output) = (length.max(had.0).max(1), out.max(had.1).max(1));
            self.maps = Some((raw::map(&self.input, input)?, raw::map_mut(&self.output, output)?));
        }
        let (input, output) = self.maps.as_mut().ok_or_else(|| io::Error::other("no mapping"))?;
        let short = || io::Error::other("a mapping is too short");
        Ok((input.get(..length).ok_or_else(short)?, output.get_mut(..out).ok_or_else(short)?))
    }
}

/// The socket, at this end. What comes over it is the host's, and is trusted.
struct Socket(OwnedFd);

impl Socket {
    /// The first message with its three files.
    fn start(&self) -> io::Result<(Start, [OwnedFd; MAX_DESCRIPTORS])> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut length = [0; 8];
        let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let got = got.map_err(|error| match error {
            rustix::io::Errno::NOTSOCK => io::Error::other("`plugin-worker` is what qeff-host starts for itself"),
            other => other.into(),
        })?;
        let mut files = vec![];
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        let rest = length.get_mut(got.bytes..).unwrap_or_default();
        self.read(rest)?;
        let files = files.try_into().map_err(|_| io::Error::other("the first message came without its files"))?;
        let bytes = self.body(u64::from_le_bytes(length))?;
        Ok((Start::decode(bytes.as_slice()).map_err(io::Error::other)?, files))
    }

    /// The next message; `None` once the host has hung up.
    fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 8];
        match self.read(&mut length) {
            Ok(()) => self.body(u64::from_le_bytes(length)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn body(&self, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length.min(MAX_REQUEST + 1)).map_err(io::Error::other)?;
        if length as u64 > MAX_REQUEST {
            return Err(io::Error::other("a request is too long"));
        }
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::read(&self.0, &mut *bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => bytes = bytes.get_mut(n..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn reply(&self, answer: Result<Vec<u8>, PluginError>) -> io::Result<()> {
        self.send(&Reply::new(answer).encode_to_vec())
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        for part in [&(message.len() as u64).to_le_bytes(), message] {
            let mut rest = part;
            while !rest.is_empty() {
                match rustix::io::write(&self.0, rest) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
