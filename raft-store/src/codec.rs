//! Format tag, length, crc, bincode body: the wrapping of everything this crate stores or sends.
//!
//! `format u8 | length u32 LE | crc32 u32 LE | body`. The crc covers the body. Decoding is bounded
//! by the bytes that are really there, rejects trailing bytes and never panics. A new layout is a
//! new format number; old numbers are read for ever.

use bincode::Options;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes before the body.
pub const HEADER_LEN: usize = 9;

/// Longest body accepted, in bytes. Above the longest entry the Writer makes.
pub const BODY_LEN_MAX: usize = 256 << 20;

/// Why bytes could not be read. Deterministic: the same bytes give the same answer everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unreadable {
    /// Fewer bytes than the header says.
    #[error("cut off: {found} bytes where {expected} were announced")]
    CutOff {
        /// Bytes there.
        found: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// A format this release does not know.
    #[error("format {found} is not known to this release (it reads {known})")]
    Format {
        /// The tag found.
        found: u8,
        /// The newest known one.
        known: u8,
    },
    /// The body is not what was written.
    #[error("crc mismatch")]
    Crc,
    /// The body does not have the promised shape.
    #[error("body does not decode")]
    Body,
}

/// The bincode settings used everywhere in this crate.
pub(crate) fn bincode_options(limit: usize) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit as u64)
        .reject_trailing_bytes()
}

/// Wraps a value.
///
/// # Errors
/// `Unreadable::Body` if the value is longer than [`BODY_LEN_MAX`].
pub fn encode<T: Serialize>(format: u8, value: &T) -> Result<Bytes, Unreadable> {
    let body_len = bincode_options(BODY_LEN_MAX)
        .serialized_size(value)
        .map_err(|_| Unreadable::Body)? as usize;
    let mut out = Vec::with_capacity(HEADER_LEN + body_len);
    out.push(format);
    out.extend_from_slice(&(body_len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    bincode_options(BODY_LEN_MAX)
        .serialize_into(&mut out, value)
        .map_err(|_| Unreadable::Body)?;
    let crc = crc32fast::hash(&out[HEADER_LEN..]);
    out[5..9].copy_from_slice(&crc.to_le_bytes());
    Ok(Bytes::from(out))
}

/// Unwraps a value of exactly this format.
///
/// # Errors
/// Says what is wrong; never panics and never allocates beyond what the bytes can hold.
pub fn decode<T: DeserializeOwned>(format: u8, bytes: &[u8]) -> Result<T, Unreadable> {
    let Some((header, body)) = bytes.split_at_checked(HEADER_LEN) else {
        return Err(Unreadable::CutOff {
            found: bytes.len(),
            expected: HEADER_LEN,
        });
    };
    if header[0] != format {
        return Err(Unreadable::Format {
            found: header[0],
            known: format,
        });
    }
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length != body.len() || length > BODY_LEN_MAX {
        return Err(Unreadable::CutOff {
            found: body.len(),
            expected: length,
        });
    }
    let crc = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
    if crc32fast::hash(body) != crc {
        return Err(Unreadable::Crc);
    }
    bincode_options(body.len())
        .deserialize(body)
        .map_err(|_| Unreadable::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_damage_is_named() {
        let value = ("checkout".to_owned(), 7u64, vec![1u8, 2, 3]);
        let bytes = encode(1, &value).unwrap();
        assert_eq!(decode::<(String, u64, Vec<u8>)>(1, &bytes).unwrap(), value);
        assert_eq!(
            decode::<(String, u64, Vec<u8>)>(2, &bytes),
            Err(Unreadable::Format { found: 1, known: 2 })
        );
        for cut in 0..bytes.len() {
            assert!(decode::<(String, u64, Vec<u8>)>(1, &bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(
                decode::<(String, u64, Vec<u8>)>(1, &bad).is_err(),
                "flip at {at}"
            );
        }
    }

    #[test]
    fn a_lying_length_inside_the_body_allocates_nothing() {
        let mut body = u64::MAX.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 8]);
        let mut bytes = vec![1];
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        assert_eq!(decode::<Vec<u64>>(1, &bytes), Err(Unreadable::Body));
    }
}
