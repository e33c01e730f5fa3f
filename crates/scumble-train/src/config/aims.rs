//! `[objective]`: how noise is made, which timesteps are seen and how a difference counts; what contradicts what.

use scumble_model::schedule::{NoiseSchedule, PredictionType};

use super::check::{number, refuse};
use super::choice::choice;
use super::section::section;
use super::{Prediction, TrainConfig};
use crate::error::Result;
use crate::objective::{Distribution, HuberSchedule, Multires, Objective, Penalty, Timesteps, Weighting};

choice! {
    /// How a difference between prediction and target counts.
    LossShape = L2 {
        /// Its square.
        L2 = "l2",
        /// Small differences squared, large ones straight.
        Huber = "huber",
        /// As `huber`, with large differences at full weight.
        SmoothL1 = "smooth_l1",
    }
}
choice! {
    /// How the turning point of `huber` and `smooth_l1` follows the timestep.
    HuberCurve = Snr {
        /// The same everywhere.
        Constant = "constant",
        /// From 1 at clean pictures down to `huber_c` at pure noise, exponentially.
        Exponential = "exponential",
        /// With the noise level.
        Snr = "snr",
    }
}
choice! {
    /// How often each timestep is drawn.
    TimestepShape = Uniform {
        /// All alike.
        Uniform = "uniform",
        /// Mostly the middle.
        LogitNormal = "logit-normal",
        /// Mostly much noise: layout and colours.
        Cubic = "cubic",
        /// Mostly little noise: detail.
        CubicFine = "cubic-fine",
    }
}

section! {
    /// `[objective]`: what is asked of the model in each step.
    Aims {
        /// How a difference counts: `l2`, `huber` or `smooth_l1`. The latter two let single outliers pull less.
        loss: LossShape = LossShape::L2,
        /// Where `huber` and `smooth_l1` turn from square to straight, at pure noise.
        huber_c: f64 = 0.1,
        /// How that place follows the timestep: `constant`, `exponential` or `snr`.
        huber_schedule: HuberCurve = HuberCurve::Snr,
        /// Weighs timesteps by the inverse root of their signal-to-noise ratio (debiased estimation). Not with min-SNR.
        debiased: bool = false,
        /// Gives the timesteps of a velocity model the weights that they have when noise is predicted. Not with min-SNR.
        scale_v: bool = false,
        /// Draws each picture's noise offset between 0 and `train.noise_offset` instead of taking all of it.
        noise_offset_random: bool = false,
        /// Resolutions of coarser noise added to the noise (multi-resolution noise); 6 is usual, 0 is none.
        multires_levels: usize = 0,
        /// What each coarser resolution counts against the one before; 0.3 to 0.4 is usual.
        multires_discount: f64 = 0.3,
        /// Noise added to what the model sees and not to what it should say (input perturbation); 0.1 is usual, 0 is none.
        input_perturbation: f64 = 0.0,
        /// The first timestep that is trained on; 0 is a clean picture.
        timestep_min: u64 = 0,
        /// The timestep after the last that is trained on. Left out, all of the base's (1000). Above it is more noise.
        timestep_max: Option<u64> = None,
        /// How often each timestep is drawn: `uniform`, `logit-normal`, `cubic` (much noise) or `cubic-fine` (little noise).
        timesteps: TimestepShape = TimestepShape::Uniform,
        /// Where `logit-normal` has its middle: 0 is the middle of the range, 1 more noise, -1 less.
        timestep_mean: f64 = 0.0,
        /// How wide `logit-normal` is.
        timestep_deviation: f64 = 1.0,
        /// Rescales the noise levels so that the last is pure noise (zero terminal SNR). For velocity models, and to be
        /// painted with the same setting of the scheduler.
        zero_terminal_snr: bool = false,
    }
}

impl TrainConfig {
    /// Refuses objectives that contradict each other, as far as the base need not be known.
    pub(super) fn check_objective(&self) -> Result<()> {
        let (aims, train, usual) = (&self.objective, &self.train, Aims::default());
        number("objective.huber_c", aims.huber_c, |c| c > 0.0 && c <= 1.0, "above 0 and at most 1")?;
        if aims.loss == LossShape::L2
            && (aims.huber_c, aims.huber_schedule) != (usual.huber_c, usual.huber_schedule)
        {
            let key = if aims.huber_c == usual.huber_c { "huber_schedule" } else { "huber_c" };
            let hint = "set `objective.loss` to `huber` or `smooth_l1`, or delete it";
            return refuse(&format!("objective.{key}"), "...", "is not used by the loss `l2`", hint);
        }
        let weights = [
            ("train.min_snr_gamma", train.min_snr_gamma.is_some()),
            ("objective.debiased", aims.debiased),
            ("objective.scale_v", aims.scale_v),
        ];
        let used: Vec<&str> = weights.iter().filter(|(_, used)| *used).map(|(key, _)| *key).collect();
        if let [first, second, ..] = used[..] {
            let problem = format!("and `{first}` both weigh the timesteps");
            return refuse(second, true, &problem, "use one of them");
        }
        number(
            "objective.multires_discount",
            aims.multires_discount,
            |d| (0.0..1.0).contains(&d),
            "0 or more and below 1",
        )?;
        if aims.multires_levels > 16 {
            return refuse(
                "objective.multires_levels",
                aims.multires_levels,
                "must be at most 16",
                "6 is usual",
            );
        }
        if aims.multires_levels == 0 && aims.multires_discount != usual.multires_discount {
            let hint = "set `objective.multires_levels`, or delete it";
            return refuse(
                "objective.multires_discount",
                aims.multires_discount,
                "is not used without levels",
                hint,
            );
        }
        if aims.multires_levels > 0 && train.noise_offset != 0.0 {
            let problem = "coarser noise has an offset in it already";
            let hint = "leave out `train.noise_offset` or `objective.multires_levels`";
            return refuse("train.noise_offset", train.noise_offset, problem, hint);
        }
        if aims.noise_offset_random && train.noise_offset == 0.0 {
            let hint = "set `train.noise_offset`, or delete it";
            return refuse("objective.noise_offset_random", true, "is not used without an offset", hint);
        }
        let gamma = aims.input_perturbation;
        number(
            "objective.input_perturbation",
            gamma,
            |gamma| (0.0..=1.0).contains(&gamma),
            "between 0 and 1",
        )?;
        if aims.zero_terminal_snr && train.noise_offset != 0.0 {
            let hint = "leave out `train.noise_offset`: noise levels that end in pure noise do its work";
            return refuse(
                "train.noise_offset",
                train.noise_offset,
                "contradicts `objective.zero_terminal_snr`",
                hint,
            );
        }
        if self.base.prediction == Some(Prediction::Epsilon) && (aims.zero_terminal_snr || aims.scale_v) {
            let key = if aims.scale_v { "objective.scale_v" } else { "objective.zero_terminal_snr" };
            let hint = "set `base.prediction` to `v_prediction` if the base was trained so, or delete it";
            return refuse(key, true, "is for models that predict velocity", hint);
        }
        self.check_timesteps()
    }

