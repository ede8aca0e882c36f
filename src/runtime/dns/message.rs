//! The question for a service, and its answer (RFC 1035, 2782; EDNS for answers of more than 512 bytes).
//!
//! ```text
//!   header:   id u16 | flags u16 | questions u16 | answers u16 | authorities u16 | additionals u16
//!   question: name | type u16 | class u16
//!   record:   name | type u16 | class u16 | ttl u32 | length u16 | priority u16 | weight u16 | port u16 | target
//!   name:     (length u8 | label)* 0, or at any place a pointer: 11 and 14 bits
//! ```

use super::Service;

const SRV: u16 = 33;
const INTERNET: u16 = 1;
const OPT: u16 = 41;
/// Bytes of an answer that need no fragments anywhere.
pub const UDP_BYTES_MAX: u16 = 1232;

const RESPONSE: u16 = 1 << 15;
pub const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const CODE: u16 = 0xf;
const NO_SUCH_NAME: u16 = 3;

/// Pointers that may follow one another in a name.
const POINTERS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 253;

/// What an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Services(Vec<Service>),
    /// There is more than fits: ask over TCP.
    Truncated,
    NoSuchName,
    /// The server cannot say; another may.
    Failed(u16),
}

/// The bytes of a question; `None` if that is no name.
pub fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    let header = [id, RECURSION_DESIRED, 1, 0, 0, 1];
    header.iter().for_each(|field| bytes.extend(field.to_be_bytes()));
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if length == 0 || label.len() > LABEL_BYTES_MAX {
            return None;
        }
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    [SRV, INTERNET]
        .iter()
        .for_each(|field| bytes.extend(field.to_be_bytes()));
    // EDNS: no name, how much may come, no flags, no data.
    bytes.push(0);
    [OPT, UDP_BYTES_MAX, 0, 0, 0]
        .iter()
        .for_each(|field| bytes.extend(field.to_be_bytes()));
    Some(bytes)
}

/// The answer to the question with this id and name; `None` if it is not that.
pub fn answer(bytes: &[u8], id: u16, name: &str) -> Option<Answer> {
    let mut reader = Reader { bytes, at: 0 };
    let (answered, flags) = (reader.u16()?, reader.u16()?);
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.skip(4)?;
    if answered != id || flags & RESPONSE == 0 || questions != 1 {
        return None;
    }
    let asked = reader.name()?;
    if !asked.eq_ignore_ascii_case(name) || reader.u16()? != SRV || reader.u16()? != INTERNET {
        return None;
    }
    match flags & CODE {
        0 if flags & TRUNCATED != 0 => return Some(Answer::Truncated),
        0 => {}
        NO_SUCH_NAME => return Some(Answer::NoSuchName),
        code => return Some(Answer::Failed(code)),
    }
    let mut services = Vec::new();
    for _ in 0..answers {
        services.extend(reader.record()?);
    }
    services.sort();
    Some(Answer::Services(services))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// The next record: outer `None` if there is none, inner if it is no service that can be called.
    fn record(&mut self) -> Option<Option<Service>> {
        self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        self.skip(4)?;
        let length = usize::from(self.u16()?);
        let mut data = Reader {
            bytes: self.bytes,
            at: self.at,
        };
        self.skip(length)?;
        if kind != SRV || class != INTERNET {
            return Some(None);
        }
        let (priority, weight, port) = (data.u16()?, data.u16()?, data.u16()?);
        let target = data.name()?;
        let service = Service {
            priority,
            weight,
            target,
            port,
        };
        Some(is_host(&service.target).then_some(service))
    }

    /// A name without the dot at its end.
    fn name(&mut self) -> Option<String> {
        let mut name = Vec::new();
        let mut place = Reader {
            bytes: self.bytes,
            at: self.at,
        };
        let mut pointers = 0;
        loop {
            let length = place.u8()?;
            match length >> 6 {
                0b00 if length == 0 => break,
                0b00 => {
                    let end = place.at + usize::from(length);
                    let label = place.bytes.get(place.at..end)?;
                    if !name.is_empty() {
                        name.push(b'.');
                    }
                    name.extend(label);
                    place.at = end;
                }
                0b11 if pointers < POINTERS_MAX => {
                    let low = place.u8()?;
                    if pointers == 0 {
                        self.at = place.at;
                    }
                    pointers += 1;
                    place.at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                }
                _ => return None,
            }
            if name.len() > NAME_BYTES_MAX {
                return None;
            }
        }
        if pointers == 0 {
            self.at = place.at;
        }
        String::from_utf8(name).ok()
    }
}

