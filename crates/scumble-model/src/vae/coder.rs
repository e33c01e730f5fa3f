//! The VAE's encoder and decoder: residual blocks at falling and rising resolution around a mid block with attention
//! over all positions in one head.

use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::{DType, Error, Result, Tape, Var};

use super::config::VaeConfig;
use crate::nn::{
    Attention, AttentionNames, AttentionSizes, Downsample, GroupNorm, Projection, Resnet, ResnetSizes, Scope,
    Tap, Upsample,
};

/// Epsilon of all norms; fixed in diffusers.
const EPS: f32 = 1e-6;

const SAME: Conv2dSpec = Conv2dSpec { stride: 1, padding: Padding { top: 1, bottom: 1, left: 1, right: 1 } };

fn resnet(scope: &Scope<'_, '_>, config: &VaeConfig, inputs: usize, outputs: usize) -> crate::Result<Resnet> {
    Resnet::new(
        scope,
        ResnetSizes { inputs, outputs, time: None, groups: config.groups, eps: EPS, scale: 1.0 },
    )
}

fn run_resnet<'m>(block: &'m Resnet, tape: &Tape<'m>, x: &Var) -> Result<Var> {
    tape.checkpoint(&[x], |tape, inputs| match inputs {
        [x] => block.forward(tape, x, None),
        _ => Err(Error::Tape("a residual block has one input")),
    })
}

/// The residual blocks of one level.
struct Level {
    tap: Tap,
    resnets: Vec<Resnet>,
}

impl Level {
    fn new(
        scope: &Scope<'_, '_>,
        config: &VaeConfig,
        inputs: usize,
        outputs: usize,
        count: usize,
    ) -> crate::Result<Self> {
        let block = |index: usize| {
            let inputs = if index == 0 { inputs } else { outputs };
            resnet(&scope.at("resnets").at(index), config, inputs, outputs)
        };
        Ok(Self { tap: scope.tap(), resnets: (0..count).map(block).collect::<crate::Result<_>>()? })
    }

    fn forward<'m>(&'m self, tape: &Tape<'m>, mut h: Var) -> Result<Var> {
        for block in &self.resnets {
            h = run_resnet(block, tape, &h)?;
        }
        Ok(h)
    }
}

struct MidAttention {
    tap: Tap,
    norm: GroupNorm,
    attention: Attention,
}

impl MidAttention {
    /// `h + attention(norm h)` over the positions of a picture.
    fn forward(&self, tape: &Tape<'_>, h: &Var) -> Result<Var> {
        let [n, height, width, channels] = h.value().nhwc("vae")?;
        let tokens = h.reshape(&[n, height * width, channels])?;
        let y = self.attention.forward(tape, &self.norm.forward(tape, &tokens)?, None, Some(&tokens))?;
        let y = y.reshape(h.dims())?;
        self.tap.show(&y);
        Ok(y)
    }
}

struct Mid {
    tap: Tap,
    first: Resnet,
    attention: Option<MidAttention>,
    second: Resnet,
}

impl Mid {
    fn new(scope: &Scope<'_, '_>, config: &VaeConfig, width: usize) -> crate::Result<Self> {
        let attention = || -> crate::Result<_> {
            let scope = scope.at("attentions.0");
            let sizes = AttentionSizes { width, context: width, heads: 1, bias: true, causal: false };
            Ok(MidAttention {
                tap: scope.tap(),
                norm: scope.at("group_norm").group_norm(config.groups, width, EPS)?,
                attention: Attention::new(&scope, AttentionNames::DIFFUSERS, sizes)?,
            })
        };
        Ok(Self {
            tap: scope.tap(),
            first: resnet(&scope.at("resnets.0"), config, width, width)?,
            attention: config.mid_attention.then(attention).transpose()?,
            second: resnet(&scope.at("resnets.1"), config, width, width)?,
        })
    }

    fn forward<'m>(&'m self, tape: &Tape<'m>, h: &Var) -> Result<Var> {
        let mut h = run_resnet(&self.first, tape, h)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(tape, &h)?;
        }
        let h = run_resnet(&self.second, tape, &h)?;
        self.tap.show(&h);
        Ok(h)
    }
}

pub(super) struct Encoder {
    conv_in: Arc<Projection>,
    levels: Vec<(Level, Option<Downsample>)>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Arc<Projection>,
}

