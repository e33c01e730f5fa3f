//! `[train]`: how it learns.

use super::choice::choice;
use super::section::section;
use crate::lr_schedule::ScheduleKind;

choice! {
    /// How the factors are changed.
    OptimizerKind = AdamW {
        /// Adam with decoupled weight decay: the usual choice.
        AdamW = "adamw",
        /// AdamW whose memory takes a byte a number.
        AdamW8 = "adamw8",
        /// Keeps a row and a column for each matrix instead of as many numbers again.
        Adafactor = "adafactor",
        /// Moves by the sign of a mean gradient; the rate is a third to a tenth of AdamW's.
        Lion = "lion",
        /// Finds its rate itself; the rates are factors of it and stay at 1.
        Prodigy = "prodigy",
        /// Plain gradient descent.
        Sgd = "sgd",
    }
}

impl OptimizerKind {
    /// What `beta2` is where it is left out.
    pub fn usual_beta2(self) -> f64 {
        if self == OptimizerKind::Lion { 0.99 } else { 0.999 }
    }

    /// Bytes that it remembers for each number that learns, about: of large parameters, where it matters.
    pub fn state_bytes(self) -> usize {
        match self {
            // Two moments.
            OptimizerKind::AdamW => 8,
            // Two moments in a byte each; their scales are a number for hundreds.
            OptimizerKind::AdamW8 => 2,
            // A number for each row and column.
            OptimizerKind::Adafactor => 1,
            OptimizerKind::Lion => 4,
            // Two moments, the sum of gradients and where it began.
            OptimizerKind::Prodigy => 16,
            OptimizerKind::Sgd => 0,
        }
    }
}

choice! {
    /// Numbers that activations and frozen weights are computed in.
    Precision = F32 {
        /// Exact: equal to other implementations to rounding.
        F32 = "f32",
        /// Half the memory: activations and frozen weights in bf16; sums, statistics, loss, factors and optimizer in f32.
        Bf16 = "bf16",
    }
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> scumble_tensor::DType {
        match self {
            Precision::F32 => scumble_tensor::DType::F32,
            Precision::Bf16 => scumble_tensor::DType::BF16,
        }
    }
}

section! {
    /// `[train]`: how it learns.
    Train {
        /// How many updates are made. 100 to 200 for each picture is a start.
        steps: u64 = 1000,
        /// Pictures in each forward pass. Higher is steadier and takes more memory.
        batch: usize = 1,
        /// Forward passes summed up into one update: a larger batch without its memory.
        accumulate: usize = 1,
        /// Everything random follows from this number; the same seed gives the same file.
        seed: u64 = 0,
        /// Learning rate of the UNet's factors. Higher learns faster and breaks sooner.
        lr: f64 = 1e-4,
        /// Learning rate of the text encoder's factors.
        lr_text_encoder: f64 = 5e-5,
        /// Learning rate of new words.
        lr_tokens: f64 = 5e-4,
        /// Shape of the learning rate: `constant`, `linear`, `cosine`, `cosine_with_restarts` or `polynomial`.
        schedule: ScheduleKind = ScheduleKind::Constant,
        /// Updates at the start that climb to the full learning rate.
        warmup: u64 = 0,
        /// Waves of the cosine schedules. Left out: 0.5 for `cosine` (ends at zero), 1 for `cosine_with_restarts`.
        cycles: Option<f64> = None,
        /// Exponent of the `polynomial` schedule.
        power: f64 = 1.0,
        /// How the factors are changed: `adamw`, `adamw8`, `adafactor`, `lion`, `prodigy` or `sgd`.
        optimizer: OptimizerKind = OptimizerKind::AdamW,
        /// Memory of gradients of AdamW, Lion and Prodigy, 0 to below 1.
        beta1: f64 = 0.9,
        /// Memory of squared gradients of AdamW and Prodigy, and Lion's second memory, 0 to below 1. Left out, 0.999, for Lion
        /// 0.99.
        beta2: Option<f64> = None,
        /// What Prodigy's estimate of the rate is multiplied with: 0.5 to 2.
        d_coef: f64 = 1.0,
        /// Keeps AdamW and Prodigy from dividing by zero.
        eps: f64 = 1e-8,
        /// How strongly the factors are pulled to zero.
        weight_decay: f64 = 0.01,
        /// Longest gradient an update may use; longer ones are shortened. 0 turns it off.
        max_grad_norm: f64 = 1.0,
        /// Weighs noise levels evenly (min-SNR); 5 is usual. Left out, all noise levels count as they are.
        min_snr_gamma: Option<f64> = None,
        /// Adds a random brightness to the noise so that very dark and very bright pictures can be learnt; 0.05 is usual.
        noise_offset: f64 = 0.0,
        /// Keeps a running mean of what learns and saves that; 0.999 is usual. Left out, what is saved is the last update.
        ema_decay: Option<f64> = None,
        /// Computes parts again in the backward pass instead of keeping them: less memory, a third more time.
        checkpointing: bool = false,
        /// Most memory to use, in GiB: as many parts are computed again in the backward pass as it takes. Changes time, not the
        /// result. Left out, what the machine has.
        memory: Option<f64> = None,
        /// Numbers that are computed with: `f32` or `bf16`. Left out on the command line, what the processor multiplies faster.
        precision: Precision = Precision::F32,
        /// Threads to use. Left out, as many as the machine has cores.
        threads: Option<usize> = None,
    }
}
