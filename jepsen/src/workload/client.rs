//! A client: draws operations, sends them to one member at a time, records what it saw.

use std::time::Duration;

use quorate::runtime::Env;

use super::{Clock, Connection, Consistency, Generator, Stop, User, call, is_stranger, wire_form};
use crate::history::{Outcome, Recorder};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
    pub connect_timeout: Duration,
    /// Mean pause between two calls.
    pub pause: Duration,
    pub consistency: Consistency,
    /// Calls after which the client moves to another member; 0: only after a failure.
    pub calls_per_member: u32,
}

/// Runs until `stop`, recording every call. After an unknown outcome the connection is given up, as
/// the late answer would be nobody's, and another member is tried.
pub async fn run_client(
    env: Env,
    clock: Clock,
    recorder: Recorder,
    mut generator: Generator,
    options: ClientOptions,
    stop: Stop,
) {
    let mut member = generator.pick(options.addresses.len());
    while !stop.clients_stopped() {
        let address = &options.addresses[member];
        match Connection::open(&env, address, options.connect_timeout, options.user.as_ref()).await {
            Some(connection) => {
                let session = Session {
                    env: &env,
                    clock: &clock,
                    recorder: &recorder,
                    options: &options,
                    connection,
                    member,
                };
                session.run(&mut generator, &stop).await;
            }
            // Nothing was sent, so nothing is recorded.
            None => env.sleep(Duration::from_millis(50)).await,
        }
        member = generator.pick(options.addresses.len());
    }
}

/// The calls over one connection.
struct Session<'a> {
    env: &'a Env,
    clock: &'a Clock,
    recorder: &'a Recorder,
    options: &'a ClientOptions,
    connection: Connection,
    member: usize,
}

impl Session<'_> {
    async fn run(&self, generator: &mut Generator, stop: &Stop) {
        let mut calls = 0;
        while !stop.clients_stopped() && !self.connection.is_closed() {
            let outcome = self.one_call(generator).await;
            if outcome.is_unknown() || is_stranger(&outcome) {
                return;
            }
            calls += 1;
            if self.options.calls_per_member > 0 && calls >= self.options.calls_per_member {
                return;
            }
            let pause = generator.pause(self.options.pause);
            self.env.sleep(pause).await;
        }
    }

    async fn one_call(&self, generator: &mut Generator) -> Outcome {
        let request = generator.next_request();
        let wire = wire_form(&request, self.options.consistency);
        let member = self.member as u32;
        let id = self
            .recorder
            .invoke(self.options.client, member, self.clock.now(), request.clone());
        let outcome = call(self.env, &self.connection, &wire, self.options.call_timeout).await;
        generator.observe(&request, &outcome);
        self.recorder.complete(id, self.clock.now(), outcome.clone());
        outcome
    }
}
