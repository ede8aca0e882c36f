use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn small_writes_wait_for_the_flush_and_others_get_their_turn() {
    let (stream, mut peer) = tokio::io::duplex(1 << 20);
    let answers = Unread::default();
    let mut gather = WriteCoalescer::new(stream, answers.clone());
    let other = answers.answer();
    gather.write_all(b"one ").await.unwrap();
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut gather).poll_flush(cx))).await;
    assert!(polled.is_pending(), "one turn for the others");
    gather.write_all(b"two").await.unwrap();
    gather.flush().await.unwrap();
    let mut read = [0; 16];
    let length = peer.read(&mut read).await.unwrap();
    assert_eq!(&read[..length], b"one two");

    drop(other);
    gather.write_all(b"three").await.unwrap();
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut gather).poll_flush(cx))).await;
    assert!(polled.is_ready(), "nobody is waited for in vain");
    let length = peer.read(&mut read).await.unwrap();
    assert_eq!(&read[..length], b"three");
}

#[tokio::test]
async fn everything_arrives_in_order_through_a_narrow_stream() {
    let (stream, mut peer) = tokio::io::duplex(1000);
    let mut gather = WriteCoalescer::new(stream, Unread::default());
    let pieces: Vec<Vec<u8>> = (1..60_u8).map(|n| vec![n; usize::from(n) * 41]).collect();
    let wanted: Vec<u8> = pieces.concat();
    let write = async {
        for (piece, n) in pieces.iter().zip(0..) {
            gather.write_all(piece).await.unwrap();
            if n % 7 == 0 {
                gather.flush().await.unwrap();
            }
        }
        // What was not flushed goes out before the end does.
        gather.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let (_, length) = tokio::join!(write, peer.read_to_end(&mut read));
    assert_eq!(length.unwrap(), wanted.len());
    assert_eq!(read, wanted);
}
