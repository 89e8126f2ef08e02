//! FlagConfig, Environment, Application and settings as people write them. Ground state.
//!
//! What must hold: parsing collects every fault with its place and gives a value only when there
//! is none; a FlagConfig that was parsed is sound in itself (its off variant exists, its values
//! have its type). Sizes are bounded when it is compiled, because bounds belong to the cluster.
//!
//! Left out: everything that needs a second document (`compile.rs`), what the setting `limits` says
//! (`limits.rs`), and storing: the cluster keeps the text as it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{self, At, Fault, Faults, Fields};
use crate::ids::{ApplicationKey, EnvironmentKey, FlagKey, KEY_LEN_MAX};
use crate::limits::Limits;
use crate::retention::Retention;

/// The type that every variant of a flag has. Stored by position: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// A JSON number, read as f64.
    Number,
    /// A JSON object.
    Object,
}

impl ValueType {
    const WORDS: [&'static str; 4] = ["boolean", "string", "number", "object"];

    /// Returns the word for it: `boolean`, `string`, `number` or `object`.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Boolean => "boolean",
            ValueType::String => "string",
            ValueType::Number => "number",
            ValueType::Object => "object",
        }
    }

    /// Says whether a JSON value is of this type.
    pub fn admits(self, value: &Value) -> bool {
        match self {
            ValueType::Boolean => value.is_boolean(),
            ValueType::String => value.is_string(),
            ValueType::Number => value.is_number(),
            ValueType::Object => value.is_object(),
        }
    }

    fn from_word(word: &str) -> Option<ValueType> {
        match word {
            "boolean" => Some(ValueType::Boolean),
            "string" => Some(ValueType::String),
            "number" => Some(ValueType::Number),
            "object" => Some(ValueType::Object),
            _ => None,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a client answers with when its snapshot is older than the staleness bound. Stored by
/// position: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// The last good answer, marked STALE.
    #[default]
    Serve,
    /// The caller's default.
    Default,
}

impl OnStale {
    /// Returns `serve` or `default`.
    pub fn as_str(self) -> &'static str {
        match self {
            OnStale::Serve => "serve",
            OnStale::Default => "default",
        }
    }
}

/// What a flag is. Ground state, one per flag, shared by all environments.
///
/// ```
/// use pennon_evaluator::{FlagConfig, FlagKey};
/// let key: FlagKey = "checkout.new-ui".parse()?;
/// let text = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
/// assert_eq!(FlagConfig::parse(&key, text).map(|c| c.salt), Ok("checkout.new-ui".to_owned()));
///
/// let faults = FlagConfig::parse(&key, &text.replace("false", "\"no\"")).unwrap_err();
/// assert_eq!(faults[0].pointer, "/variants/off");
/// # Ok::<(), pennon_evaluator::KeyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FlagConfig {
    /// Its key.
    pub key: FlagKey,
    /// The type of all its variants.
    pub value_type: ValueType,
    /// The variants by name: at least one, names of 1 to 256 bytes.
    pub variants: BTreeMap<String, Value>,
    /// The variant served while the flag is disabled or a prerequisite fails.
    pub off_variant: String,
    /// For people.
    pub description: String,
    /// For people, in the order written.
    pub tags: Vec<String>,
    /// What subjects are bucketed with unless a rollout has its own salt: 1 to 256 bytes, the key
    /// when left out. Immutable after creation; the leader's Writer sees to that.
    pub salt: String,
    /// What a stale client answers.
    pub on_stale: OnStale,
    /// An archived flag answers `FLAG_NOT_FOUND`.
    pub archived: bool,
    /// Whether every evaluation asks for an ExposureEvent.
    pub track: bool,
}

impl FlagConfig {
    const FIELDS: [&'static str; 10] = [
        "key",
        "type",
        "variants",
        "off_variant",
        "description",
        "tags",
        "salt",
        "on_stale",
        "archived",
        "track",
    ];

