//! Collects the confirms of a channel and finds out which messages were returned.
//!
//! The library hands a returned message to *whichever* confirm completes next, and walks a `multiple` confirm
//! in no order. So a confirm says that some message was returned, seldom which. What holds is this: a return
//! arrives before the confirm of its own message, every completing confirm carries away the oldest waiting return,
//! and a confirm that carries none shows that none was waiting. Therefore
//! - a message is looked up by its id wherever a return turns up;
//! - fates are reported only after *everything* completed by then has been examined;
//! - a confirm that carried away another message's return does not settle its own message until a later confirm
//!   carries none, or nothing is in flight.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use lapin::{Confirmation, types::ShortString};
use tokio::sync::Notify;

use super::Fate;

type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// Which message of which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchIndex {
    pub(super) call: u64,
    pub(super) message: usize,
}

/// A message that was handed to the library.
struct UnderWay {
    place: BatchIndex,
    message_id: ShortString,
    confirm: Confirm,
    waker: Waker,
    /// Its return was carried by another confirm.
    returned: bool,
}

/// A message whose confirm carried another's return, so that its own may still be waiting.
struct Doubtful {
    place: BatchIndex,
    message_id: ShortString,
    returned: bool,
}

/// The messages of one channel whose fate is not known yet.
#[derive(Default)]
pub(super) struct Confirms {
    under_way: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    doubtful: Vec<Doubtful>,
    woken: Arc<Woken>,
}

/// What one step found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReturnedIndex {
    /// Fates that are now certain.
    pub(super) fates: Vec<(BatchIndex, Fate)>,
    /// The channel answered something that is not a confirm, so it cannot be used any more.
    pub(super) broken: Option<String>,
}

impl Confirms {
    /// How many messages wait for their confirm.
    pub(super) fn len(&self) -> usize {
        self.under_way.len() - self.free.len()
    }

