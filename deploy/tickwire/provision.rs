//! `tickwire provision`: the stream, the buckets and the recorder's consumer, as often as one likes.

use std::num::NonZeroU8;

use anyhow::{Context as _, Result};
use bus::provision::StreamSpec;
use daemon::nats::{self, NatsArgs};
use daemon::ops::Surface;
use schemas::id::Venue;
use schemas::position::Epoch;

/// Which stream.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StreamName {
    /// The stream's name
    #[arg(long, env = "TICKWIRE_STREAM", default_value = "TICKS", value_parser = stream_name)]
    pub(crate) stream: String,
}

/// What the writer of a stream must know of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WrittenStream {
    #[command(flatten)]
    pub(crate) name: StreamName,

    /// How many seconds of ticks the broker keeps
    #[arg(long, env = "TICKWIRE_RETAIN_SECS", default_value = "86400",
          value_parser = clap::value_parser!(u64).range(60..))]
    pub(crate) retain_secs: u64,
}

/// The stream of ticks.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StreamArgs {
    #[command(flatten)]
    pub(crate) written: WrittenStream,

    /// The venues whose ticks the stream takes, comma-separated, where several streams share the
    /// load; all by default
    #[arg(long, env = "TICKWIRE_VENUES", value_delimiter = ',', value_parser = venue)]
    pub(crate) venues: Vec<Venue>,

    /// How many bytes of ticks the broker keeps
    #[arg(long, env = "TICKWIRE_RETAIN_BYTES", default_value = "4294967296",
          value_parser = clap::value_parser!(u64).range(16_777_216..1_u64 << 48))]
    pub(crate) retain_bytes: u64,
}

/// Arguments of `tickwire provision`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProvisionArgs {
    #[command(flatten)]
    stream: StreamArgs,

    /// On how many brokers every message lies
    #[arg(long, env = "TICKWIRE_REPLICAS", default_value = "1")]
    replicas: NonZeroU8,

    #[command(flatten)]
    nats: NatsArgs,
}

impl StreamArgs {
    /// What to provision.
    pub(crate) fn spec(&self, replicas: NonZeroU8) -> StreamSpec {
        StreamSpec {
            name: self.written.name.stream.clone(),
            venues: self.venues.clone(),
            max_age_secs: self.written.retain_secs,
            max_bytes: self.retain_bytes,
            replicas: replicas.get(),
        }
    }
}

/// Which streams.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StreamNames {
    /// The names of all streams, comma-separated; clients may have a topic of any of them
    #[arg(long = "stream", env = "TICKWIRE_STREAM", default_value = "TICKS",
          value_delimiter = ',', value_parser = stream_name)]
    pub(crate) streams: Vec<String>,
}

fn venue(text: &str) -> Result<Venue, String> {
    Venue::new(text).map_err(|error| error.to_string())
}

fn stream_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(plain) {
        return Err("a stream is named by 1 to 32 of A-Z a-z 0-9 _ -".to_owned());
    }
    Ok(text.to_owned())
}

/// Provisions a broker and says so.
///
/// # Errors
///
/// The broker cannot be reached or refuses.
pub(crate) async fn run(args: ProvisionArgs) -> Result<()> {
    let settings = args.nats.settings("provision")?;
    let url = settings.url.clone();
    let client = nats::connector(settings, &Surface::new())()
        .await
        .with_context(|| format!("the broker at {url} cannot be reached"))?;
    let spec = args.stream.spec(args.replicas);
    let epoch = bus::provision::provision(&client, &spec).await?;
    crate::say(&provisioned(&spec, epoch))
}

fn provisioned(spec: &StreamSpec, epoch: Epoch) -> String {
    let StreamSpec {
        name,
        max_age_secs,
        max_bytes,
        replicas,
        ..
    } = spec;
    format!(
        "stream {name} is provisioned: {max_age_secs} s or {max_bytes} bytes of ticks, \
         replicas {replicas}, epoch {epoch}"
    )
}

#[cfg(test)]
mod tests {
    use super::stream_name;

    #[test]
    fn a_stream_name_can_stand_in_a_subject() {
        assert_eq!(stream_name("TICKS_2"), Ok("TICKS_2".to_owned()));
        for bad in ["", "A.B", "A*", "A>", "A B", "\"", "é", &"x".repeat(33)] {
            assert!(stream_name(bad).is_err(), "{bad}");
        }
    }
}
