//! Kinds of adapters: which settings belong together, and which file can hold what.

use super::check::{at_least_one, number, refuse};
use super::{AdapterInit, AdapterKind, FileFormat, Lora, Method, Targets, TrainConfig};
use crate::error::Result;

impl TrainConfig {
    /// Whether factors learn.
    pub fn has_factors(&self) -> bool {
        matches!(self.method, Method::Lora | Method::Pivotal | Method::PivotalSingle)
    }

    /// Refuses settings of one kind beside another kind, files that can't hold it, and rates for what does not learn.
    pub(super) fn check_adapter(&self) -> Result<()> {
        self.check_kind()?;
        self.check_conv()?;
        self.check_formats()?;
        self.check_rates()
    }

    fn check_kind(&self) -> Result<()> {
        let lora = &self.lora;
        let (kind, init) = (lora.kind, lora.init);
        if !self.has_factors() {
            let defaults = Lora::default();
            if kind != defaults.kind || init != defaults.init {
                let (key, value) = if kind == defaults.kind {
                    ("lora.init", init.to_string())
                } else {
                    ("lora.kind", kind.to_string())
                };
                let problem = format!("method `{}` has no factors", self.method);
                return refuse(key, value, &problem, "delete it, or use method `lora`");
            }
            return Ok(());
        }
        let pair = matches!(kind, AdapterKind::Lora | AdapterKind::Dora);
        if !pair && init != AdapterInit::Normal {
            let problem = format!("`{kind}` begins in a way of its own");
            return refuse("lora.init", init, &problem, "delete it, or set `lora.kind` to `lora`");
        }
        if init == AdapterInit::Pissa && kind != AdapterKind::Lora {
            let problem = format!("`{kind}` learns lengths of rows that this start would move");
            return refuse("lora.init", init, &problem, "use `orthogonal`, or `lora.kind` = `lora`");
        }
        if init == AdapterInit::Orthogonal {
            let text =
                (lora.text_encoder.train).then_some(("lora.text_encoder.rank", lora.text_encoder.rank));
            let conv = lora.unet.conv_rank.map(|rank| ("lora.unet.conv_rank", rank));
            let ranks = [Some(("lora.unet.rank", lora.unet.rank)), conv, text];
            for (key, rank) in ranks.into_iter().flatten() {
                if !rank.is_multiple_of(2) {
                    let hint = format!("use {} or another start", rank + 1);
                    return refuse(key, rank, "the orthogonal start needs an even rank", hint);
                }
            }
        }
        let of_lokr = [
            ("lora.lokr_factor", lora.lokr_factor.map(|factor| factor.to_string())),
            ("lora.lokr_whole", lora.lokr_whole.then(|| "true".to_owned())),
            ("lora.lokr_both", lora.lokr_both.then(|| "true".to_owned())),
        ];
        if kind != AdapterKind::Lokr
            && let Some((key, value)) = of_lokr.into_iter().find_map(|(key, value)| Some((key, value?)))
        {
            let problem = format!("is for `lokr`; the kind is `{kind}`");
            return refuse(key, value, &problem, "delete it, or set `lora.kind` to `lokr`");
        }
        lora.lokr_factor.map_or(Ok(()), |factor| at_least_one("lora.lokr_factor", factor as u64))?;
        if lora.lokr_whole && lora.lokr_both {
            let hint = "delete one of the two";
            return refuse("lora.lokr_both", true, "`lora.lokr_whole` keeps both matrices whole", hint);
        }
        if lora.lokr_whole && lora.rank_stabilized {
            let problem = "whole matrices have no rank to be stabilised for";
            return refuse("lora.rank_stabilized", true, problem, "delete it or `lora.lokr_whole`");
        }
        Ok(())
    }

    fn check_conv(&self) -> Result<()> {
        let unet = &self.lora.unet;
        if let Some(rank) = unet.conv_rank {
            at_least_one("lora.unet.conv_rank", rank as u64)?;
            if unet.targets != Targets::All && self.lora.include.is_empty() {
                let problem = format!("the targets `{}` have no 3x3 convolution", unet.targets);
                return refuse("lora.unet.conv_rank", rank, &problem, "set `lora.unet.targets` to `all`");
            }
        }
        if let Some(alpha) = unet.conv_alpha {
            number("lora.unet.conv_alpha", alpha, |alpha| alpha > 0.0, "above 0")?;
            if unet.conv_rank.is_none() {
                let hint = "set `lora.unet.conv_rank` as well, or use `lora.unet.alpha`";
                return refuse("lora.unet.conv_alpha", alpha, "needs `lora.unet.conv_rank`", hint);
            }
        }
        Ok(())
    }

    fn check_formats(&self) -> Result<()> {
        let kind = self.lora.kind;
        let holds = |format: &FileFormat| match kind {
            AdapterKind::Lora => true,
            AdapterKind::Dora => *format != FileFormat::Original,
            AdapterKind::Loha | AdapterKind::Lokr => *format == FileFormat::Kohya,
        };
        match self.save.formats.iter().find(|format| self.has_factors() && !holds(format)) {
            Some(format) => {
                let problem = format!("this spelling has no place for `{kind}`");
                refuse("save.formats", format, &problem, "use `kohya`")
            }
            None => Ok(()),
        }
    }

    fn check_rates(&self) -> Result<()> {
        if let Some(ratio) = self.learn.lora_plus {
            number("learn.lora_plus", ratio, |ratio| ratio > 0.0 && ratio <= 1e3, "above 0; 16 is usual")?;
            let kind = self.lora.kind;
            if !self.has_factors() || !matches!(kind, AdapterKind::Lora | AdapterKind::Dora) {
                let problem = "it is about the two sides of `lora` and `dora`";
                return refuse("learn.lora_plus", ratio, problem, "delete it, or set `lora.kind` to `lora`");
            }
        }
        if self.learn.blocks.is_some() && !self.has_factors() && self.method != Method::Full {
            let problem = format!("with method `{}` no block learns", self.method);
            return refuse("learn.blocks", "...", &problem, "delete it");
        }
        Ok(())
    }
}
