//! Which timesteps are drawn, and how often.
//!
//! ```text
//! uniform          t = min + n,                            n uniform over the whole numbers below max - min
//! others           t = min + floor(f(x) (max - min))
//! logit-normal     f = 1 / (1 + exp(-(mean + deviation x))),  x ~ N(0, 1)     the middle, Esser et al. 2024
//! cubic            f = 1 - x^3,   x ~ U(0, 1)              much noise: layout and colours
//! cubic-fine       f = x^3                                 little noise: detail
//! ```
//!
//! A narrow range trains for one stretch of the painting only; the adapter is then worn during that stretch.

use scumble_model::schedule::NoiseSchedule;
use scumble_tensor::rng::Generator;

use crate::error::Result;

/// How often each timestep of the range is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// Mostly from the middle.
    LogitNormal {
        /// 0 is the middle of the range; above, more noise.
        mean: f64,
        /// Larger is nearer to uniform, then to both ends.
        deviation: f64,
    },
    /// Mostly much noise.
    Cubic,
    /// Mostly little noise.
    CubicFine,
}

/// Timesteps `min .. max` and how often each is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timesteps {
    /// The first.
    pub min: i64,
    /// The one after the last.
    pub max: i64,
    /// How often.
    pub distribution: Distribution,
}

impl Timesteps {
    /// Every timestep of a schedule alike.
    pub fn all(schedule: &NoiseSchedule) -> Self {
        Self { min: 0, max: schedule.timesteps() as i64, distribution: Distribution::Uniform }
    }

    /// One timestep.
    pub fn draw(&self, stream: &mut Generator) -> Result<i64> {
        let uniform = |stream: &mut Generator| stream.rand_f64(1).first().copied().unwrap_or_default();
        let share = match self.distribution {
            Distribution::Uniform => {
                let drawn = stream.randint(self.min, self.max, 1)?;
                return Ok(drawn.first().copied().unwrap_or(self.min));
            }
            Distribution::LogitNormal { mean, deviation } => {
                let x = stream.randn_f64(1).first().copied().unwrap_or_default();
                1.0 / (1.0 + (-(mean + deviation * x)).exp())
            }
            Distribution::Cubic => 1.0 - uniform(stream).powi(3),
            Distribution::CubicFine => uniform(stream).powi(3),
        };
        let offset = (share * (self.max - self.min) as f64) as i64;
        Ok((self.min + offset).clamp(self.min, self.max - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::rng::stream_at;

    fn quarters(distribution: Distribution, min: i64, max: i64) -> [usize; 4] {
        let timesteps = Timesteps { min, max, distribution };
        let mut counts = [0; 4];
        for i in 0..2000 {
            let t = timesteps.draw(&mut stream_at(3, "t", i)).unwrap();
            assert!((min..max).contains(&t), "{t}");
            counts[((t - min) * 4 / (max - min)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn each_distribution_has_its_shape_within_its_range() {
        let even = quarters(Distribution::Uniform, 0, 1000);
        assert!(even.iter().all(|count| (400..600).contains(count)), "{even:?}");
        assert!(quarters(Distribution::Uniform, 200, 300).iter().all(|&count| count > 400));
        let middle = quarters(Distribution::LogitNormal { mean: 0.0, deviation: 1.0 }, 0, 1000);
        // Normal quantiles: a quarter of the range lies below logit(1/4) = -1.0986, that is 13.6 % of the draws.
        assert!((220..330).contains(&middle[0]) && middle[1] > 650 && middle[2] > 650, "{middle:?}");
        let high = quarters(Distribution::LogitNormal { mean: 1.0, deviation: 1.0 }, 0, 1000);
        assert!(high[3] > middle[3] + 300, "{high:?}");
        // Three quarters of the range lie above x^3 = 1/4 counted from its far end.
        let coarse = quarters(Distribution::Cubic, 0, 800);
        let fine = quarters(Distribution::CubicFine, 0, 800);
        assert!(coarse[3] > 1150 && coarse[0] < 250, "{coarse:?}");
        assert!(fine[0] > 1150 && fine[3] < 250, "{fine:?}");
    }

    #[test]
    fn extreme_settings_stay_in_range() {
        for mean in [-1e3, 1e3] {
            quarters(Distribution::LogitNormal { mean, deviation: 1.0 }, 0, 4);
        }
        quarters(Distribution::Uniform, 7, 8);
    }
}
