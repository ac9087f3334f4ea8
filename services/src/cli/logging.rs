//! What the program says of itself, on standard error.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogOptions {
    /// What to log, as `level` or `target=level,...`, for example `info` or `lockgate=debug`
    /// [default: warn for client commands, info for servers]
    #[arg(long, global = true, env = "LOCKGATE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How to write the log
    #[arg(long, global = true, env = "LOCKGATE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

impl LogOptions {
    /// Starts logging at `default` where nothing else is asked for. A filter that does not parse
    /// is said and replaced by the default.
    pub(crate) fn start(&self, default: &str) {
        let wanted = self.log.as_deref().unwrap_or(default);
        let (filter, wrong) = match EnvFilter::try_new(wanted) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        };
        let colour = super::screen::colour_allowed(&std::io::stderr());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            // It would panic where standard error is closed.
            .log_internal_errors(false)
            .with_ansi(colour);
        let started = match self.log_format {
            LogFormat::Text => log.with_target(false).try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        };
        if let Err(error) = started {
            super::screen::remark(&format!("warning: logging is set up already: {error}"));
        }
        if let Some(error) = wrong {
            tracing::warn!(%error, filter = wanted, "the log filter is not understood");
        }
    }
}
