//! Just enough gRPC to watch a key of etcd and to put one: message framing, and protobuf by hand.
//!
//! Pure. Seven messages with a few fields each do not need generated code, and the build stays free
//! of `protoc`. What must hold: fields that are not named here are skipped, whatever their type, and
//! bytes that end early or make no sense are an error. The numbers are those of etcd's
//! `rpc.proto` and `kv.proto`, which its clients depend on.

use crate::{Failure, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// In front of each message: whether it is compressed, and its length.
const PREFIX_LEN: usize = 5;
/// No message read here is longer.
const MESSAGE_LEN_MAX: usize = 4 << 20;

/// What an answer says of the member that gave it and of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The member.
    pub member: u64,
    /// The revision of the store.
    pub revision: u64,
}

/// What a watch is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchAnswer {
    /// Who says so.
    pub header: Header,
    /// The watch stands.
    pub created: bool,
    /// The watch is over.
    pub canceled: bool,
    /// The revision of each event.
    pub events: Vec<u64>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who says so.
    pub header: Header,
    /// Its release.
    pub version: String,
    /// The member that it follows.
    pub leader: u64,
}

/// Asks to watch one key from now on.
pub fn watch_request(key: &[u8]) -> Bytes {
    let mut create = BytesMut::new();
    put_bytes(&mut create, 1, key);
    let mut request = BytesMut::new();
    put_bytes(&mut request, 1, &create);
    framed(&request)
}

/// Asks to put a value.
pub fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    let mut request = BytesMut::new();
    put_bytes(&mut request, 1, key);
    put_bytes(&mut request, 2, value);
    framed(&request)
}

/// Asks to put a value if the key was last changed at this revision; 0: if it is not there.
pub fn put_if_request(key: &[u8], value: &[u8], revision: u64) -> Bytes {
    const MOD: u64 = 2;
    let mut compare = BytesMut::new();
    put_number(&mut compare, 2, MOD);
    put_bytes(&mut compare, 3, key);
    put_number(&mut compare, 6, revision);
    let mut put = BytesMut::new();
    put_bytes(&mut put, 1, key);
    put_bytes(&mut put, 2, value);
    let mut operation = BytesMut::new();
    put_bytes(&mut operation, 2, &put);
    let mut request = BytesMut::new();
    put_bytes(&mut request, 1, &compare);
    put_bytes(&mut request, 2, &operation);
    framed(&request)
}

/// The revision that a conditional put made.
///
/// # Errors
/// When the condition did not hold, and as [`read_watch_answer`].
pub fn read_put_if_answer(message: &[u8]) -> Result<u64> {
    let (mut revision, mut succeeded) = (0, false);
    each_field(message, |number, value| {
        match (number, value) {
            (1, Value::Bytes(bytes)) => revision = read_header(bytes)?.revision,
            (2, Value::Number(number)) => succeeded = number != 0,
            _ => {}
        }
        Ok(())
    })?;
    match succeeded {
        true => Ok(revision),
        false => Err(Failure::new("the key was changed by somebody else")),
    }
}

/// Asks for a value, linearizably.
pub fn get_request(key: &[u8]) -> Bytes {
    let mut request = BytesMut::new();
    put_bytes(&mut request, 1, key);
    framed(&request)
}

/// How many values were found.
///
/// # Errors
/// As [`read_watch_answer`].
pub fn read_get_answer(message: &[u8]) -> Result<usize> {
    let mut found = 0;
    each_field(message, |number, value| {
        found += usize::from(matches!((number, value), (2, Value::Bytes(_))));
        Ok(())
    })?;
    Ok(found)
}

/// Asks a member what it is.
pub fn status_request() -> Bytes {
    framed(&[])
}

