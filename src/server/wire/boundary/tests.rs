use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};

use super::*;
use crate::runtime::panics::poisoned;

fn env() -> Env {
    crate::runtime::tokio::env().counting_anew()
}

fn answering(env: &Env, protocol: Protocol, serve: impl FnOnce(Request<()>) -> Answer) -> Answering {
    let request = Request::get("/etcdserverpb.KV/Range")
        .body(())
        .expect("a request");
    Answering::new(env, protocol, None, request, serve)
}

fn panics(env: &Env) -> u64 {
    env.metrics().requests.panics.get()
}

fn body(frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static) -> Answer {
    let body = tonic::body::Body::new(StreamBody::new(frames));
    std::future::ready(Ok(Response::new(body))).boxed()
}

#[test]
fn a_handler_that_panics_is_answered_for() {
    let begin = |_| -> Answer { panic!("at once") };
    let later = |_| -> Answer { async { panic!("when it is polled") }.boxed() };
    let env = env();
    for serve in [begin, later] {
        let answer = |protocol| {
            answering(&env, protocol, serve)
                .now_or_never()
                .expect("an answer")
        };
        let Ok(grpc) = answer(Protocol::Grpc);
        let status = Status::from_header_map(grpc.headers()).expect("a status");
        assert_eq!((status.code(), status.message()), (tonic::Code::Internal, FAILED));
        let Ok(http) = answer(Protocol::Http);
        assert_eq!(http.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(panics(&env), 4);
}

#[test]
fn a_body_that_panics_ends_and_is_not_asked_again() {
    let env = env();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let frames = || {
            stream::iter([Some(Frame::data(Bytes::from_static(b"1"))), None])
                .map(|frame| Ok(frame.expect("panics on purpose")))
        };
        let Ok(response) = answering(&env, protocol, |_| body(frames()))
            .now_or_never()
            .expect("a response");
        let mut body = response.into_body();
        let mut next = || body.frame().now_or_never().expect("a frame");
        assert!(next().expect("a frame").expect("data").is_data());
        let last = next().expect("an end");
        match protocol {
            Protocol::Grpc => {
                let trailers = last.expect("a frame").into_trailers().expect("trailers");
                let status = Status::from_header_map(&trailers).expect("a status");
                assert_eq!(status.code(), tonic::Code::Internal);
            }
            Protocol::Http => assert_eq!(last.expect_err("an error").code(), tonic::Code::Internal),
        }
        assert!(next().is_none() && next().is_none());
        assert!(body.is_end_stream());
    }
    assert_eq!(panics(&env), 2);
}

/// `unfold` panics if it is asked after its end.
#[test]
fn nothing_is_asked_after_its_end() {
    let env = env();
    let once = || stream::unfold((), |()| async { None::<(Result<Frame<Bytes>, Status>, ())> });
    let Ok(response) = answering(&env, Protocol::Http, |_| body(once()))
        .now_or_never()
        .expect("a response");
    let mut answer = response.into_body();
    let counter = IntCounter::new("x", "x").expect("a counter");
    let mut request = Received::new(StreamBody::new(once().boxed()), &counter);
    for _ in 0..3 {
        assert!(answer.frame().now_or_never().expect("an end").is_none());
        assert!(request.frame().now_or_never().expect("an end").is_none());
    }
    let mut full = Received::new(Full::new(Bytes::from_static(b"abc")), &counter);
    assert!(full.frame().now_or_never().flatten().is_some());
    assert_eq!((counter.get(), panics(&env)), (3, 0));
}

#[test]
fn what_panics_when_it_is_dropped_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a destructor");
        }
    }
    let env = env();
    let waiting = answering(&env, Protocol::Grpc, |_| {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            std::future::pending().await
        }
        .boxed()
    });
    drop(waiting);
    let bomb = Bomb;
    let frames = stream::pending().map(move |frame| {
        let _held = &bomb;
        frame
    });
    let Ok(response) = answering(&env, Protocol::Grpc, |_| body(frames))
        .now_or_never()
        .expect("a response");
    drop(response);
    assert_eq!(panics(&env), 2);
}

#[test]
fn work_that_a_request_has_done_elsewhere_panics_at_its_cost() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .expect("a runtime");
    let env = env();
    let elsewhere = env.clone();
    let answer = answering(&env, Protocol::Grpc, move |_| {
        async move {
            elsewhere.run_blocking(|| panic!("on another thread")).await;
            unreachable!("its caller panics, too")
        }
        .boxed()
    });
    let Ok(response) = runtime.block_on(answer);
    assert!(response.headers().contains_key(Status::GRPC_STATUS));
    assert_eq!(panics(&env), 1, "one panic, however many threads it crosses");
}

#[test]
#[should_panic = "half changed"]
fn a_lock_that_somebody_panicked_under_is_of_no_use() {
    let lock = std::sync::Mutex::new(());
    let held = contain(|| {
        let _held = lock.lock().unwrap_or_else(poisoned);
        panic!("under a lock");
    });
    assert!(held.is_err());
    drop(lock.lock().unwrap_or_else(poisoned));
}

#[test]
fn a_body_that_ends_within_a_message_is_an_error() {
    let counter = IntCounter::new("x", "x").expect("a counter");
    for (pieces, is_whole) in [
        (&[][..], true),
        (&[&b"\0\0\0\0\0"[..]], true),
        (&[b"\0\0\0", b"\0\x02a", b"b\0\0\0\0\0"], true),
        (&[b"\0\0\0\0\x02"], false),
        (&[b"\0\0\0\0\x02a", b"b\0\0\0\0\x01"], false),
        (&[b"\0\0\0\0\x02", b"a"], false),
        // tonic itself judges a head.
        (&[b"\0\0\0"], true),
    ] {
        let frames = pieces
            .iter()
            .map(|&piece| Ok::<_, Status>(Frame::data(Bytes::from_static(piece))));
        let mut request = Received::new(StreamBody::new(stream::iter(frames)), &counter);
        let mut next = || request.frame().now_or_never().expect("ready");
        for _ in pieces {
            assert!(next().is_some_and(|frame| frame.is_ok()));
        }
        assert_eq!(next().is_none(), is_whole, "{pieces:?}");
        assert!(next().is_none(), "one end");
    }
}
