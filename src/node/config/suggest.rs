//! What somebody probably meant by a setting that does not exist.

use super::known_keys;

/// How a setting is written where the suggestion is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `section.key`
    Key,
    /// `WEFT_SECTION__KEY`
    Variable,
}

impl Form {
    fn write(self, key: &str) -> String {
        match self {
            Self::Key => key.into(),
            Self::Variable => variable(key),
        }
    }
}

/// The environment variable of a setting.
pub fn variable(key: &str) -> String {
    format!(
        "{}{}",
        super::environment::PREFIX,
        key.replace('.', "__").to_ascii_uppercase()
    )
}

/// Names that exist elsewhere: they are set once, for the whole node.
const MOVED: [(&str, &str); 3] = [
    ("router.node_id", "node.id"),
    ("router.registration_required", "registration.required"),
    ("router.unregistered_agents_max", "registration.unregistered_agents_max"),
];

/// Below this similarity (0 to 1) a guess confuses more than it helps; 0.6 still catches two typos in a short name.
const SIMILARITY_MIN: f64 = 0.6;

/// As above for whole variables, which share a prefix and most sections: `WEFT_TORTURE_KILLS` means nothing of ours.
const VARIABLE_SIMILARITY_MIN: f64 = 0.85;

/// The advice for an unknown setting.
pub fn fix(unknown: &str, form: Form) -> String {
    match nearest(unknown).filter(|key| form == Form::Key || key.contains('.')) {
        Some(key) => format!("did you mean `{}`?", form.write(&key)),
        None => "remove it; `weft config show` lists all settings".into(),
    }
}

/// The variable that somebody meant who wrote one underscore where two belong, or nearly so.
pub fn variable_like(name: &str) -> Option<String> {
    let similarity = |key: &&String| strsim::normalized_damerau_levenshtein(name, &variable(key).replace("__", "_"));
    let best = known_keys()
        .iter()
        .max_by(|left, right| similarity(left).total_cmp(&similarity(right)))?;
    (similarity(&best) > VARIABLE_SIMILARITY_MIN).then(|| variable(best))
}

/// The known setting, or section, that is most like `unknown`.
fn nearest(unknown: &str) -> Option<String> {
    if let Some((_, now)) = MOVED.iter().find(|(before, _)| *before == unknown) {
        return Some((*now).into());
    }
    let keys = known_keys();
    let sections = keys
        .iter()
        .filter_map(|key| key.split_once('.').map(|(section, _)| section.to_string()));
    let same_depth = |key: &String| key.matches('.').count() == unknown.matches('.').count();
    let mut best = (SIMILARITY_MIN, None);
    for candidate in keys.iter().cloned().chain(sections).filter(same_depth) {
        let similarity = similarity(unknown, &candidate);
        if similarity > best.0 {
            best = (similarity, Some(candidate));
        }
    }
    best.1
}

/// Section and key weigh the same: a long key does not hide a wrong section, nor a common section a wrong key.
fn similarity(unknown: &str, candidate: &str) -> f64 {
    let pairs = unknown.split('.').zip(candidate.split('.'));
    let (mut sum, mut count) = (0.0, 0.0);
    for (left, right) in pairs {
        sum += strsim::normalized_damerau_levenshtein(left, right).max(strsim::jaro_winkler(left, right) - 0.2);
        count += 1.0;
    }
    sum / f64::max(count, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_what_was_meant() {
        for (unknown, meant) in [
            ("htpp.listen", "http.listen"),
            ("http.listne", "http.listen"),
            ("routr", "router"),
            ("router.max_delivery", "router.max_deliver"),
            ("router.node_id", "node.id"),
        ] {
            assert_eq!(nearest(unknown).as_deref(), Some(meant), "{unknown}");
        }
        assert_eq!(nearest("zzz.qqq"), None);
    }

    #[test]
    fn one_underscore_where_two_belong_is_understood_and_foreign_names_are_not() {
        assert_eq!(variable_like("WEFT_HTTP_LISTEN").as_deref(), Some("WEFT_HTTP__LISTEN"));
        for foreign in [
            "WEFT_TORTURE_KILLS",
            "WEFT_REGENERATE",
            "WEFT_SERVICE_HOST",
            "WEFT_PORT_8000_TCP",
        ] {
            assert_eq!(variable_like(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn advice_is_written_the_way_the_mistake_was() {
        assert_eq!(fix("htpp.listen", Form::Variable), "did you mean `WEFT_HTTP__LISTEN`?");
    }
}
