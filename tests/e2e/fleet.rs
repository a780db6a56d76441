//! Tickwire as it runs in production, on one machine: one broker or a cluster of three, and every
//! role a process of its own that can be asked to leave, killed and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::Client;
use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::world::{BINARY, PATIENCE, eventually, get, signal, until};

/// What each role may do on the broker: the file that operators include.
const ROLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nats/roles.conf");
const USERS: [&str; 6] = ["provision", "ingest", "fanout", "recorder", "api", "reader"];
/// The stream of ticks.
pub(crate) const STREAM: &str = "TICKS";
/// Below the range from which outgoing connections take their ports: one of another test could
/// otherwise take that of a process while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The stream's own bound is what counts: without one here the server takes what the disk has left.
const MAX_STORE: u64 = 1 << 40;

/// A stream, and who writes it.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    /// The venues that it takes, comma-separated; all if there are none.
    pub(crate) venues: &'static str,
    /// The feeds of its ingest.
    pub(crate) feeds: String,
}

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// 1, or 3 with every message on each.
    pub(crate) brokers: usize,
    /// How many replicas serve clients.
    pub(crate) fanouts: usize,
    pub(crate) streams: Vec<Stream>,
    /// Arguments of `tickwire provision` beside the stream and the broker's address.
    pub(crate) provision: Vec<&'static str>,
    /// Arguments of every `tickwire fanout` beside addresses.
    pub(crate) fanout: Vec<&'static str>,
}

/// A process that can be started again with the same arguments.
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// A broker and where it is.
pub(crate) struct Broker {
    pub(crate) process: Process,
    port: u16,
}

/// A replica and where it is.
pub(crate) struct Replica {
    pub(crate) process: Process,
    /// Where WebSocket clients connect.
    pub(crate) ws: String,
    ops: String,
}

/// The processes; all of them end with this.
pub(crate) struct Fleet {
    dir: TempDir,
    password: String,
    pub(crate) brokers: Vec<Broker>,
    /// One for each stream.
    pub(crate) ingests: Vec<Process>,
    pub(crate) fanouts: Vec<Replica>,
}

impl Stream {
    /// The only stream: of whatever venue.
    pub(crate) fn only(feeds: String) -> Self {
        Self {
            name: STREAM,
            venues: "",
            feeds,
        }
    }
}

impl Process {
    fn new(dir: &Path, name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: Vec::new(),
            log: dir.join(format!("{name}.log")),
            child: None,
        }
    }

    pub(crate) fn with<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Starts it, or starts it again; what it says goes behind what was said before.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it without warning.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it runs")?;
        Ok(child.kill().await?)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, which: Signal) -> Result<()> {
        let id = self.child.as_ref().and_then(Child::id);
        signal(
            i32::try_from(id.with_context(|| format!("{} has ended", self.name))?)?,
            which,
        )
    }

    /// Waits for its end: the exit code.
    pub(crate) async fn ended(&mut self) -> Result<Option<i32>> {
        let mut child = self.child.take().context("it runs")?;
        let status = timeout(PATIENCE, child.wait()).await;
        Ok(status
            .with_context(|| format!("{} does not end", self.name))??
            .code())
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) async fn leave(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let code = self.ended().await?;
        ensure!(
            code == Some(0),
            "{} left with {code:?}: {}",
            self.name,
            self.said()?
        );
        Ok(())
    }

    /// An error if it ended by itself.
    fn check(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it was started")?;
        if let Some(status) = child.try_wait()? {
            bail!("{} ended with {status}: {}", self.name, self.said()?);
        }
        Ok(())
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

impl Replica {
    /// Gets a path of the operations server.
    pub(crate) async fn ops(&self, path: &str) -> Result<(u16, Value)> {
        get(&self.ops, path).await
    }

    /// Whether it says that clients may be sent to it.
    pub(crate) async fn is_ready(&self) -> bool {
        self.ops("/readyz")
            .await
            .is_ok_and(|(status, _)| status == 200)
    }

    /// Waits until clients may be sent to it.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let ready = until("a replica does not become ready", async || {
            self.process.check()?;
            Ok(self.is_ready().await)
        });
        let outcome = ready.await;
        outcome.with_context(|| self.process.said().unwrap_or_default())
    }

    /// The sum of a metric over the labels that contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let (_, text) = self.ops("/metrics").await?;
        let text = text.as_str().context("metrics are text")?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }
}

