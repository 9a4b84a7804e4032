//! Signs requests, in the two forms that receivers know: the guide's header and Standard Webhooks.
//!
//! A secret is one text. The guide's header uses the text itself as the key. Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks>) uses the bytes that a `whsec_` secret holds
//! as base64, and the bytes of any other text. Both keyed states are made once per secret, so that a
//! request costs two short hashes and no key schedule.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::id::EventId;

/// The prefix of a secret in the form of Standard Webhooks.
pub const SECRET_PREFIX: &str = "whsec_";

/// The shortest secret that may be given, in characters: a shorter one can be guessed from one signed request.
pub const SECRET_CHARACTERS_MIN: usize = 16;

/// The longest secret, as the guide's table has it.
pub const SECRET_BYTES_MAX: usize = 255;

/// How many random bytes a generated secret holds; Standard Webhooks asks for 24 to 64.
const GENERATED_BYTES: usize = 32;

type Keyed = Hmac<Sha256>;

/// A webhook's secret. It cannot be printed; clones share it.
#[derive(Clone)]
pub struct Secret(Arc<SecretKey>);

struct SecretKey {
    text: SecretString,
    /// Made with the first signature: most secrets are read from the ledger and sign nothing.
    keyed: OnceLock<States>,
}

/// A secret, keyed for both forms.
struct States {
    guide: Keyed,
    standard: Keyed,
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

impl Secret {
    /// The secret that `text` is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(SecretKey { text: text.into().into(), keyed: OnceLock::new() }))
    }

    /// The placeholder for a secret that is not shown.
    #[must_use]
    pub fn not_shown() -> Self {
        Self::new("")
    }

    fn keyed(&self) -> &States {
        self.0.keyed.get_or_init(|| {
            let guide = keyed(self.expose().as_bytes());
            let standard = standard_key(self.expose()).map_or_else(|| guide.clone(), |key| keyed(&key));
            States { guide, standard }
        })
    }

    /// A new secret: `whsec_` and the base64 of 32 bytes of the operating system's randomness.
    ///
    /// # Panics
    ///
    /// Where the operating system has none to give, which no system we run on does.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; GENERATED_BYTES];
        getrandom::fill(&mut bytes).expect("the operating system has a source of randomness");
        Self::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes)))
    }

    /// The text, for the ledger and for the one response that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.text.expose_secret()
    }

    /// The guide's `X-XTSystems-Signature`: `sha256=` and the hex of HMAC-SHA256 over timestamp and body.
    #[must_use]
    pub fn guide(&self, timestamp: i64, body: &[u8]) -> String {
        let mac = guide_mac(&self.keyed().guide, &timestamp.to_string(), body);
        let digest = mac.finalize().into_bytes();
        let mut header = String::with_capacity(GUIDE_PREFIX.len() + 2 * digest.len());
        header.push_str(GUIDE_PREFIX);
        push_hex(&mut header, &digest);
        header
    }

    /// The `webhook-signature` of Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
    #[must_use]
    pub fn standard(&self, id: EventId, timestamp: i64, body: &[u8]) -> String {
        let mac = standard_mac(&self.keyed().standard, &id.to_string(), &timestamp.to_string(), body);
        let mut header = String::with_capacity(48);
        header.push_str(STANDARD_PREFIX);
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
        header
    }
}

/// Whether `text` may be given as a webhook's secret; if not, why. What passes can be typed, stored and copied.
pub fn check_secret(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a secret must not be empty; leave it out to have one generated".to_owned());
    }
    let characters = text.chars().count();
    if characters < SECRET_CHARACTERS_MIN {
        return Err(format!(
            "a secret must have at least {SECRET_CHARACTERS_MIN} characters, but this one has {characters}; leave it out \
             to have one generated"
        ));
    }
    if text.len() > SECRET_BYTES_MAX {
        return Err(format!("a secret must have at most {SECRET_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("a secret must not contain control characters".to_owned());
    }
    Ok(())
}

/// Whether `text` looks like a secret of Standard Webhooks but is not one, so that it signs as its own bytes.
#[must_use]
pub fn is_no_base64(text: &str) -> bool {
    text.starts_with(SECRET_PREFIX) && standard_key(text).is_none()
}

const GUIDE_PREFIX: &str = "sha256=";
const STANDARD_PREFIX: &str = "v1,";

/// Whether `header` is the guide's signature of `body` at `timestamp`, compared in constant time.
#[must_use]
pub fn verify_guide(secret: &Secret, timestamp: &str, body: &[u8], header: &str) -> bool {
    let given = header.trim().strip_prefix(GUIDE_PREFIX).and_then(from_hex);
    given.is_some_and(|given| guide_mac(&secret.keyed().guide, timestamp, body).verify_slice(&given).is_ok())
}

/// Whether one of the signatures in `header`, separated by spaces, is that of Standard Webhooks over `id`,
/// `timestamp` and `body`, compared in constant time.
#[must_use]
pub fn verify_standard(secret: &Secret, id: &str, timestamp: &str, body: &[u8], header: &str) -> bool {
    let mac = standard_mac(&secret.keyed().standard, id, timestamp, body);
    let given = header.split_ascii_whitespace().filter_map(|one| one.strip_prefix(STANDARD_PREFIX));
    given.filter_map(|one| STANDARD.decode(one).ok()).any(|one| mac.clone().verify_slice(&one).is_ok())
}

/// Base64 with or without padding: the libraries of Standard Webhooks accept both.
const PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key bytes of a `whsec_` secret. One that is not base64 after the prefix is a text like any other.
fn standard_key(text: &str) -> Option<Vec<u8>> {
    let key = PADDED_OR_NOT.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
    (!key.is_empty()).then_some(key)
}

fn keyed(key: &[u8]) -> Keyed {
    Keyed::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn guide_mac(key: &Keyed, timestamp: &str, body: &[u8]) -> Keyed {
    key.clone().chain_update(timestamp).chain_update(body)
}

fn standard_mac(key: &Keyed, id: &str, timestamp: &str, body: &[u8]) -> Keyed {
    let head = key.clone().chain_update(id).chain_update(".").chain_update(timestamp);
    head.chain_update(".").chain_update(body)
}

/// Appends `bytes` in lower-case hexadecimal.
pub fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests;
