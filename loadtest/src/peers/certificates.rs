//! The certificate that peers and bare limits show in one run of the comparison.

use std::sync::Arc;

use rustls::ClientConfig;

use super::wire::{Certificate, trusting};

/// A certificate, and who trusts it.
#[derive(Debug)]
pub struct Certificates {
    certificate: Certificate,
    trusting: Arc<ClientConfig>,
}

impl Certificates {
    /// Makes a certificate for this run.
    pub fn new() -> Result<Self, String> {
        let certificate = Certificate::new()?;
        Ok(Self {
            trusting: trusting(&certificate.pem)?,
            certificate,
        })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }

    pub fn key_pem(&self) -> &str {
        &self.certificate.key_pem
    }

    /// Settings of a client that trusts it.
    pub fn trusting(&self) -> Arc<ClientConfig> {
        self.trusting.clone()
    }
}
