//! The plain loops against PyTorch 2 in double precision: forward formulas cannot be judged by finite differences.
//!
//! Operands are sines, `sin(step * i + offset)`, so that they need not be stored; the expected values are what
//! `torch.nn.functional` and its autograd gave for them, `seed` being `sin(1.3 i)`.

// Helpers of tests stop at the first surprise, as tests do.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use scumble_tensor::backend::{Activation, AdamWStep, AttentionSpec, Conv2dSpec, GroupNormSpec, Padding};
use scumble_tensor::ops::{activation, attention, conv2d, geglu, group_norm, layer_norm, upsample};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Backend, Result, Tape, Tensor, Var};

fn sines(dims: &[usize], step: f64, offset: f64) -> Tensor {
    let values: Vec<f64> =
        (0..dims.iter().product()).map(|i: usize| (step * i as f64 + offset).sin()).collect();
    Tensor::from_slice(&values, dims).unwrap()
}

fn assert_close(name: &str, found: &Tensor, expected: &[f64]) {
    let found = found.as_slice::<f64>().unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-9, "{name}, element {i}: {found}, torch says {expected}");
    }
}

/// Checks `f`'s result, and the gradients of those operands that have expected ones.
fn check(
    name: &str,
    operands: &[Tensor],
    f: impl Fn(&Tape<'_>, &[Var]) -> Result<Var>,
    expected: &[f64],
    expected_gradients: &[&[f64]],
) {
    let tape = Tape::recording(Arc::new(ReferenceBackend));
    let (vars, leaves): (Vec<_>, Vec<_>) = operands.iter().map(|operand| tape.watch(operand.clone())).unzip();
    let y = f(&tape, &vars).unwrap();
    assert_close(name, y.value(), expected);
    let gradients = tape.backward(&y, sines(y.dims(), 1.3, 0.0)).unwrap();
    for (leaf, expected) in leaves.into_iter().zip(expected_gradients) {
        assert_close(name, gradients.get(leaf).unwrap(), expected);
    }
}

fn constant(operand: Tensor) -> Var {
    Var::constant(operand)
}

#[test]
fn convolution_with_stride_and_padding_on_two_sides() {
    let operands = [sines(&[1, 4, 3, 2], 0.37, 0.0), sines(&[2, 3, 3, 2], 0.71, 0.3)];
    let bias = constant(sines(&[2], 0.37, 0.1));
    let padding = Padding { right: 1, bottom: 1, ..Padding::default() };
    let spec = Conv2dSpec { stride: 2, padding };
    let f = |tape: &Tape<'_>, v: &[Var]| conv2d::conv2d(tape, &v[0], &v[1], Some(&bias), None, spec);
    check("conv2d", &operands, f, &CONV_Y, &[&CONV_DX, &CONV_DW]);
}

#[test]
fn group_norm_with_silu() {
    let operands = [sines(&[2, 2, 1, 4], 0.37, 0.0), sines(&[4], 0.37, 1.0)];
    let beta = constant(sines(&[4], 0.37, 0.2));
    let spec = GroupNormSpec { groups: 2, eps: 1e-5, silu: true };
    let f = |tape: &Tape<'_>, v: &[Var]| group_norm::group_norm(tape, &v[0], &v[1], &beta, spec);
    check("group_norm", &operands, f, &GROUP_NORM_Y, &[&GROUP_NORM_DX, &GROUP_NORM_DGAMMA]);
}

#[test]
fn layer_norm_of_rows() {
    let (gamma, beta) = (constant(sines(&[5], 0.37, 1.0)), constant(sines(&[5], 0.37, 0.2)));
    let f = |tape: &Tape<'_>, v: &[Var]| layer_norm::layer_norm(tape, &v[0], &gamma, &beta, 1e-5);
    check("layer_norm", &[sines(&[2, 5], 0.37, 0.0)], f, &LAYER_NORM_Y, &[&LAYER_NORM_DX]);
}

#[test]
fn attention_masked_and_not() {
    let operands = [sines(&[1, 3, 4], 0.37, 0.0), sines(&[1, 3, 4], 0.53, 0.0)];
    let values = constant(sines(&[1, 3, 4], 0.91, 0.0));
    let f = |causal: bool| {
        let spec = AttentionSpec { heads: 2, scale: 0.75, causal };
        let values = values.clone();
        move |tape: &Tape<'_>, v: &[Var]| attention::attention(tape, &v[0], &v[1], &values, spec)
    };
    check("attention", &operands, f(false), &ATTENTION_O, &[&ATTENTION_DQ, &ATTENTION_DK]);
    check("causal attention", &operands, f(true), &CAUSAL_O, &[&CAUSAL_DQ, &CAUSAL_DK]);
}

#[test]
fn nonlinearities() {
    let x = sines(&[2, 6], 1.7, 0.0);
    let x = [ReferenceBackend.scale(&x, 3.0).unwrap()];
    check("geglu", &x, |tape, v| geglu::geglu(tape, &v[0]), &GEGLU, &[]);
    check("silu", &x, |tape, v| activation::activation(tape, Activation::Silu, &v[0]), &SILU, &[]);
    let quick = |tape: &Tape<'_>, v: &[Var]| activation::activation(tape, Activation::QuickGelu, &v[0]);
    check("quick gelu", &x, quick, &QUICK_GELU, &[]);
}

#[test]
fn enlargement_to_odd_sizes() {
    let x = [sines(&[1, 2, 3, 1], 0.37, 0.0)];
    check("upsample", &x, |tape, v| upsample::upsample_nearest(tape, &v[0], [3, 5]), &UPSAMPLE, &[]);
}

#[test]
fn three_steps_of_adamw() {
    let mut param = sines(&[3], 0.37, 0.4);
    let zeros = || Tensor::from_slice(&[0.0f64; 3], &[3]).unwrap();
    let (mut m, mut v) = (zeros(), zeros());
    for step in 1..=3 {
        let grad = sines(&[3], 0.37, (step - 1) as f64);
        let (beta1, beta2, eps, weight_decay) = (0.9, 0.999, 1e-8, 0.1);
        let step = AdamWStep { lr: 0.01, beta1, beta2, eps, weight_decay, step, grad_scale: 1.0 };
        ReferenceBackend.adamw(&mut param, &grad, &mut m, &mut v, &step).unwrap();
    }
    assert_close("adamw", &param, &ADAMW);
}

#[rustfmt::skip]
const CONV_Y: [f64; 4] = [
    -0.423_276_494_527, -0.052_550_212_607, -1.537_695_419_385, -0.758_023_729_387,
];

#[rustfmt::skip]
const CONV_DX: [f64; 24] = [
    0.473_436_173_373, 0.906_072_681_221, 0.900_825_783_257, 0.460_231_180_641, -0.202_782_220_176, -0.767_795_790_462,
    -0.961_751_891_888, -0.690_916_147_478, -0.086_177_039_619, 0.560_209_384_613, 0.935_859_919_344, 0.859_231_583_583,
    0.181_770_012_434, -0.512_243_769_522, -0.958_702_304_473, -0.941_842_786_750, -0.469_813_020_823, 0.229_266_219_077,
    0.176_949_511_194, 0.055_746_312_228, -0.092_397_755_352, -0.195_888_182_400, -0.204_710_503_627, -0.114_601_100_731,
];

#[rustfmt::skip]
const CONV_DW: [f64; 36] = [
    -0.496_495_315_954, -0.513_047_495_475, -0.460_161_103_299, -0.344_994_064_504, -0.183_133_697_518, 0.003_512_956_307,
    0.189_684_147_976, 0.350_182_480_065, 0.463_285_256_258, 0.513_684_546_385, 0.494_559_042_963, 0.408_497_293_156,
    0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000,
    0.662_408_860_912, 1.032_929_781_879, 1.263_648_502_562, 1.323_338_326_466, 1.203_920_515_944, 0.921_557_711_435,
    0.514_466_393_906, 0.037_744_463_433, -0.444_086_003_099, -0.865_811_512_412, -1.170_353_495_226, -1.316_493_622_838,
    -0.928_032_691_782, -0.958_971_480_573, -0.860_117_978_207, -0.644_851_542_486, -0.342_307_475_625, 0.006_566_302_225,
];

#[rustfmt::skip]
const GROUP_NORM_Y: [f64; 16] = [
    -0.266_250_753_332, 0.015_068_551_763, 0.285_233_475_532, 1.799_653_341_925, 0.763_114_424_905, 1.155_820_929_716,
    1.053_750_452_508, -0.113_310_658_808, 1.039_673_578_567, 0.853_474_353_823, 1.978_656_503_263, 0.296_702_980_941,
    -0.209_846_632_285, -0.171_819_667_126, -0.164_313_504_051, 1.025_181_106_694,
];

#[rustfmt::skip]
const GROUP_NORM_DX: [f64; 16] = [
    -0.620_619_494_576, 0.924_288_886_187, 0.829_996_116_172, -4.890_374_693_444, -1.224_362_352_773, 0.920_692_961_162,
    6.210_689_749_414, -2.150_311_172_142, 0.173_731_929_873, -0.266_541_535_823, -1.115_081_465_692, 2.673_865_395_898,
    0.343_411_756_814, -0.250_602_150_864, -2.270_496_358_453, 0.711_712_428_246,
];

#[rustfmt::skip]
const GROUP_NORM_DGAMMA: [f64; 4] = [
    -1.955_645_581_800, -0.231_779_887_591, 1.282_145_322_035, -1.274_265_001_428,
];

#[rustfmt::skip]
const LAYER_NORM_Y: [f64; 10] = [
    -1.151_764_572_939, -0.061_697_678_574, 1.047_459_968_626, 1.695_812_970_217, 1.685_131_509_029, 1.222_458_429_406,
    1.343_951_462_387, 0.971_037_555_476, 0.400_189_780_822, 0.045_604_476_294,
];

#[rustfmt::skip]
const LAYER_NORM_DX: [f64; 10] = [
    -1.554_672_688_321, 1.885_443_068_559, 1.426_943_971_108, -1.061_864_312_782, -0.695_850_038_564, -1.032_654_289_953,
    1.315_242_910_003, 0.433_199_057_677, -1.130_660_985_298, 0.414_873_307_570,
];

#[rustfmt::skip]
const ATTENTION_O: [f64; 12] = [
    0.031_921_204_416, 0.165_457_559_874, 0.617_765_712_294, 0.238_749_801_807, -0.243_840_321_287, -0.287_398_204_230,
    0.526_885_016_011, 0.206_374_925_339, 0.118_013_165_358, 0.220_385_120_250, -0.020_846_123_100, -0.200_848_244_029,
];

#[rustfmt::skip]
const ATTENTION_DQ: [f64; 12] = [
    -0.390_465_365_482, -0.201_480_019_912, 0.007_640_774_716, 0.061_843_411_606, 0.048_693_267_312, 0.044_103_892_074,
    0.261_962_580_451, 0.376_882_860_730, 0.577_080_584_724, 0.427_834_092_336, 0.135_308_296_629, 0.117_627_131_813,
];

#[rustfmt::skip]
const ATTENTION_DK: [f64; 12] = [
    -0.010_103_367_932, 0.079_922_367_288, 0.179_982_294_365, 0.098_735_459_602, 0.092_753_197_555, -0.156_957_982_576,
    -0.207_427_964_235, -0.166_928_872_042, -0.082_649_829_623, 0.077_035_615_288, 0.027_445_669_871, 0.068_193_412_439,
];

#[rustfmt::skip]
const CAUSAL_O: [f64; 12] = [
    0.000_000_000_000, 0.789_503_739_690, 0.969_109_128_880, 0.400_069_477_592, -0.310_051_221_661, -0.362_645_530_812,
    0.559_269_400_929, 0.324_630_628_426, 0.118_013_165_358, 0.220_385_120_250, -0.020_846_123_100, -0.200_848_244_029,
];

#[rustfmt::skip]
const CAUSAL_DQ: [f64; 12] = [
    0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000, 0.000_000_000_000, 0.005_859_312_512, -0.000_230_148_972,
    0.224_727_949_342, 0.379_526_927_902, 0.577_080_584_724, 0.427_834_092_336, 0.135_308_296_629, 0.117_627_131_813,
];

#[rustfmt::skip]
const CAUSAL_DK: [f64; 12] = [
    -0.020_961_833_876, 0.008_040_802_304, 0.153_370_172_974, 0.064_052_857_881, 0.073_831_683_636, -0.062_871_618_233,
    -0.194_136_449_504, -0.125_657_193_507, -0.052_869_849_760, 0.054_830_815_929, 0.040_766_276_531, 0.061_604_335_626,
];

#[rustfmt::skip]
const GEGLU: [f64; 6] = [
    0.000_000_000_000, 4.105_115_737_046, -1.821_174_725_030, -2.206_683_943_701, 0.010_494_219_646, -0.377_251_312_998,
];

#[rustfmt::skip]
const SILU: [f64; 12] = [
    0.000_000_000_000, 2.830_503_677_088, -0.243_180_582_914, -0.162_634_062_738, 1.207_997_112_097, 2.195_393_730_251,
    -0.229_139_040_619, -0.251_005_305_944, 2.395_510_976_166, 0.912_639_062_456, -0.152_690_708_043, -0.174_362_373_606,
];

#[rustfmt::skip]
const QUICK_GELU: [f64; 12] = [
    0.000_000_000_000, 2.956_299_488_159, -0.163_566_357_904, -0.024_367_844_543, 1.372_253_512_082, 2.355_518_830_858,
    -0.057_299_047_268, -0.075_747_803_128, 2.545_816_814_614, 1.051_531_159_743, -0.021_131_210_333, -0.142_357_387_393,
];

#[rustfmt::skip]
const UPSAMPLE: [f64; 15] = [
    0.000_000_000_000, 0.000_000_000_000, 0.361_615_431_965, 0.361_615_431_965, 0.674_287_911_628, 0.000_000_000_000,
    0.000_000_000_000, 0.361_615_431_965, 0.361_615_431_965, 0.674_287_911_628, 0.895_698_685_680, 0.895_698_685_680,
    0.995_880_844_538, 0.995_880_844_538, 0.961_275_202_975,
];

#[rustfmt::skip]
const ADAMW: [f64; 3] = [
    0.372_221_813_313, 0.665_251_383_860, 0.876_736_537_705,
];
