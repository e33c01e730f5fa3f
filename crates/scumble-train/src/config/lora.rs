//! `[lora]`: what learns in the methods with factors.

use super::choice::choice;
use super::section::section;

choice! {
    /// Which layers of a network get factors.
    Targets = AttentionFf {
        /// Query, key, value and output of every attention.
        Attention = "attention",
        /// Attention and the first projection of the feed-forward block.
        AttentionFf = "attention+ff",
        /// Every linear layer.
        AllLinear = "all-linear",
        /// Every linear layer and every convolution.
        All = "all",
    }
}
choice! {
    /// How a layer's change is built from what learns.
    AdapterKind = Lora {
        /// Two thin factors whose product is added to the weight.
        Lora = "lora",
        /// As `lora`, and the length of each output's row learns apart from its direction.
        Dora = "dora",
        /// The elementwise product of two such products: rank r reaches r * r.
        Loha = "loha",
        /// A Kronecker product of a small and a large matrix: the smallest files.
        Lokr = "lokr",
    }
}
choice! {
    /// Where the factors of `lora` and `dora` begin.
    AdapterInit = Normal {
        /// Random input side with deviation 1 / rank, zero output side.
        Normal = "normal",
        /// Random input side within 1 / sqrt(inputs), zero output side.
        Kaiming = "kaiming",
        /// Both sides random, their product zero. The rank must be even.
        Orthogonal = "orthogonal",
        /// The strongest directions of the base weight; what is saved is the change since then.
        Pissa = "pissa",
    }
}

section! {
    /// `[lora.unet]`: factors on the network that paints.
    UnetLora {
        /// Which layers: `attention`, `attention+ff`, `all-linear` or `all`. More layers learn more and make a larger file.
        targets: Targets = Targets::AttentionFf,
        /// Width of the factors. Higher can learn more, overfits sooner and makes a larger file.
        rank: usize = 4,
        /// Strength: the factors' product counts alpha / rank. Left out, it is the rank.
        alpha: Option<f64> = None,
        /// Width of the factors of 3x3 convolutions. Left out, it is `rank`.
        conv_rank: Option<usize> = None,
        /// Strength of those. Left out, it is `conv_rank`.
        conv_alpha: Option<f64> = None,
        /// Share of the factors' inner values silenced at random in each step, 0 to below 1.
        dropout: f64 = 0.0,
    }
}

section! {
    /// `[lora.text_encoder]`: factors on the network that reads.
    TextLora {
        /// Whether the text encoder learns too. Helps with new words, costs time, and its results can't be cached.
        train: bool = false,
        /// Which layers: `attention` (`attention+ff` is the same here) or `all-linear` (`all` is the same here).
        targets: Targets = Targets::Attention,
        /// Width of the factors.
        rank: usize = 4,
        /// Strength: the factors' product counts alpha / rank. Left out, it is the rank.
        alpha: Option<f64> = None,
        /// Share of the factors' inner values silenced at random in each step, 0 to below 1.
        dropout: f64 = 0.0,
    }
}

section! {
    /// `[lora]`: what learns.
    Lora {
        /// How a layer's change is built: `lora`, `dora`, `loha` or `lokr`.
        kind: AdapterKind = AdapterKind::Lora,
        /// Where `lora` and `dora` begin: `normal`, `kaiming`, `orthogonal` or `pissa` (`lora` only).
        init: AdapterInit = AdapterInit::Normal,
        /// Lets the product count alpha / sqrt(rank), so that high ranks learn as fast as low ones.
        rank_stabilized: bool = false,
        /// `lokr`: wished-for size of the small matrix, such as 8. Left out, both are as equal as can be: the smallest file.
        lokr_factor: Option<usize> = None,
        /// `lokr`: keep both matrices whole, whatever the rank; alpha then does not count.
        lokr_whole: bool = false,
        /// `lokr`: let the small matrix be a product too where the rank is small enough.
        lokr_both: bool = false,
        /// Patterns of layers to add to the targets: parts of a path such as `attn2`, or `unet.mid_block.*` with `*` for anything.
        include: Vec<String> = Vec::new(),
        /// Patterns of layers to leave out, written alike. Leaving out wins.
        exclude: Vec<String> = Vec::new(),
        /// The network that paints.
        unet: UnetLora = UnetLora::default(),
        /// The network that reads.
        text_encoder: TextLora = TextLora::default(),
    }
}
