//! The two messages that contain themselves, with an encoding of their own.
//!
//! prost gives up on messages that are nested a hundred deep, counted from the outermost one. So a transaction that
//! could just be decoded could not be decoded any more once a command was put around it. Here every
//! transaction begins a new count: nothing depends on what is around it. How deep transactions may be nested in
//! each other is judged by [`nesting`](super::nesting), before anything is decoded.

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, bool, message, skip_field};
use prost::{DecodeError, Message};

use super::etcdserverpb::{Compare, RequestOp, ResponseHeader, ResponseOp, request_op::Request};

/// Compares, and what is done if all of them hold, or else.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<RequestOp>,
    pub failure: Vec<RequestOp>,
}

impl TxnRequest {
    /// Operations of the greater branch, those of nested transactions included.
    pub fn operations(&self) -> usize {
        let branch = |ops: &[RequestOp]| -> usize {
            let operations = |op: &RequestOp| match &op.request {
                Some(Request::RequestTxn(nested)) => nested.operations(),
                _ => 1,
            };
            ops.iter().map(operations).sum()
        };
        branch(&self.success).max(branch(&self.failure))
    }
}

/// The answers of the operations that were carried out.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TxnResponse {
    pub header: Option<ResponseHeader>,
    pub succeeded: bool,
    pub responses: Vec<ResponseOp>,
}

impl Message for TxnRequest {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(1, &self.compare, buf);
        message::encode_repeated(2, &self.success, buf);
        message::encode_repeated(3, &self.failure, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        _outer: DecodeContext,
    ) -> Result<(), DecodeError> {
        let context = DecodeContext::default();
        match tag {
            1 => message::merge_repeated(wire_type, &mut self.compare, buf, context),
            2 => message::merge_repeated(wire_type, &mut self.success, buf, context),
            3 => message::merge_repeated(wire_type, &mut self.failure, buf, context),
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(1, &self.compare)
            + message::encoded_len_repeated(2, &self.success)
            + message::encoded_len_repeated(3, &self.failure)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for TxnResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(header) = &self.header {
            message::encode(1, header, buf);
        }
        if self.succeeded {
            bool::encode(2, &self.succeeded, buf);
        }
        message::encode_repeated(3, &self.responses, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        _outer: DecodeContext,
    ) -> Result<(), DecodeError> {
        let context = DecodeContext::default();
        match tag {
            1 => {
                let header = self.header.get_or_insert_default();
                message::merge(wire_type, header, buf, context)
            }
            2 => bool::merge(wire_type, &mut self.succeeded, buf, context),
            3 => message::merge_repeated(wire_type, &mut self.responses, buf, context),
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let header = self
            .header
            .as_ref()
            .map_or(0, |header| message::encoded_len(1, header));
        let succeeded = match self.succeeded {
            true => bool::encoded_len(2, &true),
            false => 0,
        };
        header + succeeded + message::encoded_len_repeated(3, &self.responses)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
