//! A run of real processes under faults: started, worked on, broken, healed, read to the end, judged.
//!
//! ```text
//!  clients ──► doors ──► nodes ◄── doors ──► nodes       proxy: one wire for every direction
//!     │                    ▲                             nemesis: signals, wires, files, members
//!     └──► history ──► judge ──► valid | invalid | unknown
//! ```
//!
//! What must hold: everything that is drawn follows from the seed and is printed; whatever was
//! broken is mended before the end, and what does not come back then is a broken promise; history,
//! logs and data are kept unless the verdict is valid.

mod casualties;
mod clients;
pub mod finish;
pub mod fleet;
pub mod run;
mod screen;
pub mod settings;
