//! The colours that things have, each with a name that a child would agree with.

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// A thing's colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    White,
    Black,
}

impl Colour {
    /// All of them.
    pub const ALL: [Colour; 10] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::Brown,
        Colour::White,
        Colour::Black,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Pink => "pink",
            Colour::Brown => "brown",
            Colour::White => "white",
            Colour::Black => "black",
        }
    }

    /// The paint.
    pub fn rgb(self) -> Rgb {
        match self {
            Colour::Red => [214, 44, 46],
            Colour::Orange => [244, 134, 32],
            Colour::Yellow => [250, 208, 44],
            Colour::Green => [62, 158, 70],
            Colour::Blue => [44, 100, 208],
            Colour::Purple => [134, 64, 178],
            Colour::Pink => [246, 132, 182],
            Colour::Brown => [134, 84, 48],
            Colour::White => [246, 246, 250],
            Colour::Black => [48, 46, 56],
        }
    }
}

/// `a` with `share` of `b` in it.
pub fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    let one =
        |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * share).round().clamp(0.0, 255.0) as u8;
    [one(a[0], b[0]), one(a[1], b[1]), one(a[2], b[2])]
}

/// How bright a colour looks, 0 to 255.
pub fn luma(rgb: Rgb) -> f32 {
    0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2])
}
