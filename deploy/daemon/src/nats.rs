//! Connections to the broker: logins from files, events as metrics and logs, reconnects for ever.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::health::Check;
use crate::ops::Surface;

/// Where a broker listens unless it is told otherwise.
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// Messages that a subscription may hold; beyond it the client library drops the newest.
const SUBSCRIPTION_CAPACITY: usize = 262_144;
/// How often a silent broker is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the check says while there is no connection.
const DISCONNECTED: &str = "disconnected from the broker";

/// Makes a new connection, once: it fails if the broker cannot be reached.
pub type Connector = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Client, ConnectError>> + Send>> + Send + Sync,
>;

/// Where the broker is and how to log in.
#[derive(Clone, Debug, clap::Args)]
pub struct NatsArgs {
    /// The broker's address; several are separated by commas. Without one, `up` starts its own and a
    /// single role looks on this machine
    #[arg(long, env = "TICKWIRE_NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,

    /// The user to log in as
    #[arg(long, env = "TICKWIRE_NATS_USER", requires = "password")]
    pub nats_user: Option<String>,

    /// The user's password
    #[arg(
        long,
        env = "TICKWIRE_NATS_PASSWORD",
        hide_env_values = true,
        group = "password"
    )]
    pub nats_password: Option<Secret>,

    /// A file with the user's password
    #[arg(long, env = "TICKWIRE_NATS_PASSWORD_FILE", group = "password")]
    pub nats_password_file: Option<PathBuf>,

    /// A credentials file (JWT and nkey)
    #[arg(long, env = "TICKWIRE_NATS_CREDS_FILE", conflicts_with = "nats_user")]
    pub nats_creds_file: Option<PathBuf>,
}

/// A text that is never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How a role proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// It need not.
    Anonymous,
    /// User and password.
    Password {
        /// User.
        user: String,
        /// Password.
        password: Secret,
    },
    /// The contents of a credentials file.
    Credentials(Secret),
}

/// One role's way to the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The broker's addresses, separated by commas.
    pub url: String,
    /// How the role proves who it is.
    pub login: Login,
    /// The role: the connection's name, and its inboxes are `_INBOX_<role>.…`.
    pub role: &'static str,
}

impl NatsArgs {
    /// Reads the files that the arguments name.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the address holds a login: addresses are shown and logged.
    pub fn settings(&self, role: &'static str) -> Result<Settings> {
        if self.nats_url.as_ref().is_some_and(|url| url.contains('@')) {
            bail!(
                "--nats-url must not hold a login: give it with --nats-user and \
                 --nats-password-file (or --nats-password), or with --nats-creds-file"
            );
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))
        };
        let login = match (&self.nats_creds_file, &self.nats_user) {
            (Some(path), _) => Login::Credentials(read(path)?.into()),
            (None, Some(user)) => {
                let password = match (&self.nats_password, &self.nats_password_file) {
                    (Some(password), _) => password.clone(),
                    (None, Some(path)) => read(path)?.trim_end().into(),
                    (None, None) => bail!("--nats-user needs a password or a password file"),
                };
                Login::Password {
                    user: user.clone(),
                    password,
                }
            }
            (None, None) => Login::Anonymous,
        };
        let url = self
            .nats_url
            .clone()
            .unwrap_or_else(|| DEFAULT_URL.to_owned());
        Ok(Settings { url, login, role })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    role: &'static str,
    event: &'static str,
}

/// What happened on connections to the broker.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    events: Family<EventLabels, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tickwire_nats_events",
            "Events on connections to the broker, by role",
            metrics.events.clone(),
        );
        metrics
    }
}

/// Connects, however long that takes; the check `nats.<role>` says why it does not succeed yet.
///
/// # Errors
///
/// The login cannot be used.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn connect(settings: &Settings, surface: &Surface) -> Result<crate::Context> {
    let name = format!("nats.{}", settings.role);
    let check = surface.health.check(&name);
    check_login(&settings.login)?;
    let mut pause = Duration::from_millis(50);
    let client = loop {
        let watch = Watch {
            role: settings.role,
            check: Some(check.clone()),
            metrics: surface.nats.clone(),
        };
        match open(settings.clone(), watch).await {
            Ok(client) => break client,
            Err(error) => {
                check.down(format!("the broker cannot be reached: {error}"));
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    };
    check.ok();
    // The client library drops events that it cannot queue.
    let asked = client.clone();
    surface
        .health
        .ask(&name, move || match asked.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(DISCONNECTED),
        });
    Ok(crate::Context::shared(
        client,
        connector(settings.clone(), surface),
        surface,
    ))
}

/// Makes further connections with the same rights; they are nobody's health check.
pub fn connector(settings: Settings, surface: &Surface) -> Connector {
    let metrics = surface.nats.clone();
    Arc::new(move || {
        let watch = Watch {
            role: settings.role,
            check: None,
            metrics: metrics.clone(),
        };
        Box::pin(open(settings.clone(), watch))
    })
}

fn check_login(login: &Login) -> Result<()> {
    if let Login::Credentials(text) = login {
        ConnectOptions::with_credentials(text.reveal())
            .context("the NATS credentials are not usable")?;
    }
    Ok(())
}

struct Watch {
    role: &'static str,
    check: Option<Check>,
    metrics: Metrics,
}

async fn open(settings: Settings, watch: Watch) -> Result<Client, ConnectError> {
    let options = match &settings.login {
        Login::Anonymous => ConnectOptions::new(),
        Login::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.reveal().to_owned())
        }
        Login::Credentials(text) => ConnectOptions::with_credentials(text.reveal())
            .map_err(|error| ConnectError::with_source(ConnectErrorKind::Authentication, error))?,
    };
    let watch = Arc::new(watch);
    let urls: Vec<&str> = settings.url.split(',').map(str::trim).collect();
    options
        .name(format!("tickwire-{}", settings.role))
        .custom_inbox_prefix(format!("_INBOX_{}", settings.role))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(6)).unwrap_or_default();
            (Duration::from_millis(25) * 2_u32.pow(exponent)).min(LONGEST_PAUSE)
        })
        .event_callback(move |event| {
            watch.take(&event);
            std::future::ready(())
        })
        .connect(urls)
        .await
}

impl Watch {
    fn take(&self, event: &Event) {
        let role = self.role;
        let label = match event {
            Event::Connected => "connected",
            Event::Disconnected => "disconnected",
            Event::LameDuckMode => "lame_duck",
            Event::Draining => "draining",
            Event::Closed => "closed",
            Event::SlowConsumer(_) => "slow_consumer",
            Event::ServerError(_) => "server_error",
            Event::ClientError(_) => "client_error",
        };
        self.metrics
            .events
            .get_or_create(&EventLabels { role, event: label })
            .inc();
        match (event, &self.check) {
            (Event::Connected, Some(check)) => check.ok(),
            (Event::Disconnected, Some(check)) => check.down(DISCONNECTED),
            (Event::Closed, Some(check)) => check.down("the connection to the broker is closed"),
            (Event::SlowConsumer(_), _) => {
                warn!(
                    role,
                    "a subscription is full: messages were dropped and will be read again"
                );
            }
            (Event::ServerError(problem), _) => error!(role, %problem, "the broker objects"),
            (Event::ClientError(problem), _) => debug!(role, %problem, "cannot reach the broker"),
            (event, Some(_)) => info!(role, %event, "connection to the broker"),
            (event, None) => debug!(role, %event, "further connection to the broker"),
        }
    }
}
