//! Removes the queues of worlds that are over, when nothing can be declaring them any more.
//!
//! A quorum queue that is deleted in the moment it is declared can cost the whole node its dead-lettering
//! (`docs/operations.md`, "When RabbitMQ declares no queue"), and with it every test that follows. So a world rests before its
//! queues go: what a killed process had sent is worked off, and what was declared last is at work. Servers that end with
//! the run need no last sweep; on others each test waits for its own.

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{PATIENCE, apart};

/// How long a world rests.
const REST: Duration = Duration::from_secs(2);

/// What a world declared.
pub struct Left {
    pub amqp_url: String,
    pub queues: Vec<String>,
    pub exchanges: Vec<String>,
}

/// Takes what a world left, and removes what has rested. Waits for nothing else.
pub fn remove(left: Left) {
    static RESTING: Mutex<VecDeque<(Instant, Left)>> = Mutex::new(VecDeque::new());
    let ends_with_the_run =
        std::env::var("XT_SERVICES").is_ok_and(|kind| ["private", "compose"].contains(&kind.as_str()));
    let mut rested = Vec::new();
    if ends_with_the_run {
        let mut resting = RESTING.lock().expect("not poisoned");
        resting.push_back((Instant::now(), left));
        while resting.front().is_some_and(|(since, _)| since.elapsed() > REST) {
            rested.extend(resting.pop_front().map(|(_, left)| left));
        }
    } else {
        std::thread::sleep(REST);
        rested.push(left);
    }
    for left in rested {
        // What a stuck broker keeps of a world harms no other.
        apart(async {
            let _ = timeout(PATIENCE, left.remove()).await;
        });
    }
}

impl Left {
    /// The queues in their order: those that dead-letter before those that they dead-letter to.
    async fn remove(self) -> lapin::Result<()> {
        let connection = lapin::Connection::connect(&self.amqp_url, Default::default()).await?;
        let channel = connection.create_channel().await?;
        for queue in self.queues {
            channel.queue_delete(queue.into(), Default::default()).await?;
        }
        for exchange in self.exchanges {
            channel.exchange_delete(exchange.into(), Default::default()).await?;
        }
        connection.close(200, "done".into()).await
    }
}
