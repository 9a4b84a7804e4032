//! The one task that publishes on a channel.
//!
//! There may be only one: the library numbers a message and queues its frames in two steps, and two tasks could swap
//! them. The task never blocks on one thing: it writes what has arrived, in order, collects confirms as they come,
//! reports fates to the callers, and at a call's deadline reports what is still unknown. A channel on which nothing
//! comes back within [`CONFIRM_TIMEOUT`] is replaced.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Error, Fate, Outgoing,
    config::CONFIRM_TIMEOUT,
    confirms::{BatchIndex, Confirms},
    connection::{CHANNEL_TIMEOUT, LinkState, ManagedConnection, Session, Shared},
    error::on_channel,
    publisher::{Addressed, CALLS_WAITING_MAX, Call},
};

/// How many messages may be in flight on a channel: enough to keep a broker busy that confirms after 10 ms, and the
/// most that a lost connection leaves unknown.
pub const UNDER_WAY_MAX: usize = 512;

/// How many messages may wait in the task before it takes further calls.
const MESSAGES_WAITING_MAX: usize = 4096;

/// How long to wait after a channel could not be opened.
const OPEN_AGAIN: Duration = Duration::from_millis(100);

/// How often returned messages may cause everything to be declared again.
const DECLARE_EVERY: Duration = Duration::from_secs(2);

type Opening = Pin<Box<dyn Future<Output = Result<PublishChannel, Error>> + Send>>;

/// A call whose fates are not all known.
struct AwaitingConfirm {
    fates: Vec<Option<Fate>>,
    left: usize,
    deadline: Instant,
    answer: oneshot::Sender<Vec<Fate>>,
}

/// A channel in confirm mode.
struct PublishChannel {
    channel: Arc<Channel>,
    session: Arc<Session>,
    blocked: watch::Receiver<Option<String>>,
}

pub(super) struct Publishing {
    shared: Arc<Shared>,
    link: watch::Receiver<LinkState>,
    calls: mpsc::Receiver<Call>,
    arrived: Vec<Call>,
    /// By the number of the call, so in the order of their deadlines.
    open_calls: BTreeMap<u64, AwaitingConfirm>,
    next_call: u64,
    unsent: VecDeque<(BatchIndex, Outgoing)>,
    confirms: Confirms,
    open: Option<PublishChannel>,
    opening: Option<Opening>,
    /// When the channel last answered, or was first owed an answer.
    heard: Instant,
    declared: Option<Instant>,
}

impl Publishing {
    /// The task, and the sender to it. It ends with the last publisher.
    pub(super) fn new(shared: Arc<Shared>, link: &ManagedConnection) -> (mpsc::Sender<Call>, Self) {
        let (sender, calls) = mpsc::channel(CALLS_WAITING_MAX);
        let publishing = Self {
            shared,
            link: link.watch(),
            calls,
            arrived: Vec::new(),
            open_calls: BTreeMap::new(),
            next_call: 0,
            unsent: VecDeque::new(),
            confirms: Confirms::default(),
            open: None,
            opening: None,
            heard: Instant::now(),
            declared: None,
        };
        (sender, publishing)
    }