    /// Reads a FlagConfig from JSON. `key` may be left out of the text; when given it must be the
    /// same.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn parse(key: &FlagKey, json: &str) -> Result<FlagConfig, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let config = Self::read(key, &value, &mut faults);
        if let Some(config) = &config {
            config.check(&mut faults);
        }
        faults.finish(config)
    }

    fn read(key: &FlagKey, value: &Value, faults: &mut Faults) -> Option<FlagConfig> {
        let fields = Fields::open(value, &At::ROOT, &Self::FIELDS, faults)?;
        check_same_key(&fields, key.as_str(), faults);
        let value_type = read_type(&fields, faults);
        let variants = read_variants(&fields, faults);
        let off_variant = fields.required_string("off_variant", faults);
        let description = fields.string("description", faults).unwrap_or_default();
        let tags = fields.strings("tags", faults);
        let salt = fields
            .string("salt", faults)
            .unwrap_or_else(|| key.as_str().to_owned());
        let on_stale = read_on_stale(&fields, faults);
        let archived = fields.boolean_or("archived", false, faults);
        let track = fields.boolean_or("track", false, faults);
        Some(FlagConfig {
            key: key.clone(),
            value_type: value_type?,
            variants: variants?,
            off_variant: off_variant?,
            description,
            tags,
            salt,
            on_stale,
            archived,
            track,
        })
    }

    /// Checks what can be checked on the FlagConfig alone.
    pub(crate) fn check(&self, faults: &mut Faults) {
        let root = At::ROOT;
        let variants = root.key("variants");
        if self.variants.is_empty() {
            faults.push(&variants, "a flag has at least one variant");
        }
        for (name, value) in &self.variants {
            let at = variants.key(name);
            check_name(name, "the name of a variant", &at, faults);
            if !self.value_type.admits(value) {
                let wanted = format!("a value of the flag's type {}", self.value_type);
                faults.push(&at, fault::wrong(&wanted, value));
            }
        }
        if !self.variants.is_empty() && !self.variants.contains_key(&self.off_variant) {
            faults.push(&root.key("off_variant"), self.no_variant(&self.off_variant));
        }
        check_name(&self.salt, "a salt", &root.key("salt"), faults);
    }

    /// Checks the sizes that a cluster limits.
    ///
    /// # Errors
    /// Every fault found.
    ///
    /// ```
    /// use pennon_evaluator::{FlagConfig, Limits};
    /// let text = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
    /// let config = FlagConfig::parse(&"new-ui".parse().unwrap(), text).unwrap();
    /// assert!(config.check_within(&Limits::default()).is_ok());
    ///
    /// let one = Limits::parse(r#"{"variants": 1}"#).unwrap();
    /// assert_eq!(config.check_within(&one).unwrap_err()[0].pointer, "/variants");
    /// ```
    pub fn check_within(&self, limits: &Limits) -> Result<(), Vec<Fault>> {
        let mut faults = Faults::default();
        self.canonical_variants(limits, &mut faults);
        faults.finish(Some(()))
    }

    /// Returns the variants with their values as canonical JSON, and complains about sizes.
    pub(crate) fn canonical_variants(
        &self,
        limits: &Limits,
        faults: &mut Faults,
    ) -> Vec<(&str, String)> {
        let root = At::ROOT;
        let at = root.key("variants");
        let (found, max) = (self.variants.len(), limits.variants_max);
        fault::check_count(found, max, "variants", &at, faults);
        let mut variants = Vec::with_capacity(found);
        for (name, value) in &self.variants {
            let (value, max) = (fault::canonical(value), limits.variant_value_len_max);
            if value.len() > max {
                let len = value.len();
                let message = format!("the value of a variant has at most {max} bytes, not {len}");
                faults.push(&at.key(name), message);
            }
            variants.push((name.as_str(), value));
        }
        variants
    }

    /// Says that there is no such variant, and which there are.
    pub(crate) fn no_variant(&self, name: &str) -> String {
        let known: Vec<&str> = self.variants.keys().map(String::as_str).collect();
        format!(
            "the flag has no variant {name:?}; {}",
            fault::offer(name, &known)
        )
    }
}

/// What an environment is. Ground state.
///
/// ```
/// use pennon_evaluator::{Environment, EnvironmentKey};
/// let key: EnvironmentKey = "production".parse()?;
/// let production = Environment::parse(&key, r#"{"protected":true}"#).unwrap_or_default();
/// assert_eq!((production.protected, production.staleness_bound_ms), (true, 10_000));
///
/// let faults = Environment::parse(&key, r#"{"staleness_bound_ms":5}"#).unwrap_err();
/// assert_eq!(faults[0].pointer, "/staleness_bound_ms");
/// # Ok::<(), pennon_evaluator::KeyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// A name for people.
    pub name: Option<String>,
    /// For people.
    pub description: String,
    /// Whether changes here need more care than elsewhere.
    pub protected: bool,
    /// The staleness bound in milliseconds, 1,000 to 600,000; 10,000 when left out.
    pub staleness_bound_ms: u64,
}

