//! Reading a JSON request field by field, so that every wrong field is named by its JSON pointer, and several at once.
//!
//! A value stays the text that came until a field asks for it; what no field asked for is an error. The text is borrowed from
//! the request's buffer, so a body is a slice of it. Start at [`read_object`].

use std::{borrow::Cow, collections::HashSet, fmt, ops::RangeInclusive, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    codes::EdgeError,
    duration::Duration,
    problem::{FIELD_ERRORS_MAX, FieldError, Place, Problem},
};

/// Deepest nesting of arrays and objects in a request.
const DEPTH_MAX: usize = 64;
/// Most fields in an object whose fields are looked at (not one that is carried as a body).
const FIELDS_MAX: usize = 1024;
/// Longest duration that is written as a number of seconds: ten digits, as far as it is far from an overflow.
const DURATION_SECONDS_MAX: u64 = 9_999_999_999;

/// What is wrong with a request, as far as it was read.
#[derive(Debug, Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// Notes a wrong place of the body; beyond [`FIELD_ERRORS_MAX`] it is left out.
    pub fn at(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldError::at(pointer, detail));
    }

    /// Notes a wrong place of the request.
    pub fn add(&mut self, place: Place, detail: impl Into<String>) {
        self.push(FieldError {
            place,
            detail: detail.into(),
        });
    }

    fn push(&mut self, error: FieldError) {
        if self.0.len() < FIELD_ERRORS_MAX {
            self.0.push(error);
        }
    }

    /// True where nothing was wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problem that tells all of them; `Ok` where there are none.
    pub fn into_result(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::of_fields(self.0))
        }
    }

    /// Ends reading: the value where it was read and nothing was wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(Problem::of_fields(self.0)),
        }
    }
}

/// Reads a whole request: one JSON object. A text that is not JSON is [`EdgeError::Malformed`]; wrong fields come later.
pub fn read_object(text: &[u8]) -> Result<Object<'_>, Problem> {
    let text = std::str::from_utf8(text).map_err(|error| EdgeError::Malformed {
        detail: format!("it is not UTF-8 from byte {} on", error.valid_up_to()),
    })?;
    if text.starts_with('\u{feff}') {
        return Err(EdgeError::Malformed {
            detail: "it begins with a byte order mark; leave that out".into(),
        }
        .into());
    }
    check_depth(text)?;
    let malformed = |error: serde_json::Error| EdgeError::Malformed {
        detail: error.to_string(),
    };
    let mut errors = Errors::default();
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    if !text.starts_with('{') {
        let raw: &RawValue = serde_json::from_str(text).map_err(malformed)?;
        let object = Object::of(raw, String::new(), &mut errors);
        return errors.finish(object);
    }
    // Its fields are found while it is checked.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = FieldsSeed.deserialize(&mut deserializer);
    let fields = fields.and_then(|fields| deserializer.end().map(|()| fields));
    let object = match fields {
        Ok(fields) => Object::of_fields(fields, text, String::new(), &mut errors),
        Err(error) if error.is_data() => {
            errors.at("", error.to_string());
            None
        }
        Err(error) => return Err(malformed(error).into()),
    };
    errors.finish(object)
}

/// Refuses nesting that a reader further on may not survive. Counts brackets outside of strings; whether they match is the
/// parser's to say.
fn check_depth(text: &str) -> Result<(), EdgeError> {
    let openings = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if openings <= DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(EdgeError::Malformed {
                detail: format!("it nests deeper than {DEPTH_MAX} levels"),
            });
        }
    }
    Ok(())
}

