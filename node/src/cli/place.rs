//! Which object of ground state a command is about, and where the nodes have it.
//!
//! What must hold: a kind has the same word in change sets, in paths and on the command line.

use pennon_client::admin::Resource;

/// The applications, as a path.
pub(crate) const APPLICATIONS: &str = "/v1/applications";

/// The settings of the cluster, as a path.
pub(crate) const SETTINGS: &str = "/v1/settings";

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The word in change sets.
    pub(crate) kind: &'static str,
    pub(crate) environment: Option<String>,
    pub(crate) key: String,
    /// Its path, encoded.
    pub(crate) path: String,
}

impl Place {
    pub(crate) fn flag(key: &str) -> Place {
        Place::known("flag", None, &Resource::flag(key))
    }

    pub(crate) fn environment(key: &str) -> Place {
        Place::known("environment", None, &Resource::environment(key))
    }

    pub(crate) fn policy(environment: &str, flag: &str) -> Place {
        let resource = Resource::policy(environment, flag);
        Place::known("policy", Some(environment), &resource)
    }

    pub(crate) fn segment(environment: &str, key: &str) -> Place {
        let resource = Resource::segment(environment, key);
        Place::known("segment", Some(environment), &resource)
    }

    pub(crate) fn application(key: &str) -> Place {
        Place::known("application", None, &Resource::application(key))
    }

    pub(crate) fn setting(name: &str) -> Place {
        Place::known("setting", None, &Resource::setting(name))
    }

    fn known(kind: &'static str, environment: Option<&str>, resource: &Resource) -> Place {
        Place {
            kind,
            environment: environment.map(str::to_owned),
            key: resource.key().to_owned(),
            path: resource.path(),
        }
    }
}
