//! A name server of a test's own on the other side.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::message::TRUNCATED;
use super::message::tests::{NAME, reply};
use super::*;

const TARGET: &[u8] = b"\x01a\0";

async fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn config(servers: &[SocketAddr]) -> Config {
    let lines = servers
        .iter()
        .map(|server| format!("nameserver [{}]:{}\n", server.ip(), server.port()));
    Config::parse(&lines.collect::<String>())
}

/// Answers every question with these datagrams.
fn answering(socket: UdpSocket, answers: Vec<Vec<u8>>) {
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut question).await {
            for answer in &answers {
                socket.send_to(answer, from).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn who_fails_is_followed_by_the_next() {
    let (one, first) = server().await;
    let (two, second) = server().await;
    answering(one, vec![reply(2, &[])]);
    // Noise, an answer to another question, the answer.
    let mut foreign = reply(0, &[(1, 1, 9, TARGET)]);
    foreign[1] = 8;
    let answer = reply(0, &[(1, 1, 1, TARGET)]);
    answering(two, vec![vec![1, 2, 3], foreign, answer]);
    let found = lookup(&config(&[first, second]), 7, NAME).await.unwrap();
    assert_eq!((found[0].target.as_str(), found[0].port), ("a", 1));
}

#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let (socket, address) = server().await;
    let listener = TcpListener::bind(address).await.unwrap();
    answering(socket, vec![reply(TRUNCATED, &[])]);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        stream.read_exact(&mut vec![0; length.into()]).await.unwrap();
        let many: Vec<(u16, u16, u16, &[u8])> = (0..200).map(|n| (1, 1, n, TARGET)).collect();
        let answer = reply(0, &many);
        stream.write_u16(answer.len() as u16).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    assert_eq!(lookup(&config(&[address]), 7, NAME).await.unwrap().len(), 200);
}

#[tokio::test]
async fn nothing_is_an_error() {
    for answer in [reply(0, &[]), reply(3, &[])] {
        let (socket, address) = server().await;
        answering(socket, vec![answer]);
        let error = lookup(&config(&[address]), 7, NAME).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("lookup {NAME} on {address}: no such host")
        );
    }
}
