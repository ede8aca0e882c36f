//! Asks name servers, one after the other.
// Part of the runtime: sockets and timers are the system's here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{self, Answer, UDP_BYTES_MAX};
use super::{Config, Service};

/// The services that a name stands for, best first. `id` should not be guessable.
///
/// # Errors
/// In Go's words: who was asked for what, and said what.
pub async fn lookup(config: &Config, id: u16, name: &str) -> io::Result<Vec<Service>> {
    let mut refused = not_found(name, None);
    for candidate in config.candidates(name) {
        match lookup_exactly(config, id, &candidate).await {
            Ok(services) if !services.is_empty() => return Ok(services),
            Ok(_) => refused = not_found(name, config.servers.first()),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn not_found(name: &str, server: Option<&SocketAddr>) -> io::Error {
    let on = server.map(|server| format!(" on {server}")).unwrap_or_default();
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("lookup {name}{on}: no such host"),
    )
}

async fn lookup_exactly(config: &Config, id: u16, name: &str) -> io::Result<Vec<Service>> {
    let Some(question) = message::question(id, name) else {
        return Err(not_found(name, None));
    };
    let query = Query { id, name, question };
    let mut refused = not_found(name, None);
    for _ in 0..config.attempts {
        for server in &config.servers {
            let context = |error: io::Error| {
                io::Error::new(error.kind(), format!("lookup {name} on {server}: {error}"))
            };
            let asked = tokio::time::timeout(config.timeout, query.ask(server)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(Answer::Services(services)) => return Ok(services),
                Ok(Answer::NoSuchName) => return Err(not_found(name, Some(server))),
                Ok(Answer::Truncated) => refused = context(io::Error::other("the answer is too long")),
                Ok(Answer::Failed(code)) => {
                    refused = context(io::Error::other(format!("server misbehaving (code {code})")));
                }
                Err(error) => refused = context(error),
            }
        }
    }
    Err(refused)
}

struct Query<'a> {
    id: u16,
    name: &'a str,
    question: Vec<u8>,
}

impl Query<'_> {
    async fn ask(&self, server: &SocketAddr) -> io::Result<Answer> {
        match self.ask_udp(server).await? {
            Answer::Truncated => self.ask_tcp(server).await,
            answer => Ok(answer),
        }
    }

    async fn ask_udp(&self, server: &SocketAddr) -> io::Result<Answer> {
        let any: IpAddr = match server.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&self.question).await?;
        let mut bytes = [0; UDP_BYTES_MAX as usize];
        loop {
            let length = socket.recv(&mut bytes).await?;
            // What answers something else was not sent by the server, or to another question.
            if let Some(answer) = message::answer(&bytes[..length], self.id, self.name) {
                return Ok(answer);
            }
        }
    }

    async fn ask_tcp(&self, server: &SocketAddr) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(self.question.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(&self.question);
        stream.write_all(&bytes).await?;
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await?;
        message::answer(&bytes, self.id, self.name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot unmarshal DNS message"))
    }
}
