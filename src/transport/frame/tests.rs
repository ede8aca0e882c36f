use super::*;

fn pair() -> (Stream, Stream) {
    let (one, other) = tokio::io::duplex(1 << 20);
    (Stream::new(one, "one"), Stream::new(other, "other"))
}

#[tokio::test]
async fn an_end_is_a_frame_and_the_answer_comes_after_it() {
    let (one, other) = pair();
    let ((mut reader, mut writer), (mut theirs, mut answers)) = (split(one), split(other));
    writer.send(b"asked").await.unwrap();
    writer.end().await.unwrap();
    assert_eq!(theirs.next().await.unwrap().unwrap(), "asked");
    assert_eq!(theirs.next().await.unwrap(), None);
    answers.send(b"answered").await.unwrap();
    answers.end().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "answered");
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn hanging_up_is_not_an_end() {
    let (one, other) = pair();
    let ((reader, mut writer), (mut theirs, _answers)) = (split(one), split(other));
    writer.send(b"asked").await.unwrap();
    drop((reader, writer));
    assert_eq!(theirs.next().await.unwrap().unwrap(), "asked");
    let error = theirs.next().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
}

#[tokio::test]
async fn a_stranger_may_not_have_much_memory_reserved() {
    for (length, is_refused) in [
        (limits::PEER_HELLO_BYTES_MAX, false),
        (limits::PEER_HELLO_BYTES_MAX + 1, true),
    ] {
        let (mut one, mut other) = pair();
        let body = vec![1; length];
        write_first(&mut one, &body).await.unwrap();
        match read_first(&mut other).await {
            Ok(read) => assert!(!is_refused && read == body),
            Err(error) => assert!(is_refused && error.kind() == io::ErrorKind::InvalidData),
        }
    }
}
