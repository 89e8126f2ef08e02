//! What is read and written through `Admin`: where it is found and the shapes it has.
//!
//! What must hold: keys are encoded into paths here and nowhere else; a shape takes fields it does
//! not know, so that newer nodes can add some.
//!
//! Left out: what the values mean. They are JSON as people write it, checked by the node.

use pennon_evaluator::Version;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

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

    fn kind(&self) -> &'static str {
        match self {
            Resource::Flag { .. } => "flag",
            Resource::Environment { .. } => "environment",
            Resource::Policy { .. } => "policy",
            Resource::Segment { .. } => "segment",
            Resource::Application { .. } => "application",
            Resource::Setting { .. } => "setting",
        }
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
        let mut change = json!({"op": op, "kind": resource.kind(), "key": resource.key()});
        if let Resource::Policy { environment, .. } | Resource::Segment { environment, .. } =
            resource
        {
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
}

/// Takes text as it is and anything else as JSON text: it is only ever shown.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    })
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