impl Encoder {
    pub(super) fn new(scope: &Scope<'_, '_>, config: &VaeConfig) -> crate::Result<Self> {
        let (first, last) = ends(&config.channels);
        let level = |(index, &channels): (usize, &usize)| -> crate::Result<_> {
            let scope = scope.at("down_blocks").at(index);
            let before = config.channels[index.saturating_sub(1)];
            let level = Level::new(&scope, config, before, channels, config.layers)?;
            let downsample = || Downsample::new(&scope.at("downsamplers.0"), channels, 0);
            let is_last = index + 1 == config.channels.len();
            Ok((level, (!is_last).then(downsample).transpose()?))
        };
        Ok(Self {
            conv_in: scope.at("conv_in").conv2d(config.in_channels, first, 3, SAME)?,
            levels: config.channels.iter().enumerate().map(level).collect::<crate::Result<_>>()?,
            mid: Mid::new(&scope.at("mid_block"), config, last)?,
            norm_out: scope.at("conv_norm_out").group_norm(config.groups, last, EPS)?,
            conv_out: scope.at("conv_out").conv2d(last, 2 * config.latent_channels, 3, SAME)?,
        })
    }

    pub(super) fn forward<'m>(&'m self, tape: &Tape<'m>, picture: &Var) -> Result<Var> {
        let mut h = self.conv_in.forward(tape, picture)?;
        for (level, downsample) in &self.levels {
            h = level.forward(tape, h)?;
            if let Some(downsample) = downsample {
                h = downsample.forward(tape, &h)?;
            }
            level.tap.show(&h);
        }
        let h = self.mid.forward(tape, &h)?;
        self.conv_out.forward(tape, &self.norm_out.forward_silu(tape, &h)?)
    }
}

pub(super) struct Decoder {
    conv_in: Arc<Projection>,
    mid: Mid,
    levels: Vec<(Level, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Arc<Projection>,
}

impl Decoder {
    /// The type of its weights.
    pub(super) fn dtype(&self) -> DType {
        self.conv_in.weight().value().dtype()
    }

    pub(super) fn new(scope: &Scope<'_, '_>, config: &VaeConfig) -> crate::Result<Self> {
        let (first, last) = ends(&config.channels);
        let coarsest_first: Vec<usize> = config.channels.iter().rev().copied().collect();
        let level = |(index, &channels): (usize, &usize)| -> crate::Result<_> {
            let scope = scope.at("up_blocks").at(index);
            let before = coarsest_first[index.saturating_sub(1)];
            let level = Level::new(&scope, config, before, channels, config.layers + 1)?;
            let upsample = || Upsample::new(&scope.at("upsamplers.0"), channels);
            let is_last = index + 1 == coarsest_first.len();
            Ok((level, (!is_last).then(upsample).transpose()?))
        };
        Ok(Self {
            conv_in: scope.at("conv_in").conv2d(config.latent_channels, last, 3, SAME)?,
            mid: Mid::new(&scope.at("mid_block"), config, last)?,
            levels: coarsest_first.iter().enumerate().map(level).collect::<crate::Result<_>>()?,
            norm_out: scope.at("conv_norm_out").group_norm(config.groups, first, EPS)?,
            conv_out: scope.at("conv_out").conv2d(first, config.out_channels, 3, SAME)?,
        })
    }

    pub(super) fn forward<'m>(&'m self, tape: &Tape<'m>, latents: &Var) -> Result<Var> {
        let h = self.conv_in.forward(tape, latents)?;
        let mut h = self.mid.forward(tape, &h)?;
        for (level, upsample) in &self.levels {
            h = level.forward(tape, h)?;
            if let Some(upsample) = upsample {
                let [_, height, width, _] = h.value().nhwc("vae")?;
                h = upsample.forward(tape, &h, [2 * height, 2 * width])?;
            }
            level.tap.show(&h);
        }
        self.conv_out.forward(tape, &self.norm_out.forward_silu(tape, &h)?)
    }
}

/// Channels of the finest and of the coarsest level.
fn ends(channels: &[usize]) -> (usize, usize) {
    (channels.first().copied().unwrap_or(0), channels.last().copied().unwrap_or(0))
}
