//! What the tests stand on.

pub mod api;
pub mod app;
pub mod dns;
pub mod interop;
pub mod janitor;
pub mod load;
pub mod past;
pub mod private;
pub mod proxy;
pub mod python;
pub mod rabbit;
pub mod receiver;
pub mod released;
pub mod service;
pub mod template;
pub mod tls;
pub mod xtsystems;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen. Generous, for machines are slow when they are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The value of a future that must come soon: a server that is stuck fails the test that asks it, and does not hold up
/// all others.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until a condition holds. Goes where futures must be `Send`, as in a spawned task; those of `app::eventually` are not.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    // A look that gets no answer counts against the same deadline.
    let held = async {
        while !holds().await {
            sleep(LOOK_EVERY).await;
        }
    };
    let waited = timeout(PATIENCE, held).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Runs something to its end on a runtime of its own, where the test's may be about to end.
pub fn apart(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _ = std::thread::spawn(move || runtime.block_on(work)).join();
}
