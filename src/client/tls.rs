//! Whom a client trusts: the authority that must have signed the server's certificate, or that one certificate by its
//! fingerprint. There is no third way: without either an encrypted connection is refused.

use std::{fmt, str::FromStr, sync::Arc};

use ::aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// The SHA-256 of a server's certificate, written `sha256:` and 64 hexadecimal digits, as a node logs it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let digits = text.strip_prefix("sha256:")?;
            if digits.len() != 64 || !digits.is_ascii() {
                return None;
            }
            let mut bytes = [0; 32];
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| format!("{text:?} is not `sha256:` and 64 hexadecimal digits"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a server's certificate is held against.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// PEM of authorities; the certificate must be signed by one of them and good for the server's name.
    Authority(Vec<u8>),
    /// The certificate itself: its name and dates do not matter.
    Pinned(Pin),
}

impl Trust {
    /// TLS 1.3 and 1.2 for a client that trusts no other.
    pub fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(match self {
            Self::Authority(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
            Self::Pinned(pin) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned::new(*pin, &provider)))
                .with_no_client_auth(),
        })
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("the authority's PEM cannot be read: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("an authority's certificate cannot be used: {error}"))?;
    }
    match roots.is_empty() {
        true => Err("the authority's PEM holds no certificate".into()),
        false => Ok(roots),
    }
}

/// Accepts one certificate, and only from whoever has its key.
#[derive(Debug)]
pub(super) struct Pinned {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(pin: Pin, provider: &CryptoProvider) -> Self {
        Self {
            pin,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// With this build's one provider.
    pub fn verifier(pin: Pin) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Self::new(pin, &aws_lc_rs::default_provider()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if digest(&SHA256, end_entity).as_ref() == self.pin.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(
            "the server's certificate is not the pinned one".into(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_written_as_a_node_logs_it() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(format!("{:?}", text.parse::<Pin>().unwrap()), text);
        for bad in [
            "",
            "sha256:",
            "sha256:0f",
            &text.replace("0f", "0g"),
            &text[7..],
            &format!("{text}0"),
        ] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_without_a_certificate_is_refused() {
        let nothing = Trust::Authority(b"no certificate".to_vec());
        assert!(nothing.config().unwrap_err().contains("no certificate"));
    }
}
