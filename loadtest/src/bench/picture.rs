//! The run as a picture: throughput beside the peers, and latency beside H's. Plain SVG.

use std::fmt::Write;

use super::party::{PER_SECOND, Results, median};
use super::report::LATENCIES;

struct Bar {
    label: String,
    value: f64,
    shown: String,
    class: &'static str,
}

const WIDTH: f64 = 860.0;
const LABEL: f64 = 190.0;
const ROW: f64 = 20.0;
/// What a value's own figure takes to the right of the longest bar.
const FIGURE: f64 = 80.0;

/// Parties whose throughput is compared, in this order.
const SHOWN: [&str; 19] = [
    "h1",
    "h2c",
    "fg-always",
    "fg-everysec",
    "fg-quotas",
    "fg-repeats-20",
    "fg-flushed",
    "fg-ack-postgres",
    "fg-latch",
    "fg-throttle",
    "fg-h2c",
    "fg-batch",
    "e1",
    "e16",
    "webdis",
    "nginx",
    "naive",
    "pg-skip-locked",
    "pg-row",
];
const LATENCY_OF: [&str; 3] = ["half-h1", "half-everysec", "half-always"];

/// The medians of a run.
pub fn draw(results: &Results, title: &str) -> String {
    let middle =
        |party: &str, measure: &str| median(&results.each(party, measure).into_iter().flatten().collect::<Vec<_>>());
    let rates = SHOWN.iter().filter_map(|party| {
        let value = middle(party, PER_SECOND)?;
        let class = if party.starts_with("fg-") { "own" } else { "peer" };
        Some(Bar { label: (*party).to_owned(), value, shown: format!("{:.1} k", value / 1e3), class })
    });
    let latencies = LATENCY_OF.iter().flat_map(|party| {
        let class = if *party == "half-h1" { "peer" } else { "own" };
        LATENCIES.iter().filter_map(move |measure| {
            let value = middle(party, measure)?;
            let label = format!("{party} {}", measure.trim_end_matches("_us").replace("p999", "p99.9"));
            Some(Bar { label, value, shown: format!("{:.2} ms", value / 1e3), class })
        })
    });
    let panels = [
        ("claims a second (H, E, peers: requests a second)", rates.collect::<Vec<_>>()),
        ("latency at half of the peak, open loop", latencies.collect::<Vec<_>>()),
    ];
    let rows: usize = panels.iter().map(|(_, bars)| bars.len()).sum();
    let height = 40.0 + rows as f64 * ROW + panels.len() as f64 * 44.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.own {{ fill: #1f6feb }} .peer {{ fill: #9aa4b2 }} text {{ fill: #24292f }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    let mut y = 40.0;
    for (name, bars) in panels {
        let _ = writeln!(svg, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 16.0, escape(name));
        y += 28.0;
        let longest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        for bar in bars {
            let length = (WIDTH - LABEL - FIGURE) * bar.value / longest;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{}\" x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                LABEL - 8.0,
                y + 13.0,
                escape(&bar.label),
                bar.class,
                y + 2.0,
                ROW - 5.0,
                LABEL + length + 6.0,
                y + 13.0,
                escape(&bar.shown)
            );
            y += ROW;
        }
        y += 16.0;
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::party::Sample;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let mut results = Results::default();
        for (name, rate) in [("h1", 100_000.0), ("fg-always", 50_000.0)] {
            results.expect(name, "");
            results.add(name, Sample::default().with(PER_SECOND, rate));
        }
        let svg = draw(&results, "a <title>");
        let full = WIDTH - LABEL - FIGURE;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", full / 2.0)));
        assert!(svg.contains("a &lt;title&gt;") && svg.contains("50.0 k"));
    }
}
