//! Reading a component's `config.json`: typed values with diffusers' defaults, and named refusals.
//!
//! Keys that change the computation in a way that is not built are refused by [`Config::only`], so that an unusual
//! model is an error and never a wrong picture.

use serde_json::Value;

/// Larger sizes than this are no model that exists; refused before anything is counted with them.
const LARGEST: u64 = 1 << 20;

/// A value that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{component}: `{key}` is {found}, expected {expected}")]
pub struct ConfigError {
    /// Which component's configuration.
    pub component: &'static str,
    /// The key.
    pub key: String,
    /// What would have been understood.
    pub expected: String,
    /// What is there.
    pub found: String,
}

type Result<T> = std::result::Result<T, ConfigError>;

/// A component's configuration.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    component: &'static str,
    values: &'a Value,
}

impl<'a> Config<'a> {
    /// Errors unless `values` is a JSON object.
    pub fn new(component: &'static str, values: &'a Value) -> Result<Self> {
        let config = Self { component, values };
        if values.is_object() {
            Ok(config)
        } else {
            Err(config.error("(the whole configuration)", "a JSON object", values))
        }
    }

    /// The value of a key; absent and `null` are the same.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// The refusal of a value.
    pub fn error(&self, key: &str, expected: impl ToString, found: impl ToString) -> ConfigError {
        let (key, expected, found) = (key.to_owned(), expected.to_string(), found.to_string());
        ConfigError { component: self.component, key, expected, found }
    }

    fn size_of(&self, key: &str, value: &Value) -> Result<usize> {
        let wanted = format!("a whole number from 1 to {LARGEST}");
        match value.as_u64() {
            Some(size) if (1..=LARGEST).contains(&size) => Ok(size as usize),
            _ => Err(self.error(key, wanted, value)),
        }
    }

    /// A size; an error when absent.
    pub fn size(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.error(key, "a size", "missing"))?;
        self.size_of(key, value)
    }

    /// A size with a default.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |value| self.size_of(key, value))
    }

    /// A list of sizes, not empty; an error when absent.
    pub fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        match self.get(key) {
            Some(Value::Array(items)) if !items.is_empty() && items.len() <= 16 => {
                items.iter().map(|item| self.size_of(key, item)).collect()
            }
            other => Err(self.error(key, "a list of 1 to 16 sizes", other.unwrap_or(&Value::Null))),
        }
    }

    /// One size for each of `count` levels: a list of that length, or one number for all.
    pub fn size_per_level(&self, key: &str, count: usize, default: usize) -> Result<Vec<usize>> {
        match self.get(key) {
            None => Ok(vec![default; count]),
            Some(Value::Array(items)) if items.len() == count => {
                items.iter().map(|item| self.size_of(key, item)).collect()
            }
            Some(list @ Value::Array(_)) => Err(self.error(key, format!("{count} values"), list)),
            Some(value) => Ok(vec![self.size_of(key, value)?; count]),
        }
    }

    /// A finite number with a default.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| self.error(key, "a number", value))
    }

    /// A switch with a default.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(key, "true or false", value))
    }

    /// A text with a default.
    pub fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.error(key, "a text", value))
    }

    /// A list of texts; an error when absent.
    pub fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        let found = self.get(key).unwrap_or(&Value::Null);
        let texts = found.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.error(key, "a list of texts", found))
    }

    /// Errors unless the key is absent, `null` or one of `allowed`.
    pub fn only(&self, key: &str, allowed: &[Value]) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let same = |other: &Value| match (value.as_f64(), other.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => value == other,
        };
        if allowed.iter().any(same) {
            return Ok(());
        }
        let mut expected: Vec<String> = allowed.iter().map(Value::to_string).collect();
        expected.push("absent".to_owned());
        Err(self.error(key, expected.join(" or "), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_and_refusals() {
        let json = json!({"a": 3, "list": [1, 2], "bad": -1, "none": null, "name": "silu", "one": 1.0});
        let config = Config::new("unet", &json).unwrap();
        assert_eq!(config.size("a").unwrap(), 3);
        assert_eq!(config.size_or("none", 7).unwrap(), 7);
        assert_eq!(config.size_per_level("list", 2, 9).unwrap(), [1, 2]);
        assert_eq!(config.size_per_level("a", 3, 9).unwrap(), [3, 3, 3]);
        assert!(config.size_per_level("list", 3, 9).is_err());
        assert_eq!(
            config.size("bad").unwrap_err().to_string(),
            "unet: `bad` is -1, expected a whole number from 1 to 1048576"
        );
        assert!(config.only("name", &[json!("silu")]).is_ok());
        assert!(config.only("one", &[json!(1)]).is_ok());
        assert!(config.only("a", &[json!(1)]).is_err());
        assert!(Config::new("unet", &json!([])).is_err());
    }
}
