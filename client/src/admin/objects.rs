//! What is read and written through `Admin`: where it is found and the shapes it has.
//!
//! What must hold: keys are encoded into paths here and nowhere else; a shape takes fields it does
//! not know, so that newer nodes can add some.
//!
//! Left out: what the values mean. They are JSON as people write it, checked by the node.

use std::fmt;
use std::time::Duration;

use pennon_evaluator::Version;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::receipts::Delivery;
use crate::http1::segment;

/// One object of ground state.
///
/// ```
/// use pennon_client::admin::Resource;
/// let limits = Resource::setting("limits");
/// assert_eq!((limits.key(), limits.path()), ("limits", "/v1/settings/limits".to_owned()));
/// assert_eq!(Resource::application("web/shop").path(), "/v1/applications/web%2Fshop");
/// ```
///
/// Whether there can be such an object is for the node to say: it knows which settings there are.
/// ```no_run
/// use pennon_client::admin::{Admin, Expected, Resource};
/// # async fn example(admin: Admin) -> Result<(), pennon_client::Error> {
/// let tags = serde_json::json!({"tags": ["checkout"]});
/// admin.put(&Resource::application("shop"), &tags, Expected::Absent).await?;
/// // Refused: there is no such setting.
/// let (setting, any) = (Resource::setting("limit"), serde_json::json!({}));
/// let refusal = admin.put(&setting, &any, Expected::Absent).await.unwrap_err();
/// assert!(refusal.is_not_found() && !refusal.outcome_unknown());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A FlagConfig.
    Flag {
        /// Its key.
        flag: String,
    },
    /// An environment.
    Environment {
        /// Its key.
        environment: String,
    },
    /// The TargetingPolicy of a flag.
    Policy {
        /// In this environment.
        environment: String,
        /// Of this flag.
        flag: String,
    },
    /// The TargetingPolicy of a segment.
    Segment {
        /// In this environment.
        environment: String,
        /// Its key.
        segment: String,
    },
    /// An application: the tags of the flags it needs.
    Application {
        /// Its key.
        application: String,
    },
    /// A setting of the whole cluster.
    Setting {
        /// Its name, `limits` for one.
        setting: String,
    },
}

impl Resource {
    /// Names a FlagConfig.
    pub fn flag(flag: impl Into<String>) -> Resource {
        Resource::Flag { flag: flag.into() }
    }

    /// Names an environment.
    pub fn environment(environment: impl Into<String>) -> Resource {
        Resource::Environment {
            environment: environment.into(),
        }
    }

    /// Names the TargetingPolicy of a flag.
    pub fn policy(environment: impl Into<String>, flag: impl Into<String>) -> Resource {
        Resource::Policy {
            environment: environment.into(),
            flag: flag.into(),
        }
    }

    /// Names the TargetingPolicy of a segment.
    pub fn segment(environment: impl Into<String>, segment: impl Into<String>) -> Resource {
        Resource::Segment {
            environment: environment.into(),
            segment: segment.into(),
        }
    }

    /// Names an application.
    pub fn application(application: impl Into<String>) -> Resource {
        Resource::Application {
            application: application.into(),
        }
    }

    /// Names a setting of the whole cluster.
    pub fn setting(setting: impl Into<String>) -> Resource {
        Resource::Setting {
            setting: setting.into(),
        }
    }

    /// Returns the path, with the keys encoded.
    ///
    /// ```
    /// use pennon_client::admin::Resource;
    /// let path = Resource::policy("prod", "web/new:ui").path();
    /// assert_eq!(path, "/v1/environments/prod/policies/web%2Fnew%3Aui");
    /// ```
    pub fn path(&self) -> String {
        let (collection, key) = (self.collection().path(), segment(self.key()));
        format!("{collection}/{key}")
    }

    /// Returns the key of the object in its collection.
    pub fn key(&self) -> &str {
        match self {
            Resource::Flag { flag } | Resource::Policy { flag, .. } => flag,
            Resource::Environment { environment } => environment,
            Resource::Segment { segment, .. } => segment,
            Resource::Application { application } => application,
            Resource::Setting { setting } => setting,
        }
    }

