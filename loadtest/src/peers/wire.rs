//! A raw connection to a peer: blocking sockets, plain or TLS, with one large read buffer.
//!
//! Blocking, because a thread that writes prepared buffers and one that counts what comes is the cheapest client there is: the
//! peer must be the bottleneck, not its driver.

use std::{
    io::{Error, ErrorKind, Read, Result, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

/// Bytes read at once.
const READ_BYTES: usize = 512 * 1024;
/// Encrypted bytes that may wait to be written.
const TLS_BUFFER_BYTES: usize = 256 * 1024;
/// How long a peer may say nothing: a run then fails instead of hanging.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection with what was read of it.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    read: Vec<u8>,
    start: usize,
    end: usize,
}

impl Stream {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }
}

impl Wire {
    /// Connects.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_DEADLINE))?;
        Ok(Self {
            stream: Stream::Plain(stream),
            read: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        })
    }

    /// How long [`Self::fill`] waits for bytes, where it is not as long as a run may hang.
    pub fn wait_at_most(&self, patience: Duration) -> Result<()> {
        match &self.stream {
            Stream::Plain(stream) => stream.set_read_timeout(Some(patience)),
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(patience)),
        }
    }

    /// Goes on encrypted, trusting this authority.
    pub fn encrypt(self, authority: Arc<ClientConfig>) -> Result<Self> {
        let Stream::Plain(stream) = self.stream else {
            return Ok(self);
        };
        let name = ServerName::try_from("localhost").map_err(Error::other)?;
        let mut connection = ClientConnection::new(authority, name).map_err(Error::other)?;
        connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self {
            stream: Stream::Tls(Box::new(stream)),
            ..self
        })
    }

    /// Writes and flushes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// What was read and not taken.
    pub fn buffered(&self) -> &[u8] {
        &self.read[self.start..self.end]
    }

    /// Takes bytes from the start of what was read.
    pub fn take(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Reads more; an error where the peer has closed or says nothing.
    pub fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.read.len() {
            self.read.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.read.len() {
                self.read.resize(self.end * 2, 0);
            }
        }
        match self.stream.read(&mut self.read[self.end..])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }

    /// The next line without its end, waiting for it.
    pub fn line(&mut self) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffered()[searched..]) {
                let line = self.buffered()[..searched + at].to_vec();
                self.take(searched + at + 1);
                return Ok(line.strip_suffix(b"\r").map_or(line.clone(), <[u8]>::to_vec));
            }
            searched = self.buffered().len();
            self.fill()?;
        }
    }

    /// Takes so many bytes, waiting for them.
    pub fn skip(&mut self, mut bytes: usize) -> Result<()> {
        loop {
            let there = self.buffered().len().min(bytes);
            self.take(there);
            bytes -= there;
            if bytes == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }
}

/// A client's settings that trust this authority.
pub fn trusting(authority_pem: &str) -> std::result::Result<Arc<ClientConfig>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A certificate for `localhost`, which signs itself, made for one run.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
}

impl Certificate {
    /// Makes one.
    pub fn new() -> std::result::Result<Self, String> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
        Ok(Self {
            pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn lines_and_bytes_are_taken_across_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for part in [&b"one\r\ntw"[..], b"o\r\n12", b"345six\r\n"] {
                stream.write_all(part).expect("written");
                stream.flush().expect("flushed");
            }
        });
        let mut wire = Wire::open(address).expect("connected");
        assert_eq!(wire.line().expect("a line"), b"one");
        assert_eq!(wire.line().expect("a line"), b"two");
        wire.skip(5).expect("five bytes");
        assert_eq!(wire.line().expect("a line"), b"six");
        assert!(wire.line().is_err(), "the peer has closed");
        server.join().expect("the server ends");
    }

    #[test]
    fn a_certificate_of_ones_own_is_trusted_by_who_was_given_it() {
        let certificate = Certificate::new().expect("made");
        assert!(trusting(&certificate.pem).is_ok());
    }
}