impl Environment {
    const FIELDS: [&'static str; 5] = [
        "key",
        "name",
        "description",
        "protected",
        "staleness_bound_ms",
    ];
    /// The staleness bound of an environment that does not name one.
    pub const STALENESS_BOUND_MS_DEFAULT: u64 = 10_000;
    /// The least and the greatest staleness bound: three heartbeats need some time, and an answer
    /// that may be ten minutes old is no longer worth calling fresh.
    pub const STALENESS_BOUND_MS_RANGE: (u64, u64) = (1_000, 600_000);

    /// Reads an environment from JSON. `key` may be left out of the text; when given it must be
    /// the same.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn parse(key: &EnvironmentKey, json: &str) -> Result<Environment, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let environment = Self::read(key, &value, &mut faults);
        faults.finish(environment)
    }

    /// Returns the staleness bound.
    pub fn staleness_bound(&self) -> Duration {
        Duration::from_millis(self.staleness_bound_ms)
    }

    fn read(key: &EnvironmentKey, value: &Value, faults: &mut Faults) -> Option<Environment> {
        let fields = Fields::open(value, &At::ROOT, &Self::FIELDS, faults)?;
        check_same_key(&fields, key.as_str(), faults);
        let bound = fields.optional("staleness_bound_ms").map(|value| {
            let at = fields.at.key("staleness_bound_ms");
            fault::integer(value, &at, Self::STALENESS_BOUND_MS_RANGE, faults)
        });
        Some(Environment {
            name: fields.string("name", faults),
            description: fields.string("description", faults).unwrap_or_default(),
            protected: fields.boolean_or("protected", false, faults),
            staleness_bound_ms: bound.flatten().unwrap_or(Self::STALENESS_BOUND_MS_DEFAULT),
        })
    }
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            name: None,
            description: String::new(),
            protected: false,
            staleness_bound_ms: Self::STALENESS_BOUND_MS_DEFAULT,
        }
    }
}

/// What one application needs: the flags with any of its tags, and whatever those use. Ground state.
///
/// ```
/// use pennon_evaluator::{Application, ApplicationKey};
/// let key: ApplicationKey = "shop/web".parse()?;
/// let shop = Application::parse(&key, r#"{"tags":["checkout","search"]}"#).unwrap();
/// assert_eq!(shop.tags, ["checkout", "search"]);
///
/// let faults = Application::parse(&key, r#"{"tags":["checkout","checkout"]}"#).unwrap_err();
/// assert_eq!(faults[0].pointer, "/tags/1");
/// # Ok::<(), pennon_evaluator::KeyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its key.
    pub key: ApplicationKey,
    /// 1 to 100 tags of 1 to 256 bytes, each once, in the order written.
    pub tags: Vec<String>,
    /// For people.
    pub description: String,
}

impl Application {
    const FIELDS: [&'static str; 3] = ["key", "tags", "description"];
    /// The most tags that an application has.
    pub const TAGS_MAX: usize = 100;

    /// Reads an application from JSON. `key` may be left out of the text; when given it must be the
    /// same.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn parse(key: &ApplicationKey, json: &str) -> Result<Application, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let application = Self::read(key, &value, &mut faults);
        faults.finish(application)
    }

    fn read(key: &ApplicationKey, value: &Value, faults: &mut Faults) -> Option<Application> {
        let root = At::ROOT;
        let fields = Fields::open(value, &root, &Self::FIELDS, faults)?;
        check_same_key(&fields, key.as_str(), faults);
        let at = root.key("tags");
        let count = fields
            .required("tags", faults)?
            .as_array()
            .map_or(0, Vec::len);
        fault::check_count(count, Self::TAGS_MAX, "tags", &at, faults);
        if count > Self::TAGS_MAX {
            return None;
        }
        let mut seen = BTreeSet::new();
        let tags = fields.list("tags", faults, |value, at, faults| {
            let tag = fault::string(value, at, faults)?;
            check_name(&tag, "a tag", at, faults);
            if !seen.insert(tag.clone()) {
                faults.push(at, format!("{tag:?} is given twice"));
            }
            Some(tag)
        });
        if value["tags"] == Value::Array(Vec::new()) {
            faults.push(&at, "name at least one tag");
        }
        Some(Application {
            key: key.clone(),
            tags,
            description: fields.string("description", faults).unwrap_or_default(),
        })
    }
}

