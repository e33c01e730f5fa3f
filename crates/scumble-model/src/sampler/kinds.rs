//! The list of samplers, and how a name, a label or a diffusers class finds its line.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{Levels, Result, Sampler, SamplerError, SamplerOptions, Setup};
use super::{ddim, ddpm, dpmpp_2m, dpmpp_sde, euler, euler_ancestral, heun, lcm, lms, pndm, unipc};
use crate::scheduler_config::SchedulerConfig;

type Build = fn(&Setup<'_>) -> Result<Box<dyn Sampler>>;

/// One line of the list of samplers.
pub struct SamplerKind {
    /// The name a user types; case and punctuation do not matter.
    pub name: &'static str,
    /// Other names it is known by.
    pub aliases: &'static [&'static str],
    /// AUTOMATIC1111's name for it, as pictures carry it.
    pub label: &'static str,
    /// AUTOMATIC1111's schedule type, where it is not the sampler's usual one.
    pub schedule_label: Option<&'static str>,
    /// The diffusers class whose configuration it takes.
    pub class: &'static str,
    /// Whether it draws fresh noise on the way (DDIM does so only with an `eta` above 0).
    pub draws_noise: bool,
    pub(super) levels: Levels,
    build: Build,
}

const EULER: &str = "EulerDiscreteScheduler";
const LMS: &str = "LMSDiscreteScheduler";
const HEUN: &str = "HeunDiscreteScheduler";
const DPM: &str = "DPMSolverMultistepScheduler";
const DPM_SDE: &str = "DPMSolverSDEScheduler";
const UNIPC: &str = "UniPCMultistepScheduler";
use Levels::{Exponential, Karras, Usual};

/// Every sampler there is.
pub static SAMPLERS: &[SamplerKind] = &[
    kind("ddim", &[], "DDIM", "DDIMScheduler", Usual, ddim::build),
    kind("ddpm", &[], "DDPM", "DDPMScheduler", Usual, ddpm::build).drawing_noise(),
    kind("pndm", &["plms"], "PLMS", "PNDMScheduler", Usual, pndm::build),
    kind("euler", &["k_euler"], "Euler", EULER, Usual, euler::build),
    kind("euler_karras", &[], "Euler", EULER, Karras, euler::build),
    kind("euler_exponential", &[], "Euler", EULER, Exponential, euler::build),
    kind(
        "euler_a",
        &["euler_ancestral", "k_euler_a"],
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        Usual,
        euler_ancestral::build,
    )
    .drawing_noise(),
    kind("heun", &["k_heun"], "Heun", HEUN, Usual, heun::build),
    kind("heun_karras", &[], "Heun", HEUN, Karras, heun::build),
    kind("heun_exponential", &[], "Heun", HEUN, Exponential, heun::build),
    kind("lms", &["k_lms"], "LMS", LMS, Usual, lms::build),
    kind("lms_karras", &[], "LMS", LMS, Karras, lms::build),
    kind("lms_exponential", &[], "LMS", LMS, Exponential, lms::build),
    kind("dpmpp_2m", &["dpm_solver_multistep"], "DPM++ 2M", DPM, Usual, dpmpp_2m::build),
    kind("dpmpp_2m_karras", &[], "DPM++ 2M", DPM, Karras, dpmpp_2m::build),
    kind("dpmpp_2m_exponential", &[], "DPM++ 2M", DPM, Exponential, dpmpp_2m::build),
    kind("dpmpp_2m_sde", &[], "DPM++ 2M SDE", DPM, Usual, dpmpp_2m::build).drawing_noise(),
    kind("dpmpp_2m_sde_karras", &[], "DPM++ 2M SDE", DPM, Karras, dpmpp_2m::build).drawing_noise(),
    kind("dpmpp_2m_sde_exponential", &[], "DPM++ 2M SDE", DPM, Exponential, dpmpp_2m::build).drawing_noise(),
    kind("dpmpp_sde", &["k_dpmpp_sde"], "DPM++ SDE", DPM_SDE, Usual, dpmpp_sde::build).drawing_noise(),
    kind("dpmpp_sde_karras", &[], "DPM++ SDE", DPM_SDE, Karras, dpmpp_sde::build).drawing_noise(),
    kind("dpmpp_sde_exponential", &[], "DPM++ SDE", DPM_SDE, Exponential, dpmpp_sde::build).drawing_noise(),
    kind("unipc", &["uni_pc"], "UniPC", UNIPC, Usual, unipc::build),
    kind("unipc_karras", &[], "UniPC", UNIPC, Karras, unipc::build),
    kind("unipc_exponential", &[], "UniPC", UNIPC, Exponential, unipc::build),
    kind("lcm", &[], "LCM", "LCMScheduler", Usual, lcm::build).drawing_noise(),
];