/// Whether a text can stand in a URL as its host.
fn is_host(text: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(usual)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const NAME: &str = "_x._tcp.a.example";

    /// An answer to [`question`] with these flags and records: priority, weight, port, target as it is encoded.
    pub fn reply(flags: u16, records: &[(u16, u16, u16, &[u8])]) -> Vec<u8> {
        let question = question(7, NAME).unwrap();
        let mut bytes = question[..question.len() - 11].to_vec();
        bytes[2..4].copy_from_slice(&(RESPONSE | flags).to_be_bytes());
        bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        bytes[10..12].copy_from_slice(&[0, 0]);
        for (priority, weight, port, target) in records {
            // The name is the question's.
            bytes.extend([0xc0, 12]);
            let length = 6 + target.len() as u16;
            for field in [SRV, INTERNET, 0, 60, length, *priority, *weight, *port] {
                bytes.extend(field.to_be_bytes());
            }
            bytes.extend(*target);
        }
        bytes
    }

    /// "b." and what stands behind "_tcp." in the question.
    const B: &[u8] = &[1, b'b', 0xc0, 12 + 8];

    fn services(records: &[(u16, u16, u16, &[u8])]) -> Vec<String> {
        match answer(&reply(0, records), 7, NAME) {
            Some(Answer::Services(services)) => services
                .iter()
                .map(|service| format!("{}:{}", service.target, service.port))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn services_come_in_the_order_of_their_priority() {
        let found = services(&[(2, 0, 3, B), (1, 9, 2, b"\x01c\0"), (1, 1, 1, b"\x01d\x01e\0")]);
        assert_eq!(found, ["d.e:1", "c:2", "b.a.example:3"]);
        assert_eq!(services(&[]), [""; 0]);
    }

    #[test]
    fn what_is_no_host_does_not_count() {
        // No target, a comma, bytes that are no text in ASCII.
        let found = services(&[
            (1, 1, 1, b"\0"),
            (1, 1, 2, b"\x03a,b\0"),
            (1, 1, 3, "\u{2}ü\0".as_bytes()),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn an_answer_is_to_the_question() {
        let bytes = reply(0, &[(1, 1, 1, B)]);
        assert!(answer(&bytes, 7, &NAME.to_uppercase()).is_some());
        assert_eq!(answer(&bytes, 8, NAME), None);
        assert_eq!(answer(&bytes, 7, "_y._tcp.a.example"), None);
        assert_eq!(answer(&question(7, NAME).unwrap(), 7, NAME), None);
        for (flags, expected) in [
            (TRUNCATED, Answer::Truncated),
            (NO_SUCH_NAME, Answer::NoSuchName),
            (2, Answer::Failed(2)),
        ] {
            assert_eq!(answer(&reply(flags, &[]), 7, NAME), Some(expected));
        }
    }

    #[test]
    fn a_name_that_points_at_itself_is_none() {
        let bytes = reply(0, &[(1, 1, 1, B)]);
        let target = bytes.len() - 2;
        let mut circle = bytes.clone();
        circle[target..].copy_from_slice(&(0xc000 | target as u16).to_be_bytes());
        assert_eq!(answer(&circle, 7, NAME), None);
        for end in 0..bytes.len() {
            assert_eq!(answer(&bytes[..end], 7, NAME), None, "{end}");
        }
    }

    #[test]
    fn names_are_short_and_have_no_empty_labels() {
        for bad in ["", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert_eq!(question(1, bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(mut noise: Vec<u8>, at: proptest::sample::Index) {
            let _ = answer(&noise, 7, NAME);
            let mut bytes = reply(0, &[(1, 1, 1, B), (1, 1, 2, B)]);
            let at = at.index(bytes.len());
            bytes.truncate(at);
            bytes.append(&mut noise);
            let _ = answer(&bytes, 7, NAME);
        }
    }
}
