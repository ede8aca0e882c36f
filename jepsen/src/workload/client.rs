//! A client: draws operations or follows a script, calls one member at a time, records what it saw.

use std::time::Duration;

use quorate::runtime::Env;

use super::retry::call_as_clientv3;
use super::script::{ScriptedCall, ScriptedClient, Scripts};
use super::{
    Clock, Connection, Consistency, Generator, Knowledge, Retry, Shape, Stop, Token, User, call, is_stranger,
    wire_form,
};
use crate::history::{Nanos, Outcome, Recorder, Request};

/// Before another attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
    pub connect_timeout: Duration,
    /// What is sent again without anybody noticing.
    pub retry: Retry,
    /// Mean pause between two calls.
    pub pause: Duration,
    pub consistency: Consistency,
    /// Calls after which the client moves to another member; 0: only after a failure.
    pub calls_per_member: u32,
}

/// What every client works with.
#[derive(Clone)]
pub struct Desk {
    pub env: Env,
    pub clock: Clock,
    pub recorder: Recorder,
    /// Where it writes down what it does, so that it can be done again.
    pub scripts: Scripts,
}

/// Runs until `stop`, recording every call. After an unknown outcome the connection is given up, as
/// the late answer would be nobody's, and another member is tried.
pub async fn run_client(desk: Desk, mut generator: Generator, options: ClientOptions, stop: Stop) {
    let mut member = generator.pick(options.addresses.len());
    let mut token = None;
    while !stop.clients_stopped() {
        desk.scripts.visit(options.client, desk.clock.now(), member);
        match connect(&desk, &options, member, &mut token).await {
            Some(connection) => {
                let mut session = Session::new(&desk, &options, connection, member);
                session.draw_calls(&mut generator, &stop).await;
                session.end(&mut token).await;
            }
            // Nothing was sent, so nothing is recorded.
            None => desk.env.sleep(RECONNECT_PAUSE).await,
        }
        member = generator.pick(options.addresses.len());
    }
}

/// Does again what a client did: each call at its time, or later if there is no connection or the call before
/// takes longer. What cannot be called before `stop` is left out.
pub async fn run_script(
    desk: Desk,
    script: ScriptedClient,
    shape: Shape,
    options: ClientOptions,
    stop: Stop,
) {
    let mut knowledge = Knowledge::new(options.client, &shape);
    let mut token = None;
    for visit in &script.visits {
        let member = visit.member % options.addresses.len();
        let mut calls = visit.calls.as_slice();
        wait_until(&desk, visit.at_nanos).await;
        loop {
            if stop.clients_stopped() {
                return;
            }
            if let Some(connection) = connect(&desk, &options, member, &mut token).await {
                let mut session = Session::new(&desk, &options, connection, member);
                calls = session.scripted_calls(&mut knowledge, calls, &stop).await;
                session.end(&mut token).await;
            } else if !calls.is_empty() {
                desk.env.sleep(RECONNECT_PAUSE).await;
            }
            if calls.is_empty() {
                break;
            }
        }
    }
}

/// Logs in where the client has no token yet.
async fn connect(
    desk: &Desk,
    options: &ClientOptions,
    member: usize,
    token: &mut Option<Token>,
) -> Option<Connection> {
    let (address, timeout) = (&options.addresses[member], options.connect_timeout);
    let connection = match token.clone() {
        Some(token) => Connection::open_with(&desk.env, address, timeout, token).await?,
        None => Connection::open(&desk.env, address, timeout, options.user.as_ref()).await?,
    };
    *token = Some(connection.token());
    Some(connection)
}

async fn wait_until(desk: &Desk, at: Nanos) {
    if let Some(wait) = at.checked_sub(desk.clock.now()).filter(|wait| *wait > 0) {
        desk.env.sleep(Duration::from_nanos(wait)).await;
    }
}

/// The calls over one connection.
struct Session<'a> {
    desk: &'a Desk,
    options: &'a ClientOptions,
    connection: Connection,
    member: usize,
    /// The last call was refused because of the token.
    is_stranger: bool,
}

impl<'a> Session<'a> {
    fn new(desk: &'a Desk, options: &'a ClientOptions, connection: Connection, member: usize) -> Self {
        Session {
            desk,
            options,
            connection,
            member,
            is_stranger: false,
        }
    }

    /// A token that was refused is forgotten; a member that lags behind would refuse the next one at once too.
    async fn end(self, token: &mut Option<Token>) {
        if self.is_stranger {
            *token = None;
            self.desk.env.sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn draw_calls(&mut self, generator: &mut Generator, stop: &Stop) {
        let mut calls = 0;
        while !stop.clients_stopped() && !self.connection.is_closed() {
            let (intent, request) = generator.next_call();
            let now = self.desk.clock.now();
            self.desk.scripts.call(self.options.client, now, intent);
            let outcome = self.call(&request).await;
            generator.observe(&request, &outcome);
            self.is_stranger = is_stranger(&outcome);
            if outcome.is_unknown() || self.is_stranger {
                return;
            }
            calls += 1;
            if self.options.calls_per_member > 0 && calls >= self.options.calls_per_member {
                return;
            }
            let pause = generator.pause(self.options.pause);
            self.desk.env.sleep(pause).await;
        }
    }

    /// Returns the calls that this connection could not carry.
    async fn scripted_calls<'s>(
        &mut self,
        knowledge: &mut Knowledge,
        mut calls: &'s [ScriptedCall],
        stop: &Stop,
    ) -> &'s [ScriptedCall] {
        while let Some((next, rest)) = calls.split_first() {
            wait_until(self.desk, next.at_nanos).await;
            if stop.clients_stopped() || self.connection.is_closed() {
                return calls;
            }
            let request = knowledge.request(&next.intent);
            let outcome = self.call(&request).await;
            knowledge.observe(&request, &outcome);
            calls = rest;
            self.is_stranger = is_stranger(&outcome);
            if outcome.is_unknown() || self.is_stranger {
                break;
            }
        }
        calls
    }

    async fn call(&self, request: &Request) -> Outcome {
        let Desk {
            env, clock, recorder, ..
        } = self.desk;
        let wire = wire_form(request, self.options.consistency);
        let member = self.member as u32;
        let id = recorder.invoke(self.options.client, member, clock.now(), request.clone());
        let outcome = match self.options.retry {
            Retry::Never => call(env, &self.connection, &wire, self.options.call_timeout).await,
            Retry::Clientv3 => {
                let first = (&self.connection, self.member);
                call_as_clientv3(self.desk, self.options, first, id, &wire).await
            }
        };
        recorder.complete(id, clock.now(), outcome.clone());
        outcome
    }
}
