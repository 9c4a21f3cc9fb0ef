//! How a receiver knows that a push is this node's: an HMAC-SHA256 as the Standard Webhooks specification has it.
//!
//! Owns the secret's form, where it comes from and the signature; never shows the secret. Start at [`Secret`].

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use aws_lc_rs::{hmac, rand};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// What every secret's text starts with.
const PREFIX: &str = "whsec_";
/// Shortest secret, in bytes (Standard Webhooks).
const BYTES_MIN: usize = 24;
/// Longest secret, in bytes (Standard Webhooks).
const BYTES_MAX: usize = 64;
/// What a generated secret has, in bytes: the output size of the hash, above which a key gains nothing.
const BYTES_GENERATED: usize = 32;

/// Why there is no usable secret. The operator's to mend.
#[derive(Debug, Error)]
pub enum SecretError {
    #[error(
        "the webhook secret is not `whsec_` and the base64 of {BYTES_MIN} to {BYTES_MAX} bytes; make one: \
         echo whsec_$(openssl rand -base64 32)"
    )]
    Malformed,
    #[error("the webhook secret's file {} cannot be used: {source}; mend it, or set `webhook.secret`", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the webhook secret's file {} holds something else; remove it to get a new secret", path.display())]
    FileContent { path: PathBuf },
    #[error("the system gave no randomness for a webhook secret")]
    Randomness,
}

/// The key that pushes are signed with. Never shown: its `Debug` and its serialized form are a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new random secret.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = vec![0; BYTES_GENERATED];
        rand::fill(&mut bytes).map_err(|_| SecretError::Randomness)?;
        Ok(Self(bytes))
    }

    /// Reads the secret that a file holds; where there is no file, writes a new secret into one that only its owner reads.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::File {
            path: path.into(),
            source,
        };
        match fs::read_to_string(path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| SecretError::FileContent { path: path.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Self::generate()?;
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(failed)?;
                file.write_all(format!("{}\n", secret.expose()).as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                Ok(secret)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The text that a receiver configures; for the secret's file alone.
    fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The value of `webhook-signature` for one push: over `id.timestamp.body`, the timestamp in Unix seconds.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign()))
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let bytes = text
            .strip_prefix(PREFIX)
            .and_then(|encoded| BASE64.decode(encoded).ok())
            .ok_or(SecretError::Malformed)?;
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
            return Err(SecretError::Malformed);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error must not quote the text: it goes to logs.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The example of docs/webhooks.md, computed with OpenSSL and with Python's hmac.
    #[test]
    fn the_documented_test_vector_holds() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn malformed_secrets_are_refused_and_never_quoted() {
        let short = format!("whsec_{}", BASE64.encode([7; 23]));
        let long = format!("whsec_{}", BASE64.encode([7; 65]));
        for text in ["", "hunter2-hunter2-hunter2", "whsec_", "whsec_???", &short, &long] {
            let error = serde_json::from_value::<Secret>(text.into()).unwrap_err().to_string();
            assert!(error.contains("openssl rand") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_is_shown() {
        let secret = Secret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(hidden)\"");
    }

    #[test]
    fn a_generated_file_is_its_owners_alone_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("webhook.secret");
        let first = Secret::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Secret::load_or_create(&path).unwrap(), first);
        fs::write(&path, "something else").unwrap();
        assert!(matches!(
            Secret::load_or_create(&path),
            Err(SecretError::FileContent { .. })
        ));
    }
}
