//! Secrets and signatures: one key, shared by every replica through the bus.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::model::Invalid;
use crate::platform::Entropy;

const TAG_BYTES: usize = 16;
const MIN_SECRET_BYTES: usize = 32;
const MAX_SECRET_BYTES: usize = 256;

/// Signs what a client carries back to us, and hashes secrets. Cheap to clone.
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

impl Signer {
    /// A signer under a key of 32 bytes.
    pub fn new(key: [u8; 32]) -> Self {
        // HMAC pads a key to the hash's block with zeros (RFC 2104, section 2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self(Hmac::new(&block.into()))
    }

    /// The keyed hash under which a secret is kept (HMAC-SHA-256, hexadecimal). A secret has 256
    /// random bits, so it needs no slow hash.
    pub fn hash_secret(&self, secret: &str) -> String {
        HEXLOWER.encode(&self.mac(&["secret", secret]).finalize().into_bytes())
    }

    /// True when `secret` is the one kept as `hash`; takes the same time either way.
    pub fn secret_matches(&self, secret: &str, hash: &str) -> bool {
        self.hash_secret(secret).as_bytes().ct_eq(hash.as_bytes()).into()
    }

    /// `payload` and a signature that binds it to `purpose`, as one base64url text.
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> String {
        let mut sealed = payload.to_vec();
        sealed.extend_from_slice(&self.tag(purpose, payload));
        BASE64URL_NOPAD.encode(&sealed)
    }

    /// The payload of what [`Signer::seal`] made for the same purpose; `None` for anything else.
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        let mut bytes = BASE64URL_NOPAD.decode(sealed.as_bytes()).ok()?;
        let payload_len = bytes.len().checked_sub(TAG_BYTES)?;
        let tag = bytes.split_off(payload_len);
        bool::from(tag.ct_eq(&self.tag(purpose, &bytes))).then_some(bytes)
    }

    fn tag(&self, purpose: &str, payload: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = self.mac(&["seal", purpose]);
        mac.update(payload);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }

    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// A new secret: `lg_` and 256 random bits.
pub(crate) fn new_secret(entropy: &Entropy) -> Result<String, bus::Error> {
    Ok(format!("lg_{}", BASE64URL_NOPAD.encode(&entropy.bytes::<32>()?)))
}

/// Checks a secret that a client brings: 32 to 256 visible ASCII characters.
pub(crate) fn check_secret(secret: &str) -> Result<(), Invalid> {
    let long_enough = (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&secret.len());
    if long_enough && secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "secret has {} bytes: bring {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} visible ASCII \
         characters without spaces, or leave it out and get one",
        secret.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_opens_for_its_purpose_and_key_only() {
        let signer = Signer::new([7; 32]);
        let sealed = signer.seal("resume people", b"position");
        assert_eq!(signer.open("resume people", &sealed).unwrap(), b"position");
        assert_eq!(signer.open("resume others", &sealed), None);
        assert_eq!(Signer::new([8; 32]).open("resume people", &sealed), None);
        for bad in ["", "x", "****", &sealed[1..]] {
            assert_eq!(signer.open("resume people", bad), None);
        }
    }

    #[test]
    fn secrets_match_by_hash() {
        let signer = Signer::new([1; 32]);
        let secret = new_secret(&Entropy::seeded(1)).unwrap();
        assert!(check_secret(&secret).is_ok() && check_secret("short").is_err());
        let hash = signer.hash_secret(&secret);
        assert!(signer.secret_matches(&secret, &hash) && !signer.secret_matches("x", &hash));
        assert!(!hash.contains(&secret));
    }
}
