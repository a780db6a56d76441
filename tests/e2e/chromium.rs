//! A page in headless Chromium, driven over its debugging protocol.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long any one answer of the browser may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where Debian and others install it.
const PLACES: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/google-chrome-stable",
];

/// One browser with one page. The browser ends when this is dropped.
pub(crate) struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    calls: u64,
    /// Uncaught exceptions and errors that the page wrote to its console.
    errors: Vec<String>,
    _browser: Child,
    _profile: TempDir,
}

/// The installed browser, or a visible remark that there is none.
pub(crate) fn installed() -> Option<PathBuf> {
    let found = PLACES.iter().map(Path::new).find(|path| path.exists());
    if found.is_none() {
        crate::world::say("SKIPPED: no Chromium is installed, so the page is not tested");
    }
    found.map(Path::to_owned)
}

impl Page {
    /// Starts the browser and opens `url`.
    pub(crate) async fn open(browser: &Path, url: &str) -> Result<Self> {
        let profile = TempDir::new()?;
        let mut child = Command::new(browser)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-sync",
            ])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--window-size=1500,900", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return Ok(address.trim().to_owned());
                }
            }
            bail!("the browser ended before it listened")
        })
        .await??;
        let (socket, _) = tokio_tungstenite::connect_async(address).await?;
        let mut page = Self {
            socket,
            session: String::new(),
            calls: 0,
            errors: Vec::new(),
            _browser: child,
            _profile: profile,
        };
        page.attach(url).await?;
        Ok(page)
    }

    async fn attach(&mut self, url: &str) -> Result<()> {
        let target = self
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await?;
        let target = target["targetId"].clone();
        let attach = json!({ "targetId": target, "flatten": true });
        let session = self.call("Target.attachToTarget", attach).await?;
        session["sessionId"]
            .as_str()
            .context("a session id")?
            .clone_into(&mut self.session);
        self.call("Runtime.enable", json!({})).await?;
        self.call("Log.enable", json!({})).await?;
        self.call("Page.enable", json!({})).await?;
        self.call("Page.navigate", json!({ "url": url })).await?;
        Ok(())
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(request.to_string())).await?;
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await?;
            let Message::Text(text) = message.context("the browser closed its socket")?? else {
                continue;
            };
            let answer: Value = serde_json::from_str(&text)?;
            if answer["id"] == id {
                if let Some(error) = answer.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(answer["result"].clone());
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.errors.push(params["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.errors.push(params["entry"].to_string());
            }
            _ => {}
        }
    }

    /// Evaluates an expression; a promise is awaited.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", params).await?;
        if let Some(details) = answer.get("exceptionDetails") {
            bail!("{expression}: {details}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is truthy, and gives its value.
    pub(crate) async fn until(&mut self, expression: &str) -> Result<Value> {
        let millis = PATIENCE.as_millis() / 2;
        let script = format!(
            "new Promise((resolve, reject) => {{
               const started = performance.now();
               const look = () => {{
                 let value; try {{ value = ({expression}); }} catch (error) {{ value = undefined; }}
                 if (value) resolve(value);
                 else if (performance.now() - started > {millis}) reject(new Error('never became true'));
                 else setTimeout(look, 30);
               }};
               look();
             }})"
        );
        self.evaluate(&script).await
    }

    /// A picture of the page as PNG, in base64.
    pub(crate) async fn picture(&mut self) -> Result<String> {
        let answer = self
            .call("Page.captureScreenshot", json!({ "format": "png" }))
            .await?;
        Ok(answer["data"].as_str().context("picture data")?.to_owned())
    }

    /// What went wrong on the page so far.
    pub(crate) fn errors(&self) -> &[String] {
        &self.errors
    }
}
