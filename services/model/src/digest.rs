//! A digest over the rows of a prefill that does not depend on their order.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::Realm;

/// The sum, modulo 2^256, of the SHA-256 of every row's `"<realm>\n<sequence>\n"`.
///
/// Realm and log sequence name one event for ever, so whoever adds up what it received can hold
/// the result against the manifest, whatever the order (an additive set hash, Bellare and
/// Micciancio 1997). It proves completeness against faults, not against an adversary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowsDigest([u8; 32]);

impl RowsDigest {
    /// Adds a row.
    pub fn add(&mut self, realm: &Realm, sequence: u64) {
        let row = Sha256::digest(format!("{realm}\n{sequence}\n"));
        let mut carry = 0u16;
        for (sum, byte) in self.0.iter_mut().zip(row.iter()).rev() {
            carry += u16::from(*sum) + u16::from(*byte);
            [_, *sum] = carry.to_be_bytes();
            carry >>= 8;
        }
    }

    /// As 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Reads it back; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_each_row_does() {
        let (a, b) = (Realm::new("a").unwrap(), Realm::new("b").unwrap());
        let of = |rows: &[(&Realm, u64)]| {
            let mut digest = RowsDigest::default();
            rows.iter().for_each(|(realm, sequence)| digest.add(realm, *sequence));
            digest
        };
        assert_eq!(of(&[(&a, 1), (&b, 2), (&a, 3)]), of(&[(&a, 3), (&a, 1), (&b, 2)]));
        assert_ne!(of(&[(&a, 1)]), of(&[(&a, 1), (&a, 1)]));
        assert_ne!(of(&[(&a, 1)]), of(&[(&b, 1)]));
        let digest = of(&[(&a, 1), (&b, 2)]);
        assert_eq!(RowsDigest::from_hex(&digest.to_hex()), Some(digest));
    }
}
