//! The way back: one value from whoever was asked to the one that asked.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Two ends: who holds the first owes the second a value.
pub fn answer<T>() -> (Answer<T>, Answered<T>) {
    let (sender, receiver) = oneshot::channel();
    (Answer(sender), Answered(receiver))
}

/// The duty to answer. Dropped, it says that there will be none.
pub struct Answer<T>(oneshot::Sender<T>);

impl<T> Answer<T> {
    /// Answers. Whoever asked may have gone, which is their affair.
    pub fn send(self, value: T) {
        let _ = self.0.send(value);
    }

    /// Whether nobody waits for the answer any more: work for it can be left undone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until nobody waits for the answer any more.
    pub async fn closed(&mut self) {
        self.0.closed().await;
    }
}

/// The answer, as a future; `None`: there will be none.
pub struct Answered<T>(oneshot::Receiver<T>);

impl<T> Future for Answered<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}
