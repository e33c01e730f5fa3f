//! The levels of the UNet: down, mid and up blocks, with and without attention.

use scumble_tensor::ops::concat::concat_channels;
use scumble_tensor::{Error, Result, Tape, Var};

use super::config::{Level, UNetConfig};
use super::transformer::Transformer;
use crate::nn::{Downsample, Resnet, ResnetSizes, Scope, Tap, Upsample};

/// What every block gets beside the picture.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// SiLU of the time embedding `[n, time width]`.
    pub(super) time: &'a Var,
    /// Text states `[n, tokens, width]`.
    pub(super) states: &'a Var,
}

fn resnet(
    scope: &Scope<'_, '_>,
    config: &UNetConfig,
    inputs: usize,
    outputs: usize,
    scale: f32,
) -> crate::Result<Resnet> {
    let time = Some(config.time_width);
    Resnet::new(scope, ResnetSizes { inputs, outputs, time, groups: config.groups, eps: config.eps, scale })
}

/// A residual block over `parts` side by side, as one checkpoint: what is concatenated is not stored.
fn run_resnet<'m>(block: &'m Resnet, tape: &Tape<'m>, parts: &[&Var], time: &Var) -> Result<Var> {
    let inputs: Vec<&Var> = parts.iter().copied().chain([time]).collect();
    tape.checkpoint(&inputs, |tape, inputs| match inputs {
        [x, time] => block.forward(tape, x, Some(time)),
        [x, skip, time] => block.forward(tape, &concat_channels(tape, &[x, skip])?, Some(time)),
        _ => Err(Error::Tape("a residual block has two or three inputs")),
    })
}

/// Residual blocks, each followed by a transformer where the level has attention.
struct Layers {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer>,
}

impl Layers {
    /// `inputs` tells the input channels of each residual block.
    fn new(
        scope: &Scope<'_, '_>,
        config: &UNetConfig,
        level: &Level,
        attention: bool,
        count: usize,
        inputs: impl Fn(usize) -> usize,
    ) -> crate::Result<Self> {
        let mut layers = Self { resnets: Vec::new(), attentions: Vec::new() };
        for index in 0..count {
            let scope_of = |name| scope.at(name).at(index);
            layers.resnets.push(resnet(&scope_of("resnets"), config, inputs(index), level.channels, 1.0)?);
            if attention {
                layers.attentions.push(Transformer::new(&scope_of("attentions"), config, level)?);
            }
        }
        Ok(layers)
    }

    fn run<'m>(&'m self, index: usize, tape: &Tape<'m>, parts: &[&Var], context: Context<'_>) -> Result<Var> {
        let h = run_resnet(&self.resnets[index], tape, parts, context.time)?;
        match self.attentions.get(index) {
            Some(transformer) => transformer.forward(tape, &h, context.states),
            None => Ok(h),
        }
    }
}

pub(super) struct Down {
    tap: Tap,
    layers: Layers,
    downsample: Option<Downsample>,
}

impl Down {
    pub(super) fn new(root: &Scope<'_, '_>, config: &UNetConfig, index: usize) -> crate::Result<Self> {
        let scope = root.at("down_blocks").at(index);
        let level = &config.levels[index];
        let before = config.levels[index.saturating_sub(1)].channels;
        let inputs = |layer| if layer == 0 { before } else { level.channels };
        let layers = Layers::new(&scope, config, level, level.attention_down, level.layers, inputs)?;
        let downsample =
            || Downsample::new(&scope.at("downsamplers.0"), level.channels, config.downsample_padding);
        let is_last = index + 1 == config.levels.len();
        Ok(Self { tap: scope.tap(), layers, downsample: (!is_last).then(downsample).transpose()? })
    }

    /// Pushes the output of every layer and of the downsample onto `skips`.
    pub(super) fn forward<'m>(
        &'m self,
        tape: &Tape<'m>,
        mut h: Var,
        context: Context<'_>,
        skips: &mut Vec<Var>,
    ) -> Result<Var> {
        for index in 0..self.layers.resnets.len() {
            h = self.layers.run(index, tape, &[&h], context)?;
            skips.push(h.clone());
        }
        if let Some(downsample) = &self.downsample {
            h = downsample.forward(tape, &h)?;
            skips.push(h.clone());
        }
        self.tap.show(&h);
        Ok(h)
    }
}

pub(super) struct Mid {
    tap: Tap,
    first: Resnet,
    attention: Transformer,
    second: Resnet,
}

impl Mid {
    pub(super) fn new(scope: &Scope<'_, '_>, config: &UNetConfig) -> crate::Result<Self> {
        let level = &config.levels[config.levels.len() - 1];
        let block = |index: usize| {
            let scope = scope.at("resnets").at(index);
            resnet(&scope, config, level.channels, level.channels, config.mid_scale)
        };
        Ok(Self {
            tap: scope.tap(),
            first: block(0)?,
            attention: Transformer::new(&scope.at("attentions.0"), config, level)?,
            second: block(1)?,
        })
    }

    pub(super) fn forward<'m>(&'m self, tape: &Tape<'m>, h: Var, context: Context<'_>) -> Result<Var> {
        let h = run_resnet(&self.first, tape, &[&h], context.time)?;
        let h = self.attention.forward(tape, &h, context.states)?;
        let h = run_resnet(&self.second, tape, &[&h], context.time)?;
        self.tap.show(&h);
        Ok(h)
    }
}

pub(super) struct Up {
    tap: Tap,
    layers: Layers,
    upsample: Option<Upsample>,
}

impl Up {
    /// The `index`-th block on the way up, coarsest first.
    pub(super) fn new(root: &Scope<'_, '_>, config: &UNetConfig, index: usize) -> crate::Result<Self> {
        let scope = root.at("up_blocks").at(index);
        let at = config.levels.len() - 1 - index;
        let level = &config.levels[at];
        let below = config.levels[(at + 1).min(config.levels.len() - 1)].channels;
        let above = config.levels[at.saturating_sub(1)].channels;
        // Skips come off the stack: this level's layers, and last what the level above handed down.
        let inputs = |layer| {
            let h = if layer == 0 { below } else { level.channels };
            let skip = if layer == level.layers { above } else { level.channels };
            h + skip
        };
        let layers = Layers::new(&scope, config, level, level.attention_up, level.layers + 1, inputs)?;
        let upsample = || Upsample::new(&scope.at("upsamplers.0"), level.channels);
        Ok(Self { tap: scope.tap(), layers, upsample: (at > 0).then(upsample).transpose()? })
    }

    /// Takes one of `skips` for every layer; the upsample goes to the size of the skip that comes next.
    pub(super) fn forward<'m>(
        &'m self,
        tape: &Tape<'m>,
        mut h: Var,
        context: Context<'_>,
        skips: &mut Vec<Var>,
    ) -> Result<Var> {
        for index in 0..self.layers.resnets.len() {
            let skip = skips.pop().ok_or(Error::Tape("fewer skips than up layers"))?;
            h = self.layers.run(index, tape, &[&h, &skip], context)?;
        }
        if let (Some(upsample), Some(next)) = (&self.upsample, skips.last()) {
            let [_, height, width, _] = next.value().nhwc("unet")?;
            h = upsample.forward(tape, &h, [height, width])?;
        }
        self.tap.show(&h);
        Ok(h)
    }
}