    /// Returns the collection that it is in.
    pub fn collection(&self) -> Collection {
        match self {
            Resource::Flag { .. } => Collection::Flags,
            Resource::Environment { .. } => Collection::Environments,
            Resource::Policy { environment, .. } => Collection::Policies {
                environment: environment.clone(),
            },
            Resource::Segment { environment, .. } => Collection::Segments {
                environment: environment.clone(),
            },
            Resource::Application { .. } => Collection::Applications,
            Resource::Setting { .. } => Collection::Settings,
        }
    }

    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Resource::Flag { .. } => Kind::Flag,
            Resource::Environment { .. } => Kind::Environment,
            Resource::Policy { .. } => Kind::Policy,
            Resource::Segment { .. } => Kind::Segment,
            Resource::Application { .. } => Kind::Application,
            Resource::Setting { .. } => Kind::Setting,
        }
    }

    /// Returns the environment that it is in, if its kind lives in one.
    pub fn scope(&self) -> Option<&str> {
        match self {
            Resource::Policy { environment, .. } | Resource::Segment { environment, .. } => {
                Some(environment)
            }
            _ => None,
        }
    }

    /// Names what a node names by three words; `None` for a kind that this release does not know.
    pub(super) fn named(kind: &str, environment: Option<&str>, key: &str) -> Option<Resource> {
        Some(match Kind::named(kind)? {
            Kind::Flag => Resource::flag(key),
            Kind::Environment => Resource::environment(key),
            Kind::Policy => Resource::policy(environment?, key),
            Kind::Segment => Resource::segment(environment?, key),
            Kind::Application => Resource::application(key),
            Kind::Setting => Resource::setting(key),
        })
    }
}

/// The kinds of ground state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// FlagConfigs.
    Flag,
    /// Environments.
    Environment,
    /// TargetingPolicies of flags.
    Policy,
    /// TargetingPolicies of segments.
    Segment,
    /// Applications.
    Application,
    /// Settings of the whole cluster.
    Setting,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Flag,
        Kind::Environment,
        Kind::Policy,
        Kind::Segment,
        Kind::Application,
        Kind::Setting,
    ];

    /// Returns the word that nodes say: `flag`, `environment`, `policy`, `segment`, `application`
    /// or `setting`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Flag => "flag",
            Kind::Environment => "environment",
            Kind::Policy => "policy",
            Kind::Segment => "segment",
            Kind::Application => "application",
            Kind::Setting => "setting",
        }
    }

    fn named(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All objects of one kind, in one environment where the kind has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collection {
    /// FlagConfigs.
    Flags,
    /// Environments.
    Environments,
    /// TargetingPolicies of flags.
    Policies {
        /// In this environment.
        environment: String,
    },
    /// TargetingPolicies of segments.
    Segments {
        /// In this environment.
        environment: String,
    },
    /// Applications.
    Applications,
    /// Settings of the whole cluster that are stored; what is not stored has its default.
    Settings,
}

impl Collection {
    /// Returns the path, with the keys encoded.
    pub fn path(&self) -> String {
        match self {
            Collection::Flags => "/v1/flags".to_owned(),
            Collection::Environments => "/v1/environments".to_owned(),
            Collection::Policies { environment } => {
                format!("/v1/environments/{}/policies", segment(environment))
            }
            Collection::Segments { environment } => {
                format!("/v1/environments/{}/segments", segment(environment))
            }
            Collection::Applications => "/v1/applications".to_owned(),
            Collection::Settings => "/v1/settings".to_owned(),
        }
    }
}

/// What must be so for a conditional write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The object exists, at any version.
    Exists,
    /// The object does not exist.
    Absent,
    /// The object is at exactly this version.
    At(Version),
}

/// One write of a change set.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    resource: Resource,
    value: Option<Value>,
    expected: Option<Version>,
}

impl Change {
    /// Creates or replaces an object, whatever is there.
    pub fn put(resource: Resource, value: Value) -> Change {
        Change {
            resource,
            value: Some(value),
            expected: None,
        }
    }

    /// Deletes an object, whatever its version.
    pub fn delete(resource: Resource) -> Change {
        Change {
            resource,
            value: None,
            expected: None,
        }
    }