/// True for a text that may stand inside another JSON text as it is.
pub(super) fn is_embeddable(text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .is_ok_and(|text| check_depth(text).is_ok() && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// One reference token of a JSON pointer.
fn pointer_to(parent: &str, name: &str) -> String {
    if name.bytes().any(|byte| matches!(byte, b'~' | b'/')) {
        return format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"));
    }
    // Without a formatter: every field of every request comes by here.
    [parent, "/", name].concat()
}

/// An object whose fields are taken one by one.
#[derive(Debug)]
pub struct Object<'a> {
    pointer: String,
    text: &'a str,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn of(raw: &'a RawValue, pointer: String, errors: &mut Errors) -> Option<Self> {
        if !raw.get().starts_with('{') {
            errors.at(pointer, format!("is {}; it must be an object", kind_of(raw)));
            return None;
        }
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        match FieldsSeed.deserialize(&mut deserializer) {
            Ok(fields) => Self::of_fields(fields, raw.get(), pointer, errors),
            Err(error) => {
                errors.at(pointer, error.to_string());
                None
            }
        }
    }

    fn of_fields(
        fields: Vec<(Cow<'a, str>, &'a RawValue)>,
        text: &'a str,
        pointer: String,
        errors: &mut Errors,
    ) -> Option<Self> {
        let object = Self { pointer, text, fields };
        object.refuse_duplicates(errors).then_some(object)
    }

    fn refuse_duplicates(&self, errors: &mut Errors) -> bool {
        /// Fields that are compared one with the other faster than they are hashed.
        const FEW: usize = 16;
        let names = || self.fields.iter().map(|(name, _)| name);
        let is_new = |(at, name): (usize, &Cow<'_, str>)| !names().take(at).any(|before| before == name);
        if self.fields.len() <= FEW && names().enumerate().all(is_new) {
            return true;
        }
        let mut seen = HashSet::with_capacity(self.fields.len());
        let mut unique = true;
        for (name, _) in &self.fields {
            if !seen.insert(name.as_ref()) {
                unique = false;
                errors.at(pointer_to(&self.pointer, name), "stands twice in its object");
            }
        }
        unique
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Field<'a>> {
        let at = self.fields.iter().position(|(given, _)| given == name)?;
        let (name, raw) = self.fields.swap_remove(at);
        Some(Field {
            pointer: pointer_to(&self.pointer, &name),
            raw,
        })
    }

    /// Takes a field out that must be there.
    pub fn require(&mut self, name: &str, errors: &mut Errors) -> Option<Field<'a>> {
        let field = self.take(name);
        if field.is_none() {
            errors.at(pointer_to(&self.pointer, name), "is missing");
        }
        field
    }

    /// The names of the fields that were not taken yet.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    /// The rest of the fields, in no promised order.
    pub fn into_fields(self) -> impl Iterator<Item = (Cow<'a, str>, Field<'a>)> {
        let pointer = self.pointer;
        self.fields.into_iter().map(move |(name, raw)| {
            let pointer = pointer_to(&pointer, &name);
            (name, Field { pointer, raw })
        })
    }

    /// The object's text as it came.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The object's own place.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Ends reading: what was not taken is unknown, and an error. `hint` is added to each.
    pub fn finish(self, hint: &str, errors: &mut Errors) {
        for (name, _) in self.fields {
            errors.at(pointer_to(&self.pointer, &name), format!("is not a known field{hint}"));
        }
    }
}

struct FieldsSeed;

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(Key(name)) = map.next_key()? {
            if fields.len() == FIELDS_MAX {
                return Err(serde::de::Error::custom(format!("has more than {FIELDS_MAX} fields")));
            }
            fields.push((name, map.next_value()?));
        }
        Ok(fields)
    }
}

/// A key, borrowed where it has no escapes; serde's own `Cow` never borrows.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(text.into())))
    }
}

fn kind_of(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// One value of a request and its place. Each reader notes what is wrong and returns `None` then.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    pointer: String,
    raw: &'a RawValue,
}

