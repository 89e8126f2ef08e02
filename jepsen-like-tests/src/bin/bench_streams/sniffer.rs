//! Looks into a stream of frames without keeping it: which kinds of messages come, and how long.
//!
//! Pure. Ten thousand readers must not cost the machine more than the node that is measured, so
//! bodies are skipped, crcs are not checked, and the state is a few dozen bytes.

/// Length, crc, kind: what comes before the part of a frame's header that does not matter here.
const KIND_AT: usize = 8;
/// What `length` does not count.
const UNCOUNTED_LEN: u64 = 8;
/// The longest head of an answer.
const HEAD_LEN_MAX: usize = 4_096;

/// A frame that has begun and whose kind is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sniffed {
    pub(crate) kind: u8,
    /// Header and body, in bytes.
    pub(crate) len: u64,
}

impl Sniffed {
    pub(crate) fn is_snapshot(self) -> bool {
        self.kind == 1
    }

    pub(crate) fn is_delta(self) -> bool {
        self.kind == 2
    }
}

/// The bytes are not an answer that switches to frames, and those.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stream of frames: {0}")]
pub(crate) struct NotFrames(String);

/// Where one stream is.
#[derive(Debug)]
pub(crate) struct Sniffer {
    /// The head of the answer as far as it has come; none behind it.
    head: Option<Vec<u8>>,
    frame: Frame,
}

#[derive(Debug)]
struct Frame {
    header: [u8; KIND_AT + 1],
    have: usize,
    /// Of the frame's bytes after the kind, how many are left.
    left: u64,
}

impl Default for Sniffer {
    fn default() -> Sniffer {
        Sniffer {
            head: Some(Vec::new()),
            frame: Frame {
                header: [0; KIND_AT + 1],
                have: 0,
                left: 0,
            },
        }
    }
}

impl Sniffer {
    /// Takes bytes; tells every frame that came to an end in them.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut whole: impl FnMut(Sniffed),
    ) -> Result<(), NotFrames> {
        while let (Some(head), Some((byte, rest))) = (&mut self.head, bytes.split_first()) {
            head.push(*byte);
            bytes = rest;
            if head.ends_with(b"\r\n\r\n") {
                check_head(head)?;
                self.head = None;
            } else if head.len() > HEAD_LEN_MAX {
                return Err(NotFrames("the head of the answer does not end".into()));
            }
        }
        self.frame.push(bytes, &mut whole)
    }
}

impl Frame {
    fn push(&mut self, mut data: &[u8], whole: &mut impl FnMut(Sniffed)) -> Result<(), NotFrames> {
        while !data.is_empty() {
            if self.have < self.header.len() {
                self.header[self.have] = data[0];
                self.have += 1;
                data = &data[1..];
                if self.have == self.header.len() {
                    let counted = self.len() - UNCOUNTED_LEN;
                    self.left = counted
                        .checked_sub(1)
                        .ok_or_else(|| NotFrames("an empty frame".into()))?;
                }
            } else {
                let len = usize::try_from(self.left).map_or(data.len(), |l| l.min(data.len()));
                self.left -= len as u64;
                data = &data[len..];
            }
            if self.have == self.header.len() && self.left == 0 {
                whole(Sniffed {
                    kind: self.header[KIND_AT],
                    len: self.len(),
                });
                self.have = 0;
            }
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        let [a, b, c, d, ..] = self.header;
        u64::from(u32::from_le_bytes([a, b, c, d])) + UNCOUNTED_LEN
    }
}

fn check_head(head: &[u8]) -> Result<(), NotFrames> {
    let head = String::from_utf8_lossy(head);
    if !head.starts_with("HTTP/1.1 101 ") {
        let line = head.lines().next().unwrap_or_default();
        return Err(NotFrames(format!("the answer is {line:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_evaluator::Version;
    use pennon_evaluator::wire::{Ages, SharedFrame, StreamMessage};

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: pennon-frames\r\n\r\n";

    fn stream(messages: &[StreamMessage]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut lens) = (HEAD.to_vec(), Vec::new());
        for message in messages {
            let frame = SharedFrame::encode(message).unwrap();
            for part in [&frame.header(Ages::default())[..], frame.body()] {
                bytes.extend_from_slice(part);
            }
            lens.push(frame.len() as u64);
        }
        (bytes, lens)
    }

    #[test]
    fn frames_are_found_in_any_portions() {
        let version = Version::ZERO;
        let digest = pennon_evaluator::Digest::default();
        let messages = [
            StreamMessage::Heartbeat { version },
            StreamMessage::Snapshot {
                version,
                states: vec![vec![b'\n'; 300].into()],
                digest,
            },
            StreamMessage::Delta {
                from: version,
                to: version,
                upserts: Vec::new(),
                removals: Vec::new(),
                digest,
            },
        ];
        let (bytes, lens) = stream(&messages);
        for portion in [1, 2, 3, 7, 64, bytes.len()] {
            let mut sniffer = Sniffer::default();
            let mut found = Vec::new();
            for part in bytes.chunks(portion) {
                sniffer.push(part, |one| found.push(one)).unwrap();
            }
            let found_lens: Vec<u64> = found.iter().map(|one| one.len).collect();
            assert_eq!(found_lens, lens, "portions of {portion}");
            assert!(found[1].is_snapshot() && found[2].is_delta() && !found[0].is_delta());
        }
    }

    #[test]
    fn refusals_and_nonsense_are_told() {
        let refused = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let plain = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let empty = [HEAD, &[0; 9]].concat();
        let endless = [b'x'; HEAD_LEN_MAX + 1];
        for bytes in [&refused[..], plain, &empty, &endless] {
            assert!(Sniffer::default().push(bytes, |_| {}).is_err());
        }
    }
}
