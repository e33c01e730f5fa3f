//! scumble-train
