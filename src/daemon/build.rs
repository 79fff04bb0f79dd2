//! From a configuration to a daemon that is ready to run.
//!
//! Owns: which room is given what. Must not know: how the rooms run.

use std::sync::Arc;

use super::dirs::DataDir;
use super::error::{StartError, StartErrorKind};
use super::health::Condition;
use super::pulse::Pulse;
use super::{Daemon, Listeners};
use crate::api::{Api, Places};
use crate::clock::{Clock, JobIds};
use crate::config::{Config, Invalid};
use crate::dispatch::{self, Dispatcher};
use crate::handler::{self, Registry};
use crate::ingest::{self, Ingest};
use crate::ledger::Ledger;
use crate::model::{JobId, Refusal};
use crate::objects::Objects;
use crate::retention::Retention;
use crate::store::{self, OpenError, Opened};
use crate::telemetry::Metrics;
use crate::worker::Worker;
use crate::worker::proxy::Proxies;

/// Claims the data directory, opens listeners (those not given), recovers the store and composes the rooms.
///
/// # Errors
/// Nothing of a daemon that could not be built is left behind, but folders and the lock file.
pub async fn build(mut config: Config, listeners: Listeners) -> Result<Daemon, StartError> {
    // Before anything is made: a start that cannot succeed leaves no folder behind.
    let problems = [config.problems(), config.secret_problems()].concat();
    if !problems.is_empty() {
        return Err(set_up(Invalid { problems }));
    }
    let dir = DataDir::claim(&config.data_dir)?;
    // Before the recovery: whoever connects meanwhile waits in the backlog and is served, not refused.
    let listeners = listeners.open(&config, &dir)?;
    config.storage.root = dir.root().join("objects");

    let clock = Clock::system();
    let metrics = Metrics::new();
    let Opened { store, reader, guard, torn_bytes } = open_store(&config, &dir, metrics.clone()).await?;
    if torn_bytes > 0 {
        tracing::warn!(bytes = torn_bytes, "cut an unacknowledged tail off the journal");
    }
    let last = reader.last_job_id().map_err(|refusal| unreadable(&refusal))?.unwrap_or(JobId::MIN);
    let ids = Arc::new(JobIds::new(clock.clone(), last));

    let objects = Objects::new(config.storage.clone()).map_err(set_up)?;
    let proxies = Proxies::new(&config.proxies, &metrics).map_err(set_up)?;
    let worker = Worker::new(config.worker.clone(), objects.clone(), clock.clone()).map_err(set_up)?;
    let worker = worker.with_proxies(proxies);
    let registry = Registry::new(config.handlers.clone(), []).map_err(set_up)?;
    let (dispatcher, dispatch) = Dispatcher::new(
        config.dispatch.clone(),
        dispatch::Deps {
            store: store.clone(),
            reader: reader.clone(),
            worker,
            registry: registry.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            metrics: metrics.clone(),
            default_bucket: config.storage.bucket.clone(),
            storage_prefix: config.storage.prefix.clone(),
            manifest_json: handler::manifest_json,
        },
    );
    let (sweeper, retention) = Retention::new(
        config.retention.clone(),
        store.clone(),
        reader.clone(),
        objects.clone(),
        clock.clone(),
        metrics.clone(),
    );
    let options = ingest_options(&config);
    let ingest = Ingest::new(options, store, reader.clone(), registry, clock.clone(), ids, Arc::new(metrics.clone()));
    let pulse = Pulse { clock: clock.clone(), reader: reader.clone(), dispatch: dispatch.clone() };
    let condition = Condition::new(pulse.clone(), objects);
    let api = Api {
        ingest,
        ledger: Ledger::new(reader),
        dispatch,
        retention,
        metrics,
        clock,
        health: condition.handle(),
        places: places(&config),
    };
    let addresses = listeners.addresses();
    Ok(Daemon { config, addresses, listeners, api, dispatcher, sweeper, pulse, condition, guard, dir })
}

/// What the in-door must know of other sections.
fn ingest_options(config: &Config) -> ingest::Options {
    ingest::Options {
        bucket: config.storage.bucket.clone(),
        key_prefix: config.storage.prefix.clone(),
        allowed_buckets: config.storage.allowed_buckets.iter().cloned().collect(),
        proxy_pools: config.proxies.pool_names(),
        ..config.ingest.clone()
    }
}

/// The rule by which the dispatcher places objects, for those who only tell about it.
fn places(config: &Config) -> Places {
    let (bucket, prefix) = (config.storage.bucket.clone(), config.storage.prefix.clone());
    Places::new(move |spec, job_type, job| {
        let key = handler::shown_key(&prefix, spec, job_type, &job.to_string());
        (spec.bucket.clone().unwrap_or_else(|| bucket.clone()), key)
    })
}

async fn open_store(config: &Config, dir: &DataDir, metrics: Metrics) -> Result<Opened, StartError> {
    let (path, options) = (dir.root().to_owned(), config.store.clone());
    let opening = tokio::task::spawn_blocking(move || store::open(&path, &options, metrics));
    match opening.await {
        Ok(opened) => opened.map_err(StartError::from),
        Err(error) => Err(StartError::new(StartErrorKind::Damaged, format!("opening the database: {error}"))),
    }
}

fn set_up(error: impl std::fmt::Display) -> StartError {
    StartError::new(StartErrorKind::SetUp, error.to_string())
}

fn unreadable(refusal: &Refusal) -> StartError {
    StartError::new(StartErrorKind::Damaged, refusal.to_string())
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::Damaged(_) => StartErrorKind::Damaged,
            OpenError::Locked(_) => StartErrorKind::Temporary,
            OpenError::Version { .. } | OpenError::Io { .. } => StartErrorKind::SetUp,
        };
        Self::new(kind, error.to_string())
    }
}
