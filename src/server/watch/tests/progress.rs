//! Progress that clients ask for, or that the ticker finds.

use super::*;

#[test]
fn manual_progress_comes_behind_the_events_or_not_at_all() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.progress();
    client.check(&[]);
    client.create(create("a", ""));
    client.create(create("b", ""));
    client.check(&["0@1 created", "1@1 created"]);
    member.put("a", "1");
    client.progress();
    member.put("z", "1");
    client.check(&["0@2 a=1/2", "-1@3"]);
    client.create(from("a", "", 100));
    client.progress();
    client.check(&["2@3 created"]);
}

#[test]
fn progress_is_notified_to_watches_that_had_nothing() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        progress_notify: true,
        ..create("a", "")
    });
    client.create(create("a", ""));
    client.create(WatchCreateRequest {
        progress_notify: true,
        ..from("b", "", 3)
    });
    client.check(&["0@1 created", "1@1 created", "2@1 created"]);
    client.tick();
    client.check(&["0@1"]);
    member.put("a", "1");
    member.put("z", "1");
    client.check(&["0@2 a=1/2", "1@2 a=1/2"]);
    client.tick();
    client.check(&["2@3"]);
    client.tick();
    client.check(&["0@3", "2@3"]);
    // Events that wait come before the progress that the tick finds.
    member.put("b", "2");
    client.tick();
    client.check(&["2@4 b=2/4", "0@4"]);
}