    pub(super) async fn run(mut self) {
        loop {
            self.begin_to_open();
            self.write();
            let deadline = self.open_calls.first_key_value().map(|(_, call)| call.deadline);
            let has_room = self.unsent.len() < MESSAGES_WAITING_MAX;
            let is_closed = self.open.is_none() && self.opening.is_none();
            tokio::select! {
                taken = self.calls.recv_many(&mut self.arrived, CALLS_WAITING_MAX), if has_room => {
                    if taken == 0 {
                        return;
                    }
                    self.accept();
                }
                () = self.confirms.woken() => self.look(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.expire(),
                opened = opened(&mut self.opening) => self.opened(opened),
                changed = self.link.changed(), if is_closed => if changed.is_err() { return },
                is_over = disturbed(&mut self.open) => if is_over { self.lose("the connection was lost") },
            }
        }
    }

    fn accept(&mut self) {
        for Call { messages, deadline, answer } in self.arrived.drain(..) {
            let call = self.next_call;
            self.next_call += 1;
            let left = messages.len();
            self.open_calls.insert(call, AwaitingConfirm { fates: vec![None; left], left, deadline, answer });
            let placed = messages.into_iter().enumerate();
            self.unsent.extend(placed.map(|(message, outgoing)| (BatchIndex { call, message }, outgoing)));
        }
    }

    /// Hands to the library what there is room for. While the broker is blocked nothing is handed over: the library
    /// would keep it and send it whenever the block ends.
    fn write(&mut self) {
        let Some(open) = &self.open else { return };
        if open.blocked.borrow().is_some() {
            return;
        }
        while self.confirms.len() < UNDER_WAY_MAX {
            let Some((place, outgoing)) = self.unsent.pop_front() else { return };
            // A call that was answered already is not sent after the fact.
            if !self.open_calls.contains_key(&place.call) {
                continue;
            }
            if self.confirms.len() == 0 {
                self.heard = Instant::now();
            }
            let addressed = Addressed::new(&self.shared.topology, outgoing);
            let message_id = addressed.properties.message_id().clone().unwrap_or_default();
            self.confirms.push(place, message_id, Box::pin(send(open.channel.clone(), addressed)));
        }
    }

    fn look(&mut self) {
        let found = self.confirms.look();
        if !found.fates.is_empty() {
            self.heard = Instant::now();
        }
        // A queue, a binding or an exchange is gone.
        if found.broken.is_some() || found.fates.iter().any(|(_, fate)| *fate == Fate::Returned) {
            self.declare();
        }
        self.report(found.fates);
        if let Some(reason) = found.broken {
            self.lose(&reason);
        }
    }

    fn report(&mut self, fates: Vec<(BatchIndex, Fate)>) {
        for (place, fate) in fates {
            let Some(call) = self.open_calls.get_mut(&place.call) else { continue };
            if call.fates[place.message].replace(fate).is_none() {
                call.left -= 1;
            }
            if call.left == 0
                && let Some(call) = self.open_calls.remove(&place.call)
            {
                Self::answer(call);
            }
        }
    }

    fn answer(call: AwaitingConfirm) {
        let fates: Vec<_> = call.fates.into_iter().map(|fate| fate.unwrap_or(Fate::Unknown)).collect();
        // The caller may be gone; what was published stays published.
        let _gone = call.answer.send(fates);
    }

    /// Answers the calls whose time is up, and gives up a channel that has been silent for as long.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(call) = self.open_calls.first_entry().filter(|call| call.get().deadline <= now) {
            let call = call.remove();
            Self::answer(call);
        }
        let open_calls = &self.open_calls;
        self.unsent.retain(|(place, _)| open_calls.contains_key(&place.call));
        let is_blocked = self.open.as_ref().is_some_and(|open| open.blocked.borrow().is_some());
        if self.confirms.len() > 0 && !is_blocked && self.heard + CONFIRM_TIMEOUT <= now {
            self.lose("no confirm arrived in time");
        }
    }

    /// Drops the channel with everything on it. What was not handed over yet waits for the next channel.
    fn lose(&mut self, reason: &str) {
        if self.open.take().is_some() {
            tracing::warn!(
                reason,
                under_way = self.confirms.len(),
                "dropped a publishing channel; opening another"
            );
        }
        let fates = self.confirms.abandon();
        self.report(fates);
    }

    fn begin_to_open(&mut self) {
        if self.open.is_none()
            && self.opening.is_none()
            && let LinkState::Connected(session) = self.link.borrow_and_update().clone()
            && !session.over.is_cancelled()
        {
            self.opening = Some(Box::pin(open(session)));
        }
    }

    fn opened(&mut self, opened: Result<PublishChannel, Error>) {
        self.opening = None;
        match opened {
            Ok(open) => self.open = Some(open),
            Err(error) => tracing::debug!(%error, "cannot open a publishing channel yet; retrying"),
        }
    }

    /// Declares everything again in the background.
    fn declare(&mut self) {
        let now = Instant::now();
        if self.declared.is_some_and(|declared| now < declared + DECLARE_EVERY) {
            return;
        }
        self.declared = Some(now);
        if let Some(open) = self.open.as_ref().filter(|open| !open.session.over.is_cancelled()) {
            let (session, shared) = (open.session.clone(), self.shared.clone());
            tracing::warn!("a message had no queue or exchange to go to; declaring all of them again");
            tokio::spawn(async move {
                if let Err(error) = session.declare_again(&shared).await {
                    tracing::warn!(%error, "could not declare the exchanges and queues again");
                }
            });
        }
    }
}

async fn send(channel: Arc<Channel>, message: Addressed) -> lapin::Result<Confirmation> {
    let Addressed { exchange, routing_key, properties, body } = message;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
}

async fn open(session: Arc<Session>) -> Result<PublishChannel, Error> {
    let opened = async {
        let channel = session.channel().await?;
        match timeout(CHANNEL_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await {
            Ok(selected) => selected.map_err(|error| on_channel(&error))?,
            Err(_) => return Err(Error::silent("enabling confirm mode", CHANNEL_TIMEOUT)),
        }
        Ok(channel)
    };
    match opened.await {
        Ok(channel) => {
            let blocked = session.blocked();
            Ok(PublishChannel { channel: Arc::new(channel), session, blocked })
        }
        Err(error) => {
            sleep(OPEN_AGAIN).await;
            Err(error)
        }
    }
}

async fn opened(opening: &mut Option<Opening>) -> Result<PublishChannel, Error> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

/// Resolves when the connection is over (true), or has been blocked or unblocked (false).
async fn disturbed(open: &mut Option<PublishChannel>) -> bool {
    let Some(open) = open else { return std::future::pending().await };
    tokio::select! {
        () = open.session.over.cancelled() => true,
        changed = open.blocked.changed() => changed.is_err(),
    }
}
