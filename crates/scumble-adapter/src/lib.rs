//! scumble-adapter