const fn kind(
    name: &'static str,
    aliases: &'static [&'static str],
    label: &'static str,
    class: &'static str,
    levels: Levels,
    build: Build,
) -> SamplerKind {
    let schedule_label = match levels {
        Usual => None,
        Karras => Some("Karras"),
        Exponential => Some("Exponential"),
    };
    SamplerKind { name, aliases, label, schedule_label, class, draws_noise: false, levels, build }
}

impl SamplerKind {
    const fn drawing_noise(mut self) -> Self {
        self.draws_noise = true;
        self
    }

    /// The sampler a user means: its name, an alias, or AUTOMATIC1111's label, however punctuated.
    pub fn find(name: &str) -> Result<&'static Self> {
        let wanted = plain(name);
        let names = |kind: &Self| {
            let labels = [kind.name.to_owned(), [kind.label, kind.schedule_label.unwrap_or("")].concat()];
            labels.into_iter().chain(kind.aliases.iter().map(|alias| (*alias).to_owned()))
        };
        let matches = |kind: &&'static Self| names(kind).any(|known| plain(&known) == wanted);
        SAMPLERS.iter().find(matches).ok_or_else(|| unknown(name))
    }

    /// The sampler that a `scheduler_config.json` names.
    pub fn of_config(config: &Value) -> Result<&'static Self> {
        let class = SchedulerConfig::new(config)?.word("_class_name", "")?;
        Self::of_class(class, config)
    }

    /// The sampler of a diffusers class, with the noise levels and the algorithm that the configuration says.
    pub fn of_class(class: &str, config: &Value) -> Result<&'static Self> {
        let config = SchedulerConfig::new(config)?;
        let levels = levels_of(&config)?;
        let sde = config.word("algorithm_type", "")?.starts_with("sde-");
        let of_class = || SAMPLERS.iter().filter(|kind| kind.class == class);
        let fits = |kind: &&Self| kind.levels == levels && (kind.draws_noise == sde || kind.class != DPM);
        of_class().find(fits).or_else(|| of_class().next()).ok_or_else(|| unknown(class))
    }

    /// Builds it from a configuration, of whatever class: fields it does not know are ignored, those that are
    /// missing take its own defaults.
    pub fn build(&'static self, config: &Value, options: SamplerOptions) -> Result<Box<dyn Sampler>> {
        let config = self.with_own_betas(config);
        let config = SchedulerConfig::new(&config)?;
        let levels = match self.levels {
            // A configuration may ask for evenly spaced logarithms; Karras' levels have a name of their own.
            Usual if levels_of(&config)? == Exponential => Exponential,
            levels => levels,
        };
        (self.build)(&Setup { kind: self, levels, config, options })
    }

    /// Three classes have other betas than the rest where the configuration names none.
    fn with_own_betas<'c>(&self, config: &'c Value) -> Cow<'c, Value> {
        let curve = match self.class {
            HEUN | DPM_SDE => "linear",
            "LCMScheduler" => "scaled_linear",
            _ => return Cow::Borrowed(config),
        };
        let mut config = config.clone();
        if let Some(fields) = config.as_object_mut() {
            let own =
                [("beta_start", json!(0.00085)), ("beta_end", json!(0.012)), ("beta_schedule", json!(curve))];
            for (field, value) in own {
                let found = fields.entry(field).or_insert(Value::Null);
                if found.is_null() {
                    *found = value;
                }
            }
        }
        Cow::Owned(config)
    }
}

fn levels_of(config: &SchedulerConfig<'_>) -> Result<Levels> {
    let karras = config.flag("use_karras_sigmas", false)?;
    let exponential = config.flag("use_exponential_sigmas", false)?;
    match (karras, exponential) {
        (true, true) => {
            let expected = "false: only one of Karras' and exponential levels can be";
            Err(SamplerError::setting("use_exponential_sigmas", expected, "true"))
        }
        (true, false) => Ok(Karras),
        (false, true) => Ok(Exponential),
        (false, false) => Ok(Usual),
    }
}

fn unknown(name: &str) -> SamplerError {
    let name: String = name.chars().take(60).collect();
    let names: Vec<&str> = SAMPLERS.iter().map(|kind| kind.name).collect();
    let near = |known: &&&str| strsim::jaro_winkler(&plain(known), &plain(&name));
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|known| near(known) > 0.8);
    let hint = nearest.map_or(String::new(), |known| format!("; did you mean `{known}`?"));
    SamplerError::Unknown { name, known: names.join(", "), hint }
}

/// Letters and digits only, lower case, `+` read as `p`: "DPM++ 2M" and "dpmpp_2m" are the same.
fn plain(name: &str) -> String {
    let name = name.replace('+', "p").to_lowercase();
    name.chars().filter(|c| c.is_alphanumeric()).collect()
}
