//! The node's TLS: its certificate and key, from files or made by itself, and what listeners do with them.
//!
//! A certificate of its own is for development: made at the first start, kept in the data directory, and to be pinned by
//! clients by its fingerprint. Must never know a protocol but by its ALPN name. Start at [`Material::load`].

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The files of a certificate that the node made itself.
const OWN_CERTIFICATE_FILE: &str = "tls.certificate.pem";
const OWN_KEY_FILE: &str = "tls.key.pem";
/// Names that a certificate of its own is good for.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Only the owner reads a key.
const KEY_FILE_MODE: u32 = 0o600;

/// Where the certificate comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// PEM file of the certificate and those that signed it, the node's own first; empty: the node makes one for itself, good
    /// for `localhost`, and keeps it in the data directory.
    pub certificate_file: PathBuf,
    /// PEM file of the certificate's key (PKCS#8, PKCS#1 or SEC1).
    pub key_file: PathBuf,
}

/// Why there is no certificate to show. The operator's matter.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path} cannot be read: {error}")]
    Read { path: PathBuf, error: String },
    #[error("{path} cannot be written: {error}")]
    Write { path: PathBuf, error: io::Error },
    #[error("only one of tls.certificate_file and tls.key_file is set")]
    Half,
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("certificate and key do not fit: {0}")]
    Unfit(#[from] rustls::Error),
}

/// A certificate with its key.
pub struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// SHA-256 of the certificate, by which a client may pin it.
    pub fingerprint: Fingerprint,
    /// Where a certificate that the node made itself is kept; `None`: given, or in memory alone.
    pub own_file: Option<PathBuf>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate, shown as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Material {
    /// Reads the certificate that is configured. Where none is, that of the data directory, made now if it is not there;
    /// without a data directory one that lasts as long as the node.
    pub fn load(config: &Config, data_dir: Option<&Path>) -> Result<Self, TlsError> {
        let is_unset = |path: &PathBuf| path.as_os_str().is_empty();
        match (is_unset(&config.certificate_file), is_unset(&config.key_file), data_dir) {
            (false, false, _) => Self::read(&config.certificate_file, &config.key_file),
            (true, true, Some(folder)) => Self::own(folder),
            (true, true, None) => Ok(Self::make()?.0),
            _ => Err(TlsError::Half),
        }
    }

    fn read(certificate_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let unreadable = |path: &Path, error: &dyn fmt::Display| TlsError::Read {
            path: path.into(),
            error: error.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(certificate_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(certificate_file, &error))?;
        let first = chain.first().ok_or_else(|| TlsError::Empty {
            path: certificate_file.into(),
        })?;
        let fingerprint = Fingerprint::of(first);
        // The file's text is never part of an error.
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unreadable(key_file, &error))?;
        Ok(Self {
            chain,
            key,
            fingerprint,
            own_file: None,
        })
    }

    fn own(folder: &Path) -> Result<Self, TlsError> {
        let (certificate_file, key_file) = (folder.join(OWN_CERTIFICATE_FILE), folder.join(OWN_KEY_FILE));
        // The key is written first: a certificate that is there has its key.
        if !certificate_file.exists() {
            let (_, certificate, key) = Self::make()?;
            let unwritable = |path: &Path| {
                let path = path.to_path_buf();
                move |error| TlsError::Write { path, error }
            };
            fs::create_dir_all(folder).map_err(unwritable(folder))?;
            write(&key_file, &key, KEY_FILE_MODE).map_err(unwritable(&key_file))?;
            write(&certificate_file, &certificate, 0o644).map_err(unwritable(&certificate_file))?;
        }
        let mut material = Self::read(&certificate_file, &key_file)?;
        material.own_file = Some(certificate_file);
        Ok(material)
    }

    /// A fresh certificate, and both of it as PEM.
    fn make() -> Result<(Self, String, String), TlsError> {
        let names = OWN_NAMES.map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names)?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|error| TlsError::Unfit(rustls::Error::General(error.into())))?;
        let (certificate, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        let chain = vec![made.cert.der().clone()];
        let material = Self {
            fingerprint: Fingerprint::of(&chain[0]),
            chain,
            key,
            own_file: None,
        };
        Ok((material, certificate, key_pem))
    }

    /// The node's own certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], |certificate| certificate)
    }

    /// TLS 1.2 and 1.3 with this certificate, offering these protocols in this order (none: no ALPN).
    pub fn server(&self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_of_its_own_outlives_the_process_and_its_key_is_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Material::load(&Config::default(), Some(folder.path())).unwrap();
        let again = Material::load(&Config::default(), Some(folder.path())).unwrap();
        assert_eq!(first.fingerprint, again.fingerprint);
        assert!(first.fingerprint.to_string().starts_with("sha256:"));
        let key = folder.path().join(OWN_KEY_FILE);
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, KEY_FILE_MODE);
        again.server(&[b"h2"]).unwrap();
    }

    #[test]
    fn given_files_are_used_and_half_of_them_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let own = Material::load(&Config::default(), Some(folder.path())).unwrap();
        let config = Config {
            certificate_file: folder.path().join(OWN_CERTIFICATE_FILE),
            key_file: folder.path().join(OWN_KEY_FILE),
        };
        let given = Material::load(&config, None).unwrap();
        assert_eq!(given.fingerprint, own.fingerprint);
        let half = Config {
            key_file: PathBuf::new(),
            ..config.clone()
        };
        assert!(matches!(Material::load(&half, None), Err(TlsError::Half)));
        let missing = Config {
            certificate_file: folder.path().join("none.pem"),
            ..config
        };
        assert!(matches!(Material::load(&missing, None), Err(TlsError::Read { .. })));
    }
}
