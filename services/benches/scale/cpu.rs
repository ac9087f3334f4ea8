//! What a process uses, as Linux tells in `/proc`.

use std::time::Duration;

/// What follows on the load has ended after this long.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// `USER_HZ` of every Linux on the machines in use.
const TICKS_A_SECOND: f64 = 100.0;

/// Parts of a core that idle processes use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Idle {
    pub(crate) lockgate: f64,
    /// The server of the bus, where it is another process.
    pub(crate) server: Option<f64>,
}

/// Watches processes that nobody asks for anything.
pub(crate) async fn idle(lockgate: u32, server: Option<u32>, over: Duration) -> Idle {
    tokio::time::sleep(SETTLED_AFTER).await;
    let before = (seconds(lockgate), server.map(seconds));
    tokio::time::sleep(over).await;
    let part = |before: f64, after: f64| (after - before) / over.as_secs_f64();
    Idle {
        lockgate: part(before.0, seconds(lockgate)),
        server: before.1.zip(server).map(|(before, server)| part(before, seconds(server))),
    }
}

/// Bytes in memory.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Seconds that the process was on a core.
fn seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold spaces; what follows it may not. utime and stime are the
    // 14th and 15th field (proc(5)).
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_A_SECOND
}
