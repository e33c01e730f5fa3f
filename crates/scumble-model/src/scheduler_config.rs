//! Reading `scheduler_config.json`: typed fields with defaults, and errors that name the field.
//!
//! Unknown fields are ignored and `null` counts as absent, as diffusers does: one file serves every sampler, and
//! each sampler takes the fields it knows. Python writes infinities into JSON as bare words, which the standard
//! does not have (`"lambda_min_clipped": -Infinity`); [`read_json`] turns them into strings first.

use serde_json::Value;

/// A scheduler configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON.
    #[error("scheduler configuration: not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds something it cannot.
    #[error("scheduler configuration: `{field}` is {found}, expected {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

/// Parses JSON as Python writes it: `Infinity`, `-Infinity` and `NaN` outside strings become strings.
pub fn read_json(text: &str) -> Result<Value, ConfigError> {
    let mut standard = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| !in_string && rest.starts_with(w));
        // An escaped character inside a string is copied whole, so that `\"` does not end it.
        let taken = match (word, c) {
            (Some(word), _) => word.len(),
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => c.len_utf8(),
        };
        in_string ^= c == '"';
        match word {
            Some(word) => standard.extend(["\"", word, "\""]),
            None => standard.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    Ok(serde_json::from_str(&standard)?)
}

/// A configuration seen through typed getters.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig<'a>(&'a Value);

impl<'a> SchedulerConfig<'a> {
    /// Looks at `value`; errors when it is no JSON object.
    pub fn new(value: &'a Value) -> Result<Self, ConfigError> {
        if !value.is_object() {
            return Err(ConfigError::Field {
                field: "(the file)",
                expected: "an object".to_owned(),
                found: kind(value),
            });
        }
        Ok(Self(value))
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// Whether a field is there and not null.
    pub fn is_set(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// A number, or `None` when absent.
    pub fn optional_number(&self, field: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = match value.as_str() {
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            Some("Infinity") => Some(f64::INFINITY),
            _ => value.as_f64(),
        };
        number.map(Some).ok_or_else(|| wrong(field, "a number", value))
    }

    /// A number.
    pub fn number(&self, field: &'static str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional_number(field)?.unwrap_or(default))
    }

    /// A whole number from `range`.
    pub fn integer(
        &self,
        field: &'static str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        value.as_i64().filter(|n| range.contains(n)).ok_or_else(|| wrong(field, &expected(), value))
    }

    /// True or false.
    pub fn flag(&self, field: &'static str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(field, "true or false", value))
    }

    /// A word.
    pub fn word(&self, field: &'static str, default: &'a str) -> Result<&'a str, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_str().ok_or_else(|| wrong(field, "a word", value))
    }

    /// A word from a table: the value that stands beside it.
    pub fn choice<T: Copy>(
        &self,
        field: &'static str,
        default: &'a str,
        table: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let word = self.word(field, default)?;
        let found = table.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
            ConfigError::Field {
                field,
                expected: format!("one of {}", names.join(", ")),
                found: format!("`{}`", short(word)),
            }
        })
    }

    /// A list of numbers, or `None` when absent.
    pub fn numbers(&self, field: &'static str) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| wrong(field, "a list of numbers", value))
    }

    /// Refuses a flag that nothing here can serve.
    pub fn refuse_flag(&self, field: &'static str) -> Result<(), ConfigError> {
        match self.flag(field, false)? {
            false => Ok(()),
            true => Err(ConfigError::Field {
                field,
                expected: "false (this sampler does not have it)".to_owned(),
                found: "true".to_owned(),
            }),
        }
    }
}

fn wrong(field: &'static str, expected: &str, value: &Value) -> ConfigError {
    ConfigError::Field { field, expected: expected.to_owned(), found: kind(value) }
}

/// A value in a few words, however large it is.
fn kind(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("`{}`", short(text)),
        other => other.to_string(),
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bare_infinities_are_read_and_strings_left_alone() {
        let value =
            read_json(r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "-Infinity \" NaN é"}"#).unwrap();
        assert_eq!(value, json!({"a": "-Infinity", "b": ["NaN", "Infinity"], "c": "-Infinity \" NaN é"}));
        let config = SchedulerConfig::new(&value).unwrap();
        assert_eq!(config.number("a", 0.0).unwrap(), f64::NEG_INFINITY);
        assert!(read_json("{\"a\": \"\\").is_err());
    }

    #[test]
    fn wrong_fields_are_named() {
        let value = json!({"a": 1.5, "b": "yes", "c": [1, "x"], "d": null, "e": 7, "f": true});
        let config = SchedulerConfig::new(&value).unwrap();
        assert!(config.integer("a", 0, 0..=9).unwrap_err().to_string().contains("`a` is 1.5"));
        assert!(config.flag("b", false).is_err());
        assert!(config.numbers("c").is_err());
        assert_eq!(config.integer("d", 4, 0..=9).unwrap(), 4);
        assert!(config.integer("e", 0, 0..=6).is_err());
        assert!(config.refuse_flag("f").is_err());
        assert!(config.choice("b", "no", &[("no", 0)]).unwrap_err().to_string().contains("one of no"));
        assert!(SchedulerConfig::new(&json!([])).is_err());
    }
}
