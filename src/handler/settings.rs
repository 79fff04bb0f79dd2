//! What an operator says about job types (config section `handlers`).
//!
//! Owns: the shape of the section, its defaults and its checks. Must not know: the file it is read from, other sections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rules;
use crate::model::{JobType, ProxyHint, Violation};

/// The `handlers` section: one entry for each job type, beside the switch `handlers_only`.
///
/// ```yaml
/// handlers:
///   handlers_only: false      # true: a job type without an entry here is refused
///   gallery:
///     handler: gallery
///     storage: { bucket: images }
/// ```
///
/// No job type can be called `handlers_only`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// A job type without an entry is refused with UNSUPPORTED_JOB_TYPE instead of being served by the default handler.
    pub handlers_only: bool,
    pub types: BTreeMap<String, TypeSettings>,
}

/// Settings of one job type.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TypeSettings {
    /// `default`, `gallery`, or the name of a handler the program registered.
    pub handler: String,
    /// Jobs of this type have no resources; clients move them.
    pub external: bool,
    /// Sent with every download unless the manifest gives a header of the same name.
    pub headers: BTreeMap<String, String>,
    pub storage: StorageSettings,
    /// For resources that do not name a proxy themselves.
    pub proxy: Option<ProxySettings>,
    /// Resources of one job that are downloaded at the same time; 0: as many as there is room for.
    pub max_parallel_downloads: u32,
    /// Every resource is downloaded only if it changed since the object at the same place was stored.
    pub revalidate: bool,
    /// The largest body of a resource that says nothing itself; None: the worker's own limit, which always holds.
    pub max_bytes: Option<u64>,
    /// How long one hook of the handler may take.
    pub timeout_ms: u64,
}

/// Where the objects of a job type go when the manifest does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSettings {
    /// None: the configured bucket.
    pub bucket: Option<String>,
    /// Prefix of every resource's key. `{job_id}` and `{job_type}` may stand in it; without `{job_id}` the job's id follows as
    /// a folder of its own, so that two jobs never share a key, unless keys are made from digests.
    pub key_prefix: Option<String>,
    /// The key is `{prefix}/sha256/{aa}/{sha256}` for every resource: the same bytes are stored once.
    pub content_addressed: bool,
}

/// Names of configured proxy pools, best first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxySettings {
    pub primary: String,
    pub fallbacks: Vec<String>,
}

impl Default for TypeSettings {
    fn default() -> Self {
        Self {
            handler: "default".to_owned(),
            external: false,
            headers: BTreeMap::new(),
            storage: StorageSettings::default(),
            proxy: None,
            max_parallel_downloads: 0,
            revalidate: false,
            max_bytes: None,
            timeout_ms: 10_000,
        }
    }
}

impl fmt::Debug for TypeSettings {
    /// Header values may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeSettings")
            .field("handler", &self.handler)
            .field("external", &self.external)
            .field("headers", &self.headers.keys())
            .field("storage", &self.storage)
            .field("proxy", &self.proxy)
            .field("max_parallel_downloads", &self.max_parallel_downloads)
            .field("revalidate", &self.revalidate)
            .field("max_bytes", &self.max_bytes)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

/// Settings that cannot work; each with the key it stands under, as `handlers.gallery.handler`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<Violation>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|found| format!("{}: {}", found.path, found.message)).collect();
        f.write_str(&lines.join("; "))
    }
}

impl std::error::Error for SettingsError {}

impl TypeSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The key prefix as a task carries it. Keys made from digests cannot meet: jobs share their folder.
    pub fn task_prefix(&self, content_addressed: bool) -> Option<String> {
        let prefix = self.storage.key_prefix.as_deref()?.trim_end_matches('/');
        let is_apart = content_addressed || prefix.contains("{job_id}");
        Some(if is_apart { prefix.to_owned() } else { format!("{prefix}/{{job_id}}") })
    }

    pub fn proxy_hint(&self) -> Option<ProxyHint> {
        let proxy = self.proxy.as_ref()?;
        Some(ProxyHint { primary_pool: proxy.primary.clone(), fallbacks: proxy.fallbacks.clone() })
    }

    fn check(&self, at: &str, found: &mut Vec<Violation>) {
        let mut add = |key: String, message: &str| {
            found.push(Violation { path: format!("{at}.{key}"), message: message.to_owned() });
        };
        if self.headers.len() > rules::TYPE_HEADERS_MAX {
            let (count, most) = (self.headers.len(), rules::TYPE_HEADERS_MAX);
            add("headers".to_owned(), &format!("has {count} entries; at most {most}, because clients add their own"));
        }
        for (name, value) in &self.headers {
            if let Some(fault) = rules::header_name_fault(name).or_else(|| rules::header_value_fault(name, value)) {
                add(format!("headers.{name}"), fault);
            }
        }
        if let Some(fault) = self.storage.bucket.as_deref().and_then(rules::bucket_fault) {
            add("storage.bucket".to_owned(), fault);
        }
        let prefix = self.storage.key_prefix.as_deref();
        if let Some(fault) = prefix.and_then(|prefix| rules::key_fault(prefix.strip_suffix('/').unwrap_or(prefix))) {
            add("storage.key_prefix".to_owned(), fault);
        }
        if self.max_bytes == Some(0) {
            add("max_bytes".to_owned(), "must be greater than 0");
        }
        if !(1..=600_000).contains(&self.timeout_ms) {
            add("timeout_ms".to_owned(), "must be 1 to 600000");
        }
    }
}

