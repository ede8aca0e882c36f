use futures_util::{FutureExt, StreamExt, stream};

use super::*;

type Item = Result<u32, Status>;

fn guarded<S: Stream<Item = Item>>(
    streams: &Arc<Streams>,
    needs_leader: bool,
    deadline: Option<BoxFuture<'static, ()>>,
    stream: S,
) -> (Guarded<S>, Arc<Metrics>) {
    let metrics = Metrics::new(Arc::default());
    let env = crate::runtime::tokio::env();
    let record = Record {
        metrics: metrics.clone(),
        rpc: Rpc::Watch,
        begun: env.now(),
        env,
        span: None,
    };
    (
        Guarded::new(streams, record, needs_leader, deadline, stream),
        metrics,
    )
}

fn end<S: Stream<Item = Item>>(stream: &mut Guarded<S>) -> Option<Option<(tonic::Code, String)>> {
    let next = stream.next().now_or_never()?;
    Some(next.map(|item| {
        let status = item.expect_err("the stream should end");
        (status.code(), status.message().to_owned())
    }))
}

#[test]
fn only_streams_that_demand_a_leader_end_without_one() {
    let streams = Arc::new(Streams::default());
    let (mut strict, _) = guarded(&streams, true, None, stream::pending());
    let (mut lax, _) = guarded(&streams, false, None, stream::pending());
    assert_eq!(end(&mut strict), None);
    streams.end_leaderless(Denied::NoLeader);
    assert_eq!(
        end(&mut strict),
        Some(Some((tonic::Code::Unavailable, "etcdserver: no leader".into())))
    );
    assert_eq!(end(&mut strict), Some(None), "nothing follows the status");
    assert_eq!(end(&mut lax), None);
    assert_eq!(streams.lock().len(), 1);
}

#[test]
fn a_stop_ends_every_stream_also_a_late_one() {
    let streams = Arc::new(Streams::default());
    let (mut early, _) = guarded(&streams, false, None, stream::pending());
    streams.end_all(Denied::Stopped);
    let (mut late, _) = guarded(&streams, false, None, stream::pending());
    let stopped = Some(Some((
        tonic::Code::Unavailable,
        "etcdserver: server stopped".into(),
    )));
    assert_eq!(end(&mut early), stopped);
    assert_eq!(end(&mut late), stopped);
}

#[test]
fn a_deadline_ends_its_stream() {
    let streams = Arc::new(Streams::default());
    let deadline = futures_util::future::ready(()).boxed();
    let (mut stream, _) = guarded(&streams, false, Some(deadline), stream::pending());
    assert_eq!(
        end(&mut stream),
        Some(Some((
            tonic::Code::DeadlineExceeded,
            "context deadline exceeded".into()
        )))
    );
}

#[test]
fn a_stream_is_counted_once_with_its_code() {
    let streams = Arc::new(Streams::default());
    let (mut whole, metrics) = guarded(&streams, false, None, stream::iter([Ok(1), Ok(2)]));
    while whole.next().now_or_never().flatten().is_some() {}
    drop(whole);
    let (left, left_metrics) = guarded(&streams, false, None, stream::pending());
    drop(left);
    let sample = crate::server::metrics::Sample::default();
    let count = |metrics: &Metrics, code: &str| {
        let text = String::from_utf8(metrics.render(&sample, "x")).expect("text");
        let name = format!("grpc_server_handled_total{{grpc_code=\"{code}\"");
        text.lines()
            .filter(|line| line.starts_with(&name) && !line.ends_with(" 0"))
            .map(|line| line.ends_with(" 1"))
            .collect::<Vec<_>>()
    };
    assert_eq!(metrics.rpc(Rpc::Watch).msg_sent.get(), 2);
    assert_eq!(
        (count(&metrics, "OK"), count(&metrics, "Canceled")),
        (vec![true], vec![])
    );
    assert_eq!(
        (count(&left_metrics, "OK"), count(&left_metrics, "Canceled")),
        (vec![], vec![true])
    );
    assert!(streams.lock().is_empty());
}

/// An item that is ready, if one is: a request, or the code and text of the end.
fn ready<S: Stream<Item = Item> + Unpin>(
    requests: &mut Requests<S>,
) -> Option<Result<u32, (tonic::Code, String)>> {
    let next = requests.next().now_or_never().expect("an item, or the end");
    next.map(|item| item.map_err(|status| (status.code(), status.message().to_owned())))
}

#[test]
fn requests_end_with_the_first_that_cannot_be_read() {
    let metrics = Metrics::new(Arc::default());
    let broken = || Err(Status::internal("failed to decode"));
    // As tonic's own: the error for ever.
    let stream = stream::iter([Ok(1), Ok(2)]).chain(stream::repeat_with(broken));
    let mut requests = Requests::new(&metrics, Rpc::Watch, "watch", Box::pin(stream));
    assert_eq!(ready(&mut requests), Some(Ok(1)));
    assert_eq!(ready(&mut requests), Some(Ok(2)));
    let end = (tonic::Code::Internal, "failed to decode".to_owned());
    assert_eq!(ready(&mut requests), Some(Err(end)));
    assert_eq!(ready(&mut requests), None);
    assert_eq!(ready(&mut requests), None);
    assert_eq!(metrics.rpc(Rpc::Watch).msg_received.get(), 2);
    let text = String::from_utf8(metrics.render(&crate::server::metrics::Sample::default(), "x"));
    let failed = "etcd_network_server_stream_failures_total{API=\"watch\",Type=\"receive\"} 1";
    assert!(text.expect("text").lines().any(|line| line == failed));
}

#[test]
fn requests_that_end_are_not_asked_again() {
    let metrics = Metrics::new(Arc::default());
    let mut ends = 0;
    let stream = stream::poll_fn(|_| {
        ends += 1;
        assert_eq!(ends, 1, "asked after the end");
        Poll::Ready(None)
    });
    let mut requests = Requests::new(&metrics, Rpc::LeaseKeepAlive, "lease-keepalive", stream);
    assert_eq!(ready(&mut requests), None);
    assert_eq!(ready(&mut requests), None);
}
