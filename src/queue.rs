//! A bounded queue between two stages of a pipeline, which hands over at once all that has gathered in it.
//!
//! A channel that hands over one thing at a time wakes a thread for each when it is full, or empty, most of the time.
//! Here whoever takes gets all that waits, in one step; whoever waits for room is woken once for all of that; and
//! after the first thing it is given a moment for more to come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

// How long whoever waited for something waits for more of it.
const LINGER: Duration = Duration::from_micros(500);

// Which part of a full queue is worth taking at once.
const MANY: usize = 8;

/// Makes a queue that holds things of up to `most` altogether, each as much as `weigh` says.
pub fn bounded<T>(most: usize, weigh: fn(&T) -> usize) -> (Sender<T>, Receiver<T>) {
    let shared = Shared::new(most, weigh);
    (Sender { lanes: vec![Arc::clone(&shared)], lane: |_| 0 }, Receiver { shared, batch: RefCell::default() })
}

/// Makes a queue of several lanes, each with a receiver of its own, that together hold things of up to `most`. What has
/// the same number by `lane` comes by the same lane, and in order.
pub fn bounded_lanes<T>(
    lanes: usize,
    most: usize,
    weigh: fn(&T) -> usize,
    lane: fn(&T) -> usize,
) -> (Sender<T>, Vec<Receiver<T>>) {
    let lanes: Vec<_> = (0..lanes).map(|_| Shared::new(most / lanes, weigh)).collect();
    let receivers =
        lanes.iter().map(|shared| Receiver { shared: Arc::clone(shared), batch: RefCell::default() }).collect();
    (Sender { lanes, lane }, receivers)
}

/// Makes a queue that holds `most` things.
pub fn bounded_by_number<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    bounded(most, |_| 1)
}

/// Nobody takes from the queue any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// Nothing is there now.
    Yet,
    /// Nothing will come any more.
    More,
}

/// An end to put things in. The queue ends with the last of them.
#[derive(Debug)]
pub struct Sender<T> {
    lanes: Vec<Arc<Shared<T>>>,
    lane: fn(&T) -> usize,
}

/// The end to take things out, for one thread. Without it nothing can be put in any more.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    batch: RefCell<VecDeque<T>>,
}

/// Closes a queue for both sides.
#[derive(Debug)]
pub struct Closer<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    room: Condvar,
    most: usize,
    weigh: fn(&T) -> usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    weight: usize,
    senders: usize,
    // Senders that wait for room.
    blocked: usize,
    taker: Taker,
    closed: bool,
}

// What the receiver is to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Busy,
    WaitsForAny,
    WaitsForMany,
}

impl<T> Sender<T> {
    /// Puts something in; waits while the queue is full.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        let shared = &self.lanes[(self.lane)(&item) % self.lanes.len()];
        let weight = (shared.weigh)(&item);
        let mut state = shared.lock();
        // Something that is heavier than all else goes in alone.
        while !state.closed && state.weight > 0 && state.weight + weight > shared.most {
            state.blocked += 1;
            // Nothing more can come before the taker takes.
            shared.wake_taker(&mut state, true);
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        if state.closed {
            return Err(Closed);
        }
        state.items.push_back(item);
        state.weight += weight;
        shared.wake_taker(&mut state, false);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Takes the next thing, or waits for it; `None` when nothing more comes.
    pub fn recv(&self) -> Option<T> {
        self.next(None).ok()
    }

    /// Takes the next thing, if it is there.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        let next = self.batch.borrow_mut().pop_front();
        match next {
            Some(item) => Ok(item),
            None => self.take_all(self.shared.lock()),
        }
    }

    /// Takes the next thing, or waits for it, but not longer than this.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, Nothing> {
        self.next(Some(Instant::now() + timeout))
    }

    /// Takes everything until nothing more comes.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv())
    }

    /// Waits for the first thing; false when nothing will come.
    pub fn is_fed(&self) -> bool {
        !self.batch.borrow().is_empty() || !self.shared.wait_for_any(None).items.is_empty()
    }

    /// What closes the queue while this end may be waiting.
    pub fn closer(&self) -> Closer<T> {
        Closer { shared: Arc::clone(&self.shared) }
    }

    fn next(&self, deadline: Option<Instant>) -> Result<T, Nothing> {
        let next = self.batch.borrow_mut().pop_front();
        match next {
            Some(item) => Ok(item),
            None => self.take_all(self.shared.wait(deadline)),
        }
    }

    fn take_all(&self, mut state: MutexGuard<'_, State<T>>) -> Result<T, Nothing> {
        let mut batch = self.batch.borrow_mut();
        std::mem::swap(&mut *batch, &mut state.items);
        state.weight = 0;
        if state.blocked > 0 {
            self.shared.room.notify_all();
        }
        batch.pop_front().ok_or(if state.has_ended() { Nothing::More } else { Nothing::Yet })
    }
}

