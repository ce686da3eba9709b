//! Asking once for what several want at the same moment.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// Requests under way, by what they ask for. An entry lives as long as somebody waits for it.
pub(crate) struct Flights<K, V: Clone>(Arc<Mutex<HashMap<K, WeakShared<BoxFuture<'static, V>>>>>);

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Waits for the request for `key` that is under way, or begins one. When all who wait leave, the request is dropped.
    pub(crate) async fn join(&self, key: K, begin: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let flight: Shared<BoxFuture<'static, V>> = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.upgrade().is_some());
            match flights.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = begin().shared();
                    if let Some(weak) = flight.downgrade() {
                        flights.insert(key, weak);
                    }
                    flight
                }
            }
        };
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_request_and_later_ones_begin_anew() {
        let flights = Flights::<&str, u32>::new();
        let begun = Arc::new(AtomicU32::new(0));
        let ask = || {
            let begun = begun.clone();
            flights.join("tag", move || {
                async move {
                    tokio::task::yield_now().await;
                    begun.fetch_add(1, Ordering::Relaxed) + 1
                }
                .boxed()
            })
        };
        assert_eq!(tokio::join!(ask(), ask(), ask()), (1, 1, 1));
        assert_eq!(ask().await, 2);
    }
}
