//! The one place where consensus rolls dice: how long a follower waits before it stands for election.
//!
//! In production each thread has its own generator, seeded by the operating system. A simulation
//! seeds the thread that it runs on ([`load`]), and then every wait follows from the seed (D10).
//!
//! Left out: randomness that is stored or sent. That comes from the node, which is handed a seed.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::rngs::{StdRng, ThreadRng};
use rand::{Rng, SeedableRng, TryRng};

thread_local! {
    /// What was loaded on this thread.
    static LOADED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes everything that consensus rolls on this thread from now on follow from a seed. For
/// simulations, which run all nodes on one thread.
///
/// ```
/// pennon_raft_store::dice::load(7);
/// ```
pub fn load(seed: u64) {
    LOADED.with_borrow_mut(|loaded| *loaded = Some(StdRng::seed_from_u64(seed)));
}

/// A generator of this thread: the loaded one, else the system's.
pub(crate) struct Dice {
    system: ThreadRng,
}

impl Dice {
    fn roll<T>(&mut self, roll: impl Fn(&mut dyn Rng) -> T) -> T {
        LOADED.with_borrow_mut(|loaded| match loaded {
            Some(loaded) => roll(loaded),
            None => roll(&mut self.system),
        })
    }
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.roll(|rng| rng.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.roll(|rng| rng.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = self.roll(|rng| rng.next_u32()).to_le_bytes()[0];
        }
        Ok(())
    }
}

/// tokio as openraft knows it, with our dice.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Dice;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Dice {
        Dice {
            system: rand::rng(),
        }
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn what_was_loaded_is_rolled_and_threads_are_apart() {
        let roll = || (0..8).map(|_| Runtime::thread_rng().random::<u64>());
        let rolled = |seed: Option<u64>| {
            let other = std::thread::spawn(move || {
                seed.into_iter().for_each(load);
                roll().collect::<Vec<_>>()
            });
            other.join().unwrap()
        };
        assert_eq!(rolled(Some(7)), rolled(Some(7)));
        assert_ne!(rolled(Some(7)), rolled(Some(8)));
        assert_ne!(rolled(None), rolled(None), "nothing is loaded here");
    }
}