impl<T> Closer<T> {
    /// Nothing can be put in any more, and nothing comes out.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<T> Shared<T> {
    fn new(most: usize, weigh: fn(&T) -> usize) -> Arc<Shared<T>> {
        let state =
            State { items: VecDeque::new(), weight: 0, senders: 1, blocked: 0, taker: Taker::Busy, closed: false };
        Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), room: Condvar::new(), most, weigh })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Returns when there is something, no hope of it, or no time left.
    fn wait(&self, deadline: Option<Instant>) -> MutexGuard<'_, State<T>> {
        let mut state = self.wait_for_any(deadline);
        let is_little = |state: &State<T>| state.weight < self.most / MANY && state.blocked == 0 && !state.has_ended();
        if !state.items.is_empty() && is_little(&state) {
            state.taker = Taker::WaitsForMany;
            state = self.filled.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner).0;
            state.taker = Taker::Busy;
        }
        state
    }

    fn wait_for_any(&self, deadline: Option<Instant>) -> MutexGuard<'_, State<T>> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.has_ended() {
            state.taker = Taker::WaitsForAny;
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.taker = Taker::Busy;
        state
    }

    // A call that wakes nobody costs a system call all the same.
    fn wake_taker(&self, state: &mut State<T>, is_urgent: bool) {
        let wakes = match state.taker {
            Taker::Busy => false,
            Taker::WaitsForAny => true,
            Taker::WaitsForMany => is_urgent || state.weight >= self.most / MANY,
        };
        if wakes {
            state.taker = Taker::Busy;
            self.filled.notify_one();
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        // What they hold may want this queue.
        drop(items);
        self.room.notify_all();
        self.filled.notify_all();
    }
}

impl<T> State<T> {
    fn has_ended(&self) -> bool {
        self.closed || self.senders == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.lanes.iter().for_each(|shared| shared.lock().senders += 1);
        Sender { lanes: self.lanes.clone(), lane: self.lane }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        for shared in &self.lanes {
            let mut state = shared.lock();
            state.senders -= 1;
            if state.senders == 0 {
                shared.filled.notify_all();
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn everything_comes_through_in_each_senders_order() {
        for most in [1, 7, 10_000] {
            let (sender, receiver) = bounded_by_number(most);
            thread::scope(|scope| {
                for number in 0..4 {
                    let sender = sender.clone();
                    scope.spawn(move || (0..20_000).try_for_each(|item| sender.send((number, item))).unwrap());
                }
                drop(sender);
                let mut next = [0; 4];
                for (number, item) in receiver.iter() {
                    assert_eq!(item, next[number]);
                    next[number] += 1;
                }
                assert_eq!(next, [20_000; 4]);
            });
        }
    }

    #[test]
    fn each_lane_gets_its_numbers_in_order_and_ends_with_the_senders() {
        let (sender, receivers) = bounded_lanes(3, 30, |_| 1, |item: &usize| *item % 7);
        thread::scope(|scope| {
            let other = sender.clone();
            scope.spawn(move || (0..7_000).try_for_each(|item| sender.send(item)).unwrap());
            scope.spawn(move || other.send(7_000).unwrap());
            let takers: Vec<_> = receivers
                .into_iter()
                .map(|receiver| scope.spawn(move || receiver.iter().collect::<Vec<_>>()))
                .collect();
            for (lane, taker) in takers.into_iter().enumerate() {
                let mut taken = taker.join().unwrap();
                taken.retain(|item| *item != 7_000);
                let expected: Vec<_> = (0..7_000).filter(|item| item % 7 % 3 == lane).collect();
                assert_eq!(taken, expected);
            }
        });
    }

    #[test]
    fn no_more_waits_than_may() {
        let (sender, receiver) = bounded(10, |item: &usize| *item);
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for item in [4, 4, 4, 30, 1] {
                    sender.send(item).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                drop(sender);
            });
            let settles_at = |expected| {
                thread::sleep(Duration::from_millis(50));
                assert_eq!(sent.load(Ordering::SeqCst), expected);
            };
            settles_at(2);
            assert_eq!((receiver.recv(), receiver.recv()), (Some(4), Some(4)));
            settles_at(3);
            // Heavier than all that may wait, but not refused.
            assert_eq!(receiver.recv(), Some(4));
            settles_at(4);
            assert_eq!((receiver.recv(), receiver.recv(), receiver.recv()), (Some(30), Some(1), None));
        });
    }

    #[test]
    fn waiting_ends_with_the_time_with_the_senders_and_with_the_queue() {
        let (sender, receiver) = bounded_by_number::<u8>(2);
        assert_eq!(receiver.try_recv(), Err(Nothing::Yet));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(5)), Err(Nothing::Yet));
        sender.send(1).unwrap();
        assert!(receiver.is_fed());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(1));
        drop(sender);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Err(Nothing::More));
        assert!(!receiver.is_fed());
        let (sender, receiver) = bounded_by_number(1);
        let closer = receiver.closer();
        thread::scope(|scope| {
            let blocked = scope.spawn(|| [sender.send(1), sender.send(2)]);
            let waits = scope.spawn(move || {
                assert_eq!(receiver.recv(), Some(1));
                while receiver.recv().is_some() {}
                receiver
            });
            thread::sleep(Duration::from_millis(20));
            closer.close();
            let _receiver = waits.join().unwrap();
            assert_eq!(blocked.join().unwrap(), [Ok(()), Ok(())]);
            assert_eq!(sender.send(3), Err(Closed));
        });
    }

    #[test]
    fn a_sender_that_waits_for_room_hears_that_nobody_takes_any_more() {
        let (sender, receiver) = bounded_by_number(1);
        sender.send(1).unwrap();
        thread::scope(|scope| {
            let blocked = scope.spawn(|| sender.send(2));
            thread::sleep(Duration::from_millis(20));
            drop(receiver);
            assert_eq!(blocked.join().unwrap(), Err(Closed));
        });
    }
}
