//! The ways of teaching that are compared.

use serde::Serialize;

/// A way of teaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The base as it is.
    None,
    /// A new word alone.
    TextualInversion,
    /// Factors on the UNet.
    Lora,
    /// Factors on the UNet's convolutions too.
    LoraConv,
    /// Factors on the UNet, direction and length of weights apart.
    Dora,
    /// Products of factors on the UNet, element by element.
    Loha,
    /// Kronecker products on the UNet.
    Lokr,
    /// Factors on UNet and text encoder.
    LoraText,
    /// A new word, then factors on both.
    Pivotal,
    /// A new word and factors on both, from the first update on.
    PivotalSingle,
    /// Every weight of the UNet.
    Full,
    /// Every weight of the UNet, with pictures of the class beside (DreamBooth).
    FullPrior,
}

impl Method {
    /// All, from nothing to everything.
    pub const ALL: [Method; 12] = [
        Method::None,
        Method::TextualInversion,
        Method::Lora,
        Method::LoraConv,
        Method::Dora,
        Method::Loha,
        Method::Lokr,
        Method::LoraText,
        Method::Pivotal,
        Method::PivotalSingle,
        Method::Full,
        Method::FullPrior,
    ];

    /// Those that are compared where none are named.
    pub const USUAL: [Method; 8] = [
        Method::None,
        Method::TextualInversion,
        Method::Lora,
        Method::LoraText,
        Method::Pivotal,
        Method::PivotalSingle,
        Method::Full,
        Method::FullPrior,
    ];

    /// As it is written on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Method::None => "none",
            Method::TextualInversion => "textual-inversion",
            Method::Lora => "lora",
            Method::LoraConv => "lora-conv",
            Method::Dora => "dora",
            Method::Loha => "loha",
            Method::Lokr => "lokr",
            Method::LoraText => "lora-text",
            Method::Pivotal => "pivotal",
            Method::PivotalSingle => "pivotal-single",
            Method::Full => "full",
            Method::FullPrior => "full-prior",
        }
    }

    /// As people read it in tables.
    pub fn label(self) -> &'static str {
        match self {
            Method::None => "no training",
            Method::TextualInversion => "textual inversion",
            Method::Lora => "LoRA, UNet",
            Method::LoraConv => "LoRA, convolutions too",
            Method::Dora => "DoRA, UNet",
            Method::Loha => "LoHa, UNet",
            Method::Lokr => "LoKr, UNet",
            Method::LoraText => "LoRA, UNet + text",
            Method::Pivotal => "pivotal tuning",
            Method::PivotalSingle => "pivotal, one phase",
            Method::Full => "full fine-tuning",
            Method::FullPrior => "full + prior",
        }
    }

    /// Whether it learns a new word.
    pub fn has_word(self) -> bool {
        matches!(self, Method::TextualInversion | Method::Pivotal | Method::PivotalSingle)
    }

    /// Whether what it learns is a whole model.
    pub fn is_full(self) -> bool {
        matches!(self, Method::Full | Method::FullPrior)
    }
}

impl std::str::FromStr for Method {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|method| method.name() == text);
        known.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        assert!("lora-txet".parse::<Method>().unwrap_err().contains("lora-text"));
    }
}
