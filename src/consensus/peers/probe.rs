//! How far away the others are: every member asks every other one for a sign of life, now and then, and takes the time.
//!
//! Nothing depends on it. Heartbeats tell a leader who is well; this is for whoever looks at the metrics of a member
//! that does not lead, and etcd's members do the same. The simulator's do not: no run should differ by being looked at.

use std::time::Duration;

use super::message::PeerRequest;
use crate::base::MemberId;
use crate::consensus::core::Core;
use crate::transport::{Purpose, encode};

impl Core {
    pub async fn run_probes(self, interval: Duration) {
        loop {
            let members: Vec<MemberId> = self.machine().read(|state, _| {
                let ids = state.members().into_iter().map(|member| member.id);
                ids.filter(|id| *id != self.member_id()).collect()
            });
            for peer in members {
                let core = self.clone();
                self.env()
                    .spawn_local(async move { core.probe(peer, interval).await });
            }
            self.env().sleep(interval).await;
        }
    }

    async fn probe(&self, peer: MemberId, interval: Duration) {
        let metrics = self.env().metrics().peers.of(peer);
        // The first question opens the connection, which takes more than one way there and back.
        let connected = metrics.is_active();
        let client = self.peers().client(peer, Purpose::Control);
        let begun = self.env().now();
        let answer = client.call(encode(&PeerRequest::Describe), interval).await;
        // A failure was counted where it happened.
        if answer.is_ok() {
            metrics.reached();
            if connected {
                metrics.round_trip.observe(self.env().now() - begun);
            }
        }
    }
}
