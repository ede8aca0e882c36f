#![expect(clippy::disallowed_methods, reason = "several threads are what is tested")]

use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::runtime::channel::{Answer, Limits, Receiver, Sender, answer, channel};
use crate::runtime::tokio::{env, new_runtime};
use crate::runtime::{Env, Work};

const QUESTIONS: Limits = Limits {
    count: 1024,
    bytes: usize::MAX,
};

type Question = (u64, Answer<u64>);

/// A core that answers what it is asked with the number after, by some way.
fn start_core(env: &Env, mut questions: Receiver<Question>, send: fn(&Env, Work)) {
    let core_env = env.clone();
    let core = move || async move {
        while let Some((number, answer)) = questions.recv().await {
            send(&core_env, Box::new(move || answer.send(number + 1)));
        }
    };
    env.start_core(core, || ()).unwrap();
}

async fn ask(core: &Sender<Question>, number: u64) -> u64 {
    let (answer, answered) = answer();
    core.send((number, answer), 0).await.ok().unwrap();
    answered.await.unwrap()
}

/// Many ask a core at the same time, and each gets each answer: no wake-up is lost on either way.
fn all_are_answered(send: fn(&Env, Work)) {
    const ASKERS: u64 = 64;
    const EACH: u64 = 300;
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = new_runtime().unwrap();
        runtime.block_on(async {
            let env = env();
            let (core, questions) = channel(QUESTIONS);
            start_core(&env, questions, send);
            let asker = |start: u64| {
                let core = core.clone();
                env.spawn(async move {
                    for number in start..start + EACH {
                        assert_eq!(ask(&core, number).await, number + 1);
                    }
                })
            };
            let askers: Vec<_> = (0..ASKERS).map(asker).collect();
            for asker in askers {
                assert_eq!(asker.await, Some(()));
            }
        });
        done.send(()).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(60))
        .expect("somebody was not woken");
}

#[test]
fn whoever_is_answered_by_the_core_is_woken() {
    all_are_answered(|_, send| send());
}

#[test]
fn whoever_is_answered_by_the_io_threads_is_woken() {
    all_are_answered(|env, send| env.post(send));
}

/// A thread that keeps the core's wake-up, and then does something else that never waits, wakes it all the same.
#[test]
fn who_is_busy_wakes_the_core_in_time() {
    let runtime = new_runtime().unwrap();
    runtime.block_on(async {
        let env = env();
        let (core, questions) = channel(QUESTIONS);
        start_core(&env, questions, |_, send| send());
        let busy = |core: Sender<Question>| async move {
            let mut asked = Box::pin(ask(&core, 7));
            let mut polls = 0;
            // It wakes itself for as long as it has no answer.
            std::future::poll_fn(|cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                // Only a thread that was busy before keeps anything.
                match polls > 100 {
                    true => asked.as_mut().poll(cx),
                    false => std::task::Poll::Pending,
                }
            })
            .await
        };
        let answered = env.spawn(busy(core));
        let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
        assert_eq!(answered.expect("the core was not woken"), Some(8));
    });
}

/// One io thread hears the driver, and then does something long; another one, which sleeps, wakes who is answered meanwhile.
#[test]
fn an_answer_does_not_wait_for_who_is_busy() {
    const BUSY: Duration = Duration::from_millis(500);
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("skipped: there is one io thread");
        return;
    }
    let runtime = new_runtime().unwrap();
    runtime.block_on(async {
        let env = env();
        let (core, questions) = channel(QUESTIONS);
        start_core(&env, questions, |_, send| {
            std::thread::sleep(BUSY / 5);
            send();
        });
        let timer = env.sleep(BUSY / 10);
        env.spawn(async move {
            timer.await;
            std::thread::sleep(BUSY);
        });
        let begun = std::time::Instant::now();
        let asker = env.spawn(async move { ask(&core, 7).await });
        assert_eq!(asker.await, Some(8));
        assert!(begun.elapsed() < BUSY, "{:?}", begun.elapsed());
    });
}

#[test]
fn what_a_core_posts_before_its_end_is_done() {
    let runtime = new_runtime().unwrap();
    runtime.block_on(async {
        let (env, (done, ended)) = (env(), oneshot::channel());
        let core_env = env.clone();
        let core = move || async move {
            core_env.post(move || done.send(()).unwrap());
        };
        env.start_core(core, || ()).unwrap();
        ended.await.unwrap();
    });
}
