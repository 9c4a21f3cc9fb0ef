//! The percentile distribution as HdrHistogram's own tools read it (`.hgrm`), in microseconds.

use std::fmt::Write as _;

use crate::measure::latency::Latency;

/// The distribution as text.
pub fn text(latency: &Latency) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    for point in &latency.distribution {
        let inverse = 1.0 / (1.0 - point.quantile);
        let inverse = if inverse.is_finite() {
            format!("{inverse:14.2}")
        } else {
            String::new()
        };
        let line = format!(
            "{:12.3} {:1.12} {:10} {inverse}",
            point.value_us, point.quantile, point.count
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]",
        latency.mean_us, latency.max_us, latency.count
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::latency::Recorder;

    #[test]
    fn every_line_has_value_percentile_and_count_and_the_last_is_everything() {
        let mut recorder = Recorder::default();
        (1..=1_000).for_each(|micros| recorder.record(micros * 1_000));
        let text = text(&recorder.summary());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|word| word.parse().expect("a number"))
                    .collect()
            })
            .collect();
        assert!(rows.len() > 10);
        assert!(
            rows.windows(2)
                .all(|pair| pair[0][1] <= pair[1][1] && pair[0][2] <= pair[1][2])
        );
        assert_eq!(rows.last().map(|row| (row[1], row[2])), Some((1.0, 1_000.0)));
    }
}