    /// Starts to publish: the first poll of the future hands the message to the library, so the order of calls is the
    /// order on the wire.
    pub(super) fn push(&mut self, place: BatchIndex, message_id: ShortString, confirm: Confirm) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.under_way.push(None);
            self.under_way.len() - 1
        });
        let waker = Waker::from(Arc::new(SlotWaker { slot, woken: self.woken.clone() }));
        let mut message = UnderWay { place, message_id, confirm, waker, returned: false };
        let waker = message.waker.clone();
        if let Poll::Ready(result) = message.confirm.as_mut().poll(&mut Context::from_waker(&waker)) {
            // Complete already, as on a dead channel: the next look takes it like any other.
            message.confirm = Box::pin(std::future::ready(result));
            waker.wake();
        }
        self.under_way[slot] = Some(message);
    }

    /// Resolves when there is something to examine.
    pub(super) fn woken(&self) -> impl Future<Output = ()> + Send + 'static {
        let woken = self.woken.clone();
        async move { woken.notify.notified().await }
    }

    /// Examines everything that has completed.
    pub(super) fn look(&mut self) -> ReturnedIndex {
        let mut found = ReturnedIndex::default();
        let mut completed = Vec::new();
        // Until there is nothing left: a fate may depend on what completed meanwhile.
        loop {
            let slots = self.woken.take();
            if slots.is_empty() {
                break;
            }
            for slot in slots {
                if let Some((message, result)) = self.poll(slot) {
                    completed.push((message, result));
                }
            }
        }
        self.settle(completed, &mut found);
        found
    }

    /// Gives up the channel: whatever is in flight may or may not have reached the broker.
    pub(super) fn abandon(&mut self) -> Vec<(BatchIndex, Fate)> {
        let under_way = std::mem::take(self);
        let places = under_way.under_way.into_iter().flatten().map(|message| message.place);
        let doubtful = under_way.doubtful.into_iter().map(|message| message.place);
        places.chain(doubtful).map(|place| (place, Fate::Unknown)).collect()
    }

    fn poll(&mut self, slot: usize) -> Option<(UnderWay, lapin::Result<Confirmation>)> {
        let message = self.under_way.get_mut(slot)?.as_mut()?;
        let waker = message.waker.clone();
        let Poll::Ready(result) = message.confirm.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return None;
        };
        self.free.push(slot);
        Some((self.under_way[slot].take()?, result))
    }

    fn settle(&mut self, completed: Vec<(UnderWay, lapin::Result<Confirmation>)>, found: &mut ReturnedIndex) {
        let (mut returns, mut empty_handed) = (Vec::new(), false);
        let (mut certain, mut doubtful) = (Vec::new(), Vec::new());
        for (message, result) in completed {
            let (fate, returned) = match result {
                Ok(Confirmation::Ack(returned)) => (Fate::Confirmed, returned),
                Ok(Confirmation::Nack(returned)) => (Fate::Refused, returned),
                Ok(Confirmation::NotRequested) => (Fate::Unknown, None),
                Err(error) => {
                    found.broken = Some(error.to_string());
                    (Fate::Unknown, None)
                }
            };
            empty_handed |= returned.is_none() && fate != Fate::Unknown;
            let another = returned.is_some();
            returns.extend(returned.and_then(|returned| returned.properties.message_id().clone()));
            if another && fate == Fate::Confirmed && !message.returned {
                doubtful.push(Doubtful {
                    place: message.place,
                    message_id: message.message_id,
                    returned: false,
                });
            } else {
                let fate = if message.returned { Fate::Returned } else { fate };
                certain.push((message.place, message.message_id, fate));
            }
        }
        // What was in doubt before is certain if no return was waiting since; the returns found now count.
        let before = self.doubtful.len();
        self.doubtful.append(&mut doubtful);
        let named: Vec<_> = returns.iter().filter(|id| !self.returned(id.as_str(), &mut certain)).collect();
        if !named.is_empty() {
            tracing::debug!(?named, "messages were returned after their publisher stopped waiting");
        }
        let none_waits = self.len() == 0;
        for (at, message) in std::mem::take(&mut self.doubtful).into_iter().enumerate() {
            if message.returned {
                found.fates.push((message.place, Fate::Returned));
            } else if none_waits || (empty_handed && at < before) {
                found.fates.push((message.place, Fate::Confirmed));
            } else {
                self.doubtful.push(message);
            }
        }
        found.fates.extend(certain.into_iter().map(|(place, _, fate)| (place, fate)));
    }

    /// Marks the message that was returned: in doubt, just completed, or still in flight.
    fn returned(&mut self, id: &str, certain: &mut [(BatchIndex, ShortString, Fate)]) -> bool {
        if let Some(message) = self.doubtful.iter_mut().find(|m| m.message_id.as_str() == id && !m.returned) {
            message.returned = true;
        } else if let Some((_, _, fate)) =
            certain.iter_mut().find(|(_, own, fate)| own.as_str() == id && *fate == Fate::Confirmed)
        {
            *fate = Fate::Returned;
        } else if let Some(message) =
            self.under_way.iter_mut().flatten().find(|m| m.message_id.as_str() == id && !m.returned)
        {
            message.returned = true;
        } else {
            return false;
        }
        true
    }
}

/// The slots whose futures were woken, in that order.
#[derive(Default)]
struct Woken {
    slots: Mutex<Vec<usize>>,
    is_notified: AtomicBool,
    notify: Notify,
}