/// Reads what a watch is told.
///
/// # Errors
/// When the bytes are cut off or make no sense; so for all that is read here.
pub fn read_watch_answer(message: &[u8]) -> Result<WatchAnswer> {
    let mut answer = WatchAnswer::default();
    each_field(message, |number, value| {
        match (number, value) {
            (1, Value::Bytes(bytes)) => answer.header = read_header(bytes)?,
            (3, Value::Number(number)) => answer.created = number != 0,
            (4, Value::Number(number)) => answer.canceled = number != 0,
            (11, Value::Bytes(bytes)) => answer.events.push(read_event(bytes)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(answer)
}

/// The header of the answer to a put: all that is of use in it.
pub fn read_put_answer(message: &[u8]) -> Result<Header> {
    let mut header = Header::default();
    each_field(message, |number, value| {
        if let (1, Value::Bytes(bytes)) = (number, value) {
            header = read_header(bytes)?;
        }
        Ok(())
    })?;
    Ok(header)
}

/// Reads what a member says of itself.
///
/// # Errors
/// As [`read_watch_answer`].
pub fn read_member_status(message: &[u8]) -> Result<MemberStatus> {
    let mut status = MemberStatus::default();
    each_field(message, |number, value| {
        match (number, value) {
            (1, Value::Bytes(bytes)) => status.header = read_header(bytes)?,
            (2, Value::Bytes(bytes)) => status.version = String::from_utf8_lossy(bytes).into(),
            (4, Value::Number(number)) => status.leader = number,
            _ => {}
        }
        Ok(())
    })?;
    Ok(status)
}

fn read_header(message: &[u8]) -> Result<Header> {
    let mut header = Header::default();
    each_field(message, |number, value| {
        match (number, value) {
            (2, Value::Number(member)) => header.member = member,
            (3, Value::Number(revision)) => header.revision = revision,
            _ => {}
        }
        Ok(())
    })?;
    Ok(header)
}

/// The revision of an event: `mod_revision` of its key and value.
fn read_event(message: &[u8]) -> Result<u64> {
    let mut revision = 0;
    each_field(message, |number, value| {
        if let (2, Value::Bytes(pair)) = (number, value) {
            each_field(pair, |number, value| {
                if let (3, Value::Number(number)) = (number, value) {
                    revision = number;
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(revision)
}

/// Takes messages out of bytes that come in any portions.
#[derive(Debug, Default)]
pub struct Unframer {
    buffer: BytesMut,
}

impl Unframer {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn pull(&mut self) -> Result<Option<Bytes>> {
        let Some((prefix, rest)) = self.buffer.split_at_checked(PREFIX_LEN) else {
            return Ok(None);
        };
        let mut prefix = prefix;
        let (compressed, len) = (prefix.get_u8(), prefix.get_u32() as usize);
        if compressed != 0 || len > MESSAGE_LEN_MAX {
            return Err(Failure::new(format!(
                "a message of {len} bytes, compression {compressed}, is not expected"
            )));
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_LEN);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_LEN + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// The value of a field, as far as it matters here.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed length; nothing here has one.
    Other,
}

fn each_field(
    mut message: &[u8],
    mut field: impl FnMut(u64, Value<'_>) -> Result<()>,
) -> Result<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Value::Other)?,
            2 => {
                let len = varint(&mut message)?;
                Value::Bytes(take(&mut message, len)?)
            }
            5 => take(&mut message, 4).map(|_| Value::Other)?,
            kind => return Err(Failure::new(format!("there is no wire type {kind}"))),
        };
        field(tag >> 3, value)?;
    }
    Ok(())
}

fn take<'a>(message: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let taken = usize::try_from(len)
        .ok()
        .and_then(|len| message.split_at_checked(len));
    let (taken, rest) = taken.ok_or_else(cut)?;
    *message = rest;
    Ok(taken)
}

fn varint(message: &mut &[u8]) -> Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Failure::new("a number is longer than ten bytes"))
}

fn cut() -> Failure {
    Failure::new("a message is cut off")
}

fn put_bytes(message: &mut BytesMut, number: u64, value: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, value.len() as u64);
    message.put_slice(value);
}

fn put_number(message: &mut BytesMut, number: u64, value: u64) {
    put_varint(message, number << 3);
    put_varint(message, value);
}

fn put_varint(message: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        message.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    message.put_u8(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_bytes_that_etcd_reads() {
        assert_eq!(
            &watch_request(b"k")[..],
            &[0, 0, 0, 0, 5, 0x0a, 3, 0x0a, 1, b'k']
        );
        let put = put_request(b"k", b"v");
        assert_eq!(&put[..], &[0, 0, 0, 0, 6, 0x0a, 1, b'k', 0x12, 1, b'v']);
        assert_eq!(&status_request()[..], &[0; 5]);
        let put_if = put_if_request(b"k", b"v", 300);
        let compare = [0x10, 2, 0x1a, 1, b'k', 0x30, 0xac, 2];
        let put = [0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v'];
        assert_eq!(
            &put_if[5..],
            [&[0x0a, 8], &compare[..], &[0x12, 8], &put[..]].concat()
        );
        // A length of two bytes.
        assert_eq!(
            &put_request(b"", &[7; 300])[5..10],
            &[0x0a, 0, 0x12, 0xac, 2]
        );
    }

    #[test]
    fn an_answer_is_read_and_what_is_unknown_is_skipped() {
        let mut bytes = BytesMut::new();
        let mut header = BytesMut::new();
        for (number, value) in [(1, 9), (2, u64::MAX), (3, 300), (4, 2)] {
            put_varint(&mut header, number << 3);
            put_varint(&mut header, value);
        }
        put_bytes(&mut bytes, 1, &header);
        bytes.extend_from_slice(&[3 << 3, 1]); // created
        bytes.extend_from_slice(&[0x41, 1, 2, 3, 4, 5, 6, 7, 8]); // eight fixed bytes
        bytes.extend_from_slice(&[0x45, 1, 2, 3, 4]); // four
        for revision in [5, 300] {
            let (mut pair, mut event) = (BytesMut::new(), BytesMut::new());
            put_bytes(&mut pair, 1, b"k");
            put_varint(&mut pair, 3 << 3);
            put_varint(&mut pair, revision);
            put_bytes(&mut event, 2, &pair);
            put_bytes(&mut bytes, 11, &event);
        }
        let read = read_watch_answer(&bytes).unwrap();
        let header = Header {
            member: u64::MAX,
            revision: 300,
        };
        assert_eq!((read.header, read.created), (header, true));
        assert_eq!((read.canceled, read.events), (false, vec![5, 300]));
        assert_eq!(read_put_answer(&bytes).unwrap(), header);
        for len in 1..bytes.len() {
            // Cut anywhere: fewer fields or an error, never a panic.
            let _ = read_watch_answer(&bytes[..len]);
        }
        assert!(read_watch_answer(&bytes[..10]).is_err());
        assert!(read_watch_answer(&[0xff; 11]).is_err());
    }

    #[test]
    fn messages_are_found_in_any_portions() {
        let bytes = [put_request(b"a", b"b"), status_request()].concat();
        let mut unframer = Unframer::default();
        let mut found = Vec::new();
        for byte in bytes {
            unframer.push(&[byte]);
            found.extend(unframer.pull().unwrap());
        }
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].len(), 6);
        unframer.push(&[1, 0, 0, 0, 0]);
        assert!(unframer.pull().is_err());
    }
}
