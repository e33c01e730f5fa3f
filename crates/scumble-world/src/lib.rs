//! Floor 0 of scumble, beside the tensors: a drawn little world with true captions.
//!
//! A model that is small enough to be carried in a program needs a world that is small enough to be learned by it: some
//! twenty things in ten colours, alone, in pairs and in groups, before a handful of backgrounds and skies, in five styles of
//! drawing. Everything is a function of a seed and an index, so a data set is two numbers.
//!
//! * [`Scene`]: what is to be seen. [`scene`](fn@scene::scene) draws one by index, [`held_out_scene`] one of those
//!   combinations that training never shows.
//! * [`Scene::caption`]: one of many true wordings of it.
//! * [`Scene::paint`]: the picture, 8-bit RGB.
//! * [`things`]: one function a thing, in shapes; [`paint`]: one file a style.
//! * [`novel`]: subjects and styles that [`scene`](fn@scene::scene) never draws, for showing what fine-tuning does.
//!
//! Deliberately not here: tensors, models, files, and any randomness but [`Dice`].

mod caption;
mod colour;
mod dice;
mod holdout;
pub mod novel;
pub mod paint;
pub mod scene;
pub mod things;

pub use caption::words;
pub use colour::{Colour, Rgb};
pub use dice::Dice;
pub use holdout::{HELD_OUT_COLOURS, HELD_OUT_STYLES, held_out_scene, is_held_out};
pub use paint::{Painting, Style};
pub use scene::{Count, Ground, Item, Place, Scene, Size, Sky, scene};
pub use things::{Art, Ink, Thing};
