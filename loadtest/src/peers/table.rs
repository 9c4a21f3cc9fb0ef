//! The comparison as a table: ratios by goal, figures by case, and what is missing. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{
    Results,
    case::{Absent, Case},
    figures::{Figure, Spread},
    goals::{Bound, Goal},
};
use crate::report::text::short;

/// The whole table.
pub fn text(goals: &[Goal], results: &Results) -> String {
    let mut text = format!(
        "{:<5} {:<42} {:<12} {:<46} {:>26}  {}\n",
        "goal", "weft", "figure", "bound", "median (min–max)", "holds"
    );
    for goal in goals {
        let (shown, holds) = match judge(goal, results) {
            Some(spread) => (show(spread), if goal.bound.holds(spread.median) { "yes" } else { "NO" }),
            None => ("–".to_owned(), "not measured"),
        };
        let _ = writeln!(
            text,
            "{:<5} {:<42} {:<12} {:<46} {shown:>26}  {holds}",
            goal.id,
            goal.ours.name(),
            figure_name(goal.figure),
            goal.bound.text()
        );
    }
    text.push_str("\ncases:\n");
    for (case, rounds) in results {
        text.push_str(&case_line(*case, rounds));
    }
    let missing = missing(results);
    if !missing.is_empty() {
        text.push_str("\nmissing:\n");
        for (case, why) in missing {
            let _ = writeln!(text, "  {}: {why}", case.name());
        }
    }
    text
}

/// The figure of a goal over the rounds: the ratio within each round, or the figure itself.
fn judge(goal: &Goal, results: &Results) -> Option<Spread> {
    let figure = |case: Case, round: usize| results.get(&case)?.get(round)?.as_ref().ok()?.get(goal.figure);
    let rounds = results.get(&goal.ours)?.len();
    let value = |round: usize| match goal.bound {
        Bound::Below(_) => figure(goal.ours, round),
        Bound::AtLeast(_, other) | Bound::AtMost(_, other) => {
            Some(figure(goal.ours, round)? / figure(other, round).filter(|other| *other > 0.0)?)
        }
    };
    Spread::of((0..rounds).filter_map(value).collect())
}

fn show(spread: Spread) -> String {
    format!("{} ({}–{})", short(spread.median), short(spread.min), short(spread.max))
}

const fn figure_name(figure: Figure) -> &'static str {
    match figure {
        Figure::PerSecond => "per second",
        Figure::ServerCpu => "server s/M",
        Figure::P50 => "p50 us",
        Figure::P99 => "p99 us",
        Figure::BytesEach => "bytes each",
        Figure::ReadyMillis => "ready ms",
        Figure::BinaryBytes => "binary bytes",
    }
}

const FIGURES: [Figure; 7] = [
    Figure::PerSecond,
    Figure::ServerCpu,
    Figure::P50,
    Figure::P99,
    Figure::BytesEach,
    Figure::ReadyMillis,
    Figure::BinaryBytes,
];

fn case_line(case: Case, rounds: &[Result<super::Figures, Absent>]) -> String {
    let parts = FIGURES.iter().filter_map(|figure| {
        let values = rounds.iter().filter_map(|round| round.as_ref().ok()?.get(*figure));
        let spread = Spread::of(values.collect())?;
        Some(format!("{} {}", figure_name(*figure), show(spread)))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        return String::new();
    }
    format!("  {:<42} {}\n", case.name(), parts.join("; "))
}

/// Cases without a figure, or with rounds that failed, and why.
fn missing(results: &Results) -> BTreeMap<Case, String> {
    let reason = |(case, rounds): (&Case, &Vec<Result<super::Figures, Absent>>)| {
        let first = rounds.iter().find_map(|round| round.as_ref().err())?;
        let failed = rounds.iter().filter(|round| round.is_err()).count();
        let why = match first {
            Absent::Missing(how) => how.clone(),
            Absent::Failed(error) => format!("failed in {failed} of {} rounds: {error}", rounds.len()),
        };
        Some((*case, why))
    };
    results.iter().filter_map(reason).collect()
}

/// Every figure of every round.
pub fn json(results: &Results) -> Value {
    let case = |(case, rounds): (&Case, &Vec<Result<super::Figures, Absent>>)| {
        let rounds: Vec<Value> = rounds
            .iter()
            .map(|round| match round {
                Ok(figures) => json!(figures),
                Err(Absent::Missing(how)) => json!({ "missing": how }),
                Err(Absent::Failed(error)) => json!({ "failed": error }),
            })
            .collect();
        (case.name().to_owned(), Value::from(rounds))
    };
    Value::Object(results.iter().map(case).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{figures::Figures, goals::GOALS};

    fn figures(per_second: f64) -> Result<Figures, Absent> {
        let mut figures = Figures::default();
        figures.set(Figure::PerSecond, per_second);
        Ok(figures)
    }

    fn goal(ours: Case, other: Case) -> Goal {
        let found = GOALS
            .iter()
            .find(|goal| goal.ours == ours && goal.bound.other() == Some(other));
        *found.expect("a goal")
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let results: Results = [
            (Case::WeftHttp, vec![figures(90.0), figures(50.0), figures(30.0)]),
            (Case::BareAxum, vec![figures(100.0), figures(50.0), figures(10.0)]),
        ]
        .into();
        let spread = judge(&goal(Case::WeftHttp, Case::BareAxum), &results).expect("three rounds");
        assert_eq!((spread.min, spread.median, spread.max), (0.9, 1.0, 3.0));
        assert!(text(&[goal(Case::WeftHttp, Case::BareAxum)], &results).contains("  yes\n"));
    }

    #[test]
    fn a_missing_peer_is_named_with_how_to_get_it_and_its_goal_is_not_measured() {
        let results: Results = [
            (Case::WeftDurable, vec![figures(90.0)]),
            (
                Case::RedisStream,
                vec![Err(Absent::Missing(
                    "redis-server: apt-get install redis-server".into(),
                ))],
            ),
        ]
        .into();
        let text = text(&[goal(Case::WeftDurable, Case::RedisStream)], &results);
        assert!(
            text.contains("not measured") && text.contains("apt-get install redis-server"),
            "{text}"
        );
    }

    #[test]
    fn a_case_that_fails_sometimes_says_so_and_keeps_its_other_rounds() {
        let results: Results = [
            (
                Case::WeftHttp,
                vec![figures(90.0), Err(Absent::Failed("gone".into())), figures(80.0)],
            ),
            (Case::BareAxum, vec![figures(100.0), figures(100.0), figures(100.0)]),
        ]
        .into();
        let spread = judge(&goal(Case::WeftHttp, Case::BareAxum), &results).expect("two rounds");
        assert_eq!(spread.rounds, 2);
        assert!(text(&[], &results).contains("failed in 1 of 3 rounds: gone"));
    }
}