impl Fleet {
    /// Starts everything but ingest, and waits until clients can connect.
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let mut fleet = Self::of(plan)?;
        for broker in &mut fleet.brokers {
            broker.process.start()?;
        }
        for stream in &plan.streams {
            fleet.provision(plan, stream).await?;
        }
        for fanout in &mut fleet.fanouts {
            fanout.process.start()?;
        }
        for fanout in &mut fleet.fanouts {
            fanout.ready().await?;
        }
        Ok(fleet)
    }

    /// All processes, none of them started.
    pub(crate) fn of(plan: &Plan) -> Result<Self> {
        let dir = TempDir::new()?;
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let names: Vec<&str> = plan.streams.iter().map(|stream| stream.name).collect();
        let brokers = brokers(dir.path(), &password, (plan.brokers, &names))?;
        let mut fleet = Self {
            dir,
            password,
            brokers,
            ingests: Vec::new(),
            fanouts: Vec::new(),
        };
        for number in 0..plan.fanouts {
            let replica = fleet.replica(number, &names.join(","), plan)?;
            fleet.fanouts.push(replica);
        }
        for stream in &plan.streams {
            let ingest = fleet.writer(stream)?;
            fleet.ingests.push(ingest);
        }
        Ok(fleet)
    }

    /// Provisions a stream, as soon as the brokers agree on a leader.
    pub(crate) async fn provision(&self, plan: &Plan, stream: &Stream) -> Result<()> {
        let mut process = self
            .role("provision", "provision")
            .with(["--stream", stream.name])
            .with((!stream.venues.is_empty()).then_some("--venues"))
            .with((!stream.venues.is_empty()).then_some(stream.venues))
            .with(["--replicas", &plan.brokers.to_string()])
            .with(plan.provision.iter().copied());
        provisioned(&mut process).await
    }

    /// A replica that carries these streams.
    pub(crate) fn replica(&self, number: usize, streams: &str, plan: &Plan) -> Result<Replica> {
        let (ws, ops) = (address()?, address()?);
        let process = self
            .role(&format!("fanout-{number}"), "fanout")
            .with(["--ws", &ws, "--ops", &ops, "--shards", "1"])
            .with(["--node", &format!("replica-{number}")])
            .with(["--stream", streams])
            .with(plan.fanout.iter().copied());
        Ok(Replica {
            process,
            ws: format!("ws://{ws}/v1/stream"),
            ops: format!("http://{ops}"),
        })
    }

    /// A recorder that stores the ticks there, and its operations server.
    pub(crate) fn recorder(&self, name: &str, store: &str) -> Result<Replica> {
        let ops = address()?;
        let process = self
            .role(name, "recorder")
            .with(["--ops", &ops, "--store", store]);
        Ok(Replica {
            process,
            ws: String::new(),
            ops: format!("http://{ops}"),
        })
    }

    /// A server of what is stored there, and its operations server.
    pub(crate) fn api(&self, name: &str, store: &str) -> Result<Replica> {
        let ops = address()?;
        let process = self
            .role(name, "api")
            .with(["--ops", &ops, "--store", store])
            .with(["--http", &address()?]);
        Ok(Replica {
            process,
            ws: String::new(),
            ops: format!("http://{ops}"),
        })
    }

    /// The folder of everything; it goes away with this.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The ingest of a stream.
    pub(crate) fn writer(&self, stream: &Stream) -> Result<Process> {
        let feeds = self.dir.path().join(format!("{}.toml", stream.name));
        std::fs::write(&feeds, &stream.feeds)?;
        Ok(self
            .role(&format!("ingest-{}", stream.name), "ingest")
            .with(["--ops", &address()?, "--node", "writer"])
            .with(["--stream", stream.name])
            .with(["--feeds", &feeds.to_string_lossy()])
            .with(["--ack-log", &self.ack_log(stream.name).to_string_lossy()]))
    }

    /// A process of a role, connected to the brokers.
    fn role(&self, name: &str, role: &str) -> Process {
        let urls: Vec<String> = self.brokers.iter().map(Broker::url).collect();
        Process::new(self.dir.path(), name, BINARY)
            .with([role, "--nats-url", &urls.join(","), "--nats-user", role])
            .with(["--nats-password", &self.password])
    }

    /// A connection with the rights of ingest, which may read the stream as well.
    pub(crate) async fn client(&self) -> Result<Client> {
        let urls: Vec<String> = self.brokers.iter().map(Broker::url).collect();
        let options = async_nats::ConnectOptions::new()
            .user_and_password("ingest".to_owned(), self.password.clone())
            .custom_inbox_prefix("_INBOX_ingest")
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        let client = options.connect(urls.as_slice()).await?;
        timeout(PATIENCE, client.flush()).await??;
        Ok(client)
    }

    /// Where what the ingest of a stream knows to be stored is recorded.
    pub(crate) fn ack_log(&self, stream: &str) -> PathBuf {
        self.dir.path().join(format!("{stream}.tsv"))
    }

    /// Which broker leads the stream.
    pub(crate) async fn leader(&self, client: &Client) -> Result<usize> {
        eventually("the stream has no leader", async || {
            let cluster = cluster(client).await?;
            let leader = cluster["leader"].as_str().unwrap_or_default();
            let named = |broker: &Broker| broker.process.name == leader;
            Ok(self.brokers.iter().position(named))
        })
        .await
    }

    /// Waits until every broker has all of the stream.
    pub(crate) async fn whole(&self, client: &Client) -> Result<()> {
        until("a broker does not catch up", async || {
            let cluster = cluster(client).await?;
            let copies = cluster["replicas"].as_array();
            let current = copies.into_iter().flatten();
            let current = current.filter(|copy| copy["current"] == true);
            Ok(current.count() + 1 == self.brokers.len())
        })
        .await
    }

    /// What every process has said, of each the last lines.
    pub(crate) fn last_words(&self) -> String {
        let fanouts = self.fanouts.iter().map(|fanout| &fanout.process);
        let brokers = self.brokers.iter().map(|broker| &broker.process);
        let all = fanouts.chain(&self.ingests).chain(brokers);
        let words = all.map(|process| {
            let said = process.said().unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(8)..];
            format!("--- {}\n{}\n", process.name, last.join("\n"))
        });
        words.collect()
    }
}

