//! Job type → handler and settings.
//!
//! Owns: which handler serves a job type, and which job types are served at all. Must not know: what handlers do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::settings::{Options, SettingsError, TypeSettings};
use super::{DefaultHandler, GalleryHandler, JobHandler};
use crate::model::JobType;

type Served = (Arc<dyn JobHandler>, Arc<TypeSettings>);

/// Cheap to clone. Lookups take no lock.
#[derive(Clone)]
pub struct Registry(Arc<Table>);

#[derive(Clone)]
struct Table {
    named: BTreeMap<String, Arc<dyn JobHandler>>,
    types: BTreeMap<JobType, Served>,
    /// Serves job types without settings; None with `handlers_only`.
    fallback: Option<Served>,
}

impl Registry {
    /// Builds the table from the `handlers` section. `extra` are the program's own handlers by name: settings may name them,
    /// and they may replace `default` and `gallery`.
    ///
    /// # Errors
    /// Every setting that cannot work, a handler name nobody registered among them, with its key.
    pub fn new(
        options: impl Into<Options>,
        extra: impl IntoIterator<Item = (String, Arc<dyn JobHandler>)>,
    ) -> Result<Self, SettingsError> {
        let options = options.into();
        let mut named: BTreeMap<String, Arc<dyn JobHandler>> = BTreeMap::new();
        named.insert("default".to_owned(), Arc::new(DefaultHandler));
        named.insert("gallery".to_owned(), Arc::new(GalleryHandler));
        named.extend(extra);
        let found = options.check(&named.keys().map(String::as_str).collect());
        if !found.is_empty() {
            return Err(SettingsError(found));
        }
        let mut table = Table { named, types: BTreeMap::new(), fallback: None };
        if !options.handlers_only {
            table.fallback = table.serve(TypeSettings::default());
        }
        for (name, settings) in options.types {
            if let (Ok(job_type), Some(served)) = (JobType::parse(&name), table.serve(settings)) {
                table.types.insert(job_type, served);
            }
        }
        Ok(Self(Arc::new(table)))
    }

    /// Adds a handler by name or replaces the one of that name; job types whose settings name it use it from now on in this
    /// registry and its later clones.
    pub fn register(&mut self, name: impl Into<String>, handler: Arc<dyn JobHandler>) {
        let name = name.into();
        let table = Arc::make_mut(&mut self.0);
        for (served, settings) in table.types.values_mut().chain(table.fallback.as_mut()) {
            if settings.handler == name {
                *served = handler.clone();
            }
        }
        table.named.insert(name, handler);
    }

    /// Serves a job type with these settings from now on.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn serve(&mut self, job_type: &JobType, settings: TypeSettings) -> Result<(), SettingsError> {
        let options = Options::from(BTreeMap::from([(job_type.to_string(), settings.clone())]));
        let found = options.check(&self.0.named.keys().map(String::as_str).collect());
        if !found.is_empty() {
            return Err(SettingsError(found));
        }
        let table = Arc::make_mut(&mut self.0);
        if let Some(served) = table.serve(settings) {
            table.types.insert(job_type.clone(), served);
        }
        Ok(())
    }

    /// None: the job type is not served.
    pub fn get(&self, job_type: &JobType) -> Option<(Arc<dyn JobHandler>, Arc<TypeSettings>)> {
        self.0.types.get(job_type).or(self.0.fallback.as_ref()).cloned()
    }
}

impl Table {
    fn serve(&self, settings: TypeSettings) -> Option<Served> {
        let handler = self.named.get(&settings.handler)?.clone();
        Some((handler, Arc::new(settings)))
    }
}

impl Default for Registry {
    /// Every job type is served by the default handler.
    fn default() -> Self {
        let handler: Arc<dyn JobHandler> = Arc::new(DefaultHandler);
        let settings = Arc::new(TypeSettings::default());
        let named = BTreeMap::from([("default".to_owned(), handler.clone())]);
        Self(Arc::new(Table { named, types: BTreeMap::new(), fallback: Some((handler, settings)) }))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = self.0.types.iter().map(|(job_type, (_, settings))| (job_type.as_str(), settings));
        f.debug_map().entries(types).finish()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::handler::HandlerError;
    use crate::model::{Manifest, TaskSpec};

    struct Own;

    #[async_trait]
    impl JobHandler for Own {
        async fn build_tasks(&self, _: &Manifest, _: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError> {
            Ok(vec![TaskSpec { resource_id: "own".into(), ..TaskSpec::default() }])
        }
    }

    fn settings(handler: &str) -> TypeSettings {
        TypeSettings { handler: handler.to_owned(), ..TypeSettings::default() }
    }

    fn types(handler: &str) -> BTreeMap<String, TypeSettings> {
        BTreeMap::from([("crawl".to_owned(), settings(handler))])
    }

    async fn ids(registry: &Registry, job_type: &str) -> Option<Vec<String>> {
        let (handler, settings) = registry.get(&JobType::parse(job_type).unwrap())?;
        let tasks = handler.build_tasks(&Manifest::default(), &settings).await.unwrap();
        Some(tasks.into_iter().map(|task| task.resource_id).collect())
    }

    #[test]
    fn a_handler_that_does_not_exist_is_named_by_its_key() {
        let error = Registry::new(types("galery"), []).unwrap_err();
        assert_eq!(error.0[0].path, "handlers.crawl.handler");
        assert!(error.to_string().contains("galery") && error.to_string().contains("gallery"), "{error}");
    }

    #[test]
    fn settings_that_would_fail_every_job_are_refused_at_once() {
        let mut wrong = settings("default");
        wrong.headers.insert("Host".into(), "x".into());
        wrong.storage.bucket = Some("../x".into());
        wrong.storage.key_prefix = Some("../x".into());
        wrong.timeout_ms = 0;
        let error = Registry::new(BTreeMap::from([("crawl".to_owned(), wrong)]), []).unwrap_err();
        let paths: Vec<&str> = error.0.iter().map(|found| found.path.as_str()).collect();
        let at = ["headers.Host", "storage.bucket", "storage.key_prefix", "timeout_ms"];
        assert_eq!(paths, at.map(|key| format!("handlers.crawl.{key}")));
    }

    #[tokio::test]
    async fn an_embedders_handler_serves_the_types_that_name_it() {
        let own: Arc<dyn JobHandler> = Arc::new(Own);
        let registry = Registry::new(types("own"), [("own".to_owned(), own.clone())]).unwrap();
        assert_eq!(ids(&registry, "crawl").await.unwrap(), ["own"]);
        assert_eq!(ids(&registry, "other").await.unwrap(), Vec::<String>::new());

        let mut replaced = Registry::default();
        replaced.register("default", own);
        assert_eq!(ids(&replaced, "anything").await.unwrap(), ["own"]);
        replaced.serve(&JobType::default(), settings("nobody")).unwrap_err();
    }

    #[test]
    fn handlers_only_refuses_types_nobody_configured() {
        let options = Options { handlers_only: true, types: types("default") };
        let registry = Registry::new(options, []).unwrap();
        assert!(registry.get(&JobType::parse("crawl").unwrap()).is_some());
        assert!(registry.get(&JobType::default()).is_none());
        assert!(Registry::default().get(&JobType::default()).is_some());
    }
}
