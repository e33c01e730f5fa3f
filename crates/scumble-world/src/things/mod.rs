//! The things: what each is called, how it stands in the world, and its shapes.
//!
//! A thing is drawn into a box from -1 to 1, y downwards, its feet at 1, looking to the right. Shapes are filled paths or
//! lines in an [`Ink`] rather than a colour, so that one drawing serves every colour and every style.

mod art;
mod buildings;
mod creatures;
mod objects;
mod plants;
mod vehicles;

pub use art::{Art, Ink, Shape};

/// What can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Thing {
    Cat,
    Fish,
    Bird,
    Butterfly,
    Snail,
    Boat,
    Car,
    Rocket,
    Balloon,
    Tree,
    Flower,
    Mushroom,
    Cactus,
    House,
    Castle,
    Chair,
    Lamp,
    Cup,
}

/// How a thing keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// On the ground.
    Stands,
    /// In the air.
    Flies,
    /// In the water, where there is some.
    Swims,
}

impl Thing {
    /// All of them.
    pub const ALL: [Thing; 18] = [
        Thing::Cat,
        Thing::Fish,
        Thing::Bird,
        Thing::Butterfly,
        Thing::Snail,
        Thing::Boat,
        Thing::Car,
        Thing::Rocket,
        Thing::Balloon,
        Thing::Tree,
        Thing::Flower,
        Thing::Mushroom,
        Thing::Cactus,
        Thing::House,
        Thing::Castle,
        Thing::Chair,
        Thing::Lamp,
        Thing::Cup,
    ];

    /// Singular and plural of a form (0 or 1), and an adjective that tells it from the other where the noun does not.
    pub fn names(self, variant: usize) -> (&'static str, &'static str, Option<&'static str>) {
        match (self, variant) {
            (Thing::Cat, 0) => ("cat", "cats", Some("sitting")),
            (Thing::Cat, _) => ("cat", "cats", Some("sleeping")),
            (Thing::Fish, 0) => ("fish", "fish", None),
            (Thing::Fish, _) => ("fish", "fish", Some("striped")),
            (Thing::Bird, 0) => ("bird", "birds", Some("standing")),
            (Thing::Bird, _) => ("bird", "birds", Some("flying")),
            (Thing::Butterfly, 0) => ("butterfly", "butterflies", None),
            (Thing::Butterfly, _) => ("butterfly", "butterflies", Some("spotted")),
            (Thing::Snail, 0) => ("snail", "snails", None),
            (Thing::Snail, _) => ("snail", "snails", Some("striped")),
            (Thing::Boat, 0) => ("boat", "boats", Some("sailing")),
            (Thing::Boat, _) => ("boat", "boats", Some("steam")),
            (Thing::Car, 0) => ("car", "cars", None),
            (Thing::Car, _) => ("bus", "buses", None),
            (Thing::Rocket, 0) => ("rocket", "rockets", None),
            (Thing::Rocket, _) => ("rocket", "rockets", Some("striped")),
            (Thing::Balloon, 0) => ("balloon", "balloons", None),
            (Thing::Balloon, _) => ("balloon", "balloons", Some("striped")),
            (Thing::Tree, 0) => ("tree", "trees", Some("round")),
            (Thing::Tree, _) => ("tree", "trees", Some("pine")),
            (Thing::Flower, 0) => ("flower", "flowers", None),
            (Thing::Flower, _) => ("tulip", "tulips", None),
            (Thing::Mushroom, 0) => ("mushroom", "mushrooms", None),
            (Thing::Mushroom, _) => ("mushroom", "mushrooms", Some("spotted")),
            (Thing::Cactus, 0) => ("cactus", "cactuses", None),
            (Thing::Cactus, _) => ("cactus", "cactuses", Some("round")),
            (Thing::House, 0) => ("house", "houses", None),
            (Thing::House, _) => ("house", "houses", Some("tall")),
            (Thing::Castle, 0) => ("castle", "castles", None),
            (Thing::Castle, _) => ("tower", "towers", None),
            (Thing::Chair, 0) => ("chair", "chairs", None),
            (Thing::Chair, _) => ("armchair", "armchairs", None),
            (Thing::Lamp, 0) => ("lamp", "lamps", None),
            (Thing::Lamp, _) => ("lantern", "lanterns", None),
            (Thing::Cup, 0) => ("cup", "cups", None),
            (Thing::Cup, _) => ("teapot", "teapots", None),
        }
    }

    /// How a form keeps its place.
    pub fn stance(self, variant: usize) -> Stance {
        match (self, variant) {
            (Thing::Bird, 1) | (Thing::Butterfly | Thing::Balloon | Thing::Rocket, _) => Stance::Flies,
            (Thing::Fish | Thing::Boat, _) => Stance::Swims,
            _ => Stance::Stands,
        }
    }

    /// The shapes of a form (0 or 1).
    pub fn draw(self, variant: usize) -> Art {
        let mut art = Art::default();
        let draw = match self {
            Thing::Cat => creatures::cat,
            Thing::Fish => creatures::fish,
            Thing::Bird => creatures::bird,
            Thing::Butterfly => creatures::butterfly,
            Thing::Snail => creatures::snail,
            Thing::Boat => vehicles::boat,
            Thing::Car => vehicles::car,
            Thing::Rocket => vehicles::rocket,
            Thing::Balloon => vehicles::balloon,
            Thing::Tree => plants::tree,
            Thing::Flower => plants::flower,
            Thing::Mushroom => plants::mushroom,
            Thing::Cactus => plants::cactus,
            Thing::House => buildings::house,
            Thing::Castle => buildings::castle,
            Thing::Chair => objects::chair,
            Thing::Lamp => objects::lamp,
            Thing::Cup => objects::cup,
        };
        draw(&mut art, variant);
        art
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_stay_in_their_box() {
        for thing in Thing::ALL {
            for variant in 0..2 {
                let art = thing.draw(variant);
                assert!(art.shapes.len() >= 3, "{thing:?} has hardly a shape");
                for shape in &art.shapes {
                    let b = shape.path.bounds();
                    let inside =
                        b.left() >= -1.16 && b.right() <= 1.16 && b.top() >= -1.16 && b.bottom() <= 1.16;
                    assert!(inside, "{thing:?} {variant} reaches {b:?}");
                }
            }
        }
    }
}