impl Broker {
    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// What the stream's leader says of its copies; null while there is none.
async fn cluster(client: &Client) -> Result<Value> {
    let request = format!("$JS.API.STREAM.INFO.{STREAM}");
    let Ok(answer) = client.request(request, "".into()).await else {
        return Ok(Value::Null);
    };
    let mut info: Value = serde_json::from_slice(&answer.payload)?;
    Ok(info["cluster"].take())
}

async fn provisioned(process: &mut Process) -> Result<()> {
    let outcome = until("the broker cannot be provisioned", async || {
        process.start()?;
        Ok(process.ended().await? == Some(0))
    });
    let outcome = outcome.await;
    outcome.with_context(|| process.said().unwrap_or_default())
}

fn brokers(dir: &Path, password: &str, (count, streams): (usize, &[&str])) -> Result<Vec<Broker>> {
    let roles = roles(&std::fs::read_to_string(ROLES)?, streams);
    let program = nats_server()?;
    let routes: Vec<u16> = (0..count).map(|_| free_port()).collect::<Result<_>>()?;
    (0..count)
        .map(|number| {
            let name = format!("broker-{number}");
            let (home, port) = (dir.join(&name), free_port()?);
            std::fs::create_dir_all(&home)?;
            let cluster = cluster_of(&routes, number);
            let passwords = USERS.map(|user| {
                let user = user.to_uppercase();
                format!("TICKWIRE_{user}_PASSWORD: \"{password}\"\n")
            });
            let text = format!(
                "listen: \"127.0.0.1:{port}\"\nserver_name: {name}\n\
                 jetstream {{ store_dir: \"{}\", max_file_store: {MAX_STORE} }}\n{cluster}{}{roles}",
                home.display(),
                passwords.concat(),
            );
            let config = home.join("server.conf");
            std::fs::write(&config, text)?;
            let process =
                Process::new(dir, &name, &program).with(["-c", &config.to_string_lossy()]);
            Ok(Broker { process, port })
        })
        .collect()
}

/// The rights for these streams, as the file says that they are made: every line that names the
/// stream once with each name.
fn roles(text: &str, streams: &[&str]) -> String {
    let named = |line: &str| -> Vec<String> {
        if line.starts_with('#') || !line.contains(STREAM) {
            return vec![line.to_owned()];
        }
        let all = streams.iter();
        all.map(|stream| line.replace(STREAM, stream)).collect()
    };
    text.lines().flat_map(named).collect::<Vec<_>>().join("\n")
}

/// How one broker of several finds the others.
fn cluster_of(routes: &[u16], number: usize) -> String {
    if routes.len() == 1 {
        return String::new();
    }
    let all: Vec<String> = routes
        .iter()
        .map(|port| format!("\"nats://127.0.0.1:{port}\""))
        .collect();
    let (own, all) = (routes[number], all.join(", "));
    format!("cluster {{ name: fleet, listen: \"127.0.0.1:{own}\", routes: [{all}] }}\n")
}

fn nats_server() -> Result<PathBuf> {
    let (chosen, path) = (
        std::env::var_os("TICKWIRE_NATS_SERVER_BIN"),
        std::env::var_os("PATH").unwrap_or_default(),
    );
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/nats-server");
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    chosen
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from(installed)])
        .chain(on_path)
        .find(|program| program.is_file())
        .context("there is no nats-server: run `make setup`, or set TICKWIRE_NATS_SERVER_BIN")
}

fn free_port() -> Result<u16> {
    (0..200)
        .map(|_| rand::rng().random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("there is no free port")
}

fn address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}
