//! gRPC's codec: prost's, which looks at how deep a transaction is nested before it decodes one.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::etcdserverpb::TxnRequest;
use super::nesting;
use crate::base::Denied;

/// Of an error's text: prost names every message on the way to the fault, and there may be hundreds.
const ERROR_CHARS_MAX: usize = 200;

/// See the module.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Checked<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Checked<U> {
        Checked(PhantomData)
    }
}

/// The decoding half.
pub struct Checked<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for Checked<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Without a copy: the buffer holds exactly the message.
        let message = buffer.copy_to_bytes(buffer.remaining());
        if TypeId::of::<U>() == TypeId::of::<TxnRequest>() && !nesting::txn_fits(&message) {
            // etcd counts levels as operations.
            let (code, text) = (Denied::TooManyOps.code(), Denied::TooManyOps.text());
            return Err(Status::new(tonic::Code::from_i32(code as i32), text));
        }
        let decoded = U::decode(message).map_err(|error| {
            let text: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
            Status::internal(text)
        })?;
        Ok(Some(decoded))
    }
}
