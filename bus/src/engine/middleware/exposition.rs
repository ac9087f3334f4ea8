//! The numbers as Prometheus reads them: text exposition format, version 0.0.4.

use std::fmt::Write;

use super::metrics::{ConsumerMetrics, Histogram, MetricsSnapshot, StreamMetrics};

/// Names of streams and consumers are letters, digits, `_` and `-`: no label needs escaping.
pub(super) fn render(of: &MetricsSnapshot) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = streams(&mut text, of).and_then(|()| consumers(&mut text, of));
    text
}

type Field<T> = (&'static str, &'static str, fn(&T) -> u64);

fn streams(text: &mut String, of: &MetricsSnapshot) -> std::fmt::Result {
    let fields: [Field<StreamMetrics>; 3] = [
        ("bus_published_total", "Messages whose receipt came.", |of| of.published),
        ("bus_publish_duplicates_total", "Of those, recognised by their id.", |of| of.duplicates),
        ("bus_publish_failures_total", "Messages whose publish failed.", |of| of.failed),
    ];
    for (name, help, value) in fields {
        begin(text, name, help, "counter")?;
        for (stream, of) in &of.streams {
            writeln!(text, "{name}{{stream=\"{stream}\"}} {}", value(of))?;
        }
    }
    let name = "bus_publish_duration_seconds";
    begin(text, name, "From handing over to the receipt.", "histogram")?;
    for (stream, of) in &of.streams {
        histogram(text, name, &format!("stream=\"{stream}\""), &of.latency)?;
    }
    Ok(())
}

fn consumers(text: &mut String, of: &MetricsSnapshot) -> std::fmt::Result {
    let fields: [Field<ConsumerMetrics>; 8] = [
        ("bus_delivered_total", "Messages given to a handler.", |of| of.delivered),
        ("bus_redelivered_total", "Of those, not for the first time.", |of| of.redelivered),
        ("bus_acked_total", "Messages that are done.", |of| of.acked),
        ("bus_retried_total", "Messages to be tried again.", |of| of.retried),
        ("bus_rejected_total", "Messages given up.", |of| of.rejected),
        ("bus_dead_lettered_total", "Messages copied to the dead letters.", |of| of.dead_lettered),
        ("bus_skipped_total", "Messages redriven for another consumer.", |of| of.skipped),
        ("bus_left_total", "Messages left to their leases.", |of| of.left),
    ];
    for (name, help, value) in fields {
        begin(text, name, help, "counter")?;
        for ((stream, consumer), of) in &of.consumers {
            let value = value(of);
            writeln!(text, "{name}{{stream=\"{stream}\",consumer=\"{consumer}\"}} {value}")?;
        }
    }
    begin(text, "bus_in_flight", "Handlers at work now.", "gauge")?;
    for ((stream, consumer), of) in &of.consumers {
        let labels = format!("stream=\"{stream}\",consumer=\"{consumer}\"");
        writeln!(text, "bus_in_flight{{{labels}}} {}", of.in_flight)?;
    }
    let name = "bus_handler_duration_seconds";
    begin(text, name, "How long handlers took.", "histogram")?;
    for ((stream, consumer), of) in &of.consumers {
        let labels = format!("stream=\"{stream}\",consumer=\"{consumer}\"");
        histogram(text, name, &labels, &of.duration)?;
    }
    Ok(())
}

fn begin(text: &mut String, name: &str, help: &str, kind: &str) -> std::fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn histogram(text: &mut String, name: &str, labels: &str, of: &Histogram) -> std::fmt::Result {
    for (bound, count) in &of.buckets {
        let bound = bound.as_secs_f64();
        writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
    }
    writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", of.count)?;
    writeln!(text, "{name}_sum{{{labels}}} {}", of.sum.as_secs_f64())?;
    writeln!(text, "{name}_count{{{labels}}} {}", of.count)
}