impl Options {
    /// Everything wrong with the section by itself, by key. `handlers` are the names that exist.
    pub(super) fn check(&self, handlers: &BTreeSet<&str>) -> Vec<Violation> {
        let mut found = Vec::new();
        for (name, settings) in &self.types {
            let at = format!("handlers.{name}");
            if name.is_empty() || JobType::parse(name).is_err() {
                found.push(Violation { path: at.clone(), message: NOT_A_JOB_TYPE.to_owned() });
            }
            if !handlers.contains(settings.handler.as_str()) {
                let known: Vec<&str> = handlers.iter().copied().collect();
                let message = format!("no handler is called {:?}; known: {}", settings.handler, known.join(", "));
                found.push(Violation { path: format!("{at}.handler"), message });
            }
            settings.check(&at, &mut found);
        }
        found
    }

    /// Every proxy pool the section names that is not among `pools`, by key.
    pub fn unknown_pools(&self, pools: &BTreeSet<String>) -> Vec<Violation> {
        let mut found = Vec::new();
        for (name, settings) in &self.types {
            let Some(proxy) = &settings.proxy else { continue };
            let at = format!("handlers.{name}.proxy");
            let fallbacks = proxy.fallbacks.iter().enumerate();
            let named = std::iter::once((format!("{at}.primary"), &proxy.primary))
                .chain(fallbacks.map(|(index, pool)| (format!("{at}.fallbacks[{index}]"), pool)));
            for (path, pool) in named.filter(|(_, pool)| !pools.contains(*pool)) {
                found.push(Violation { path, message: format!("no proxy pool is called {pool:?}") });
            }
        }
        found
    }
}

const NOT_A_JOB_TYPE: &str = "is not a job type: [a-z0-9][a-z0-9._-]{0,63}";
const HANDLERS_ONLY: &str = "handlers_only";

impl From<BTreeMap<String, TypeSettings>> for Options {
    fn from(types: BTreeMap<String, TypeSettings>) -> Self {
        Self { handlers_only: false, types }
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.types.len() + 1))?;
        map.serialize_entry(HANDLERS_ONLY, &self.handlers_only)?;
        for (name, settings) in &self.types {
            map.serialize_entry(name, settings)?;
        }
        map.end()
    }
}

/// By hand, because a flattened map would lose the line and column of a wrong key.
impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Section;
        impl<'de> Visitor<'de> for Section {
            type Value = Options;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("job types with their settings")
            }

            /// `handlers:` with nothing behind it.
            fn visit_unit<E>(self) -> Result<Options, E> {
                Ok(Options::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                let mut options = Options::default();
                let mut seen = BTreeSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("{key} stands here twice")));
                    }
                    if key == HANDLERS_ONLY {
                        options.handlers_only = map.next_value()?;
                    } else if key.is_empty() || JobType::parse(&key).is_err() {
                        return Err(A::Error::custom(format_args!("{key:?} {NOT_A_JOB_TYPE}")));
                    } else {
                        options.types.insert(key, map.next_value()?);
                    }
                }
                Ok(options)
            }
        }
        deserializer.deserialize_any(Section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_reads_as_it_is_written() {
        let text =
            "handlers_only: true\ngallery:\n  handler: gallery\n  headers: { X-A: b }\n  storage: { bucket: images }\n";
        let options: Options = serde_yaml::from_str(text).unwrap();
        assert!(options.handlers_only);
        assert_eq!(options.types["gallery"].storage.bucket.as_deref(), Some("images"));
        assert_eq!(options.types["gallery"].timeout_ms, 10_000);
        let again: Options = serde_yaml::from_str(&serde_yaml::to_string(&options).unwrap()).unwrap();
        assert_eq!(again, options);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = serde_yaml::from_str::<Options>("gallery:\n  handlr: default\n").unwrap_err().to_string();
        assert!(error.contains("handlr") && error.contains("line 2"), "{error}");
        for wrong in ["Gallery: {}", "../x: {}", "gallery: {}\ngallery: {}\n", "handlers_only: maybe"] {
            assert!(serde_yaml::from_str::<Options>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn header_values_do_not_reach_a_log() {
        let headers = BTreeMap::from([("Authorization".to_owned(), "secret".to_owned())]);
        let shown = format!("{:?}", TypeSettings { headers, ..TypeSettings::default() });
        assert!(shown.contains("Authorization") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn headers_that_leave_no_room_for_a_clients_are_refused_before_every_job_is() {
        let found = |count: usize| {
            let headers = (0..count).map(|at| (format!("X-{at}"), "a".to_owned())).collect();
            let settings = TypeSettings { headers, ..TypeSettings::default() };
            Options::from(BTreeMap::from([("many".to_owned(), settings)])).check(&BTreeSet::from(["default"]))
        };
        assert_eq!(found(54), []);
        let [fault] = found(55).try_into().unwrap();
        assert_eq!(fault.path, "handlers.many.headers");
        assert!(fault.message.contains("55") && fault.message.contains("54"), "{}", fault.message);
    }

    #[test]
    fn an_operators_prefix_keeps_jobs_apart() {
        let with = |prefix: &str| {
            let storage = StorageSettings { key_prefix: Some(prefix.to_owned()), ..StorageSettings::default() };
            TypeSettings { storage, ..TypeSettings::default() }.task_prefix(false).unwrap()
        };
        assert_eq!(with("images/"), "images/{job_id}");
        assert_eq!(with("by-job/{job_id}/images"), "by-job/{job_id}/images");
    }

    #[test]
    fn a_pool_nobody_configured_is_named_by_its_key() {
        let proxy = ProxySettings { primary: "eu".into(), fallbacks: vec!["us".into()] };
        let settings = TypeSettings { proxy: Some(proxy), ..TypeSettings::default() };
        let options = Options::from(BTreeMap::from([("gallery".to_owned(), settings)]));
        let found = options.unknown_pools(&BTreeSet::from(["eu".to_owned()]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "handlers.gallery.proxy.fallbacks[0]");
    }
}