impl Woken {
    fn take(&self) -> Vec<usize> {
        self.is_notified.store(false, Ordering::Release);
        std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct SlotWaker {
    slot: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.woken.slots.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        // One notification for however many complete before the task looks.
        if !self.woken.is_notified.swap(true, Ordering::AcqRel) {
            self.woken.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use lapin::{
        BasicProperties,
        message::{BasicReturnMessage, Delivery},
    };
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;

    type Answer = oneshot::Sender<lapin::Result<Confirmation>>;

    /// The library as it treats returns: first in, first out, at whichever confirm completes.
    #[derive(Default)]
    struct Library {
        answers: BTreeMap<usize, Answer>,
        waiting: VecDeque<usize>,
    }

    impl Library {
        fn publish(&mut self, confirms: &mut Confirms, message: usize) {
            let (answer, answered) = oneshot::channel();
            self.answers.insert(message, answer);
            let confirm = Box::pin(async move { answered.await.expect("every message is answered") });
            confirms.push(BatchIndex { call: 0, message }, id(message), confirm);
        }

        fn answer(&mut self, message: usize, is_ack: bool) {
            let returned = self.waiting.pop_front().map(returned);
            let confirmation =
                if is_ack { Confirmation::Ack(returned) } else { Confirmation::Nack(returned) };
            let answer = self.answers.remove(&message).expect("answered once");
            answer.send(Ok(confirmation)).expect("somebody waits");
        }
    }

    fn id(message: usize) -> ShortString {
        format!("m{message}").into()
    }

    fn returned(message: usize) -> BasicReturnMessage {
        let mut delivery = Delivery::mock(0, "".into(), "".into(), false, Vec::new());
        delivery.properties = BasicProperties::default().with_message_id(id(message));
        BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Return(usize),
        Answer(usize),
    }

    const MESSAGES: usize = 12;

    /// Returns and answers in any order in which each return comes before its own answer.
    fn steps() -> impl Strategy<Value = (Vec<Fate>, Vec<(Step, bool)>)> {
        let fate = prop_oneof![Just(Fate::Confirmed), Just(Fate::Returned), Just(Fate::Refused)];
        let fates = prop::collection::vec(fate, MESSAGES);
        fates.prop_flat_map(|fates| {
            let returns = (0..MESSAGES).filter(|n| fates[*n] == Fate::Returned);
            let twice: Vec<usize> = (0..MESSAGES).chain(returns).collect();
            let checks = prop::collection::vec(any::<bool>(), twice.len());
            (Just(fates), Just(twice).prop_shuffle(), checks).prop_map(|(fates, order, checks)| {
                let mut has_returned = [false; MESSAGES];
                let step = |message: usize| {
                    let is_return = fates[message] == Fate::Returned && !has_returned[message];
                    has_returned[message] = true;
                    if is_return { Step::Return(message) } else { Step::Answer(message) }
                };
                let steps = order.into_iter().map(step).zip(checks).collect();
                (fates, steps)
            })
        })
    }

    proptest! {
        #[test]
        fn each_message_is_told_its_own_fate_in_whatever_order_answers_come((fates, steps) in steps()) {
            let (mut library, mut confirms) = (Library::default(), Confirms::default());
            (0..MESSAGES).for_each(|message| library.publish(&mut confirms, message));
            let mut reported = BTreeMap::new();
            for (step, look) in steps {
                match step {
                    Step::Return(message) => library.waiting.push_back(message),
                    Step::Answer(message) => library.answer(message, fates[message] != Fate::Refused),
                }
                if look {
                    for (place, fate) in confirms.look().fates {
                        prop_assert!(reported.insert(place.message, fate).is_none(), "told twice");
                    }
                }
            }
            reported.extend(confirms.look().fates.into_iter().map(|(place, fate)| (place.message, fate)));
            prop_assert_eq!(reported.into_values().collect::<Vec<_>>(), fates);
            prop_assert_eq!(confirms.len(), 0);
        }
    }

    #[test]
    fn a_confirm_that_carries_anothers_return_waits_for_certainty() {
        let (mut library, mut confirms) = (Library::default(), Confirms::default());
        (0..3).for_each(|message| library.publish(&mut confirms, message));
        let mut check = |library: &mut Library, answer: usize, expected: &[(usize, Fate)]| {
            library.answer(answer, true);
            let found: Vec<_> =
                confirms.look().fates.into_iter().map(|(p, fate)| (p.message, fate)).collect();
            assert_eq!(found, expected, "after the answer to {answer}");
        };
        // Message 0 comes back, but its return turns up at the confirm of message 1.
        library.waiting.push_back(0);
        check(&mut library, 1, &[]);
        check(&mut library, 0, &[(1, Fate::Confirmed), (0, Fate::Returned)]);
        check(&mut library, 2, &[(2, Fate::Confirmed)]);
    }

    #[test]
    fn a_broken_channel_leaves_everything_unknown() {
        let (mut library, mut confirms) = (Library::default(), Confirms::default());
        (0..3).for_each(|message| library.publish(&mut confirms, message));
        let answer = library.answers.remove(&1).expect("an answer");
        let error = lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "gone").into();
        answer.send(Err(error)).expect("somebody waits");
        let found = confirms.look();
        assert_eq!(found.fates, [(BatchIndex { call: 0, message: 1 }, Fate::Unknown)]);
        assert!(found.broken.is_some_and(|reason| reason.contains("gone")));
        let left: Vec<_> =
            confirms.abandon().into_iter().map(|(place, fate)| (place.message, fate)).collect();
        assert_eq!(left, [(0, Fate::Unknown), (2, Fate::Unknown)]);
        assert_eq!(confirms.len(), 0);
    }

    #[test]
    fn a_message_without_an_answer_yet_is_told_nothing() {
        let (mut library, mut confirms) = (Library::default(), Confirms::default());
        library.publish(&mut confirms, 0);
        assert_eq!(confirms.look(), ReturnedIndex::default());
        assert_eq!(confirms.len(), 1);
    }
}
