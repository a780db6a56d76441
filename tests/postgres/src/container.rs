//! Postgres in a container.

use anyhow::{Context as _, Result};
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::runtime::{Builder, Handle};

const IMAGE: &str = "TICKWIRE_TEST_POSTGRES_IMAGE";
const USUAL: &str = "postgres:15";
const PORT: u16 = 5432;
const PASSWORD: &str = "tickwire";

/// A container that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Container {
    /// There until it is dropped.
    inner: Option<ContainerAsync<GenericImage>>,
    pub(crate) image: String,
    host: String,
    /// Of the host; fixed, so that it is the same after a stop.
    port: u16,
}

impl Container {
    /// Starts one, if Docker answers and has the image or can get it.
    #[expect(clippy::disallowed_methods, reason = "a test has no arguments")]
    pub(crate) async fn start() -> Result<Self> {
        let image = std::env::var(IMAGE).unwrap_or_else(|_| USUAL.to_owned());
        let (name, tag) = image
            .rsplit_once(':')
            .with_context(|| format!("{IMAGE} {image:?} has no tag"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let request = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::message_on_stderr(
                "database system is ready to accept connections",
            ))
            .with_mapped_port(port, PORT.tcp())
            .with_env_var("POSTGRES_PASSWORD", PASSWORD);
        let inner = request.start().await?;
        let host = inner.get_host().await?.to_string();
        let container = Self {
            inner: Some(inner),
            image,
            host,
            port,
        };
        crate::answers(&container.url("postgres")).await?;
        Ok(container)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let (host, port) = (&self.host, self.port);
        format!("postgres://postgres:{PASSWORD}@{host}:{port}/{database}")
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        if let Some(inner) = &self.inner {
            inner.stop_with_timeout(Some(0)).await?;
        }
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        if let Some(inner) = &self.inner {
            inner.start().await?;
        }
        Ok(())
    }
}

impl Drop for Container {
    /// A container is removed from within a runtime, and a test may have left its own.
    fn drop(&mut self) {
        let inner = self.inner.take();
        if Handle::try_current().is_err()
            && let Ok(runtime) = Builder::new_current_thread().build()
        {
            let _entered = runtime.enter();
            drop(inner);
        }
    }
}
