//! The routes of a bridge, read from it when somebody scrapes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use lockgate_bridge::RouteStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::{OfRoute, OfState};

/// As a bridge's status names them.
const STATES: [&str; 4] = ["running", "waiting", "starting", "standby"];

type Read = Box<dyn Fn() -> Vec<RouteStatus> + Send + Sync>;

/// Where the routes are read; a process without a bridge shows none.
#[derive(Clone, Default)]
pub(super) struct Routes(Arc<OnceLock<Read>>);

impl Routes {
    /// Reads them here from now on. A process has one bridge: a second call changes nothing.
    pub(super) fn read(&self, read: Read) {
        if self.0.set(read).is_err() {
            tracing::warn!("the routes of a second bridge are not among the numbers");
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Routes")
    }
}

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(read) = self.0.get() else { return Ok(()) };
        let routes = read();
        let help = "Records and events that a route has carried";
        counter(&mut encoder, "bridge_carried", help, &routes, |route| route.carried)?;
        let help = "Records and events that have been at a route's target before";
        counter(&mut encoder, "bridge_looped", help, &routes, |route| route.looped)?;
        let help = "Records and events that are behind what a route has carried";
        gauge(&mut encoder, "bridge_lag_records", help, &routes, |route| route.lag)?;
        let help = "Records and events that a route could not carry and keeps";
        gauge(&mut encoder, "bridge_parked_records", help, &routes, |route| Some(route.parked))?;
        states(&mut encoder, &routes)
    }
}

fn of(status: &RouteStatus) -> OfRoute {
    OfRoute { route: status.route.clone() }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    routes: &[RouteStatus],
    value: impl Fn(&RouteStatus) -> u64,
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for route in routes {
        ConstCounter::new(value(route)).encode(family.encode_family(&of(route))?)?;
    }
    Ok(())
}

/// A figure that is not known is not there.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    routes: &[RouteStatus],
    value: impl Fn(&RouteStatus) -> Option<u64>,
) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for route in routes {
        let Some(value) = value(route) else { continue };
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&of(route))?)?;
    }
    Ok(())
}

/// One for the state that a route is in, and nothing for each of the others.
fn states(encoder: &mut DescriptorEncoder<'_>, routes: &[RouteStatus]) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "1 for the state that a route is in, 0 for the others";
    let mut family = encoder.encode_descriptor("bridge_state", help, None, kind)?;
    for status in routes {
        for state in STATES {
            let of = OfState { route: status.route.clone(), state };
            let value = i64::from(status.state == state);
            ConstGauge::new(value).encode(family.encode_family(&of)?)?;
        }
    }
    Ok(())
}
