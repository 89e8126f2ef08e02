//! SIGINT and SIGTERM: the first asks for a calm end, the second gets an end at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};

/// Receives the signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over; from now on they do not end the process by themselves.
    pub(crate) fn take() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|why| {
                Failure::new(Exit::Failure, format!("cannot listen for signals: {why}"))
            })
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Lets an orderly end finish unless a second signal comes first.
    ///
    /// # Errors
    /// When it did: whatever was still open is cut.
    pub(crate) async fn unless_impatient(
        &mut self,
        end: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        tokio::select! {
            () = end => Ok(()),
            name = self.next() => {
                Err(Failure::new(Exit::Failure, format!("stopped at once by a second {name}; open requests were cut")))
            }
        }
    }
}
