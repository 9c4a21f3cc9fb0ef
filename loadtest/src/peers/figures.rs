//! What a case of the comparison yields, and figures of several rounds set against each other. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{measure::latency::Latency, report::Run};

/// One kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Deliveries, requests or syncs a second.
    PerSecond,
    /// Processor seconds of the server per million deliveries.
    ServerCpu,
    /// Microseconds.
    P50,
    P99,
    /// Bytes of the server for each session or agent.
    BytesEach,
    /// Milliseconds from start to ready.
    ReadyMillis,
    /// Bytes of the program's file.
    BinaryBytes,
}

/// Figures of one case in one round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures(BTreeMap<Figure, f64>);

impl Figures {
    /// Notes one.
    pub fn set(&mut self, figure: Figure, value: f64) {
        self.0.insert(figure, value);
    }

    /// One of them.
    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    /// Of latencies alone.
    pub fn of_latency(latency: &Latency) -> Self {
        let mut figures = Self::default();
        figures.set(Figure::P50, latency.p50_us);
        figures.set(Figure::P99, latency.p99_us);
        figures
    }

    /// Of one of weft's runs.
    pub fn of_run(run: &Run) -> Self {
        let mut figures = run.main_latency().map(Self::of_latency).unwrap_or_default();
        if run.delivered > 0 {
            figures.set(Figure::PerSecond, run.deliveries_per_s);
        }
        if let Some(cpu) = run.server_cpu_s_per_million {
            figures.set(Figure::ServerCpu, cpu);
        }
        if let Some(bytes) = run.figures.get("server bytes per session") {
            figures.set(Figure::BytesEach, *bytes);
        }
        figures
    }
}

/// Median and range of what several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
}

impl Spread {
    /// `None` where there is nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
            rounds: values.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).expect("four values");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }
}