impl<'a> Field<'a> {
    /// The value's text as it came.
    pub fn raw(&self) -> &'a RawValue {
        self.raw
    }

    /// The value's place.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    fn wrong_kind(&self, wanted: &str, errors: &mut Errors) {
        errors.at(&*self.pointer, format!("is {}; it must be {wanted}", kind_of(self.raw)));
    }

    /// A string.
    pub fn string(&self, errors: &mut Errors) -> Option<Cow<'a, str>> {
        let text = self.raw.get();
        if !text.starts_with('"') {
            self.wrong_kind("a string", errors);
            return None;
        }
        if !text.contains('\\') {
            // The parser found it to be a string.
            return Some(Cow::Borrowed(&text[1..text.len() - 1]));
        }
        match serde_json::from_str::<Key<'a>>(text) {
            Ok(Key(text)) => Some(text),
            Err(_) => {
                errors.at(&*self.pointer, "has an escape that is not a Unicode character");
                None
            }
        }
    }

    /// A string of at most so many bytes.
    pub fn bounded_string(&self, bytes_max: usize, errors: &mut Errors) -> Option<Cow<'a, str>> {
        let text = self.string(errors)?;
        if text.len() > bytes_max {
            let detail = format!("has {} bytes; at most {bytes_max} are allowed", text.len());
            errors.at(&*self.pointer, detail);
            return None;
        }
        Some(text)
    }

    /// A string with a grammar of its own, such as an id.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self, errors: &mut Errors) -> Option<T> {
        let text = self.string(errors)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                errors.at(&*self.pointer, error.to_string());
                None
            }
        }
    }

    /// A string that is one of the named values.
    pub fn one_of<T: Copy>(&self, values: &[(&str, T)], errors: &mut Errors) -> Option<T> {
        let text = self.string(errors)?;
        let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
            errors.at(&*self.pointer, format!("is none of {}", names.join(", ")));
        }
        found
    }

    /// A whole number within bounds. A number written as `1.0` or `1e3` counts as whole where its value is.
    pub fn integer(&self, bounds: RangeInclusive<u64>, errors: &mut Errors) -> Option<u64> {
        let text = self.raw.get();
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            self.wrong_kind("a whole number", errors);
            return None;
        }
        match whole_number(text) {
            Some(number) if bounds.contains(&number) => Some(number),
            _ => {
                let detail = format!(
                    "is {}; it must be a whole number from {} to {}",
                    shortened(text),
                    bounds.start(),
                    bounds.end()
                );
                errors.at(&*self.pointer, detail);
                None
            }
        }
    }

    /// A duration: a text such as `20s`, or a whole number of seconds.
    pub fn duration(&self, errors: &mut Errors) -> Option<Duration> {
        match self.raw.get().as_bytes().first() {
            Some(b'"') => self.parsed(errors),
            _ => {
                let seconds = self.integer(0..=DURATION_SECONDS_MAX, errors)?;
                Some(Duration(std::time::Duration::from_secs(seconds)))
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, errors: &mut Errors) -> Option<bool> {
        match self.raw.get() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.wrong_kind("true or false", errors);
                None
            }
        }
    }

    /// An object.
    pub fn object(&self, errors: &mut Errors) -> Option<Object<'a>> {
        Object::of(self.raw, self.pointer.clone(), errors)
    }

    /// An array of at most so many items.
    pub fn array(&self, items_max: usize, errors: &mut Errors) -> Option<Array<'a>> {
        if !self.raw.get().starts_with('[') {
            self.wrong_kind("an array", errors);
            return None;
        }
        let items: Vec<&'a RawValue> = match serde_json::from_str(self.raw.get()) {
            Ok(items) => items,
            Err(error) => {
                errors.at(&*self.pointer, error.to_string());
                return None;
            }
        };
        if items.len() > items_max {
            let detail = format!("has {} items; at most {items_max} are allowed", items.len());
            errors.at(&*self.pointer, detail);
            return None;
        }
        Some(Array {
            pointer: self.pointer.clone(),
            items,
        })
    }

    /// An array of strings with a grammar of their own, none of them twice.
    pub fn parsed_set<T>(&self, items_max: usize, errors: &mut Errors) -> Option<Vec<T>>
    where
        T: FromStr<Err: fmt::Display> + PartialEq + std::hash::Hash + Eq + Clone,
    {
        let array = self.array(items_max, errors)?;
        let mut seen = HashSet::new();
        let mut values = Vec::with_capacity(array.len());
        for item in array.into_items() {
            let value: T = item.parsed(errors)?;
            if !seen.insert(value.clone()) {
                errors.at(item.pointer(), "stands twice in its list");
                return None;
            }
            values.push(value);
        }
        Some(values)
    }
}

/// The value of a JSON number where it is whole and not negative.
fn whole_number(text: &str) -> Option<u64> {
    /// Above it a float no longer holds every whole number.
    const FLOAT_WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = text.parse::<u64>() {
        return Some(number);
    }
    let number: f64 = text.parse().ok()?;
    (number.fract() == 0.0 && (0.0..=FLOAT_WHOLE_MAX).contains(&number)).then_some(number as u64)
}

/// At most so much of a wrong value is quoted back.
fn shortened(text: &str) -> &str {
    const QUOTED_BYTES_MAX: usize = 32;
    text.get(..QUOTED_BYTES_MAX).unwrap_or(text)
}

/// An array whose items are read one by one.
#[derive(Debug)]
pub struct Array<'a> {
    pointer: String,
    items: Vec<&'a RawValue>,
}

