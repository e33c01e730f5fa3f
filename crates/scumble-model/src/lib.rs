//! scumble-model
