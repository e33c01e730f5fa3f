//! One definition per setting: the struct field, its default, its help text and its key come from the same lines.
//!
//! `section!` writes a struct whose fields are TOML keys, its `Default`, and [`Fields`], the list that help texts,
//! "did you mean", environment variables and the web form are made from.

/// A setting as a person meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Key within its section.
    pub key: &'static str,
    /// What it does, in plain words.
    pub help: &'static str,
}

/// The settings of a section, in order.
pub trait Fields {
    /// Keys and help texts.
    const FIELDS: &'static [Field];
}

macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $( $(#[doc = $help:literal])+ $field:ident : $type:ty = $default:expr ),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $type, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::Fields for $name {
            const FIELDS: &'static [$crate::config::Field] = &[
                $( $crate::config::Field { key: stringify!($field), help: concat!($($help),+) }, )*
            ];
        }
    };
}
pub(super) use section;