impl<'a> Array<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The array's own place.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The items in their order.
    pub fn into_items(self) -> impl ExactSizeIterator<Item = Field<'a>> {
        let pointer = self.pointer;
        self.items.into_iter().enumerate().map(move |(index, raw)| Field {
            pointer: format!("{pointer}/{index}"),
            raw,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::AgentId;

    fn places(problem: &Problem) -> Vec<String> {
        let place = |error: &FieldError| match &error.place {
            Place::Pointer(pointer) => pointer.clone(),
            other => format!("{other:?}"),
        };
        problem.errors.iter().map(place).collect()
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut object = read_object(br#"{"a": 1, "b": "x y", "c": -3, "d": {"e/f": []}, "g": 0}"#).unwrap();
        let mut errors = Errors::default();
        assert_eq!(object.take("a").unwrap().string(&mut errors), None);
        assert_eq!(object.take("b").unwrap().parsed::<AgentId>(&mut errors), None);
        assert_eq!(object.take("c").unwrap().integer(0..=9, &mut errors), None);
        let mut inner = object.take("d").unwrap().object(&mut errors).unwrap();
        assert!(inner.take("e/f").unwrap().object(&mut errors).is_none());
        assert!(object.require("h", &mut errors).is_none());
        object.finish("", &mut errors);
        let problem = errors.into_result().unwrap_err();
        assert_eq!(places(&problem), ["/a", "/b", "/c", "/d/e~1f", "/h", "/g"]);
        assert_eq!(problem.status, 400);
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_however_it_is_escaped() {
        let problem = read_object(br#"{"a": 1, "\u0061": 2}"#).unwrap_err();
        assert_eq!(places(&problem), ["/a"]);
    }

    #[test]
    fn whole_numbers_are_taken_by_value_and_bounded() {
        let read = |text: &str| {
            let text = format!(r#"{{"n": {text}}}"#);
            let mut object = read_object(text.as_bytes()).unwrap();
            object.take("n").unwrap().integer(0..=1000, &mut Errors::default())
        };
        assert_eq!([read("7"), read("7.0"), read("1e3")], [Some(7), Some(7), Some(1000)]);
        for bad in [
            "-1",
            "7.5",
            "1001",
            "1e400",
            "99999999999999999999",
            "\"7\"",
            "null",
            "-0.5",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_texts_or_whole_seconds() {
        let read = |text: &str| {
            let text = format!(r#"{{"d": {text}}}"#);
            let mut object = read_object(text.as_bytes()).unwrap();
            let duration = object.take("d").unwrap().duration(&mut Errors::default());
            duration.map(|duration| duration.0.as_millis())
        };
        assert_eq!(
            [read("2"), read("\"2\""), read("\"1500ms\"")],
            [Some(2000), Some(2000), Some(1500)]
        );
        for bad in ["-1", "1.5", "null", "\"-1\"", "\"\"", "1e99", "[]"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for bad in [
            &b""[..],
            b"{",
            b"nul",
            b"{}{}",
            b"\xff",
            b"{\"a\": 01}",
            b"{\"a\": NaN}",
            b"{'a': 1}",
        ] {
            let problem = read_object(bad).unwrap_err();
            assert_eq!((problem.number, problem.status), (2000, 400), "{bad:?}");
        }
        for bad in [&b"[]"[..], b"1", b"null", b"\"a\""] {
            assert_eq!(read_object(bad).unwrap_err().number, 1000);
        }
        let fields: Vec<_> = (0..=FIELDS_MAX).map(|n| format!("\"{n}\":0")).collect();
        assert!(read_object(format!("{{{}}}", fields.join(",")).as_bytes()).is_err());
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read_object(nested(DEPTH_MAX - 1).as_bytes()).is_ok());
        assert_eq!(read_object(nested(DEPTH_MAX).as_bytes()).unwrap_err().number, 2000);
        let strings = format!(r#"{{"a": "{}\"{}"}}"#, "[".repeat(100), "{".repeat(100));
        assert!(read_object(strings.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in "[\\[\\]{}\":,0-9a-c\\\\ ]{0,64}") {
            if let Ok(object) = read_object(text.as_bytes()) {
                let mut errors = Errors::default();
                for (_, field) in object.into_fields() {
                    let _ = (field.string(&mut errors), field.integer(0..=5, &mut errors), field.array(3, &mut errors).is_some());
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (read_object(&bytes).is_ok(), is_embeddable(&bytes));
        }
    }
}
