//! A server process with a folder of its own: ended, and its files removed, for certain.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

const STOP_LIMIT: Duration = Duration::from_secs(10);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much of the server's log a failure shows.
const LOG_TAIL: usize = 4000;

/// Dropping it kills the process and removes its folder; while a test panics its log is printed.
pub(super) struct Process {
    name: &'static str,
    folder: PathBuf,
    child: Option<Child>,
    /// How long the log was when the process that runs now began.
    log_before: u64,
}

impl Process {
    /// An empty folder for a process of this name; nothing is started yet.
    pub(super) fn new(name: &'static str) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("lockgate-{name}-{pid}-{number}"));
        // What an earlier process of the same id left behind is nobody's any more.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| failed(&format!("make a folder for {name}"), e))?;
        Ok(Self { name, folder, child: None, log_before: 0 })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it, its output in the log.
    pub(super) fn spawn(&mut self, mut command: Command) -> Result<()> {
        let doing = || format!("open the log of {}", self.name);
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.map_err(|e| failed(&doing(), e))?;
        self.log_before = log.metadata().map_err(|e| failed(&doing(), e))?.len();
        let errors = log.try_clone().map_err(|e| failed(&doing(), e))?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let program = command.get_program().display();
        self.child = Some(child.map_err(|e| failed(&format!("start {program}"), e))?);
        Ok(())
    }

    /// The id of the process, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// True when it is not running.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Kills it at once, as a crash would.
    pub(super) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end and waits until it has (at most 10 s, then it is killed).
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline && !self.has_ended() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.kill9();
        Ok(())
    }

    /// Sends a signal by name; to one that does not run it is nothing.
    fn signal(&mut self, name: &str) -> Result<()> {
        if let Some(child) = self.child.as_ref() {
            let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
            sent.map_err(|e| failed("run kill", e))?;
        }
        Ok(())
    }

    /// Stops it in the middle of what it does, its connections open, until
    /// [`Process::thaw`]. Returns when none of its threads runs any more: on a busy machine they
    /// go on for a while after the signal.
    pub(super) fn freeze(&mut self) -> Result<()> {
        self.signal("STOP")?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.child.as_ref().is_some_and(|child| any_runs(child.id())) {
            if Instant::now() >= deadline {
                let what =
                    format!("{} still runs {} s after SIGSTOP", self.name, STOP_LIMIT.as_secs());
                return Err(Error::new(ErrorKind::Timeout, what));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on.
    pub(super) fn thaw(&mut self) -> Result<()> {
        self.signal("CONT")
    }

    /// What it wrote, at most its last lines.
    pub(super) fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    /// True when what runs now wrote `text`.
    pub(super) fn wrote(&self, text: &str) -> bool {
        let all = fs::read(self.log_path()).unwrap_or_default();
        let since = usize::try_from(self.log_before).unwrap_or(usize::MAX);
        String::from_utf8_lossy(all.get(since..).unwrap_or_default()).contains(text)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- the log of {} ends with ---\n{}", self.name, self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// True while a thread of the process is not stopped (`proc(5)`, the field behind the name). False
/// where the system does not tell.
fn any_runs(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['T', 't', 'Z', 'X']))
    })
}

pub(super) fn failed(doing: &str, source: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Backend, format!("cannot {doing}: {source}"), source)
}
