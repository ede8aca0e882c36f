//! A change as it is stored: under its revision, `kind: u8 | KeyValue (protocol buffer)`.
//!
//! The KeyValue is byte for byte what etcd stores, because HashKV is a checksum over it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::base::broken::BadRecord;
use crate::base::{Broken, RevisionAt};
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};

const PUT: u8 = 0;
const TOMBSTONE: u8 = 1;

/// A stored change.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    pub tombstone: bool,
    /// Of a tombstone, only the key.
    pub kv: KeyValue,
}

impl Record {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(1 + self.kv.encoded_len());
        bytes.put_u8(if self.tombstone { TOMBSTONE } else { PUT });
        self.kv.encode(&mut bytes).expect("the buffer grows as needed");
        bytes.freeze()
    }

    /// Key and value are slices of `bytes`.
    pub fn decode(at: RevisionAt, mut bytes: Bytes) -> Result<Record, Broken> {
        let malformed = || Broken::record(at, BadRecord::Malformed);
        let tombstone = match bytes.try_get_u8().map_err(|_| malformed())? {
            PUT => false,
            TOMBSTONE => true,
            _ => return Err(malformed()),
        };
        let kv = KeyValue::decode(bytes).map_err(|_| malformed())?;
        Ok(Record { tombstone, kv })
    }

    /// What a watcher sees: a deletion shows only key and revision.
    pub fn into_event(self, at: RevisionAt) -> Event {
        let kind = if self.tombstone {
            EventType::Delete
        } else {
            EventType::Put
        };
        let mut kv = self.kv;
        kv.mod_revision = at.main;
        Event {
            r#type: kind.into(),
            kv: Some(kv),
            prev_kv: None,
        }
    }
}