    /// Makes the change, and the whole change set with it, depend on the object's version;
    /// [`Version::ZERO`] stands for an object that does not exist.
    #[must_use]
    pub fn expecting(mut self, version: Version) -> Change {
        self.expected = Some(version);
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let op = if self.value.is_some() {
            "put"
        } else {
            "delete"
        };
        let resource = &self.resource;
        let mut change = json!({"op": op, "kind": resource.kind().as_str(), "key": resource.key()});
        if let Some(environment) = resource.scope() {
            change["environment"] = json!(environment);
        }
        if let Some(value) = &self.value {
            change["value"] = value.clone();
        }
        if let Some(version) = self.expected {
            change["expected_version"] = json!(version);
        }
        change
    }
}

/// An object as a node shows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Object {
    /// Its key in its collection.
    pub key: String,
    /// The version of the write that made it.
    pub version: Version,
    /// What was written.
    #[serde(default)]
    pub value: Value,
    /// When it was written, as the node says it.
    #[serde(default, deserialize_with = "text")]
    pub updated_at: Option<String>,
    /// Who wrote it.
    #[serde(default, deserialize_with = "text")]
    pub updated_by: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct List {
    /// The objects, by key.
    pub items: Vec<Object>,
    /// The version at which the list was read.
    pub version: Version,
    /// Where the next page begins, if there is one.
    #[serde(default, deserialize_with = "text")]
    pub next: Option<String>,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Written {
    /// The key of the object.
    #[serde(default)]
    pub key: String,
    /// Its version from now on, or the version of the write that deleted it.
    pub version: Version,
    /// Its version before, if it existed.
    #[serde(default)]
    pub previous_version: Option<Version>,
    /// What came of waiting, with [`Admin::with_ack`](super::Admin::with_ack).
    #[serde(default)]
    pub delivery: Option<Delivery>,
}

/// What a change set did: everything in it, at one version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChangesWritten {
    /// The version that all of it happened at.
    pub version: Version,
    /// What became of each object, in the order of the request.
    #[serde(default)]
    pub results: Vec<ChangeWritten>,
    /// What came of waiting, with [`Admin::with_ack`](super::Admin::with_ack).
    #[serde(default)]
    pub delivery: Option<Delivery>,
}

/// What a change set did to one object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChangeWritten {
    /// The kind of the object, as the node says it; see [`ChangeWritten::resource`].
    pub kind: String,
    /// The environment it is in, if its kind lives in one.
    #[serde(default)]
    pub environment: Option<String>,
    /// Its key.
    pub key: String,
    /// Its version from now on, or the version of the write that deleted it.
    pub version: Version,
    /// Its version before, if it existed.
    #[serde(default)]
    pub previous_version: Option<Version>,
}

impl ChangeWritten {
    /// Returns the object; `None` for a kind that this release of the client does not know.
    pub fn resource(&self) -> Option<Resource> {
        Resource::named(&self.kind, self.environment.as_deref(), &self.key)
    }
}

/// Takes text as it is and anything else as JSON text: it is only ever shown.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    })
}

/// Takes a number of milliseconds, or none.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_its_environment_only_where_it_has_one() {
        let put = Change::put(Resource::policy("prod", "f"), json!({"enabled": true}));
        let expected = json!({"op": "put", "kind": "policy", "key": "f", "environment": "prod",
            "value": {"enabled": true}});
        assert_eq!(put.to_json(), expected);
        for (resource, kind) in [
            (Resource::application("f"), "application"),
            (Resource::setting("f"), "setting"),
        ] {
            let expected = json!({"op": "delete", "kind": kind, "key": "f"});
            assert_eq!(Change::delete(resource).to_json(), expected);
        }
        let delete = Change::delete(Resource::flag("f")).expecting(Version::ZERO);
        let expected = json!({"op": "delete", "kind": "flag", "key": "f", "expected_version": 0});
        assert_eq!(delete.to_json(), expected);
    }

    #[test]
    fn shapes_take_more_fields_and_miss_only_what_matters() {
        let object: Object =
            serde_json::from_value(json!({"key": "f", "version": 7, "updated_at": 12, "new": 1}))
                .unwrap();
        assert_eq!(object.updated_at.as_deref(), Some("12"));
        assert_eq!(object.updated_by, None);
        assert!(serde_json::from_value::<Object>(json!({"key": "f"})).is_err());
        let list: List = serde_json::from_value(json!({"items": [], "version": 3})).unwrap();
        assert_eq!(list.next, None);
    }
}
