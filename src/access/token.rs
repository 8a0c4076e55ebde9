//! The secret of a token, and what is kept of it.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What every token begins with, so that scanners for secrets find one that was committed somewhere.
pub(crate) const PREFIX: &str = "duality_";

/// 256 random bits. They are shown once, and never in a message or a log: the type has no text form but [`Secret::reveal`].
pub(crate) struct Secret([u8; 32]);

/// The SHA-256 of a secret. A slow hash is for passwords: nobody can guess 256 random bits.
#[derive(Clone, Copy)]
pub(crate) struct TokenDigest([u8; 32]);

impl Secret {
    /// New random bits of the operating system.
    ///
    /// # Errors
    /// The operating system has none.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        Ok(Self(bits))
    }

    /// The text of a token: `duality_` and 64 lower-case hexadecimal digits.
    pub(crate) fn reveal(&self) -> String {
        format!("{PREFIX}{}", hexadecimal(&self.0))
    }

    /// The secret in the text of a token; `None` if the text is none.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        parse_hexadecimal(text.strip_prefix(PREFIX.as_bytes())?).map(Self)
    }

    pub(crate) fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0).into())
    }
}

impl TokenDigest {
    /// A digest in 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        parse_hexadecimal(text.as_bytes()).map(Self)
    }

    /// Where it is looked up. What this says of the digest says nothing of the secret.
    pub(super) fn index(&self) -> [u8; 8] {
        let mut index = [0; 8];
        index.copy_from_slice(&self.0[..8]);
        index
    }

    /// Whether both are equal, in a time that does not depend on where they differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        Choice::into(self.0.ct_eq(&other.0))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

fn hexadecimal(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hexadecimal(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_shown() {
        let secret = Secret::random().unwrap();
        let text = secret.reveal();
        assert_eq!(text.len(), PREFIX.len() + 64);
        assert_eq!(Secret::parse(text.as_bytes()).unwrap().0, secret.0);
        assert_ne!(Secret::random().unwrap().0, secret.0);
        for other in ["", "duality_", &text[1..], &text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase()] {
            assert!(Secret::parse(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_digest_is_the_sha256_of_the_random_bits() {
        // https://csrc.nist.gov/projects/cryptographic-algorithm-validation-program: 32 zero bytes.
        let expected = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
        let digest = Secret([0; 32]).digest();
        assert_eq!(digest.to_string(), expected);
        assert!(TokenDigest::parse(expected).unwrap().is(&digest));
        assert!(!Secret([1; 32]).digest().is(&digest));
    }
}
