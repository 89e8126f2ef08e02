//! Controls: systems that break a promise on purpose. A checker that does not see it is no checker.
//!
//! What must hold: the same seed without the control is valid; a release build has no control.

use pennon_node::broken::Broken;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Disks say that data is synced, and a power cut takes it all the same (I9).
    Fsync,
    /// Nodes answer linearizable reads from what they have (I1).
    LocalReads,
    /// Nodes do not know a request again (I9).
    RequestWindow,
    /// Applications take whatever version a node gives them (I6).
    NewerOnly,
    /// Applications take a state for as new as the moment in which a node spoke of it (I5).
    FreshOnReceipt,
}

impl Control {
    /// All of them.
    pub const ALL: [Control; 5] = [
        Control::Fsync,
        Control::LocalReads,
        Control::RequestWindow,
        Control::NewerOnly,
        Control::FreshOnReceipt,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Control::Fsync => "fsync",
            Control::LocalReads => Broken::LocalReads.as_str(),
            Control::RequestWindow => Broken::RequestWindow.as_str(),
            Control::NewerOnly => "newer-only",
            Control::FreshOnReceipt => "fresh-on-receipt",
        }
    }

    /// The control of this name.
    ///
    /// # Errors
    /// When there is none, or this is a release build; one sentence.
    pub fn named(name: &str) -> Result<Control, String> {
        if !cfg!(debug_assertions) {
            return Err("only a debug build has controls".to_owned());
        }
        let all = Control::ALL.map(Control::as_str).join(", ");
        let named = Control::ALL.into_iter().find(|one| one.as_str() == name);
        named.ok_or(format!("no control is called {name}; there are {all}"))
    }

    /// What nodes are told.
    pub(crate) fn of_nodes(self) -> Option<Broken> {
        match self {
            Control::LocalReads => Some(Broken::LocalReads),
            Control::RequestWindow => Some(Broken::RequestWindow),
            Control::Fsync | Control::NewerOnly | Control::FreshOnReceipt => None,
        }
    }

    /// What applications are told.
    #[cfg(debug_assertions)]
    pub(crate) fn of_applications(self) -> Option<pennon_client::broken::Broken> {
        use pennon_client::broken::Broken;
        match self {
            Control::NewerOnly => Some(Broken::NewerOnly),
            Control::FreshOnReceipt => Some(Broken::FreshOnReceipt),
            Control::Fsync | Control::LocalReads | Control::RequestWindow => None,
        }
    }
}
