//! What everything else stands on: the broker, started if it is ours, and provisioned.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use bus::provision::{ProvisionError, StreamSpec};
use daemon::nats::{self, NatsArgs, Settings};
use daemon::ops::Surface;
use daemon::supervise::Supervisor;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::broker::binary::{Binary, Places};
use crate::broker::config::{self, Logins};
use crate::broker::{self, Broker, Life};

/// How often provisioning is tried while a broker is still finding its feet.
const PROVISION_TRIES: u32 = 10;

/// The way to the broker.
pub(super) enum Way {
    /// Somebody else's.
    Given(NatsArgs),
    /// Our own.
    Managed { binary: Binary, logins: Logins },
}

impl Way {
    /// Ours, unless the address of another is given.
    ///
    /// # Errors
    ///
    /// There is no nats-server that could be started, or the address of another cannot be used.
    pub(super) async fn choose(args: &NatsArgs, places: &Places) -> Result<Self> {
        if args.nats_url.is_some() {
            args.settings("provision")?;
            return Ok(Self::Given(args.clone()));
        }
        if cfg!(not(target_os = "linux")) {
            bail!(
                "only Linux can tie a nats-server to the life of another process: start one \
                 yourself and give its address with --nats-url or TICKWIRE_NATS_URL"
            );
        }
        let binary = places.find().await?;
        let logins = Logins::random(broker::free_port()?);
        Ok(Self::Managed { binary, logins })
    }

    /// How a role connects.
    ///
    /// # Errors
    ///
    /// A file with a password cannot be read.
    pub(super) fn settings(&self, role: &'static str) -> Result<Settings> {
        match self {
            Self::Given(args) => args.settings(role),
            Self::Managed { logins, .. } => Ok(logins.settings(role)),
        }
    }

    /// The program, if it is ours.
    pub(super) const fn server(&self) -> Option<&Binary> {
        match self {
            Self::Given(_) => None,
            Self::Managed { binary, .. } => Some(binary),
        }
    }
}

/// A broker that has everything; its process, if it is ours.
pub(super) struct Ground {
    pub(super) life: Option<watch::Receiver<Life>>,
}

/// Starts the broker if it is ours, and provisions it; `None` if we are asked to end first.
///
/// # Errors
///
/// It cannot be started, or cannot be what is needed.
pub(super) async fn lay(
    supervisor: &mut Supervisor,
    surface: &Surface,
    way: &Way,
    spec: &StreamSpec,
    data: &Path,
) -> Result<Option<Ground>> {
    let mut life = None;
    if let Way::Managed { binary, logins } = way {
        let dir = data.join("nats");
        config::write(&dir, spec, logins)?;
        let started = start_broker(supervisor, surface, binary.clone(), logins, dir);
        let Some(lives) = started.await? else {
            return Ok(None);
        };
        life = Some(lives);
    }
    let provisioned = supervisor
        .during(provision(way, surface, spec, data))
        .await?;
    Ok(provisioned.map(|()| Ground { life }))
}

/// Starts our own broker and waits until JetStream answers; `None` if we are asked to end first.
async fn start_broker(
    supervisor: &mut Supervisor,
    surface: &Surface,
    binary: Binary,
    logins: &Logins,
    dir: PathBuf,
) -> Result<Option<watch::Receiver<Life>>> {
    let (life, mut lives) = watch::channel(Life::default());
    let seen = lives.clone();
    surface
        .stats
        .add("broker", move || serde_json::json!(*seen.borrow()));
    let connector = nats::connector(logins.settings("provision"), surface);
    let check = surface.health.check("broker");
    let broker = Broker {
        binary,
        dir,
        connector,
        check,
        life,
    };
    supervisor.start("broker", broker::GRACE + Duration::from_secs(2), |stop| {
        broker.run(stop)
    });
    let answered = async {
        // The channel closes only where the part ends, and how it ends says more.
        if lives.wait_for(|life| life.pid.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    Ok(supervisor.during(answered).await?.map(|()| lives))
}

async fn provision(way: &Way, surface: &Surface, spec: &StreamSpec, data: &Path) -> Result<()> {
    let settings = way.settings("provision")?;
    let url = settings.url.clone();
    let client = nats::connector(settings, surface)()
        .await
        .with_context(|| format!("the broker at {url} cannot be reached"))?;
    if matches!(way, Way::Managed { .. }) {
        refuse_damage(&client, spec, data).await?;
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match bus::provision::provision(&client, spec).await {
            Ok(epoch) => {
                info!(stream = spec.name, %epoch, "provisioned");
                return Ok(());
            }
            // No answer may come later; a refusal stays one.
            Err(ProvisionError::Api { what, source })
                if source.code().is_none() && tries < PROVISION_TRIES =>
            {
                warn!(what, error = %source, tries, "cannot provision yet");
            }
            Err(error) => return Err(error.into()),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A broker that cannot read a stream's files leaves the stream out; a new one in its place would
/// hide that everything stored is lost.
async fn refuse_damage(client: &Client, spec: &StreamSpec, data: &Path) -> Result<()> {
    let streams = Path::new(config::DATA)
        .join(config::ACCOUNT)
        .join("streams");
    let files = data.join("nats").join(streams).join(&spec.name);
    if !files.exists() {
        return Ok(());
    }
    match bus::stream::state(client, &spec.name).await {
        Err(error) if error.is_missing_stream() => bail!(
            "nats-server cannot read the stream in {}: restore it from a backup, or move {} away \
             to start with an empty one",
            files.display(),
            data.join("nats").display()
        ),
        _ => Ok(()),
    }
}
