//! What is to be merged: files with weights as typed, or a recipe, laid over each other as one recipe.

use std::path::{Path, PathBuf};

use scumble_adapter::merge::recipe::{Recipe, RecipeInput};
use scumble_model::files::{TensorSource as _, open_any};

use super::MergeArgs;
use crate::failure::{Failure, Result};

/// A recipe is a page of text.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// The merge as a recipe, and the folder that its paths start from.
pub fn recipe(args: &MergeArgs) -> Result<(Recipe, PathBuf)> {
    let (mut recipe, folder) = match &args.recipe {
        Some(file) => {
            let folder = file.parent().map(Path::to_owned).unwrap_or_default();
            (read(file)?, folder)
        }
        None => (Recipe::default(), PathBuf::new()),
    };
    if !args.inputs.is_empty() {
        if !recipe.inputs.is_empty() || !recipe.models.is_empty() {
            return Err(Failure::usage("the recipe names the files already")
                .hint("give files on the command line or in the recipe, not both"));
        }
        recipe.inputs = args.inputs.iter().map(|text| input(text)).collect::<Result<_>>()?;
    }
    let how = &args.how;
    if how.rank.is_some() || how.energy.is_some() {
        (recipe.rank, recipe.energy) = (how.rank, how.energy);
    }
    lay_over(&mut recipe.mode, &how.mode);
    lay_over(&mut recipe.alpha, &how.alpha);
    lay_over(&mut recipe.density, &how.density);
    lay_over(&mut recipe.seed, &how.seed);
    lay_over(&mut recipe.format, &args.output.format);
    lay_over(&mut recipe.dtype, &args.output.dtype);
    if let Some(base) = &args.model.base {
        recipe.base = Some(base.clone());
    } else if let Some(base) = &recipe.base
        && folder.join(base).exists()
    {
        recipe.base = Some(folder.join(base).display().to_string());
    }
    if args.model.unmerge {
        recipe.unmerge = Some(true);
    }
    if let Some(out) = &args.out {
        recipe.out = Some(out.display().to_string());
    } else if let Some(out) = &recipe.out {
        recipe.out = Some(folder.join(out).display().to_string());
    }
    for text in &how.blocks {
        set_blocks(&mut recipe.inputs, text)?;
    }
    if recipe.inputs.is_empty() && recipe.models.is_empty() {
        return Err(Failure::usage("nothing to merge")
            .hint("name adapter files, such as `scumble merge a.safetensors:0.7 b.safetensors:0.3 -o mix.safetensors`"));
    }
    Ok((recipe, folder))
}

fn lay_over<T: Clone>(under: &mut Option<T>, over: &Option<T>) {
    if over.is_some() {
        under.clone_from(over);
    }
}

/// A TOML file, or what a merged file or folder says about itself.
pub fn read(file: &Path) -> Result<Recipe> {
    let name = file.display().to_string();
    let unet = file.join("unet/diffusion_pytorch_model.safetensors");
    let file = if unet.is_file() { unet.as_path() } else { file };
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if ["safetensors", "pt", "bin", "ckpt", "sft"].contains(&ending.as_str()) {
        let source = open_any(file)?;
        return Recipe::of_metadata(&name, source.metadata())?.ok_or_else(|| {
            Failure::new(format!("`{name}` carries no recipe; it was not made by `scumble merge`"))
        });
    }
    let fail = |error: std::io::Error| Failure::new(format!("cannot read the recipe `{name}`: {error}"));
    if std::fs::metadata(file).map_err(fail)?.len() > MAX_RECIPE_BYTES {
        return Err(Failure::new(format!("`{name}` is too large for a recipe")));
    }
    Ok(Recipe::parse(&name, &std::fs::read_to_string(file).map_err(fail)?)?)
}

/// `FILE[:UNET[:TEXT]]`, taken apart from the right because paths may hold colons; a path that exists is taken whole.
fn input(text: &str) -> Result<RecipeInput> {
    if Path::new(text).exists() {
        return Ok(RecipeInput { file: text.to_owned(), ..RecipeInput::default() });
    }
    let mut rest = text;
    let mut numbers: Vec<f32> = Vec::new();
    while let Some((before, last)) = rest.rsplit_once(':') {
        let Ok(number) = last.parse::<f32>() else { break };
        numbers.insert(0, number);
        rest = before;
    }
    if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
        return Err(Failure::usage(format!("`{text}`: {number} is no weight")));
    }
    if !Path::new(rest).exists() {
        return Err(Failure::new(format!("there is no adapter file `{rest}`"))
            .hint("weights follow the file after colons, such as style.safetensors:0.7"));
    }
    let file = rest.to_owned();
    match numbers[..] {
        [] => Ok(RecipeInput { file, ..RecipeInput::default() }),
        [weight] => Ok(RecipeInput { file, weight: Some(weight), ..RecipeInput::default() }),
        [unet, text_encoder] => Ok(RecipeInput {
            file,
            unet: Some(unet),
            text_encoder: Some(text_encoder),
            ..RecipeInput::default()
        }),
        _ => Err(Failure::usage(format!("`{text}` has more than two weights"))
            .hint("write FILE, FILE:0.7 or FILE:0.7:0.5 (UNet, then text encoder)")),
    }
}

/// `[N:]WEIGHTS`: block weights of one input, or of all.
fn set_blocks(inputs: &mut [RecipeInput], text: &str) -> Result<()> {
    let numbered =
        text.split_once(':').and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
    match numbered {
        Some((number, weights)) => {
            let count = inputs.len();
            let input = number.checked_sub(1).and_then(|index| inputs.get_mut(index)).ok_or_else(|| {
                Failure::usage(format!(
                    "`--blocks {text}`: there is no file number {number}; there are {count}"
                ))
                .hint("files are counted from 1")
            })?;
            input.blocks = Some(weights.to_owned());
        }
        None => inputs.iter_mut().for_each(|input| input.blocks = Some(text.to_owned())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_weights() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(input(path).unwrap().weight, None);
        assert_eq!(input(&format!("{path}:0.5")).unwrap().weight, Some(0.5));
        let both = input(&format!("{path}:0.5:-1")).unwrap();
        assert_eq!((both.weight, both.unet, both.text_encoder), (None, Some(0.5), Some(-1.0)));
        for bad in [format!("{path}:1:2:3"), format!("{path}:inf"), "nothing-here.pt:1".into()] {
            assert!(input(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blocks_go_to_one_file_or_to_all() {
        let mut inputs = vec![RecipeInput::default(); 2];
        set_blocks(&mut inputs, "mid=0").unwrap();
        set_blocks(&mut inputs, "2:down=1,up=0").unwrap();
        assert_eq!(inputs[0].blocks.as_deref(), Some("mid=0"));
        assert_eq!(inputs[1].blocks.as_deref(), Some("down=1,up=0"));
        assert!(set_blocks(&mut inputs, "3:mid=0").is_err() && set_blocks(&mut inputs, "0:mid=0").is_err());
    }
}