    fn check_timesteps(&self) -> Result<()> {
        let (aims, usual) = (&self.objective, Aims::default());
        if let Some(max) = aims.timestep_max.filter(|&max| max <= aims.timestep_min) {
            let problem = format!("leaves no timestep: `objective.timestep_min` is {}", aims.timestep_min);
            return refuse("objective.timestep_max", max, &problem, "set it above the minimum, up to 1000");
        }
        let near = |value: f64| value.abs() <= 100.0;
        number("objective.timestep_mean", aims.timestep_mean, near, "between -100 and 100; 0 is usual")?;
        let positive = |value: f64| value > 0.0 && value <= 100.0;
        number(
            "objective.timestep_deviation",
            aims.timestep_deviation,
            positive,
            "above 0 and at most 100; 1 is usual",
        )?;
        let shape = (aims.timestep_mean, aims.timestep_deviation);
        if aims.timesteps != TimestepShape::LogitNormal
            && shape != (usual.timestep_mean, usual.timestep_deviation)
        {
            let key = if shape.0 == usual.timestep_mean { "deviation" } else { "mean" };
            let problem = format!("is not used by the timesteps `{}`", aims.timesteps);
            let hint = "set `objective.timesteps` to `logit-normal`, or delete it";
            return refuse(&format!("objective.timestep_{key}"), "...", &problem, hint);
        }
        Ok(())
    }

    /// The objective on a base with these noise levels (rescaled already where asked for) and this prediction.
    pub fn objective_for(&self, schedule: NoiseSchedule, prediction: PredictionType) -> Result<Objective> {
        let (aims, train) = (&self.objective, &self.train);
        if aims.scale_v && prediction != PredictionType::VPrediction {
            let hint = "delete it; `train.min_snr_gamma` weighs the timesteps of such a base";
            return refuse("objective.scale_v", true, "the base predicts noise and not velocity", hint);
        }
        if aims.zero_terminal_snr && prediction != PredictionType::VPrediction {
            let problem = "the base predicts noise, and from pure noise there is nothing to predict";
            let hint =
                "use a base that predicts velocity, or set `base.prediction` if its files don't say so";
            return refuse("objective.zero_terminal_snr", true, problem, hint);
        }
        let all = schedule.timesteps() as u64;
        let max = aims.timestep_max.unwrap_or(all);
        if max > all || aims.timestep_min >= all {
            let (key, value) =
                if max > all { ("timestep_max", max) } else { ("timestep_min", aims.timestep_min) };
            let problem = format!("is beyond the base's {all} timesteps");
            let hint = format!("stay within 0 and {all}");
            return refuse(&format!("objective.{key}"), value, &problem, hint);
        }
        let distribution = match aims.timesteps {
            TimestepShape::Uniform => Distribution::Uniform,
            TimestepShape::LogitNormal => {
                Distribution::LogitNormal { mean: aims.timestep_mean, deviation: aims.timestep_deviation }
            }
            TimestepShape::Cubic => Distribution::Cubic,
            TimestepShape::CubicFine => Distribution::CubicFine,
        };
        let c = aims.huber_c;
        let curve = match aims.huber_schedule {
            HuberCurve::Constant => HuberSchedule::Constant,
            HuberCurve::Exponential => HuberSchedule::Exponential,
            HuberCurve::Snr => HuberSchedule::Snr,
        };
        Ok(Objective {
            schedule,
            prediction,
            weighting: match (train.min_snr_gamma, aims.debiased, aims.scale_v) {
                (Some(gamma), ..) => Weighting::MinSnr(gamma),
                (None, true, _) => Weighting::Debiased,
                (None, false, true) => Weighting::VelocityLikeNoise,
                _ => Weighting::Even,
            },
            penalty: match aims.loss {
                LossShape::L2 => Penalty::Squared,
                LossShape::Huber => Penalty::Huber { c, schedule: curve },
                LossShape::SmoothL1 => Penalty::SmoothL1 { c, schedule: curve },
            },
            timesteps: Timesteps { min: aims.timestep_min as i64, max: max as i64, distribution },
            noise_offset: train.noise_offset,
            noise_offset_random: aims.noise_offset_random,
            multires: (aims.multires_levels > 0)
                .then_some(Multires { levels: aims.multires_levels, discount: aims.multires_discount }),
            input_perturbation: aims.input_perturbation,
        })
    }
}
