//! One definition per choice: the enum, the names that are typed, and a help text for each come from the same lines.

macro_rules! choice {
    ($(#[doc = $about:literal])* $name:ident = $default:ident {
        $( $(#[doc = $help:literal])+ $variant:ident = $text:literal ),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[doc = $help])+ #[serde(rename = $text)] $variant, )* }

        impl $name {
            /// All choices, as they are written.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The choice as it is written.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> std::result::Result<Self, String> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    _ => Err(format!("expected one of {}", Self::NAMES.join(", "))),
                }
            }
        }
    };
}
pub(super) use choice;
