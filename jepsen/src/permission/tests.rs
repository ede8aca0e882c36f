use quorate::proto::etcdserverpb as pb;
use tonic::Code;

use super::check;
use crate::history::{Change, Moment, Outcome, Permission, Recorder, Request};
use crate::property::Property;

const LIMITED: u32 = 3;
const SECOND: u64 = 1_000_000_000;

/// What happens, in this order.
enum Step {
    GiveBegins,
    /// An attempt whose outcome is unknown ends.
    GiveUnknown,
    GiveDone,
    TakeBegins,
    TakeDone,
    Read(bool),
    Write(bool),
    ReadElsewhere(bool),
    /// A write that began before the next step, and returns after it.
    WriteAround(bool, Box<Step>),
    Wait,
    AuthOff,
    AuthOn,
}

use Step::*;

/// One permission to read and write; a step takes a millisecond.
struct Play {
    recorder: Recorder,
    now: u64,
    permission: Option<usize>,
    writes: bool,
}

impl Play {
    fn moment(&self) -> Moment {
        self.recorder.moment(self.now)
    }

    fn invoke(&self, request: Request) -> usize {
        self.recorder.invoke(LIMITED, 0, self.now, request)
    }

    fn complete(&self, id: usize, allowed: bool) {
        let outcome = match allowed {
            true => Outcome::Ok(pb::PutResponse::default().into()),
            false => Outcome::Denied {
                code: Code::PermissionDenied,
                text: "etcdserver: permission denied".into(),
            },
        };
        self.recorder.complete(id, self.now, outcome);
    }

    fn call(&self, request: Request, allowed: bool) {
        let id = self.invoke(request);
        self.complete(id, allowed);
    }

    fn change(&self, change: impl FnOnce(&mut Permission)) {
        let permission = self.permission.expect("it was given");
        self.recorder.change_permission(permission, change);
    }

    fn step(&mut self, step: Step) {
        self.now += 1_000_000;
        let now = self.moment();
        match step {
            AuthOff => drop(self.recorder.auth_off(self.now)),
            AuthOn => self.recorder.auth_on(0, self.now),
            GiveBegins => {
                self.permission = Some(self.recorder.permission(Permission {
                    prefix: b"u/1/".to_vec(),
                    reads: true,
                    writes: self.writes,
                    given: begun(now),
                    taken: None,
                }));
            }
            GiveUnknown => self.change(|it| it.given.unknown = Some(now)),
            GiveDone => self.change(|it| it.given.returned = Some(now)),
            TakeBegins => self.change(|it| it.taken = Some(begun(now))),
            TakeDone => self.change(|it| it.taken.as_mut().expect("it has begun").returned = Some(now)),
            Read(allowed) => self.call(read("u/1/0"), allowed),
            Write(allowed) => self.call(write(), allowed),
            ReadElsewhere(allowed) => self.call(read("u/2/0"), allowed),
            WriteAround(allowed, inner) => {
                let id = self.invoke(write());
                self.step(*inner);
                self.complete(id, allowed);
            }
            Wait => self.now += 11 * SECOND,
        }
    }
}

fn begun(invoked: Moment) -> Change {
    Change {
        invoked,
        unknown: None,
        returned: None,
    }
}

fn read(key: &'static str) -> Request {
    let key = key.into();
    pb::RangeRequest {
        key,
        ..Default::default()
    }
    .into()
}

fn write() -> Request {
    let key = "u/1/0".into();
    pb::PutRequest {
        key,
        ..Default::default()
    }
    .into()
}

fn violations(writes: bool, steps: impl IntoIterator<Item = Step>) -> usize {
    let mut play = Play {
        recorder: Recorder::new(),
        now: 0,
        permission: None,
        writes,
    };
    play.recorder.limited(LIMITED);
    for step in steps {
        play.step(step);
    }
    let found = check(&play.recorder.take());
    assert!(found.iter().all(|it| it.property == Property::Permission));
    found.len()
}

#[test]
fn what_follows_the_changes_is_right() {
    let steps = [
        Read(false),
        GiveBegins,
        Read(false),
        Read(true),
        GiveDone,
        Read(true),
        Write(true),
        ReadElsewhere(false),
        TakeBegins,
        Write(true),
        Write(false),
        TakeDone,
        Read(false),
        Write(false),
    ];
    assert_eq!(violations(true, steps), 0);
    let around = [
        WriteAround(true, Box::new(GiveBegins)),
        WriteAround(false, Box::new(GiveDone)),
        WriteAround(false, Box::new(TakeBegins)),
        WriteAround(true, Box::new(TakeDone)),
    ];
    assert_eq!(violations(true, around), 0);
}

#[test]
fn what_nobody_gave_is_refused() {
    assert_eq!(violations(true, [Read(true)]), 1);
    assert_eq!(violations(true, [Read(true), GiveBegins, GiveDone]), 1);
    assert_eq!(violations(true, [GiveBegins, GiveDone, ReadElsewhere(true)]), 1);
    assert_eq!(
        violations(false, [GiveBegins, GiveDone, Read(true), Write(true)]),
        1
    );
}

#[test]
fn what_was_taken_away_is_refused() {
    let steps = [GiveBegins, GiveDone, TakeBegins, TakeDone, Write(true)];
    assert_eq!(violations(true, steps), 1);
}

#[test]
fn what_was_given_is_not_refused() {
    assert_eq!(violations(true, [GiveBegins, GiveDone, Write(false)]), 1);
    assert_eq!(
        violations(false, [GiveBegins, GiveDone, Write(false), Read(false)]),
        1
    );
}

#[test]
fn an_attempt_to_give_may_come_late_but_not_for_ever() {
    let late = [
        GiveBegins,
        GiveUnknown,
        GiveDone,
        TakeBegins,
        TakeDone,
        Write(true),
    ];
    assert_eq!(violations(true, late), 0);
    let over = [
        GiveBegins,
        GiveUnknown,
        GiveDone,
        Wait,
        TakeBegins,
        TakeDone,
        Write(true),
    ];
    assert_eq!(violations(true, over), 1);
}

#[test]
fn while_auth_may_be_off_everybody_may_do_everything() {
    let off = [
        Read(false),
        WriteAround(true, Box::new(AuthOff)),
        Read(true),
        WriteAround(true, Box::new(AuthOn)),
        Read(false),
    ];
    assert_eq!(violations(true, off), 0);
    assert_eq!(violations(true, [AuthOff, AuthOn, Read(true)]), 1);
    assert_eq!(violations(true, [Read(true), AuthOff, AuthOn]), 1);
}
