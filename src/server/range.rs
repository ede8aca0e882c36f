//! Large ranges without holding the state's lock for long: at one revision, a piece at a time.
//!
//! The first look counts and reads a few keys; most ranges end there. What is left is read in pieces that are
//! bounded in keys and bytes, each under its own look, so that writes go on in between. A compaction that
//! passes the revision in the middle cannot hurt a client that asked for "now": the range starts again.
//!
//! Sorted and filtered ranges need everything at once, as in etcd, and are read in one look.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

use super::Api;
use super::auth::Caller;
use super::auth::access::Permit;
use super::kv::Shared;
use super::status::status;
use crate::base::{Denied, Revision, limits};
use crate::proto::etcdserverpb::{
    RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, range_request::SortOrder,
    range_request::SortTarget,
};
use crate::proto::mvccpb::KeyValue;
use crate::runtime::buggify::{self, Site, pause};
use crate::state::check;

/// How often a range starts again behind a compaction before it is read in one look.
const RESTARTS_MAX: usize = 2;
/// Keys in the first message of a range stream, as etcd.
const STREAM_KEYS_FIRST: usize = 10;
/// The longest pause between two pieces, in a simulation.
const PIECE_PAUSE: Duration = Duration::from_millis(500);

/// The local state's answer. The header carries only the revision.
pub async fn local(api: &Api, request: RangeRequest) -> Result<RangeResponse, Denied> {
    if !in_pieces(&request) {
        return whole(api, &request);
    }
    for _ in 0..RESTARTS_MAX {
        match pieces(api, &request).await {
            Err(Denied::COMPACTED) if request.revision <= 0 => {}
            answer => return answer,
        }
    }
    whole(api, &request)
}

fn whole(api: &Api, request: &RangeRequest) -> Result<RangeResponse, Denied> {
    api.consensus
        .read_store(|state, store| state.range(request, store))?
}

/// Whether parts in key order, put together, are the answer.
fn in_pieces(request: &RangeRequest) -> bool {
    let natural = request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend;
    !request.range_end.is_empty() && !request.count_only && natural && !check::has_revision_filter(request)
}

async fn pieces(api: &Api, request: &RangeRequest) -> Result<RangeResponse, Denied> {
    let first_keys = buggify::limit(Site::RangeTinyPieces, limits::RANGE_FIRST_KEYS, 3);
    let (mut pieces, mut response) = Pieces::open(api, request, first_keys)?;
    while !pieces.is_done() {
        let_others_run().await;
        pause(&api.env, Site::RangePieceLate, PIECE_PAUSE).await;
        let piece_keys = buggify::limit(Site::RangeTinyPieces, limits::RANGE_PIECE_KEYS, 3);
        let kvs = pieces.next(api, piece_keys, limits::RANGE_PIECE_BYTES)?;
        response.kvs.extend(kvs);
    }
    pieces.close(&mut response);
    Ok(response)
}

/// Lets other tasks of this thread run between two pieces.
async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A range in key order that is read piece by piece at one revision.
struct Pieces {
    request: RangeRequest,
    revision: Revision,
    /// Where the next piece begins; `None`: all is read.
    next: Option<Bytes>,
    /// Keys read so far.
    taken: usize,
    header: Option<ResponseHeader>,
    count: i64,
}

impl Pieces {
    /// Takes the first look: at most `keys` keys, the count, and the revision that every piece will show.
    fn open(api: &Api, request: &RangeRequest, keys: usize) -> Result<(Pieces, RangeResponse), Denied> {
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let keys = if limit == 0 { keys } else { keys.min(limit) };
        let first = RangeRequest {
            limit: keys as i64,
            ..request.clone()
        };
        let mut response = whole(api, &first)?;
        let now = response.header.as_ref().map_or(0, |header| header.revision);
        let pieces = Pieces {
            revision: if request.revision > 0 {
                request.revision
            } else {
                now
            },
            next: if response.more {
                response.kvs.last().map(|kv| after(&kv.key))
            } else {
                None
            },
            taken: response.kvs.len(),
            header: response.header.take(),
            count: response.count,
            request: request.clone(),
        };
        (response.count, response.more) = (0, false);
        Ok((pieces, response))
    }

    fn limit_left(&self) -> usize {
        match usize::try_from(self.request.limit) {
            Ok(limit) if limit > 0 => limit.saturating_sub(self.taken),
            _ => usize::MAX,
        }
    }

    fn is_done(&self) -> bool {
        self.next.is_none() || self.limit_left() == 0
    }

    fn next(&mut self, api: &Api, keys: usize, bytes: usize) -> Result<Vec<KeyValue>, Denied> {
        let Some(from) = self.next.take() else {
            return Ok(Vec::new());
        };
        let bounds = (keys.min(self.limit_left()), bytes);
        let look = api
            .consensus
            .read_store(|state, store| state.range_part(&self.request, &from, self.revision, bounds, store));
        let part = look??;
        self.next = part.next;
        self.taken += part.kvs.len();
        Ok(part.kvs)
    }

    /// Fills in what belongs to the range as a whole.
    fn close(&self, response: &mut RangeResponse) {
        response.header = self.header;
        response.count = self.count;
        response.more = self.next.is_some();
    }
}

/// The smallest key behind `key`.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The messages of a range stream.
pub struct Chunks {
    api: Shared,
    request: RangeRequest,
    who: Caller,
    permit: Option<Permit>,
    open: Option<Pieces>,
    keys: usize,
    done: bool,
}

impl Chunks {
    pub fn new(api: Shared, request: RangeRequest, who: Caller) -> Self {
        Chunks {
            api,
            request,
            who,
            permit: None,
            open: None,
            keys: STREAM_KEYS_FIRST,
            done: false,
        }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<RangeStreamResponse, Status>> + Send {
        stream::unfold(self, |mut chunks| async move {
            if chunks.done {
                return None;
            }
            let chunk = chunks.next().await;
            chunks.done |= chunk.is_err();
            let answer = |response| RangeStreamResponse {
                range_response: Some(response),
            };
            Some((chunk.map(answer).map_err(status), chunks))
        })
    }

    async fn next(&mut self) -> Result<RangeResponse, Denied> {
        let bytes_max = self.api.options.max_request_bytes;
        let mut response = match &mut self.open {
            Some(open) => RangeResponse {
                kvs: open.next(&self.api, self.keys, bytes_max)?,
                ..Default::default()
            },
            None => {
                if !self.request.serializable {
                    self.api.consensus.read_barrier().await?;
                }
                self.permit = Some(self.api.permit_range(&self.request, &self.who).await?);
                if !in_pieces(&self.request) {
                    self.done = true;
                    let mut response = whole(&self.api, &self.request)?;
                    self.api.complete(&mut response.header);
                    return Ok(response);
                }
                let (pieces, response) = Pieces::open(&self.api, &self.request, self.keys)?;
                self.open = Some(pieces);
                response
            }
        };
        if let Some(permit) = &self.permit {
            self.api.confirm(permit)?;
        }
        let bytes = response.encoded_len();
        if bytes < bytes_max / 2 {
            self.keys = (self.keys * 2).min(limits::RANGE_PIECE_KEYS);
        } else if bytes > bytes_max {
            self.keys = (self.keys / 2).max(1);
        }
        if let Some(open) = &self.open
            && open.is_done()
        {
            open.close(&mut response);
            self.api.complete(&mut response.header);
            self.done = true;
        }
        Ok(response)
    }
}
