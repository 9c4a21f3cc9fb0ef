//! Plots as SVG, to stand inside a page: lines over a linear or logarithmic axis. Pure.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
const COLOURS: [&str; 8] = [
    "#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f",
];

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Logarithmic,
}

/// An axis with its name.
#[derive(Clone, Debug)]
pub struct Axis {
    pub name: &'static str,
    pub scale: Scale,
    /// Labels at certain values; empty: chosen.
    pub ticks: Vec<(f64, String)>,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Text that may stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A plot; nothing where there is nothing to show.
pub fn plot(lines: &[Line], horizontal: &Axis, vertical: &Axis) -> String {
    let shown = |(x, y): &&(f64, f64)| horizontal.scale.shows(*x) && vertical.scale.shows(*y);
    let points = || lines.iter().flat_map(|line| line.points.iter().filter(shown));
    let (Some(xs), Some(ys)) = (
        Range::of(points().map(|point| point.0), horizontal.scale),
        Range::of(points().map(|point| point.1), vertical.scale),
    ) else {
        return String::new();
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over {}\">",
        escape(vertical.name),
        escape(horizontal.name)
    );
    let place = |x: f64, y: f64| {
        (
            LEFT + xs.share(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - ys.share(y) * (HEIGHT - TOP - BOTTOM),
        )
    };
    for (value, label) in ticks(vertical, &ys) {
        let (_, y) = place(xs.low, value);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(&label)
        );
    }
    for (value, label) in ticks(horizontal, &xs) {
        let (x, _) = place(value, ys.low);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 16.0,
            escape(&label)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text x=\"14\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {})\">{}</text>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 6.0,
        escape(horizontal.name),
        HEIGHT / 2.0,
        HEIGHT / 2.0,
        escape(vertical.name)
    );
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        for (x, y) in line.points.iter().filter(shown) {
            let (x, y) = place(*x, *y);
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"><title>{}</title></path>",
            escape(&line.name)
        );
    }
    svg.push_str("</svg>");
    svg + &legend(lines)
}

fn legend(lines: &[Line]) -> String {
    let mut legend = String::from("<p class=\"legend\">");
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(
            legend,
            "<span><i style=\"background:{colour}\"></i>{}</span>",
            escape(&line.name)
        );
    }
    legend + "</p>"
}

/// The values of an axis.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f64,
    high: f64,
    scale: Scale,
}

impl Scale {
    fn shows(self, value: f64) -> bool {
        value.is_finite() && (self == Self::Linear || value > 0.0)
    }
}

impl Range {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Option<Self> {
        let (low, high) = values.fold(None, |range: Option<(f64, f64)>, value| {
            Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        })?;
        Some(match scale {
            // A line along the edge, or a single value, would not be seen.
            Scale::Linear => Self {
                low: low.min(0.0),
                high: if high > 0.0 { high * 1.05 } else { 1.0 },
                scale,
            },
            Scale::Logarithmic => Self {
                low: 10_f64.powf(low.log10().floor()),
                high: 10_f64.powf((high * 1.0001).log10().ceil()),
                scale,
            },
        })
    }

    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        share.clamp(0.0, 1.0)
    }
}

fn ticks(axis: &Axis, range: &Range) -> Vec<(f64, String)> {
    if !axis.ticks.is_empty() {
        let inside = |(value, _): &&(f64, String)| *value >= range.low && *value <= range.high;
        return axis.ticks.iter().filter(inside).cloned().collect();
    }
    let mut ticks = Vec::new();
    match axis.scale {
        Scale::Linear => {
            let step = step_of(range.high - range.low);
            let mut value = (range.low / step).ceil() * step;
            while value <= range.high {
                ticks.push((value, label(value)));
                value += step;
            }
        }
        Scale::Logarithmic => {
            let mut value = range.low;
            while value <= range.high * 1.0001 {
                ticks.push((value, label(value)));
                value *= 10.0;
            }
        }
    }
    ticks
}

/// A step of 1, 2 or 5 times a power of ten, for about six ticks.
fn step_of(span: f64) -> f64 {
    let rough = (span / 6.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let digit = rough / power;
    power
        * match digit {
            small if small <= 1.0 => 1.0,
            small if small <= 2.0 => 2.0,
            small if small <= 5.0 => 5.0,
            _ => 10.0,
        }
}

fn label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis {
            name: "a < b",
            scale,
            ticks: Vec::new(),
        }
    }

    #[test]
    fn a_plot_stays_inside_its_frame_and_escapes_names() {
        let line = Line {
            name: "<script>".into(),
            points: vec![(0.0, 1.0), (1.0, 1_000.0), (2.0, f64::NAN), (3.0, 0.0)],
        };
        let svg = plot(&[line], &axis(Scale::Linear), &axis(Scale::Logarithmic));
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_to_show_is_no_plot() {
        assert_eq!(plot(&[], &axis(Scale::Linear), &axis(Scale::Linear)), "");
    }

    #[test]
    fn ticks_are_round_numbers() {
        let range = Range::of([0.0, 930.0].into_iter(), Scale::Linear).expect("values");
        let values: Vec<f64> = ticks(&axis(Scale::Linear), &range).iter().map(|tick| tick.0).collect();
        assert_eq!(values, [0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(
            [1_500.0, 2e6, 0.5].map(label),
            ["1.5k".to_owned(), "2M".to_owned(), "0.5".to_owned()]
        );
    }
}