/// Something that is set once for a whole cluster. Ground state, one object per name.
///
/// ```
/// use pennon_evaluator::Setting;
/// let limits: Setting = "limits".parse()?;
/// assert!(limits.check(r#"{"rules": 2000}"#).is_ok());
/// assert_eq!(limits.check(r#"{"rules": 0}"#).unwrap_err()[0].pointer, "/rules");
///
/// let refusal = "colours".parse::<Setting>().unwrap_err();
/// assert_eq!(refusal.to_string(), "there is no setting \"colours\"; there is: limits, history");
/// # Ok::<(), pennon_evaluator::UnknownSetting>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// How large things may be: [`Limits`].
    Limits,
    /// How much of the history is kept: [`Retention`].
    History,
}

impl Setting {
    /// All there are.
    pub const ALL: [Setting; 2] = [Setting::Limits, Setting::History];

    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Setting::Limits => "limits",
            Setting::History => "history",
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn check(self, json: &str) -> Result<(), Vec<Fault>> {
        match self {
            Setting::Limits => Limits::parse(json).map(drop),
            Setting::History => Retention::parse(json).map(drop),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Setting {
    type Err = UnknownSetting;

    fn from_str(name: &str) -> Result<Setting, UnknownSetting> {
        let found = Setting::ALL
            .into_iter()
            .find(|setting| setting.as_str() == name);
        found.ok_or_else(|| UnknownSetting { name: name.into() })
    }
}

/// A name that no setting has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no setting {name:?}; there is: {}", Setting::ALL.map(Setting::as_str).join(", "))]
pub struct UnknownSetting {
    name: String,
}

/// Checks a name that people choose freely: 1 to 256 bytes without control characters.
pub(crate) fn check_name(name: &str, what: &str, at: &At<'_>, faults: &mut Faults) {
    if name.is_empty() {
        faults.push(at, format!("{what} must not be empty"));
    } else if name.len() > KEY_LEN_MAX {
        let len = name.len();
        faults.push(
            at,
            format!("{what} has at most {KEY_LEN_MAX} bytes, this one has {len}"),
        );
    } else if name.chars().any(char::is_control) {
        faults.push(at, format!("{what} must not have control characters"));
    }
}

fn check_same_key(fields: &Fields<'_>, key: &str, faults: &mut Faults) {
    if let Some(given) = fields.string("key", faults)
        && given != key
    {
        let message = format!("must be {key:?}, the key it is written under, not {given:?}");
        faults.push(&fields.at.key("key"), message);
    }
}

fn read_type(fields: &Fields<'_>, faults: &mut Faults) -> Option<ValueType> {
    let word = fields.required_string("type", faults)?;
    let found = ValueType::from_word(&word);
    if found.is_none() {
        let offer = fault::offer(&word, &ValueType::WORDS);
        faults.push(
            &fields.at.key("type"),
            format!("there is no type {word:?}; {offer}"),
        );
    }
    found
}

fn read_variants(fields: &Fields<'_>, faults: &mut Faults) -> Option<BTreeMap<String, Value>> {
    let value = fields.required("variants", faults)?;
    let Some(map) = value.as_object() else {
        let wanted = "an object of variants by name";
        faults.push(&fields.at.key("variants"), fault::wrong(wanted, value));
        return None;
    };
    Some(
        map.iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

fn read_on_stale(fields: &Fields<'_>, faults: &mut Faults) -> OnStale {
    match fields.string("on_stale", faults).as_deref() {
        None | Some("serve") => OnStale::Serve,
        Some("default") => OnStale::Default,
        Some(word) => {
            let offer = fault::offer(word, &["serve", "default"]);
            faults.push(
                &fields.at.key("on_stale"),
                format!("there is no {word:?}; {offer}"),
            );
            OnStale::Serve
        }
    }
}
