//! `lockgate flow`: the roles of a flow in this process, until told to stop or until all have ended.

mod view;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Capability, ConnectOptions, Support};
use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use lockgate_flows::{Context, FLOWS, Flow as Described, Launch, Role, Settings};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failure::Failure;
use view::View;

/// How long the buses have to let go.
const CLOSE: Duration = Duration::from_secs(2);

/// `lockgate flow NAME`
#[derive(Debug)]
pub(super) struct Flow {
    flow: &'static Described,
    options: Options,
    settings: Settings,
    /// What runs one of its roles elsewhere, without the role.
    again: Vec<OsString>,
}

/// What every flow takes.
#[derive(Debug, Args)]
struct Options {
    /// The bus: `embedded:`, `embedded:///path`, `nats://host:port` or `kafka://host:port`
    #[arg(long, env = "LOCKGATE_BUS", default_value = "embedded:", value_name = "URL")]
    bus: String,
    /// Where its state is kept, reached with the same options as the bus; without it on the bus, or
    /// in memory where the bus has no compare-and-set
    #[arg(long, env = "LOCKGATE_STATE", value_name = "URL")]
    state: Option<String>,
    /// The roles to run; without it every one
    #[arg(long, value_name = "ROLE", num_args = 1..)]
    role: Vec<String>,
    /// The address that roles with an HTTP side listen on
    #[arg(long, env = "LOCKGATE_FLOW_LISTEN", value_name = "IP",
          default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Print JSON, a record a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Args for Flow {
    fn augment_args(command: Command) -> Command {
        command
            .about("Run a flow: a small system on the bus, its roles together or one by one")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("NAME")
            .subcommand_help_heading("Flows")
            .subcommands(FLOWS.iter().map(|flow| described(flow)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flow {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let named = matches.subcommand().and_then(|(name, of)| Some((Described::named(name)?, of)));
        let Some((flow, matches)) = named else {
            return Err(Error::raw(clap::error::ErrorKind::MissingSubcommand, "no such flow\n"));
        };
        let mut settings = Settings::default();
        for &setting in flow.settings() {
            if let Some(value) = matches.get_one::<String>(setting.name)
                && matches.value_source(setting.name) != Some(ValueSource::DefaultValue)
            {
                settings.set(setting, value).map_err(|wrong| {
                    Error::raw(clap::error::ErrorKind::ValueValidation, format!("{wrong}\n"))
                })?;
            }
        }
        let (options, again) = (Options::from_arg_matches(matches)?, again(flow, matches));
        Ok(Self { flow, options, settings, again })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The command of one flow.
fn described(flow: &'static Described) -> Command {
    let roles: Vec<_> = flow.roles.iter().map(|role| role.name).collect();
    let setting = |setting: &&'static lockgate_flows::Setting| {
        let arg = Arg::new(setting.name).long(setting.name).env(setting.env).help(setting.about);
        let kind = setting.kind;
        let check = move |value: &str| kind.check(value).map(|()| value.to_owned());
        let arg = arg.value_name(kind.value_name()).value_parser(check);
        let arg = arg.help_heading("Of this flow");
        if setting.default.is_empty() { arg } else { arg.default_value(setting.default) }
    };
    Options::augment_args(Command::new(flow.name))
        .about(flow.about)
        .long_about(None)
        .mut_arg("role", |role| role.value_parser(PossibleValuesParser::new(roles)))
        .args(flow.settings().iter().map(setting))
        .after_help(roles_of(flow))
}

fn roles_of(flow: &Described) -> String {
    let width = flow.roles.iter().map(|role| role.name.len()).max().unwrap_or_default();
    let lines = flow.roles.iter().map(|role| format!("  {:width$}  {}", role.name, role.about));
    format!("Roles:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// The arguments that name the same flow in the same place: what came from the environment another
/// process finds there too.
fn again(flow: &'static Described, matches: &ArgMatches) -> Vec<OsString> {
    let mut again = vec![OsString::from("flow"), OsString::from(flow.name)];
    for arg in described(flow).get_arguments() {
        let (id, long) = (arg.get_id().as_str(), arg.get_long());
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let Some(long) = long.filter(|_| given && id != "role" && id != "json") else { continue };
        if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
            again.push(OsString::from(format!("--{long}")));
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            again.push(OsString::from(format!("--{long}")));
            again.push(value.to_owned());
        }
    }
    again
}

impl Flow {
    /// Runs until every role has ended; they end when `stop` is cancelled.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { flow, options, settings, again } = self;
        let roles = roles(flow, &options.role);
        let (bus, state) = options.connect().await?;
        let view = View::new(options.json);
        let context = Context {
            listen: options.listen,
            shutdown: stop,
            settings,
            launch: launch(&options.bus, again),
            tell: Some(view.tell()),
            ..Context::new(bus.clone(), state.clone())
        };
        view.begin(&banner(flow, &options, &roles, &state))?;
        let ended = CancellationToken::new();
        let work = async {
            let failed = lockgate_flows::run(flow, &roles, context.clone());
            let outcome = tokio::select! { biased;
                outcome = failed => outcome.map_err(|failure| Failure::new(failure.to_string())),
                failure = bus.failed() => Err(Failure::from(failure)),
                failure = state.failed() => Err(Failure::from(failure)),
            };
            ended.cancel();
            outcome
        };
        let (outcome, shown) = tokio::join!(work, view.follow(&context.counters, &ended));
        close(&bus).await;
        close(&state).await;
        outcome.and(shown.map_err(Failure::from))
    }
}

impl Options {
    /// The bus, and the bus that keeps the state.
    async fn connect(&self) -> Result<(Bus, Bus), Failure> {
        let options = self.connection.options()?;
        let bus = connect(&self.bus, &options).await?;
        let state = match &self.state {
            Some(url) if *url == self.bus => bus.clone(),
            Some(url) if url.starts_with("embedded:") => {
                connect(url, &ConnectOptions::default()).await?
            }
            Some(url) => connect(url, &options).await?,
            None if bus.support(Capability::KvCompareAndSet) != Support::Unsupported => bus.clone(),
            None => connect("embedded:", &ConnectOptions::default()).await?,
        };
        let (lacks, name) = (Capability::KvCompareAndSet, state.backend());
        match state.support(lacks) {
            Support::Unsupported => Err(Failure::usage(format!(
                "a flow keeps its state by {lacks}, which {name} cannot give\n  \
                 use --state nats://host:port or --state embedded:///path"
            ))),
            _ => Ok((bus, state)),
        }
    }
}

async fn connect(url: &str, options: &ConnectOptions) -> Result<Bus, Failure> {
    Bus::connect_with(url, options.clone()).await.map_err(|error| {
        let way_out = "start a server, or use the embedded bus: --bus embedded:";
        match error.is_retryable() && !url.starts_with("embedded:") {
            true => Failure::unavailable(format!("{error}\n  {way_out}")),
            false => Failure::from(error),
        }
    })
}

async fn close(bus: &Bus) {
    match tokio::time::timeout(CLOSE, bus.close()).await {
        Ok(Err(error)) => tracing::warn!(%error, "the bus was not closed in order"),
        Ok(Ok(())) => {}
        Err(_) => tracing::warn!("the bus did not close within {} s", CLOSE.as_secs()),
    }
}

/// Those that were named, in the flow's order; every one if none was.
fn roles(flow: &'static Described, named: &[String]) -> Vec<&'static Role> {
    let wanted = |role: &&Role| named.is_empty() || named.iter().any(|name| name == role.name);
    flow.roles.iter().filter(wanted).collect()
}

/// How a role runs in a process of its own; an embedded bus is this process' alone.
fn launch(bus: &str, again: Vec<OsString>) -> Option<Launch> {
    let program = std::env::current_exe().ok().filter(|_| !bus.starts_with("embedded:"))?;
    Some(Arc::new(move |role: &str| {
        let mut process = Process::new(&program);
        process.args(&again).args(["--role", role]);
        process
    }))
}

fn banner(flow: &Described, options: &Options, roles: &[&Role], state: &Bus) -> String {
    let kept = match (&options.state, options.bus.as_str()) {
        (Some(state), _) => format!("state {state}"),
        (None, "embedded:") => String::from("memory, nothing is kept"),
        (None, bus) if bus.starts_with("kafka:") => {
            format!("state in memory ({}): --state URL keeps it", state.backend())
        }
        (None, _) => String::from("state on the bus"),
    };
    let roles: Vec<_> = roles.iter().map(|role| role.name).collect();
    format!("{} · bus {} · {kept} · {}", flow.name, options.bus, roles.join(" · "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flow: Flow,
    }

    fn flow(args: &[&str]) -> Result<Flow, String> {
        let line = Line::try_parse_from([&["flow"], args].concat());
        line.map(|line| line.flow).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_there_is() {
        assert!(flow(&["medicine", "--role", "nurse"]).unwrap_err().contains("patient"));
        assert!(flow(&["medicines"]).unwrap_err().contains("medicine"));
        let wrong = flow(&["medicine", "--every", "often"]).unwrap_err();
        assert!(wrong.contains("for example 500ms"), "{wrong}");
    }

    #[test]
    fn another_process_gets_what_this_one_was_given() {
        let flow = flow(&[
            "medicine",
            "--role",
            "patient",
            "--bus",
            "nats://nats:4222",
            "--bus-tls",
            "--every",
            "2s",
            "--json",
        ]);
        let again: Vec<_> = flow.unwrap().again.into_iter().map(|arg| arg.into_string()).collect();
        let again: Vec<_> = again.into_iter().map(Result::unwrap).collect();
        let (head, mut options) = (again[..2].join(" "), again[2..].join(" "));
        assert_eq!(head, "flow medicine");
        for part in ["--bus nats://nats:4222", "--bus-tls", "--every 2s"] {
            assert!(options.contains(part), "{part} is not in {options}");
            options = options.replacen(part, "", 1);
        }
        assert_eq!(options.trim(), "");
    }

    #[test]
    fn without_a_name_every_role_runs() {
        let medicine = Described::named("medicine").unwrap();
        assert_eq!(roles(medicine, &[]).len(), medicine.roles.len());
        assert_eq!(roles(medicine, &[String::from("patient")])[0].name, "patient");
    }
}
