//! `lockgate experiment`: MediSupply under a fault, measured, with a verdict and a report.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;

use bus::Bus;
use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockgate_flows::medisupply::Mode;
use lockgate_flows::medisupply::experiment::{self, Findings, Phase, Plan, Progress, Summary};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failure::Failure;
use super::screen::{grouped, remark, tell};

const EXAMPLES: &str = "\
Examples:
  lockgate experiment --mode down
  lockgate experiment --orders 6000 --rate 100 --mode slow --report slow.html
  lockgate experiment --mode error --error-rate 0.3 --json | jq .calls_per_order

Exit codes:
  0  every promise was kept
  1  one was broken, or the experiment could not run
130  interrupted; what it made on the bus is removed";

/// Put MediSupply under a fault and measure what becomes of its orders
///
/// Starts the five services in this process on free ports, sends orders at a steady rate (each when
/// it is due, and timed from then), lets the external service misbehave during the middle third, and
/// waits until every order is decided. Streams and bucket have names that nothing else has, and are
/// removed at the end.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Experiment {
    /// How many orders
    #[arg(long, default_value_t = 600, value_name = "N",
          value_parser = clap::value_parser!(u32).range(3..=1_000_000))]
    orders: u32,
    /// How many a second
    #[arg(long, default_value_t = 50, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// What the external service does during the middle third
    #[arg(long, value_enum, default_value = "down")]
    mode: FaultMode,
    /// The share of calls that fail in mode error, from 0 to 1
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = share)]
    error_rate: f64,
    /// The bus to run on: `embedded:`, `embedded:///path`, `nats://host:port` or `kafka://host:port`
    #[arg(long, env = "LOCKGATE_BUS", default_value = "embedded:", value_name = "URL")]
    bus: String,
    /// Whose buckets keep the orders, where the bus has no compare-and-set (Kafka)
    #[arg(long, env = "LOCKGATE_STATE", value_name = "URL")]
    state: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// Write a report with drawings: one HTML page that stands alone
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// As it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaultMode {
    /// Nothing is wrong
    Normal,
    /// It answers too late
    Slow,
    /// It refuses connections
    Down,
    /// It answers 500
    Error,
    /// It fails and is well by turns
    Flapping,
}

impl From<FaultMode> for Mode {
    fn from(mode: FaultMode) -> Self {
        match mode {
            FaultMode::Normal => Self::Normal,
            FaultMode::Slow => Self::Slow,
            FaultMode::Down => Self::Down,
            FaultMode::Error => Self::Error,
            FaultMode::Flapping => Self::Flapping,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(String::from("give a number from 0 to 1")),
    }
}

impl Experiment {
    /// Runs until it is over or `stop` is cancelled; what it made is gone when this returns.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { orders, rate, mode, error_rate, bus, state, connection, json, report } = self;
        let mut plan = Plan::new(orders, rate, mode.into());
        if matches!(mode, FaultMode::Error) {
            plan.fault.rate = Some(error_rate);
        }
        let connect = async |url: &str| {
            let options = connection.options()?;
            Bus::connect_with(url, options)
                .await
                .map_err(|why| Failure::unavailable(why.to_string()))
        };
        let bus = connect(&bus).await?;
        let state = match &state {
            // Its own connection: credentials of another server are not this one's.
            Some(url) => Bus::connect(url).await.map_err(|why| Failure::new(why.to_string()))?,
            None => bus.clone(),
        };
        let (progress, told) = watch::channel(Progress::default());
        let bar = bar(&plan, json);
        let ran = tokio::select! { biased;
            ran = experiment::run(&bus, &state, &plan, &progress, &stop) => ran,
            () = show(&bar, &plan, told) => return Err(Failure::new("the progress ended")),
        };
        bar.finish_and_clear();
        let findings = match ran {
            Ok(findings) => findings,
            Err(_) if stop.is_cancelled() => return Err(Failure::interrupted()),
            Err(why) => return Err(Failure::new(why.to_string())),
        };
        print(&findings, json)?;
        if let Some(file) = report {
            let page = experiment::html(&plan, &findings);
            let at = file.display().to_string();
            tokio::fs::write(&file, page).await.map_err(|why| Failure::from(why).at(&at))?;
            remark(&format!("report    {at}"));
        }
        match findings.summary.passed() {
            true => Ok(()),
            false => Err(Failure::new("a promise was broken: see the lines that say so")),
        }
    }
}

fn bar(plan: &Plan, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:9} {bar:30}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("██░");
    ProgressBar::with_draw_target(Some(u64::from(plan.orders)), ProgressDrawTarget::stderr())
        .with_style(style)
}

/// Moves the bar, as long as there is something to tell.
async fn show(bar: &ProgressBar, plan: &Plan, mut told: watch::Receiver<Progress>) {
    loop {
        let Progress { phase, sent, decided } = *told.borrow_and_update();
        bar.set_prefix(match phase {
            Phase::Starting => "starting",
            Phase::Before => "before",
            Phase::Fault => "fault",
            Phase::After => "recovered",
            Phase::Draining => "draining",
        });
        bar.set_position(u64::from(sent));
        bar.set_message(format!("{sent} of {} sent · {decided} decided", plan.orders));
        if told.changed().await.is_err() {
            // Whoever tells is gone; the run itself says how it ended.
            std::future::pending::<()>().await;
        }
    }
}

fn print(findings: &Findings, json: bool) -> Result<(), Failure> {
    let Findings { summary, .. } = findings;
    if json {
        let line = serde_json::to_string(summary).map_err(|why| Failure::new(why.to_string()))?;
        return Ok(tell(&line)?);
    }
    let rows = rows(summary);
    if !std::io::stdout().is_terminal() {
        let mut text = String::new();
        for (name, value) in &rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}\t{value}");
        }
        for bound in &summary.bounds {
            let _ = writeln!(text, "{}\t{}\t{}", mark(bound.holds), bound.name, bound.detail);
        }
        return Ok(tell(text.trim_end())?);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
    }
    tell(&table.to_string())?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for bound in &summary.bounds {
        table.add_row([mark(bound.holds), bound.name, bound.detail.as_str()]);
    }
    Ok(tell(&format!("\n{table}"))?)
}

fn mark(holds: bool) -> &'static str {
    if holds { "kept" } else { "BROKEN" }
}

fn rows(summary: &Summary) -> Vec<(&'static str, String)> {
    let ms = |ms: f64| format!("{ms} ms");
    let count = |number: u32| grouped(u64::from(number));
    let detected = summary.detected_ms.map_or_else(|| String::from("-"), |ms| format!("{ms} ms"));
    vec![
        ("accepted", count(summary.accepted)),
        ("POST p50", ms(summary.post_p50_ms)),
        ("POST p99", ms(summary.post_p99_ms)),
        ("POST max", ms(summary.post_max_ms)),
        ("validated", count(summary.validated)),
        ("rejected", count(summary.rejected)),
        ("failed", count(summary.failed)),
        ("lost", count(summary.lost)),
        ("duplicated", count(summary.duplicated)),
        ("parked", grouped(summary.parked)),
        ("time to detect", detected),
        ("calls during the fault", grouped(summary.calls_in_fault)),
        ("calls per order then", format!("{}", summary.calls_per_order)),
        ("time to drain", format!("{} ms", summary.drained_ms)),
    ]
}
